//! Whole request bodies in protobuf: the magic, the envelope (`runtime.Unknown`), and the object in it.
//!
//! In: bytes. Out: the object as JSON with its apiVersion and kind.

use serde_json::Value;

use super::protobuf::{DecodeError, Reader};
use super::scalar::cut;
use super::{MessageRef, Schema};

/// In front of every body of `application/vnd.kubernetes.protobuf`.
const MAGIC: &[u8] = b"k8s\0";

/// A decoded request body.
#[derive(Debug)]
pub struct Body {
    /// The message of its kind.
    pub message: MessageRef,
    /// The object, apiVersion and kind first.
    pub object: Value,
}

/// Whether a body begins like protobuf.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    content_encoding: &'a str,
    content_type: &'a str,
}

impl Schema {
    /// Decodes a body of content type `application/vnd.kubernetes.protobuf`.
    pub fn decode_body(&self, body: &[u8]) -> Result<Body, DecodeError> {
        self.decode_body_at(body, 0)
    }

    /// The same for an object inside another (`RawExtension`).
    pub(super) fn decode_body_at(&self, body: &[u8], depth: usize) -> Result<Body, DecodeError> {
        let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(DecodeError::NoMagic)?)?;
        let Envelope { api_version, kind, raw, .. } = envelope;
        let unknown = || DecodeError::UnknownKind {
            api_version: cut(api_version).to_owned(),
            kind: cut(kind).to_owned(),
        };
        let message = self.kind_of(api_version, kind).ok_or_else(unknown)?;
        if !envelope.content_encoding.is_empty() {
            return Err(DecodeError::Encoding(cut(envelope.content_encoding).to_owned()));
        }
        let mut object = match envelope.content_type {
            "application/json" => serde_json::from_slice(raw).map_err(DecodeError::Json)?,
            _ => self.decode_protobuf_at(message, raw, depth)?,
        };
        if let Value::Object(fields) = &mut object {
            fields.shift_insert(0, "kind".to_owned(), Value::from(kind));
            fields.shift_insert(0, "apiVersion".to_owned(), Value::from(api_version));
        }
        Ok(Body { message, object })
    }
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.tag()? {
            match tag {
                1 => {
                    let mut type_meta = Reader::new(reader.bytes("typeMeta", wire)?);
                    while let Some((tag, wire)) = type_meta.tag()? {
                        match tag {
                            1 => envelope.api_version = type_meta.text("apiVersion", wire)?,
                            2 => envelope.kind = type_meta.text("kind", wire)?,
                            _ => type_meta.skip(wire)?,
                        }
                    }
                }
                2 => envelope.raw = reader.bytes("raw", wire)?,
                3 => envelope.content_encoding = reader.text("contentEncoding", wire)?,
                4 => envelope.content_type = reader.text("contentType", wire)?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(envelope)
    }
}
