//! Tokens of pods' ServiceAccounts on their way to nodes: which a pod's volumes ask for, and how they are named.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The plural name under which tokens travel to agents, one object each: its namespace is the pod's uid, its name that of
/// [`Wanted::name`], its content a [`PodToken`].
pub const TOKENS: &str = "podtokens";

/// How long a token is good when the volume does not say, in seconds.
pub const DEFAULT_LIFE: i64 = 3600;

/// A token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodToken {
    /// The text that the API server knows.
    pub token: String,
}

impl fmt::Debug for PodToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodToken").finish_non_exhaustive()
    }
}

/// A token that a volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Whom it is for; empty is the API server.
    pub audience: String,
    /// For how long, in seconds.
    pub life: i64,
}

impl Wanted {
    /// What a projection asks for.
    #[must_use]
    pub fn new(audience: Option<&str>, life: Option<i64>) -> Self {
        Self { audience: audience.unwrap_or_default().to_owned(), life: life.unwrap_or(DEFAULT_LIFE) }
    }

    /// How it is named among the tokens of a pod.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.life, self.audience)
    }
}

/// The tokens that the volumes of a pod ask for.
#[must_use]
pub fn wanted(pod: &Value) -> BTreeSet<Wanted> {
    let list = |value: &'_ Value| value.as_array().map_or(&[][..], Vec::as_slice).to_vec();
    let volumes = list(&pod["spec"]["volumes"]);
    let sources = volumes.iter().flat_map(|volume| list(&volume["projected"]["sources"]));
    let tokens = sources.filter_map(|source| {
        let token = source.get("serviceAccountToken").filter(|token| token.is_object())?;
        Some(Wanted::new(token["audience"].as_str(), token["expirationSeconds"].as_i64()))
    });
    tokens.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_projection_of_a_token_is_found_once() {
        let token = |audience: &str, life: i64| json!({"serviceAccountToken": {"audience": audience, "expirationSeconds": life, "path": "t"}});
        let pod = json!({"spec": {"volumes": [
            {"projected": {"sources": [token("", 3607), token("vault", 600), {"configMap": {"name": "c"}}]}},
            {"projected": {"sources": [token("vault", 600), {"serviceAccountToken": {"path": "t"}}]}},
            {"emptyDir": {}},
        ]}});
        let names: Vec<String> = wanted(&pod).iter().map(Wanted::name).collect();
        assert_eq!(names, ["3600/", "3607/", "600/vault"]);
        assert_eq!(format!("{:?}", PodToken { token: "secret".to_owned() }), "PodToken { .. }");
    }
}
