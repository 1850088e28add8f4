//! Decodes the wire form of any message into JSON, driven by the field table.
//!
//! In: a message and bytes. Out: what upstream's decoder followed by its JSON encoder would give: unknown tags are
//! skipped, a zero is left out unless the field is a pointer or required. Hostile input costs an error, never more
//! memory than a small multiple of its size.

mod encode;
mod reader;
mod special;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{Field, MessageRef, Schema, Shape, Type};
pub use encode::EncodeError;
pub(super) use encode::{bytes, delimited, envelope, head, type_of};
pub(super) use reader::Reader;
use reader::Wire;

/// Deeper than any built-in message but a recursive CRD schema, which no one nests this far either.
const MAX_DEPTH: usize = 100;
/// An empty message costs 2 bytes on the wire and about 100 in memory; objects that fit etcd (1.5 MiB) stay below.
const MAX_VALUES: usize = 300_000;

/// Why a body could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The magic is missing.
    #[error("the body does not begin with the prefix of Kubernetes protobuf")]
    NoMagic,
    /// Not a kind of this version.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// Its apiVersion.
        api_version: String,
        /// Its kind.
        kind: String,
    },
    /// The kind exists in JSON only.
    #[error("{0} has no protobuf form; send JSON")]
    JsonOnly(&'static str),
    /// The envelope's contents are compressed or the like.
    #[error("content encoding {0:?} is not supported")]
    Encoding(String),
    /// It ends in the middle of something.
    #[error("unexpected end of the body")]
    Truncated,
    /// A number has too many bytes, or a tag makes no sense.
    #[error("malformed number or tag")]
    Malformed,
    /// A tag holds something else than its field.
    #[error("field {0} has an unexpected wire type")]
    WireType(String),
    /// A string is not UTF-8.
    #[error("field {0} is not valid UTF-8")]
    Utf8(String),
    /// A value means nothing (a time beyond the calendar, a number that JSON does not know).
    #[error("field {0} is out of range")]
    Range(&'static str),
    /// JSON inside of the message is none.
    #[error("invalid JSON in the body: {0}")]
    Json(serde_json::Error),
    /// Deeper than any object.
    #[error("the body is nested too deeply")]
    TooDeep,
    /// More values than any object.
    #[error("the body has too many values")]
    TooMany,
}

impl Schema {
    /// The JSON of a message's wire form, without apiVersion and kind (which only the envelope carries).
    pub fn decode_protobuf(&self, message: MessageRef, bytes: &[u8]) -> Result<Value, DecodeError> {
        self.decode_protobuf_at(message, bytes, 0)
    }

    pub(super) fn decode_protobuf_at(
        &self,
        message: MessageRef,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, DecodeError> {
        let fields = self.fields(message);
        if !fields.is_empty() && fields.iter().all(|field| field.tag == 0) {
            return Err(DecodeError::JsonOnly(self.message(message).name));
        }
        let mut object = Map::new();
        let mut decoder = Decoder { schema: self, budget: MAX_VALUES };
        decoder.message(message, [0, 0], bytes, &mut object, depth)?;
        Ok(Value::Object(object))
    }
}

struct Decoder<'s> {
    schema: &'s Schema,
    /// How many values may still be made.
    budget: usize,
}

impl Decoder<'_> {
    /// Reads a message, or one that is embedded in it at `outer`, into the fields of `object`.
    fn message(
        &mut self,
        message: MessageRef,
        outer: [u8; 2],
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let schema = self.schema;
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.tag()? {
            let here = schema.fields(message).iter().find(|f| f.outer == outer && u32::from(f.tag) == tag);
            if let Some(field) = here.filter(|field| field.tag != 0) {
                self.field(field, &mut reader, wire, object, depth)?;
            } else if let Some(inner) = embedded(schema, message, outer, tag) {
                let name = schema.message(message).name;
                self.message(message, inner, reader.bytes(name, wire)?, object, depth + 1)?;
            } else {
                reader.skip(wire)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        reader: &mut Reader<'_>,
        wire: Wire,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        match field.shape {
            Shape::One => {
                // A message may come in pieces; they add up.
                let before = match object.get_mut(field.name) {
                    Some(Value::Object(before)) if field.message().is_some() => std::mem::take(before),
                    _ => Map::new(),
                };
                let value = self.value(field, reader, wire, before, depth)?;
                if is_shown(field, &value) {
                    object.insert(field.name.to_owned(), value);
                } else {
                    object.shift_remove(field.name);
                }
            }
            Shape::List => {
                let items = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = items else { return Err(DecodeError::Malformed) };
                if wire == Wire::Bytes && matches!(field.kind, Type::Bool | Type::Int32 | Type::Int64) {
                    let mut packed = Reader::new(reader.bytes(field.name, wire)?);
                    while !packed.is_empty() {
                        items.push(self.value(field, &mut packed, Wire::Varint, Map::new(), depth)?);
                    }
                } else {
                    items.push(self.value(field, reader, wire, Map::new(), depth)?);
                }
            }
            Shape::Map => {
                let (key, value) = self.entry(field, reader.bytes(field.name, wire)?, depth)?;
                let entries = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(entries) = entries else { return Err(DecodeError::Malformed) };
                entries.insert(key, value);
            }
        }
        Ok(())
    }

    /// One entry of a map: a message of key (1) and value (2).
    fn entry(&mut self, field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), DecodeError> {
        let mut key = "";
        let mut value = None;
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.tag()? {
            match tag {
                1 => key = reader.text(field.name, wire)?,
                2 => value = Some(self.value(field, &mut reader, wire, Map::new(), depth)?),
                _ => reader.skip(wire)?,
            }
        }
        Ok((key.to_owned(), value.unwrap_or_else(|| super::prune::zero(field.kind))))
    }

    /// One value; a message goes on from `before`.
    fn value(
        &mut self,
        field: &Field,
        reader: &mut Reader<'_>,
        wire: Wire,
        before: Map<String, Value>,
        depth: usize,
    ) -> Result<Value, DecodeError> {
        self.budget = self.budget.checked_sub(1).ok_or(DecodeError::TooMany)?;
        let name = field.name;
        Ok(match field.kind {
            Type::String => Value::from(reader.text(name, wire)?),
            Type::Bool => Value::from(reader.varint(name, wire)? != 0),
            // Negative numbers are sign-extended to 64 bits; what is beyond 32 is cut off, as everywhere.
            Type::Int32 => Value::from(reader.varint(name, wire)? as i32),
            Type::Int64 => Value::from(reader.varint(name, wire)? as i64),
            Type::Double => special::double(reader.double(name, wire)?).ok_or(DecodeError::Range(name))?,
            Type::Bytes => Value::from(STANDARD.encode(reader.bytes(name, wire)?)),
            Type::Message(message) => {
                let mut object = before;
                self.message(message, [0, 0], reader.bytes(name, wire)?, &mut object, depth + 1)?;
                Value::Object(object)
            }
            _ => self.special(field, reader.bytes(name, wire)?, depth)?,
        })
    }
}

/// The place of the message that is embedded in `message` at `outer` under `tag`, if some field of the table is there.
fn embedded(schema: &Schema, message: MessageRef, outer: [u8; 2], tag: u32) -> Option<[u8; 2]> {
    let tag = u8::try_from(tag).ok().filter(|tag| *tag != 0)?;
    let inner = match outer {
        [0, 0] => [tag, 0],
        [first, 0] => [first, tag],
        _ => return None,
    };
    let level = if inner[1] == 0 { 1 } else { 2 };
    schema.fields(message).iter().any(|field| field.outer[..level] == inner[..level]).then_some(inner)
}

/// Whether Go's `omitempty` would show it.
fn is_shown(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty() || field.pointer,
        // `additionalProperties: false` says much.
        Value::Bool(false) => field.pointer || field.required || field.kind == Type::PropsOrBool,
        Value::Number(number) => {
            field.pointer || field.required || field.kind == Type::IntOrString || number.as_f64() != Some(0.0)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests;
