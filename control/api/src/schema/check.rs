//! Strict checks of a decoded object: fields that its message does not have, and values of the wrong type.
//!
//! In: a message and a value. Out: a [`Report`] in upstream's words (those of Go's JSON decoder). Never: rules about what
//! a value may be; that is validation's.

use serde_json::{Map, Value};

use super::duplicates::unknown_field;
use super::scalar::{bytes_error, cut, duration_error, quantity_error, time_error};
use super::{Field, MessageRef, Schema, Shape, Type};

/// More findings than anybody reads; keeps hostile bodies from growing the answer.
const MOST: usize = 100;

const TIME_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_TIME_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// What a check found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths of unknown fields (`spec.template.spec.containers[0].foo`).
    pub unknown: Vec<String>,
    /// Values of the wrong type; upstream answers with the first.
    pub wrong_type: Vec<WrongType>,
}

/// A value that does not fit its field.
#[derive(Debug, PartialEq, Eq)]
pub struct WrongType {
    /// The value's path.
    pub path: String,
    /// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`
    pub message: String,
}

/// What field validation `Strict` answers, given findings like `unknown field "spec.foo"`.
pub fn strict_error(findings: &[String]) -> String {
    format!("strict decoding error: {}", findings.join(", "))
}

impl Report {
    /// `unknown field "spec.foo"`, for [`strict_error`] and for warnings.
    pub fn findings(&self) -> Vec<String> {
        self.unknown.iter().map(|path| unknown_field(path)).collect()
    }

    /// What a kube-apiserver answers (400) to a value of the wrong type.
    pub fn bad_request(&self, version: &str, kind: &str) -> Option<String> {
        let first = self.wrong_type.first()?;
        Some(format!("{kind} in version {version:?} cannot be handled as a {kind}: {}", first.message))
    }
}

impl Schema {
    /// Compares an object with its message. Nulls fit everything, as in Go.
    pub fn check(&self, message: MessageRef, object: &Value) -> Report {
        let mut walk = Walk { schema: self, report: Report::default(), path: Path::default() };
        match object {
            Value::Object(fields) => walk.object(message, fields),
            other => {
                let go_type = self.go_type(Shape::One, Type::Message(message));
                walk.wrong(format!(
                    "json: cannot unmarshal {} into Go value of type {go_type}",
                    kind_of(other)
                ));
            }
        }
        walk.report
    }

    /// The Go type that error messages name. Named strings (`v1.Protocol`) are shown as what they are.
    fn go_type(&self, shape: Shape, kind: Type) -> String {
        let one = match kind {
            Type::String => "string".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::Int32 => "int32".to_owned(),
            Type::Int64 => "int64".to_owned(),
            Type::Double => "float64".to_owned(),
            Type::Bytes => "[]uint8".to_owned(),
            Type::Strings => "[]string".to_owned(),
            Type::Time => "v1.Time".to_owned(),
            Type::MicroTime => "v1.MicroTime".to_owned(),
            Type::Duration => "v1.Duration".to_owned(),
            Type::Quantity => "resource.Quantity".to_owned(),
            Type::IntOrString => "intstr.IntOrString".to_owned(),
            Type::Raw => "runtime.RawExtension".to_owned(),
            Type::Fields => "v1.FieldsV1".to_owned(),
            Type::Json => "v1.JSON".to_owned(),
            Type::PropsOrArray => "v1.JSONSchemaPropsOrArray".to_owned(),
            Type::PropsOrBool => "v1.JSONSchemaPropsOrBool".to_owned(),
            Type::PropsOrStrings => "v1.JSONSchemaPropsOrStringArray".to_owned(),
            Type::Message(message) => {
                let message = self.message(message);
                format!("{}.{}", message.version, message.name)
            }
        };
        match shape {
            Shape::One => one,
            Shape::List => format!("[]{one}"),
            Shape::Map => format!("map[string]{one}"),
        }
    }
}

/// Where the walk is: as strict errors show it, and as Go's decoder does (which knows neither indexes nor map keys).
#[derive(Default)]
struct Path {
    full: String,
    go: String,
    owner: &'static str,
}

struct Walk<'s> {
    schema: &'s Schema,
    report: Report,
    path: Path,
}

impl Walk<'_> {
    fn object(&mut self, message: MessageRef, fields: &Map<String, Value>) {
        let schema = self.schema;
        for (name, value) in fields {
            let length = self.path.full.len();
            push(&mut self.path.full, name);
            match schema.field(message, name) {
                None => self.unknown(),
                Some(field) => {
                    let go_length = self.path.go.len();
                    let owner = std::mem::replace(&mut self.path.owner, schema.message(message).name);
                    push(&mut self.path.go, name);
                    self.field(field, value);
                    self.path.go.truncate(go_length);
                    self.path.owner = owner;
                }
            }
            self.path.full.truncate(length);
        }
    }

    fn field(&mut self, field: &Field, value: &Value) {
        match (field.shape, value) {
            (_, Value::Null) => {}
            (Shape::One, value) => self.value(field.kind, value),
            (Shape::List, Value::Array(items)) => self.items(field.kind, items),
            (Shape::Map, Value::Object(entries)) => {
                for (key, value) in entries {
                    let length = self.path.full.len();
                    push(&mut self.path.full, key);
                    self.value(field.kind, value);
                    self.path.full.truncate(length);
                }
            }
            (shape, other) => self.mismatch(kind_of(other), &self.schema.go_type(shape, field.kind)),
        }
    }

    fn items(&mut self, kind: Type, items: &[Value]) {
        for (index, item) in items.iter().enumerate() {
            let length = self.path.full.len();
            self.path.full.push_str(&format!("[{index}]"));
            self.value(kind, item);
            self.path.full.truncate(length);
        }
    }

    fn value(&mut self, kind: Type, value: &Value) {
        let props = self.schema.props;
        match (kind, value) {
            (_, Value::Null)
            | (Type::String, Value::String(_))
            | (Type::Bool | Type::PropsOrBool, Value::Bool(_))
            | (Type::Double, Value::Number(_))
            | (Type::IntOrString, Value::String(_))
            | (Type::Raw | Type::Fields | Type::Json, _) => {}
            (Type::Message(message), Value::Object(fields)) => self.object(message, fields),
            (Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings, Value::Object(fields)) => {
                self.object(props, fields);
            }
            (Type::PropsOrArray, Value::Array(items)) => self.items(Type::Message(props), items),
            (Type::PropsOrStrings | Type::Strings, Value::Array(items)) => self.items(Type::String, items),
            (Type::Int32, Value::Number(number)) => {
                if number.as_i64().is_none_or(|number| i32::try_from(number).is_err()) {
                    self.mismatch(&format!("number {number}"), "int32");
                }
            }
            (Type::Int64, Value::Number(number)) => {
                if !number.is_i64() {
                    self.mismatch(&format!("number {number}"), "int64");
                }
            }
            (Type::IntOrString, other) => self.int_or_string(other),
            (Type::Bytes, Value::String(text)) => self.wrong_if(bytes_error(text)),
            (Type::Quantity, Value::String(text)) => self.wrong_if(quantity_error(text)),
            (Type::Quantity, Value::Number(number)) => self.wrong_if(quantity_error(&number.to_string())),
            (Type::Duration, Value::String(text)) => self.wrong_if(duration_error(text)),
            (Type::Time, Value::String(text)) => self.wrong_if(time_error(text, TIME_LAYOUT)),
            (Type::MicroTime, Value::String(text)) => self.wrong_if(time_error(text, MICRO_TIME_LAYOUT)),
            // Their own decoders read a string, so the field is not named.
            (Type::Time | Type::MicroTime | Type::Duration, other) => {
                self.wrong(format!("json: cannot unmarshal {} into Go value of type string", kind_of(other)));
            }
            (kind, other) => self.mismatch(kind_of(other), &self.schema.go_type(Shape::One, kind)),
        }
    }

    /// `intstr.IntOrString` decodes everything but strings as an int32 of its own.
    fn int_or_string(&mut self, value: &Value) {
        let what = match value {
            Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
            Value::Number(number) => format!("number {number}"),
            other => kind_of(other).to_owned(),
        };
        self.wrong(format!("json: cannot unmarshal {what} into Go value of type int32"));
    }

    fn mismatch(&mut self, what: &str, go_type: &str) {
        let Path { owner, go, .. } = &self.path;
        let message =
            format!("json: cannot unmarshal {what} into Go struct field {owner}.{go} of type {go_type}");
        self.wrong(message);
    }

    fn wrong_if(&mut self, message: Option<String>) {
        if let Some(message) = message {
            self.wrong(message);
        }
    }

    fn unknown(&mut self) {
        if self.report.unknown.len() < MOST {
            self.report.unknown.push(cut(&self.path.full).to_owned());
        }
    }

    fn wrong(&mut self, message: String) {
        if self.report.wrong_type.len() < MOST {
            self.report.wrong_type.push(WrongType { path: cut(&self.path.full).to_owned(), message });
        }
    }
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Go's name for the kind of a JSON value.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
