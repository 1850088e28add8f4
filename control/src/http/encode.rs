//! Objects in the form that the client asked for. Encoded bytes from the cache are written as they are.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use oarlock_api::catalogue::Kind;
use oarlock_api::{convert, table};
use serde_json::{Value, json};

use super::listing::Listing;
use super::negotiate::Form;
use super::respond::Body;
use crate::cache::Object;

/// What a row of a Table carries beside its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// One object, out of its stored form.
pub(super) fn object(kind: &'static Kind, form: Form, include: Include, value: &Value) -> Value {
    match form {
        Form::Objects => converted(kind, value),
        Form::Metadata(version) => partial(version, value),
        Form::Table(version) => {
            let version_of = value["metadata"]["resourceVersion"].clone();
            let rows = vec![row(kind, version, include, value)];
            rows_table(kind, version, json!({"resourceVersion": version_of}), rows, true)
        }
    }
}

/// The metadata of a list.
pub(super) struct ListMeta {
    pub(super) revision: u64,
    pub(super) continue_token: Option<String>,
    pub(super) remaining: Option<u64>,
}

impl ListMeta {
    pub(super) fn json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = json!(token);
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        meta
    }
}

/// A list.
pub(super) fn list(
    kind: &'static Kind,
    form: Form,
    include: Include,
    objects: Vec<Arc<Object>>,
    meta: &ListMeta,
) -> Body {
    let meta = meta.json();
    match form {
        Form::Objects => {
            let (list, version) = (kind.list_kind(), kind.api_version());
            let head = format!(r#"{{"kind":"{list}","apiVersion":"{version}","metadata":{meta},"items":["#);
            let encoded = || objects.iter().map(|object| object.encoded_len() as u64).sum();
            let length = kind.stored_as.is_none().then(encoded);
            let write = |object: &Object, to: &mut BytesMut| {
                to.put_slice(&bytes(kind, object));
                Ok(())
            };
            items(head, objects, write, length)
        }
        Form::Metadata(version) => {
            let head = format!(
                r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{meta},"items":["#
            );
            let write = move |object: &Object, to: &mut BytesMut| put(&partial(version, &object.value()), to);
            items(head, objects, write, None)
        }
        Form::Table(version) => {
            let mut head = rows_table(kind, version, meta, Vec::new(), true).to_string();
            // The rows come last, and there are none yet.
            head.truncate(head.len() - "]}".len());
            let write = move |object: &Object, to: &mut BytesMut| {
                put(&row(kind, version, include, &object.value()), to)
            };
            items(head, objects, write, None)
        }
    }
}

/// What follows a head in JSON.
fn items(
    head: String,
    objects: Vec<Arc<Object>>,
    write: impl FnMut(&Object, &mut BytesMut) -> io::Result<()> + Send + Unpin + 'static,
    length: Option<u64>,
) -> Body {
    Listing { head: head.into_bytes(), objects, write, between: b",", tail: b"]}\n", length }.body()
}

fn put(value: &Value, to: &mut BytesMut) -> io::Result<()> {
    Ok(serde_json::to_writer(to.writer(), value)?)
}

/// A list of objects that are in no cache.
pub(super) fn values(kind: &'static Kind, form: Form, include: Include, values: Vec<Value>) -> Value {
    match form {
        Form::Objects => json!({
            "kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": {}, "items": values,
        }),
        Form::Metadata(version) => {
            let items: Vec<Value> = values.iter().map(|value| partial(version, value)).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {}, "items": items,
            })
        }
        Form::Table(version) => {
            let rows = values.iter().map(|value| row(kind, version, include, value)).collect();
            rows_table(kind, version, json!({}), rows, true)
        }
    }
}

/// One object as a watch event carries it: bytes of the cache for objects, a one-row Table (columns only in the first)
/// otherwise.
pub(super) fn event(
    kind: &'static Kind,
    form: Form,
    include: Include,
    object: &Object,
    with_columns: bool,
) -> Bytes {
    match form {
        Form::Objects => bytes(kind, object),
        Form::Metadata(version) => partial(version, &object.value()).to_string().into(),
        Form::Table(version) => {
            let value = object.value();
            let rows = vec![row(kind, version, include, &value)];
            let meta = json!({"resourceVersion": object.revision.0.to_string()});
            rows_table(kind, version, meta, rows, with_columns).to_string().into()
        }
    }
}

/// An object as a list of this form has it, which is no Table.
pub(super) fn shown<'v>(kind: &Kind, form: Form, value: &'v Value) -> Cow<'v, Value> {
    match form {
        Form::Metadata(version) => Cow::Owned(partial(version, value)),
        Form::Objects | Form::Table(_) if kind.stored_as.is_none() => Cow::Borrowed(value),
        Form::Objects | Form::Table(_) => Cow::Owned(converted(kind, value)),
    }
}

/// An object in the version that is asked for.
fn converted(kind: &Kind, value: &Value) -> Value {
    let mut value = value.clone();
    convert::from_stored(kind, &mut value);
    value
}

/// The bytes of the cache, or those of another version.
fn bytes(kind: &Kind, object: &Object) -> Bytes {
    match kind.stored_as {
        None => object.encoded(),
        Some(_) => converted(kind, &object.value()).to_string().into(),
    }
}

fn partial(version: &str, value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": value["metadata"],
    })
}

fn row(kind: &'static Kind, version: &str, include: Include, value: &Value) -> Value {
    let mut row = json!({"cells": table::cells(kind.stored(), value, Timestamp::now())});
    if let Some(conditions) = table::conditions(kind.stored(), value) {
        row["conditions"] = conditions;
    }
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(version, value),
        Include::Object => row["object"] = converted(kind, value),
    }
    row
}

fn rows_table(
    kind: &'static Kind,
    version: &str,
    meta: Value,
    rows: Vec<Value>,
    with_columns: bool,
) -> Value {
    let columns: Vec<Value> = table::columns(kind.stored())
        .iter()
        .filter(|_| with_columns)
        .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": "", "priority": c.priority}))
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}
