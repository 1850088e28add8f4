//! The messages whose JSON is not an object of their fields: times, quantities, raw JSON, and the alternatives inside a
//! CRD's schema. Tags are those of the upstream .proto files, which have not changed since they exist.

use serde_json::{Map, Number, Value};

use super::reader::{Reader, Wire};
use super::{DecodeError, Decoder};
use crate::schema::scalar::{duration_text, micro_time_text, time_text};
use crate::schema::{Field, Type};

impl Decoder<'_> {
    /// The JSON of a special message.
    pub(super) fn special(
        &mut self,
        field: &Field,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, DecodeError> {
        let name = field.name;
        Ok(match field.kind {
            // The zero time is an empty message; JSON has null for it.
            Type::Time | Type::MicroTime if bytes.is_empty() => Value::Null,
            Type::Time => time_text(integers(name, bytes)?[0]).ok_or(DecodeError::Range(name))?.into(),
            Type::MicroTime => {
                let [seconds, nanos] = integers(name, bytes)?;
                let nanos = i32::try_from(nanos).map_err(|_| DecodeError::Range(name))?;
                micro_time_text(seconds, nanos).ok_or(DecodeError::Range(name))?.into()
            }
            Type::Duration => duration_text(integers(name, bytes)?[0]).into(),
            Type::Quantity => match last_text(name, bytes, 1)? {
                "" => Value::from("0"),
                text => Value::from(text),
            },
            Type::IntOrString => {
                let [kind, number] = integers(name, bytes)?;
                if kind == 0 { Value::from(number as i32) } else { last_text(name, bytes, 3)?.into() }
            }
            Type::Raw => self.raw(last_bytes(name, bytes, 1)?, depth)?,
            Type::Fields | Type::Json => json(last_bytes(name, bytes, 1)?)?,
            Type::Strings => self.strings(name, bytes, 1)?,
            Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings => {
                self.props(field, bytes, depth)?
            }
            // Everything else is read by `Decoder::value`.
            _ => Value::Null,
        })
    }

    /// An object of any kind: JSON, or protobuf with its envelope.
    fn raw(&mut self, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
        if !crate::schema::is_protobuf(bytes) {
            return json(bytes);
        }
        if depth > super::MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        Ok(self.schema.decode_body_at(bytes, depth + 1)?.object)
    }

    /// A schema (1), or what stands for it (2).
    fn props(&mut self, field: &Field, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
        let (name, schema) = (field.name, self.schema);
        let (schema_tag, other_tag) = if field.kind == Type::PropsOrBool { (2, 1) } else { (1, 2) };
        let mut props = None;
        let mut items = Vec::new();
        let mut allowed = false;
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.tag()? {
            self.budget = self.budget.checked_sub(1).ok_or(DecodeError::TooMany)?;
            if tag == schema_tag || tag == other_tag && field.kind == Type::PropsOrArray {
                let mut object = Map::new();
                self.message(schema.props, [0, 0], reader.bytes(name, wire)?, &mut object, depth + 1)?;
                if tag == schema_tag {
                    props = Some(object);
                } else {
                    items.push(Value::Object(object));
                }
            } else if tag != other_tag {
                reader.skip(wire)?;
            } else if field.kind == Type::PropsOrBool {
                allowed = reader.varint(name, wire)? != 0;
            } else {
                items.push(Value::from(reader.text(name, wire)?));
            }
        }
        Ok(match (props, field.kind) {
            (Some(props), _) => Value::Object(props),
            (None, Type::PropsOrBool) => Value::Bool(allowed),
            (None, _) => Value::Array(items),
        })
    }

    fn strings(&mut self, name: &str, bytes: &[u8], wanted: u32) -> Result<Value, DecodeError> {
        let mut items = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.tag()? {
            if tag == wanted {
                self.budget = self.budget.checked_sub(1).ok_or(DecodeError::TooMany)?;
                items.push(Value::from(reader.text(name, wire)?));
            } else {
                reader.skip(wire)?;
            }
        }
        Ok(Value::Array(items))
    }
}

/// The numbers under tags 1 and 2.
fn integers(name: &str, bytes: &[u8]) -> Result<[i64; 2], DecodeError> {
    let mut numbers = [0; 2];
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        match (tag, wire) {
            (1 | 2, Wire::Varint) => numbers[tag as usize - 1] = reader.varint(name, wire)? as i64,
            _ => reader.skip(wire)?,
        }
    }
    Ok(numbers)
}

/// The bytes under a tag; none, if it is missing.
fn last_bytes<'a>(name: &str, bytes: &'a [u8], wanted: u32) -> Result<&'a [u8], DecodeError> {
    let mut found: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        if tag == wanted {
            found = reader.bytes(name, wire)?;
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(found)
}

fn last_text<'a>(name: &str, bytes: &'a [u8], wanted: u32) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(last_bytes(name, bytes, wanted)?).map_err(|_| DecodeError::Utf8(name.to_owned()))
}

fn json(bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(bytes).map_err(DecodeError::Json) }
}

/// A number as Go writes it: without a fraction where there is none. `None`: JSON does not know it.
pub(super) fn double(number: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Some(Value::from(number as i64));
    }
    Number::from_f64(number).map(Value::Number)
}
