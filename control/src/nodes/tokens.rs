//! The tokens of the pods of one node: issued before the pod is told of, and anew long before they end.
//!
//! In: pods as the cache has them. Out: messages. Nothing is asked of the store: what the cache shows decides, and the API server
//! looks again whenever a token is used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{NODES, SERVICE_ACCOUNTS};
use oarlock_api::meta;
use oarlock_api::node::control_message::Message;
use oarlock_api::node::{ObjectDelete, ObjectUpdate};
use oarlock_api::pod_token::{self, PodToken, TOKENS, Wanted};
use serde_json::Value;

use crate::auth::tokens::{Bound, Claims, Named, Tokens};
use crate::cache::{Cache, Object};

/// No token is used for longer, whatever its life.
const OLDEST: i64 = 24 * 60 * 60;
/// When a token that could not be issued is tried again, in seconds.
const AGAIN: i64 = 2;

/// The tokens of one node's pods.
pub(super) struct PodTokens {
    tokens: Arc<Tokens>,
    cache: Arc<Cache>,
    /// What each pod asks for, by uid, and when it is to be issued next.
    pods: BTreeMap<String, Pod>,
}

struct Pod {
    object: Arc<Object>,
    due: BTreeMap<Wanted, i64>,
}

impl PodTokens {
    pub(super) fn new(tokens: Arc<Tokens>, cache: Arc<Cache>) -> Self {
        Self { tokens, cache, pods: BTreeMap::new() }
    }

    /// A pod is there, or changed: the tokens that it has not got yet.
    pub(super) fn put(&mut self, pod: &Arc<Object>) -> Vec<Message> {
        let wanted = pod_token::wanted(&pod.value());
        if wanted.is_empty() {
            return Vec::new();
        }
        let known = self.pods.entry(pod.uid.to_string());
        let known = known.or_insert_with(|| Pod { object: Arc::clone(pod), due: BTreeMap::new() });
        known.object = Arc::clone(pod);
        for one in wanted {
            known.due.entry(one).or_insert(0);
        }
        self.issue_due()
    }

    /// A pod is gone, and with it its tokens.
    pub(super) fn delete(&mut self, uid: &str, revision: u64) -> Vec<Message> {
        let Some(pod) = self.pods.remove(uid) else { return Vec::new() };
        let gone = |wanted: &Wanted| {
            let (resource, namespace) = (TOKENS.to_owned(), uid.to_owned());
            Message::Delete(ObjectDelete { resource, namespace, name: wanted.name(), revision })
        };
        pod.due.keys().map(gone).collect()
    }

    /// How long until a token has to be issued.
    pub(super) fn wait(&self) -> Duration {
        let next = self.pods.values().flat_map(|pod| pod.due.values()).min();
        let now = Timestamp::now().as_second();
        let seconds = next.map_or(OLDEST, |next| next - now).clamp(0, OLDEST);
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// Every token whose time has come.
    pub(super) fn issue_due(&mut self) -> Vec<Message> {
        let now = Timestamp::now().as_second();
        let mut messages = Vec::new();
        for (uid, pod) in &mut self.pods {
            for (wanted, due) in pod.due.iter_mut().filter(|(_, due)| **due <= now) {
                match issue(&self.tokens, &self.cache, &pod.object, wanted, now) {
                    Ok(token) => {
                        *due = now + (wanted.life * 8 / 10).min(OLDEST);
                        messages.push(update(uid, wanted, token, pod.object.revision.0));
                    }
                    Err(why) => {
                        let (namespace, name) = (&pod.object.key.namespace, &pod.object.key.name);
                        tracing::debug!(%namespace, %name, %why, "no token for a pod yet");
                        *due = now + AGAIN;
                    }
                }
            }
        }
        messages
    }
}

fn update(uid: &str, wanted: &Wanted, token: String, revision: u64) -> Message {
    // Two words always serialize.
    let object = serde_json::to_vec(&PodToken { token }).unwrap_or_default().into();
    let (resource, namespace) = (TOKENS.to_owned(), uid.to_owned());
    Message::Update(ObjectUpdate { resource, namespace, name: wanted.name(), revision, object })
}

fn issue(
    tokens: &Tokens,
    cache: &Cache,
    object: &Object,
    wanted: &Wanted,
    now: i64,
) -> Result<String, String> {
    let (pod, namespace) = (object.value(), &object.key.namespace);
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("");
    let named =
        |object: &Value| Named { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() };
    let account = cache
        .get(&SERVICE_ACCOUNTS, namespace, account)
        .ok_or_else(|| format!("serviceaccounts {account:?} not found"))?;
    let node = object.node_name.as_deref().and_then(|node| cache.get(&NODES, "", node));
    let audiences = match wanted.audience.as_str() {
        "" => tokens.audiences().to_vec(),
        audience => vec![audience.to_owned()],
    };
    let claims = Claims {
        namespace: namespace.clone(),
        account: named(&account.value()),
        bound: Some(Bound::Pod(named(&pod), node.map(|node| named(&node.value())))),
        audiences,
        id: uuid::Uuid::new_v4().to_string(),
        legacy: false,
    };
    tokens.issue(&claims, now, now + wanted.life)
}
