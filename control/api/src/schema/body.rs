//! Whole bodies in protobuf: the magic, the envelope (`runtime.Unknown`), and the object in it; the events of watches.
//!
//! In: bytes. Out: the object as JSON with its apiVersion and kind; and the other way round.

use serde_json::Value;

use super::protobuf::{self, DecodeError, EncodeError, Reader};
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

impl Schema {
    /// The body of an object that says what it is, in content type `application/vnd.kubernetes.protobuf`.
    ///
    /// # Errors
    /// Kinds that are not in the table or have no wire form.
    pub fn encode_body(&self, object: &Value) -> Result<Vec<u8>, EncodeError> {
        let Value::Object(map) = object else { return Err(EncodeError::Value("object")) };
        let (api_version, kind) = protobuf::type_of(map);
        let unknown = || EncodeError::UnknownKind(cut(api_version).to_owned(), cut(kind).to_owned());
        let message = self.kind_of(api_version, kind).ok_or_else(unknown)?;
        let mut raw = Vec::new();
        self.encode_protobuf(message, object, &mut raw)?;
        let mut body = MAGIC.to_vec();
        protobuf::envelope(api_version, kind, raw.len(), &mut body);
        body.extend_from_slice(&raw);
        Ok(body)
    }
}

/// How the body of a list is written, of objects one by one: the whole need never be there in any form. As the length of all items comes
/// before them, they are written twice where they are not kept.
#[derive(Debug)]
pub struct List<'s> {
    schema: &'s Schema,
    item: MessageRef,
    metadata: Vec<u8>,
}

impl<'s> List<'s> {
    /// A list of a version's kind, with its metadata.
    ///
    /// # Errors
    /// Kinds that are not in the table or have no wire form.
    pub fn new(
        schema: &'s Schema,
        (api_version, kind): (&str, &str),
        metadata: &Value,
    ) -> Result<Self, EncodeError> {
        let unknown = || EncodeError::UnknownKind(api_version.to_owned(), kind.to_owned());
        let item = schema.kind_of(api_version, kind).ok_or_else(unknown)?;
        let meta = schema.kind("", "v1", "List").ok_or_else(unknown)?;
        let mut encoded = Vec::new();
        // Every list has its metadata under the same tag.
        schema.encode_protobuf(meta, &serde_json::json!({"metadata": metadata}), &mut encoded)?;
        // Kinds without a wire form are found out before anything is sent.
        schema.encode_protobuf(item, &serde_json::json!({}), &mut Vec::new())?;
        Ok(Self { schema, item, metadata: encoded })
    }

    /// What comes before items of this length in all.
    #[must_use]
    pub fn head(&self, api_version: &str, list_kind: &str, items: usize) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        protobuf::envelope(api_version, list_kind, self.metadata.len() + items, &mut head);
        head.extend_from_slice(&self.metadata);
        head
    }

    /// Appends an object.
    ///
    /// # Errors
    /// An object that is none of its kind.
    pub fn item(&self, object: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // Every list has its items under this tag.
        protobuf::delimited(2, out, |out| self.schema.encode_protobuf(self.item, object, out))
    }
}

/// A frame of a watch (`application/vnd.kubernetes.protobuf;stream=watch`) of the body of an object: its length in four bytes, then a
/// `WatchEvent` without an envelope.
#[must_use]
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    protobuf::bytes(1, object, &mut raw);
    let mut frame = vec![0; 4];
    frame.reserve(raw.len() + kind.len() + 16);
    protobuf::bytes(1, kind.as_bytes(), &mut frame);
    protobuf::head(2, raw.len(), &mut frame);
    frame.extend_from_slice(&raw);
    // Objects are bounded far below this.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
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
