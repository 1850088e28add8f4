//! Tokens as values: what is signed is read again, and nothing else.

use oarlock_fuzz::Target;

use super::*;

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(crate) fn tokens() -> Tokens {
    let folder = tempfile::tempdir().unwrap();
    Tokens::new(Signer::load_or_create(folder.path(), "sa").unwrap(), ISSUER, &[])
}

fn named(name: &str) -> Named {
    Named { name: name.to_owned(), uid: format!("uid-of-{name}") }
}

fn claims(bound: Option<Bound>) -> Claims {
    Claims {
        namespace: "d".to_owned(),
        account: named("builder"),
        bound,
        audiences: vec![ISSUER.to_owned()],
        id: "id".to_owned(),
        legacy: false,
    }
}

#[test]
fn a_token_says_what_it_was_issued_for_until_its_end() {
    let tokens = tokens();
    for bound in [
        None,
        Some(Bound::Pod(named("p"), None)),
        Some(Bound::Pod(named("p"), Some(named("n1")))),
        Some(Bound::Secret(named("s"))),
        Some(Bound::Node(named("n1"))),
    ] {
        let token = tokens.issue(&claims(bound.clone()), 1000, 2000).unwrap();
        assert_eq!(tokens.read(&token, 1500), Some(Ok(claims(bound))));
        for (now, why) in
            [(2061, "service account token has expired"), (900, "service account token is not valid yet")]
        {
            assert_eq!(tokens.read(&token, now), Some(Err(why.to_owned())));
        }
    }
}

#[test]
fn a_token_of_a_secret_has_no_end() {
    let tokens = tokens();
    let token = tokens.legacy("d", &named("builder"), "s").unwrap();
    let read = tokens.read(&token, i64::MAX - 100).unwrap().unwrap();
    assert!(read.legacy);
    assert_eq!(read.bound, Some(Bound::Secret(Named { name: "s".to_owned(), uid: String::new() })));
    assert_eq!(read.user(), "system:serviceaccount:d:builder");
}

#[test]
fn what_another_key_signed_or_somebody_changed_is_not_ours() {
    let (tokens, others) = (tokens(), tokens_of_others());
    let token = tokens.issue(&claims(None), 0, 100).unwrap();
    assert_eq!(others.read(&token, 50), None);
    let parts: Vec<&str> = token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let unsigned = format!("{none}.{}.", parts[1]);
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": tokens.key_id}).to_string());
    let critical =
        URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "kid": tokens.key_id, "crit": ["x"]}).to_string());
    for forged in [
        unsigned,
        format!("{header}.{}.{}", parts[1], parts[2]),
        format!("{critical}.{}.{}", parts[1], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}."),
        format!("{}.{}.{}", parts[0], parts[2], parts[2]),
        String::new(),
        "..".to_owned(),
    ] {
        assert_eq!(tokens.read(&forged, 50), None, "{forged}");
    }
}

fn tokens_of_others() -> Tokens {
    tokens()
}

#[test]
fn another_issuers_token_is_refused_even_with_our_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = || Signer::load_or_create(folder.path(), "sa").unwrap();
    let (old, new) = (Tokens::new(key(), "https://old", &[]), Tokens::new(key(), "https://new", &[]));
    let token = old.issue(&claims(None), 0, 100).unwrap();
    assert!(old.read(&token, 50).unwrap().is_ok());
    assert!(new.read(&token, 50).unwrap().unwrap_err().contains("https://old"));
}

#[test]
fn the_documents_say_where_the_keys_are_and_what_they_are() {
    let tokens = tokens();
    let document = tokens.discovery("10.0.0.1:6443");
    assert_eq!(document["issuer"], ISSUER);
    assert_eq!(document["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
    let keys = tokens.keys();
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["crv"]), (&json!("EC"), &json!("P-256")));
    assert_eq!(keys["keys"][0]["x"].as_str().unwrap().len(), 43);
}

/// Nothing but what we signed is a token, however near it comes.
#[test]
fn fuzz_tokens() {
    let tokens = tokens();
    let bound = [None, Some(Bound::Pod(named("p"), Some(named("n1")))), Some(Bound::Secret(named("s")))];
    let mut good: Vec<String> = bound.map(|bound| tokens.issue(&claims(bound), 1000, 2000).unwrap()).to_vec();
    good.push(tokens.legacy("d", &named("builder"), "s").unwrap());
    let inputs = good.clone().into_iter().map(String::into_bytes);
    Target::new("tokens").with(inputs).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if tokens.read(text, 1500).is_some() {
            assert!(good.iter().any(|token| token == text), "{text}");
        }
    });
}
