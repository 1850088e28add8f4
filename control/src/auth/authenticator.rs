//! Whose token it is: tokens of ServiceAccounts, and those of a file.
//!
//! In: the text of a token. Out: a user, or why it is none. A token's account and what it is bound to must still be there; the
//! cache is asked, and the store only for tokens that this cluster signed. No token is ever logged or part of an error.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS, SECRETS, SERVICE_ACCOUNTS};
use oarlock_api::meta;
use serde_json::Value;

use super::token_file::TokenFile;
use super::tokens::{Bound, Claims, Named, Tokens};
use super::{ACCOUNTS, User};
use crate::registry::Registry;

/// How long something may have been gone before a token that is bound to it goes, too: clocks differ.
const LEEWAY: i64 = 60;
const INVALIDATED: &str = "service account token has been invalidated";

/// Knows tokens.
pub(crate) struct Authenticator {
    registry: Arc<Registry>,
    tokens: Arc<Tokens>,
    file: TokenFile,
}

/// A token's user, and which of the audiences that were asked for it is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

impl Authenticator {
    pub(crate) fn new(registry: Arc<Registry>, tokens: Arc<Tokens>, file: TokenFile) -> Self {
        Self { registry, tokens, file }
    }

    /// Signs and reads tokens.
    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The user of a request that shows a token.
    pub(crate) async fn user(&self, token: &str) -> Result<User, String> {
        self.know(token, self.tokens.audiences()).await.map(|known| known.user)
    }

    /// Whose token it is, if it is meant for one of these audiences.
    pub(crate) async fn know(&self, token: &str, wanted: &[String]) -> Result<Known, String> {
        let shared = |own: &[String]| -> Vec<String> {
            wanted.iter().filter(|audience| own.contains(audience)).cloned().collect()
        };
        // What carries no audience is for the API server.
        let implied = self.tokens.audiences();
        let (user, audiences) = if let Some(user) = self.file.user(token) {
            (user.clone(), shared(implied))
        } else {
            let claims = self.tokens.read(token, Timestamp::now().as_second());
            let claims = claims.ok_or("invalid bearer token")??;
            let audiences = if claims.legacy { shared(implied) } else { shared(&claims.audiences) };
            if audiences.is_empty() {
                let (own, wanted) = (&claims.audiences, wanted);
                return Err(format!(
                    "token audiences {own:?} is invalid for the target audiences {wanted:?}"
                ));
            }
            self.holds(token, &claims).await?;
            (user_of(&claims), audiences)
        };
        if audiences.is_empty() {
            return Err(format!("the token is not for the target audiences {wanted:?}"));
        }
        Ok(Known { user, audiences })
    }

    /// Whether everything that a token speaks of is still there.
    async fn holds(&self, token: &str, claims: &Claims) -> Result<(), String> {
        if self.look(token, claims).is_ok() {
            return Ok(());
        }
        // It may have been made just now.
        self.registry.catch_up().await.map_err(|status| status.message)?;
        self.look(token, claims)
    }

    fn look(&self, token: &str, claims: &Claims) -> Result<(), String> {
        let namespace = &claims.namespace;
        self.present(&SERVICE_ACCOUNTS, namespace, &claims.account)?;
        match &claims.bound {
            None => Ok(()),
            // Where the pod runs is told to others, but the pod's life is the token's.
            Some(Bound::Pod(pod, _)) => self.present(&PODS, namespace, pod).map(drop),
            Some(Bound::Node(node)) => self.present(&NODES, "", node).map(drop),
            Some(Bound::Secret(secret)) => {
                let secret = self.present(&SECRETS, namespace, secret)?;
                let kept = || secret["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok());
                let good = !claims.legacy || kept().is_some_and(|kept| kept == token.as_bytes());
                if good { Ok(()) } else { Err(INVALIDATED.to_owned()) }
            }
        }
    }

    fn present(&self, kind: &'static Kind, namespace: &str, named: &Named) -> Result<Arc<Value>, String> {
        let object = self.registry.cache().get(kind, namespace, &named.name);
        let value = object.ok_or_else(|| format!("{} {:?} not found", kind.qualified(), named.name))?.value();
        let other = !named.uid.is_empty() && meta::uid(&value) != named.uid;
        if other || ended(&value) { Err(INVALIDATED.to_owned()) } else { Ok(value) }
    }
}

/// Whether the time that something was given to end is over.
fn ended(object: &Value) -> bool {
    let end = object["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    end.is_some_and(|end| end.as_second() + LEEWAY < Timestamp::now().as_second())
}

fn user_of(claims: &Claims) -> User {
    let groups = [ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{}", claims.namespace)];
    let mut user = User { uid: claims.account.uid.clone(), ..User::known(&claims.user(), &groups) };
    let mut say = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    if !claims.id.is_empty() {
        say("credential-id", format!("JTI={}", claims.id));
    }
    let node = match &claims.bound {
        Some(Bound::Pod(pod, node)) => {
            say("pod-name", pod.name.clone());
            say("pod-uid", pod.uid.clone());
            node.as_ref()
        }
        Some(Bound::Node(node)) => Some(node),
        _ => None,
    };
    if let Some(node) = node {
        say("node-name", node.name.clone());
        say("node-uid", node.uid.clone());
    }
    user
}
