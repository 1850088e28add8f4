//! Who we are to a registry: credentials of a pod's `imagePullSecrets` that are for the registry of an image. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/credentialprovider (keyring.go, config.go): keys are hosts, with a port and a path perhaps, with `*` in the
//! parts of the host; those that say more come first.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oarlock_api::k8s::api::core::v1::Secret;
use serde_json::Value;

use crate::runtime::Credentials;

/// What the Secrets know for this image, what fits best first. `index` is the registry of images that name none, as the runtime says it.
pub(crate) fn of_image<'s>(
    image: &str,
    index: &str,
    secrets: impl Iterator<Item = &'s Secret>,
) -> Vec<Credentials> {
    let wanted = place(image, index);
    let mut found: Vec<(String, Credentials)> = secrets.flat_map(entries).collect();
    found.retain(|(key, _)| fits(key, &wanted));
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

/// Host and path of an image: what is before the first slash is a host if it looks like one (distribution's reference grammar).
fn place(image: &str, index: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        _ => format!("{}/{image}", bare(index).split('/').next().unwrap_or_default()),
    }
}

/// A key without scheme and version of the protocol.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

fn fits(key: &str, wanted: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((name, port, path), (wanted, wanted_port, wanted_path)) = (split(key), split(wanted));
    let parts = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (parts, wanted) = (parts(&name), parts(&wanted));
    port == wanted_port
        && wanted_path.starts_with(&path)
        && parts.len() == wanted.len()
        && parts.iter().zip(&wanted).all(|(pattern, part)| glob(pattern, part))
}

/// `*` stands for any letters of one part of a host. In a time that grows with both, however many there are: a Secret is anybody's.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, others)) = pattern.split_once('*') else { return pattern == text };
    let (between, last) = others.rsplit_once('*').unwrap_or(("", others));
    let Some(rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    // Wherever a piece is found first, the most is left for those that follow.
    between.split('*').try_fold(rest, |rest, piece| Some(rest.split_once(piece)?.1)).is_some()
}

/// The entries of a Secret of one of the two types; what does not parse is none.
fn entries(secret: &Secret) -> Vec<(String, Credentials)> {
    let data = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        serde_json::from_slice::<Value>(bytes).ok()
    };
    let all = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            data(".dockerconfigjson").and_then(|mut d| Some(d.get_mut("auths")?.take()))
        }
        Some("kubernetes.io/dockercfg") => data(".dockercfg"),
        _ => None,
    };
    let Some(Value::Object(all)) = all else { return Vec::new() };
    all.into_iter().filter_map(|(key, entry)| Some((bare(&key).to_owned(), credentials(&entry)?))).collect()
}

fn credentials(entry: &Value) -> Option<Credentials> {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let both = entry["auth"].as_str().and_then(|auth| STANDARD.decode(auth.trim_end()).ok());
    let both = both.and_then(|both| String::from_utf8(both).ok());
    let (user, password) = match both.as_deref().and_then(|both| both.split_once(':')) {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (text("username"), text("password")),
    };
    (!user.is_empty()).then_some(Credentials { user, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_api::k8s::ByteString;
    use serde_json::json;

    fn secret(auths: Value) -> Secret {
        let config = json!({"auths": auths}).to_string().into_bytes();
        Secret {
            type_: Some("kubernetes.io/dockerconfigjson".into()),
            data: Some([(".dockerconfigjson".to_owned(), ByteString(config))].into()),
            ..Secret::default()
        }
    }

    fn users(image: &str, auths: Value) -> Vec<String> {
        let secret = secret(auths);
        let found = of_image(image, "https://index.example/v1/", std::iter::once(&secret));
        found.into_iter().map(|one| one.user).collect()
    }

    fn entry(user: &str) -> Value {
        json!({"username": user, "password": "p"})
    }

    #[test]
    fn the_registry_of_the_image_decides_and_what_says_more_comes_first() {
        let auths = json!({"https://index.example/v1/": entry("index"), "reg.example:5000": entry("host"),
            "reg.example:5000/team": entry("team"), "*.example": entry("any"), "other.example": entry("other")});
        for (image, expected) in [
            ("busybox", &["index", "any"][..]),
            ("library/busybox:1", &["index", "any"]),
            ("reg.example:5000/team/app:1", &["team", "host"]),
            ("reg.example:5000/app", &["host"]),
            ("a.example/app", &["any"]),
            ("a.b.example/app", &[]),
            ("localhost/app", &[]),
        ] {
            assert_eq!(users(image, auths.clone()), expected, "{image}");
        }
    }

    #[test]
    fn names_and_passwords_are_read_as_docker_writes_them() {
        let auth = STANDARD.encode("me:pass:word");
        let secret = secret(json!({"r.example": {"auth": auth}, "bad.example": {"auth": "?"}}));
        let found = of_image("r.example/x", "", std::iter::once(&secret));
        assert_eq!(found, [Credentials { user: "me".into(), password: "pass:word".into() }]);
        assert_eq!(of_image("bad.example/x", "", std::iter::once(&secret)), []);
        let said = format!("{found:?}");
        assert!(said.contains("me") && !said.contains("pass:word"), "no Secret in a log: {said}");
    }

    #[test]
    fn stars_stand_for_letters() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "a", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*bc*bc", "abc", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("**", "ab", true),
            ("ab*ba", "aba", false),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    /// A line with an image, then the JSON of a Secret.
    #[test]
    fn fuzz_image_credentials() {
        oarlock_fuzz::Target::new("image_credentials").run(|input| {
            let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
            let (image, config) =
                (String::from_utf8_lossy(&input[..end]), input.get(end + 1..).unwrap_or_default());
            for (kind, key) in [("dockerconfigjson", ".dockerconfigjson"), ("dockercfg", ".dockercfg")] {
                let secret = Secret {
                    type_: Some(format!("kubernetes.io/{kind}")),
                    data: Some([(key.to_owned(), ByteString(config.to_vec()))].into()),
                    ..Secret::default()
                };
                for found in of_image(&image, "https://index.example/v1/", std::iter::once(&secret)) {
                    assert!(!found.user.is_empty());
                }
            }
        });
    }
}
