//! The wire form of any message out of its JSON, driven by the field table: the opposite of the decoder.
//!
//! In: a message and an object that has passed the checks. Out: bytes. What the message does not know is left out, as upstream's
//! typed objects leave it out; a value that is not of its field's type is an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::schema::scalar::duration_nanos;
use crate::schema::{Field, MessageRef, Schema, Shape, Type};

/// Why an object has no wire form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Not a kind of this version.
    #[error("no kind {1:?} is registered for version {0:?}")]
    UnknownKind(String, String),
    /// The kind exists in JSON only.
    #[error("{0} has no protobuf form")]
    JsonOnly(&'static str),
    /// A value is not what its field holds.
    #[error("field {0} holds something else than its type")]
    Value(&'static str),
}

type Result = std::result::Result<(), EncodeError>;

impl Schema {
    /// Appends the wire form of a message, without apiVersion and kind (which only the envelope carries).
    ///
    /// # Errors
    /// Objects that are none of the message.
    pub fn encode_protobuf(&self, message: MessageRef, object: &Value, out: &mut Vec<u8>) -> Result {
        let fields = self.fields(message);
        let name = self.message(message).name;
        if !fields.is_empty() && fields.iter().all(|field| field.tag == 0) {
            return Err(EncodeError::JsonOnly(name));
        }
        let Value::Object(object) = object else { return Err(EncodeError::Value(name)) };
        for (name, value) in object {
            // A field that is in JSON only is left out like one that nobody knows.
            let field = fields.iter().find(|field| field.name == name && field.tag != 0);
            if let (Some(field), false) = (field, value.is_null()) {
                self.wrapped(field, &field.outer, value, out)?;
            }
        }
        Ok(())
    }

    /// The field inside the messages that JSON does not show. Each field has them for itself: they add up.
    fn wrapped(&self, field: &Field, outer: &[u8], value: &Value, out: &mut Vec<u8>) -> Result {
        match outer {
            [0, ..] | [] => self.field_value(field, value, out),
            [tag, outer @ ..] => {
                delimited(u32::from(*tag), out, |out| self.wrapped(field, outer, value, out))
            }
        }
    }

    fn field_value(&self, field: &Field, value: &Value, out: &mut Vec<u8>) -> Result {
        let tag = u32::from(field.tag);
        match (field.shape, value) {
            (Shape::One, value) => self.value(tag, field, value, out),
            (Shape::List, Value::Array(items)) => {
                items.iter().try_for_each(|item| self.value(tag, field, item, out))
            }
            (Shape::Map, Value::Object(entries)) => entries.iter().try_for_each(|(key, value)| {
                delimited(tag, out, |out| {
                    bytes(1, key.as_bytes(), out);
                    if value.is_null() { Ok(()) } else { self.value(2, field, value, out) }
                })
            }),
            (Shape::List | Shape::Map, _) => Err(EncodeError::Value(field.name)),
        }
    }

    fn value(&self, tag: u32, field: &Field, value: &Value, out: &mut Vec<u8>) -> Result {
        let wrong = || EncodeError::Value(field.name);
        match field.kind {
            Type::String => bytes(tag, value.as_str().ok_or_else(wrong)?.as_bytes(), out),
            Type::Bool => number(tag, i64::from(value.as_bool().ok_or_else(wrong)?), out),
            Type::Int32 | Type::Int64 => number(tag, integer(value).ok_or_else(wrong)?, out),
            Type::Double => {
                varint(u64::from(tag << 3 | 1), out);
                out.extend_from_slice(&value.as_f64().ok_or_else(wrong)?.to_le_bytes());
            }
            Type::Bytes => {
                let text = value.as_str().ok_or_else(wrong)?;
                bytes(tag, &STANDARD.decode(text).map_err(|_| wrong())?, out);
            }
            Type::Message(message) => {
                return delimited(tag, out, |out| self.encode_protobuf(message, value, out));
            }
            _ => return delimited(tag, out, |out| self.special(field, value, out)),
        }
        Ok(())
    }

    /// The messages whose JSON is not an object of their fields.
    fn special(&self, field: &Field, value: &Value, out: &mut Vec<u8>) -> Result {
        let wrong = || EncodeError::Value(field.name);
        match (field.kind, value) {
            // The zero time.
            (Type::Time | Type::MicroTime, Value::Null) => {}
            (Type::Time | Type::MicroTime, Value::String(text)) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
                let nanos = if field.kind == Type::Time { 0 } else { time.subsec_nanosecond() };
                let seconds = time.as_second() - i64::from(nanos < 0);
                number(1, seconds, out);
                number(2, i64::from(nanos.rem_euclid(1_000_000_000)), out);
            }
            (Type::Duration, Value::String(text)) => {
                number(1, duration_nanos(text).ok_or_else(wrong)?, out);
            }
            (Type::Quantity, Value::String(text)) => bytes(1, text.as_bytes(), out),
            (Type::Quantity, Value::Number(number)) => bytes(1, number.to_string().as_bytes(), out),
            (Type::IntOrString, Value::String(text)) => {
                number(1, 1, out);
                bytes(3, text.as_bytes(), out);
            }
            (Type::IntOrString, value) => number(2, integer(value).ok_or_else(wrong)?, out),
            // A value always has a text.
            (Type::Raw | Type::Fields | Type::Json, value) => bytes(1, value.to_string().as_bytes(), out),
            (Type::Strings, Value::Array(items)) => texts(1, items, out).ok_or_else(wrong)?,
            (Type::PropsOrStrings, Value::Array(items)) => texts(2, items, out).ok_or_else(wrong)?,
            (Type::PropsOrBool, Value::Bool(allowed)) => number(1, i64::from(*allowed), out),
            (Type::PropsOrBool, value) => {
                return delimited(2, out, |out| self.encode_protobuf(self.props, value, out));
            }
            (Type::PropsOrArray, Value::Array(items)) => {
                return items.iter().try_for_each(|item| {
                    delimited(2, out, |out| self.encode_protobuf(self.props, item, out))
                });
            }
            (Type::PropsOrArray | Type::PropsOrStrings, value) => {
                return delimited(1, out, |out| self.encode_protobuf(self.props, value, out));
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// An envelope (`runtime.Unknown`) of an object whose wire form has this length: what comes before it.
pub(in crate::schema) fn envelope(api_version: &str, kind: &str, length: usize, out: &mut Vec<u8>) {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    bytes(1, api_version.as_bytes(), &mut type_meta);
    bytes(2, kind.as_bytes(), &mut type_meta);
    bytes(1, &type_meta, out);
    head(2, length, out);
}

/// The tag and length of something that follows.
pub(in crate::schema) fn head(tag: u32, length: usize, out: &mut Vec<u8>) {
    varint(u64::from(tag << 3 | 2), out);
    varint(length as u64, out);
}

pub(in crate::schema) fn bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    head(tag, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Something whose length is known when it is written: moved back by the bytes of the length.
pub(in crate::schema) fn delimited(
    tag: u32,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result,
) -> Result {
    varint(u64::from(tag << 3 | 2), out);
    let start = out.len();
    write(out)?;
    let (end, length) = (out.len(), out.len() - start);
    varint(length as u64, out);
    let digits = out.len() - end;
    out[start..].rotate_right(digits);
    Ok(())
}

fn number(tag: u32, value: i64, out: &mut Vec<u8>) {
    varint(u64::from(tag << 3), out);
    varint(value as u64, out);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// JSON has whole numbers with a fraction, too.
fn integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64))
}

fn texts(tag: u32, items: &[Value], out: &mut Vec<u8>) -> Option<()> {
    items.iter().try_for_each(|item| item.as_str().map(|text| bytes(tag, text.as_bytes(), out)))
}

/// The apiVersion and kind that an object says of itself.
pub(in crate::schema) fn type_of(object: &Map<String, Value>) -> (&str, &str) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion"), text("kind"))
}
