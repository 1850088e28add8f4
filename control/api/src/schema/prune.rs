//! Drops what a decoder of typed objects would drop: unknown fields and nulls; and writes quantities and bytes as that would write them.
//!
//! In: a message and its value. Out: the value as upstream would store it. Raw JSON (`RawExtension`, `FieldsV1`, a CRD's
//! defaults) is left alone.

use serde_json::{Map, Value};

use super::scalar::bytes_text;
use super::{Field, MessageRef, Schema, Shape, Type};
use crate::quantity::Quantity;

impl Schema {
    /// Removes unknown fields and nulls. A null in a list or a free map becomes that type's zero, as in Go. A quantity (`1`, `0.5`,
    /// `1000m`) becomes its canonical text (`"1"`, `"500m"`, `"1"`), which is all that readers know, and so do bytes.
    pub fn prune(&self, message: MessageRef, object: &mut Value) {
        if let Value::Object(fields) = object {
            self.prune_object(message, fields);
        }
    }

    fn prune_object(&self, message: MessageRef, fields: &mut Map<String, Value>) {
        fields.retain(|name, value| {
            let Some(field) = self.field(message, name) else { return false };
            if value.is_null() && field.kind != Type::Json {
                return false;
            }
            self.prune_field(field, value);
            true
        });
    }

    fn prune_field(&self, field: &Field, value: &mut Value) {
        match (field.shape, value) {
            (Shape::One, value) => self.prune_value(field.kind, value),
            (Shape::List, Value::Array(items)) => self.prune_items(field.kind, items),
            (Shape::Map, Value::Object(entries)) => {
                for value in entries.values_mut() {
                    self.prune_item(field.kind, value);
                }
            }
            _ => {}
        }
    }

    fn prune_items(&self, kind: Type, items: &mut [Value]) {
        for item in items {
            self.prune_item(kind, item);
        }
    }

    fn prune_item(&self, kind: Type, item: &mut Value) {
        if item.is_null() {
            *item = zero(kind);
        }
        self.prune_value(kind, item);
    }

    fn prune_value(&self, kind: Type, value: &mut Value) {
        match (kind, value) {
            (Type::Message(message), Value::Object(fields)) => self.prune_object(message, fields),
            (Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings, Value::Object(fields)) => {
                self.prune_object(self.props, fields);
            }
            (Type::PropsOrArray, Value::Array(items)) => self.prune_items(Type::Message(self.props), items),
            (Type::Quantity, value) => canonical(value),
            (Type::Bytes, Value::String(text)) => {
                *text = bytes_text(text).unwrap_or_else(|| std::mem::take(text))
            }
            _ => {}
        }
    }
}

/// What is no quantity stays: a check has refused it.
fn canonical(value: &mut Value) {
    let parsed = match value {
        Value::Number(number) => number.to_string().parse::<Quantity>(),
        Value::String(text) => text.parse(),
        _ => return,
    };
    if let Ok(quantity) = parsed {
        *value = Value::String(quantity.to_string());
    }
}

/// What Go's decoder leaves where a list or map holds null.
pub(super) fn zero(kind: Type) -> Value {
    match kind {
        Type::String | Type::Bytes => Value::from(""),
        Type::Bool => Value::from(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::from("0"),
        Type::Duration => Value::from("0s"),
        Type::Message(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}
