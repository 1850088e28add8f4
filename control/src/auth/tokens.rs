//! Tokens of ServiceAccounts: what they say, signed by the cluster's key. Pure but for the key; whether what a token speaks of
//! still exists is asked elsewhere (`authenticator`).
//!
//! Source: k8s.io/kubernetes/pkg/serviceaccount/{claims,legacy}.go.

mod jws;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oarlock_daemon::pki::Signer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ACCOUNT_PREFIX;

/// Who issues the tokens in Secrets: they carry neither an end nor an audience.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Clocks differ by as much.
const LEEWAY: i64 = 60;

/// A named object, and which of that name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
}

/// What a token is bound to: it dies with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// A pod, and its node once it has one.
    Pod(Named, Option<Named>),
    Secret(Named),
    Node(Named),
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: Named,
    pub(crate) bound: Option<Bound>,
    /// Whom it is for; none for tokens in Secrets, which are for the API server.
    pub(crate) audiences: Vec<String>,
    /// Its own id; empty for tokens in Secrets.
    pub(crate) id: String,
    /// Whether it is one of those that are kept in a Secret, and are good for as long as they are in it.
    pub(crate) legacy: bool,
}

/// Signs and reads tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    signer: Signer,
    key_id: String,
    issuer: String,
    audiences: Vec<String>,
}

/// The claims as they are written.
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_more")]
    aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    jti: String,
    #[serde(default, rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    private: Option<Private>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    #[serde(flatten)]
    legacy: Option<Legacy>,
    sub: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Private {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Named>,
    serviceaccount: Named,
}

#[derive(Debug, Serialize, Deserialize)]
struct Legacy {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// `aud` is a word or a list of words.
fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        More(Vec<String>),
    }
    Ok(match Words::deserialize(from)? {
        Words::One(word) => vec![word],
        Words::More(words) => words,
    })
}

impl Tokens {
    /// Tokens of an issuer; `audiences` are the names under which the API server answers, the issuer's if there are none.
    pub(crate) fn new(signer: Signer, issuer: &str, audiences: &[String]) -> Self {
        let audiences = if audiences.is_empty() { vec![issuer.to_owned()] } else { audiences.to_vec() };
        let key_id = URL_SAFE_NO_PAD.encode(signer.id());
        Self { signer, key_id, issuer: issuer.to_owned(), audiences }
    }

    /// The names of the API server.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A token, good from `now` to `end` (seconds since 1970).
    pub(crate) fn issue(&self, claims: &Claims, now: i64, end: i64) -> Result<String, String> {
        let mut private = Private {
            namespace: claims.namespace.clone(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: claims.account.clone(),
        };
        match claims.bound.clone() {
            None => {}
            Some(Bound::Pod(pod, node)) => (private.pod, private.node) = (Some(pod), node),
            Some(Bound::Secret(secret)) => private.secret = Some(secret),
            Some(Bound::Node(node)) => private.node = Some(node),
        }
        self.sign(&Wire {
            aud: claims.audiences.clone(),
            exp: Some(end),
            iat: Some(now),
            iss: self.issuer.clone(),
            jti: claims.id.clone(),
            private: Some(private),
            nbf: Some(now),
            legacy: None,
            sub: claims.user(),
        })
    }

    /// The token for a Secret: good for as long as it is in it.
    pub(crate) fn legacy(&self, namespace: &str, account: &Named, secret: &str) -> Result<String, String> {
        let legacy = Legacy {
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.name.clone(),
            uid: account.uid.clone(),
        };
        self.sign(&Wire {
            aud: Vec::new(),
            exp: None,
            iat: None,
            iss: LEGACY_ISSUER.to_owned(),
            jti: String::new(),
            private: None,
            nbf: None,
            legacy: Some(legacy),
            sub: format!("{ACCOUNT_PREFIX}{namespace}:{}", account.name),
        })
    }

    fn sign(&self, wire: &Wire) -> Result<String, String> {
        let payload = serde_json::to_vec(wire).map_err(|e| e.to_string())?;
        jws::sign(&self.signer, &self.key_id, &payload)
    }

    /// What a token says, if this cluster signed it and it is good now. `None`: not one of ours, somebody else may know it.
    pub(crate) fn read(&self, token: &str, now: i64) -> Option<Result<Claims, String>> {
        let payload = jws::verified(&self.signer, &self.key_id, token)?;
        let wire: Wire = match serde_json::from_slice(&payload) {
            Ok(wire) => wire,
            Err(error) => return Some(Err(format!("the token's claims cannot be read: {error}"))),
        };
        Some(self.claims(wire, now))
    }

    fn claims(&self, wire: Wire, now: i64) -> Result<Claims, String> {
        let claims = match (wire.private, wire.legacy) {
            (Some(private), None) if wire.iss == self.issuer => {
                let end = wire.exp.ok_or("service account token has no end")?;
                if end < now - LEEWAY {
                    return Err("service account token has expired".to_owned());
                }
                if wire.nbf.is_some_and(|begin| begin > now + LEEWAY) {
                    return Err("service account token is not valid yet".to_owned());
                }
                let bound = match (private.pod, private.secret, private.node) {
                    (Some(pod), _, node) => Some(Bound::Pod(pod, node)),
                    (None, Some(secret), _) => Some(Bound::Secret(secret)),
                    (None, None, node) => node.map(Bound::Node),
                };
                Claims {
                    namespace: private.namespace,
                    account: private.serviceaccount,
                    bound,
                    audiences: wire.aud,
                    id: wire.jti,
                    legacy: false,
                }
            }
            (None, Some(legacy)) if wire.iss == LEGACY_ISSUER => Claims {
                namespace: legacy.namespace,
                account: Named { name: legacy.account, uid: legacy.uid },
                bound: Some(Bound::Secret(Named { name: legacy.secret, uid: String::new() })),
                audiences: Vec::new(),
                id: String::new(),
                legacy: true,
            },
            _ => return Err(format!("the token's issuer {:?} is not the cluster's", wire.iss)),
        };
        if wire.sub != claims.user() {
            return Err("sub claim does not match the service account".to_owned());
        }
        Ok(claims)
    }

    /// `/.well-known/openid-configuration`.
    pub(crate) fn discovery(&self, address: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [jws::ALGORITHM],
        })
    }

    /// `/openid/v1/jwks`: the key with which others check our tokens.
    pub(crate) fn keys(&self) -> Value {
        let (x, y) = self.signer.coordinates();
        let key = json!({
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": jws::ALGORITHM,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        json!({"keys": [key]})
    }
}

impl Claims {
    /// The user's name.
    pub(crate) fn user(&self) -> String {
        format!("{ACCOUNT_PREFIX}{}:{}", self.namespace, self.account.name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
