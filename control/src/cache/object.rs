//! One cached object: its encoded JSON with the resourceVersion in place, and the facts that are asked for often.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use oarlock_api::catalogue::Kind;
use oarlock_store::{Record, Revision};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::packed::{Encoded, Samples};

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; empty for kinds of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object at a revision.
#[derive(Debug)]
pub struct Object {
    /// Which object.
    pub key: ObjectKey,
    /// The revision that wrote it: its resourceVersion.
    pub revision: Revision,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`, sorted by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    /// `spec.nodeName`.
    pub node_name: Option<Box<str>>,
    encoded: Mutex<Encoded>,
    parsed: Mutex<Weak<Value>>,
}

#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    uid: Box<str>,
    #[serde(default)]
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(default, rename = "nodeName")]
    node_name: Option<Value>,
}

impl Object {
    /// An object out of the store.
    ///
    /// # Errors
    /// JSON that does not parse.
    pub(crate) fn decode(key: ObjectKey, record: &Record) -> serde_json::Result<Self> {
        let facts: Facts = serde_json::from_slice(&record.value)?;
        let node_name = facts.spec.and_then(|s| s.node_name);
        Ok(Self {
            revision: record.modified,
            uid: facts.metadata.uid,
            labels: facts.metadata.labels.into_iter().flatten().collect(),
            node_name: node_name.as_ref().and_then(Value::as_str).filter(|n| !n.is_empty()).map(Box::from),
            encoded: Mutex::new(Encoded::Plain(with_resource_version(
                key.kind,
                &record.value,
                record.modified,
            )?)),
            key,
            parsed: Mutex::new(Weak::new()),
        })
    }

    /// The JSON that clients get.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        self.encoded.lock().bytes()
    }

    /// How long that is.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.encoded.lock().len()
    }

    /// Has it take less memory: it has not changed for a while.
    pub(super) fn pack(&self, samples: &mut Samples) {
        let plain = match &*self.encoded.lock() {
            Encoded::Plain(plain) => plain.clone(),
            Encoded::Packed { .. } => return,
        };
        if let Some(packed) = samples.pack(self.key.kind, &plain) {
            *self.encoded.lock() = packed;
        }
    }

    /// The object as a value, shared by everybody who holds it at the same time and forgotten after the last.
    #[must_use]
    pub fn value(&self) -> Arc<Value> {
        let mut parsed = self.parsed.lock();
        if let Some(value) = parsed.upgrade() {
            return value;
        }
        // It parsed when it was decoded.
        let value = Arc::new(serde_json::from_slice(&self.encoded()).unwrap_or(Value::Null));
        *parsed = Arc::downgrade(&value);
        value
    }

    /// One label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let place = self.labels.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.labels.get(place).map(|(_, value)| &**value)
    }
}

/// The stored JSON with `metadata.resourceVersion` put in. The head of every object that we write is known, so that nothing
/// has to be parsed; anything else takes the long way.
fn with_resource_version(kind: &Kind, stored: &Bytes, revision: Revision) -> serde_json::Result<Bytes> {
    let mut head = format!(r#"{{"apiVersion":"{}","kind":"{}","metadata":{{"#, kind.api_version(), kind.kind);
    if let Some(rest) = stored.strip_prefix(head.as_bytes()) {
        let comma = if rest.first() == Some(&b'}') { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = write!(head, r#""resourceVersion":"{}"{comma}"#, revision.0);
        let mut bytes = head.into_bytes();
        bytes.reserve_exact(rest.len());
        bytes.extend_from_slice(rest);
        return Ok(bytes.into());
    }
    let mut value: Value = serde_json::from_slice(stored)?;
    oarlock_api::meta::metadata_mut(&mut value)
        .insert("resourceVersion".to_owned(), revision.0.to_string().into());
    Ok(serde_json::to_vec(&value)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_api::catalogue::PODS;
    use serde_json::json;

    fn decode(text: &str) -> Object {
        let record = Record {
            key: PODS.key("d", "a"),
            value: Bytes::copy_from_slice(text.as_bytes()),
            created: Revision(1),
            modified: Revision(7),
        };
        Object::decode(ObjectKey { kind: &PODS, namespace: "d".into(), name: "a".into() }, &record).unwrap()
    }

    #[test]
    fn the_resource_version_is_put_in_whatever_the_order_of_keys() {
        for text in [
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"x":1}}"#,
            r#"{"kind":"Pod","apiVersion":"v1","spec":{"x":1},"metadata":{"name":"a"}}"#,
        ] {
            let value = decode(text).value();
            assert_eq!(value["metadata"], json!({"name": "a", "resourceVersion": "7"}));
            assert_eq!(value["spec"]["x"], 1);
        }
        let empty = decode(r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#);
        assert_eq!(empty.value()["metadata"], json!({"resourceVersion": "7"}));
    }

    #[test]
    fn facts_are_read_and_absent_ones_are_none() {
        let text = r#"{"metadata":{"uid":"u","labels":{"a":"b"}},"spec":{"nodeName":"n1"}}"#;
        let object = decode(text);
        assert_eq!(
            (&*object.uid, object.label("a"), object.node_name.as_deref()),
            ("u", Some("b"), Some("n1"))
        );
        let bare = decode(r#"{"metadata":{"labels":null},"spec":{"nodeName":""}}"#);
        assert_eq!((bare.label("a"), bare.node_name.as_deref()), (None, None));
    }

    #[test]
    fn the_value_is_shared_while_somebody_holds_it() {
        let object = decode(r#"{"metadata":{}}"#);
        let (one, two) = (object.value(), object.value());
        assert!(Arc::ptr_eq(&one, &two));
    }
}
