//! What upstream writes although it is nothing: required numbers, switches and texts that nobody has set. Typed clients count on
//! them. In: a message and its JSON. Out: the same JSON with those.

use serde_json::{Map, Value};

use super::{Field, MessageRef, Schema, Shape, Type};

impl Schema {
    /// Puts in what is required and missing, as far as it has a zero, in the message and all that are in it.
    pub fn fill_zeros(&self, message: MessageRef, object: &mut Value) {
        let Value::Object(map) = object else { return };
        for field in self.fields(message) {
            match map.get_mut(field.name) {
                Some(value) => self.fill_value(field, value),
                None => fill(field, map),
            }
        }
    }

    fn fill_value(&self, field: &Field, value: &mut Value) {
        let Some(message) = field.message() else { return };
        match (field.shape, value) {
            (Shape::One, value) => self.fill_zeros(message, value),
            (Shape::List, Value::Array(items)) => items.iter_mut().for_each(|i| self.fill_zeros(message, i)),
            (Shape::Map, Value::Object(map)) => map.values_mut().for_each(|v| self.fill_zeros(message, v)),
            (Shape::List | Shape::Map, _) => {}
        }
    }
}

fn fill(field: &Field, map: &mut Map<String, Value>) {
    if !field.required || field.shape != Shape::One {
        return;
    }
    let zero = match field.kind {
        Type::Int32 | Type::Int64 => Value::from(0),
        Type::Bool => Value::Bool(false),
        Type::String => Value::from(""),
        _ => return,
    };
    map.insert(field.name.to_owned(), zero);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(group: &str, kind: &str, mut value: Value) -> Value {
        let schema = Schema::builtin();
        schema.fill_zeros(schema.kind(group, "v1", kind).unwrap(), &mut value);
        value
    }

    #[test]
    fn required_fields_that_have_a_zero_are_there() {
        let counts = json!({"replicas": 0});
        assert_eq!(filled("apps", "ReplicaSet", json!({"status": {}}))["status"], counts);
        let status =
            json!({"containerStatuses": [{"name": "c", "restartCount": 3, "state": {"terminated": {}}}]});
        let wanted = json!({"containerStatuses": [{"name": "c", "restartCount": 3, "state": {"terminated": {"exitCode": 0}},
            "ready": false, "image": "", "imageID": ""}]});
        assert_eq!(filled("", "Pod", json!({"status": status}))["status"], wanted);
    }

    #[test]
    fn nothing_else_is_made_or_changed() {
        assert_eq!(filled("apps", "ReplicaSet", json!({})), json!({}));
        let odd = json!({"status": {"containerStatuses": "odd", "conditions": [7], "phase": null}});
        assert_eq!(filled("", "Pod", odd.clone()), odd);
    }
}
