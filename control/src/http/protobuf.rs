//! Answers in protobuf, for clients that ask for it first, as client-go does for the kinds that it has types of. What has no such
//! form stays JSON, which those clients take as well.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use oarlock_api::catalogue::Kind;
use oarlock_api::schema::{EncodeError, List, Schema, watch_event};
use oarlock_api::status::Status;
use serde_json::Value;

use super::encode::{self, ListMeta};
use super::gzip::Packable;
use super::listing::Listing;
use super::negotiate::{self, Form};
use super::respond::{self, Body, Object};
use crate::cache;

/// Of objects and lists.
const TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Of watches.
pub(super) const WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Shorter lists are kept as they were written to learn their length; longer ones are written once more while they are read.
const KEPT: usize = 256 << 10;

/// The answer, in protobuf if it is an object that has such a form and the client prefers that.
pub(super) async fn answered(accept: Option<&str>, mut response: Response<Body>) -> Response<Body> {
    let is_object = response.extensions_mut().remove::<Object>().is_some();
    if !is_object || !negotiate::is_protobuf(accept) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return respond::failure(&Status::internal(format!("the answer breaks off: {error}"))),
    };
    let object = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let Some(encoded) = encoded(&object) else {
        return Response::from_parts(head, respond::whole(body));
    };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TYPE));
    Response::from_parts(head, respond::whole(encoded.into()))
}

/// The body of an object, if it has this form.
fn encoded(object: &Value) -> Option<Vec<u8>> {
    let told = |error: &EncodeError| {
        if let EncodeError::Value(_) = error {
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            tracing::warn!(%error, %kind, %name, "an object is answered as JSON: it does not go into its protobuf form");
        }
    };
    Schema::builtin().encode_body(object).inspect_err(told).ok()
}

/// What the items of a list are and how the list is called.
fn names(kind: &Kind, form: Form) -> Option<[String; 4]> {
    match form {
        Form::Objects => {
            let version = kind.api_version();
            Some([version.clone(), kind.kind.to_owned(), version, kind.list_kind()])
        }
        Form::Metadata("v1") => {
            let [version, item, list] =
                ["meta.k8s.io/v1", "PartialObjectMetadata", "PartialObjectMetadataList"].map(str::to_owned);
            Some([version.clone(), item, version, list])
        }
        Form::Metadata(_) | Form::Table(_) => None,
    }
}

fn begun(names: &[String; 4], meta: &Value) -> Option<List<'static>> {
    List::new(Schema::builtin(), (&names[0], &names[1]), meta).ok()
}

/// Whether the objects of a kind have this form.
pub(super) fn has(kind: &Kind, form: Form) -> bool {
    names(kind, form).is_some_and(|names| begun(&names, &Value::Null).is_some())
}

/// A list, if its objects have this form. An object that has not, which is a fault of ours, makes it a JSON list.
pub(super) async fn list(
    kind: &'static Kind,
    form: Form,
    objects: &[Arc<cache::Object>],
    meta: &ListMeta,
) -> Option<Response<Body>> {
    let names = names(kind, form)?;
    let writer = Writer { list: begun(&names, &meta.json())?, kind, form };
    let objects = objects.to_vec();
    // Not on the threads that answer others.
    let measured = tokio::task::spawn_blocking(move || {
        let measured = writer.measure(&objects);
        (writer, objects, measured)
    });
    let (writer, objects, measured) = measured.await.ok()?;
    let Measured { length, kept } = measured?;
    let mut head = writer.list.head(&names[2], &names[3], length);
    let body = match kept {
        Some(kept) => {
            head.extend_from_slice(&kept);
            respond::whole(head.into())
        }
        None => writer.body(head, objects, length),
    };
    let mut response = respond::made(TYPE, body);
    response.extensions_mut().insert(Packable);
    Some(response)
}

/// Writes the items of a list.
struct Writer {
    list: List<'static>,
    kind: &'static Kind,
    form: Form,
}

/// The items of a list.
struct Measured {
    length: usize,
    /// All of them, if they are few.
    kept: Option<Vec<u8>>,
}

impl Writer {
    fn item(&self, object: &cache::Object, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let written = self.list.item(&encode::shown(self.kind, self.form, &object.value()), out);
        written.inspect_err(|error| {
            let (kind, name) = (self.kind, &object.key.name);
            tracing::warn!(%error, ?kind, %name, "a list is answered as JSON: an object does not go into its protobuf form");
        })
    }

    /// Writes all items, to learn how long they are.
    fn measure(&self, objects: &[Arc<cache::Object>]) -> Option<Measured> {
        let (mut before, mut written) = (0, Vec::new());
        for object in objects {
            self.item(object, &mut written).ok()?;
            if before + written.len() > KEPT {
                before += written.len();
                written.clear();
            }
        }
        let length = before + written.len();
        Some(Measured { length, kept: (before == 0).then_some(written) })
    }

    fn body(self, head: Vec<u8>, objects: Vec<Arc<cache::Object>>, length: usize) -> Body {
        let mut item = Vec::new();
        let write = move |object: &cache::Object, to: &mut BytesMut| {
            item.clear();
            // What it was when its length was taken, it is now.
            self.item(object, &mut item).map_err(io::Error::other)?;
            to.extend_from_slice(&item);
            Ok(())
        };
        let length = Some(length as u64);
        Listing { head, objects, write, between: b"", tail: b"", length }.body()
    }
}

/// One event of a watch; of an object that has not this form, one that ends the watch.
pub(super) fn event(kind: &str, object: &Value) -> Bytes {
    match encoded(object) {
        Some(body) => watch_event(kind, &body).into(),
        None => {
            let status = Status::internal("an object does not go into its protobuf form").to_json();
            watch_event("ERROR", &encoded(&status).unwrap_or_default()).into()
        }
    }
}
