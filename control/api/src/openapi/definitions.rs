//! Definitions: the messages that some roots reach, in the dialect of a version.
//!
//! In: the field table and root messages. Out: definitions by name, with the extensions that patches are computed from.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::schema::{Field, MessageRef, Schema, Shape, Type};

/// The body of a PATCH.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// Collects definitions.
pub(super) struct Definitions<'s> {
    schema: &'s Schema,
    dialect: Dialect,
    /// The group versions in which the options of meta/v1 are registered.
    served: &'s [(&'static str, &'static str)],
    found: BTreeMap<String, Value>,
    waiting: Vec<MessageRef>,
}

impl<'s> Definitions<'s> {
    pub(super) fn new(
        schema: &'s Schema,
        dialect: Dialect,
        served: &'s [(&'static str, &'static str)],
    ) -> Self {
        Self { schema, dialect, served, found: BTreeMap::new(), waiting: Vec::new() }
    }

    /// Everything that the roots reach.
    pub(super) fn reach(mut self, roots: impl IntoIterator<Item = MessageRef>) -> Map<String, Value> {
        self.found.insert(PATCH.to_owned(), json!({ "type": "object" }));
        self.waiting.extend(roots);
        while let Some(message) = self.waiting.pop() {
            let name = self.schema.message(message).definition();
            if !self.found.contains_key(&name) {
                let definition = self.definition(message);
                self.found.insert(name, definition);
            }
        }
        self.found.into_iter().collect()
    }

    fn definition(&mut self, message: MessageRef) -> Value {
        let schema = self.schema;
        let facts = schema.message(message);
        let mut properties = BTreeMap::new();
        if facts.kind {
            properties.insert("apiVersion", json!({ "type": "string" }));
            properties.insert("kind", json!({ "type": "string" }));
        }
        for field in schema.fields(message) {
            properties.insert(field.name, self.property(field));
        }
        let mut required: Vec<&str> =
            schema.fields(message).iter().filter(|field| field.required).map(|field| field.name).collect();
        required.sort_unstable();
        let mut definition = Map::new();
        definition.insert("type".to_owned(), "object".into());
        if !required.is_empty() {
            definition.insert("required".to_owned(), required.into());
        }
        if !properties.is_empty() {
            let properties: Map<String, Value> =
                properties.into_iter().map(|(name, property)| (name.to_owned(), property)).collect();
            definition.insert("properties".to_owned(), properties.into());
        }
        if facts.kind {
            let kinds = self.group_version_kinds(message);
            definition.insert("x-kubernetes-group-version-kind".to_owned(), kinds);
        }
        if facts.atomic {
            definition.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        Value::Object(definition)
    }

    fn group_version_kinds(&self, message: MessageRef) -> Value {
        let message = self.schema.message(message);
        if message.package == META && message.name.ends_with("Options") {
            let everywhere = self.served.iter();
            return everywhere
                .map(|(group, version)| group_version_kind(group, version, message.name))
                .collect();
        }
        json!([group_version_kind(message.group, message.version, message.name)])
    }

    fn property(&mut self, field: &Field) -> Value {
        let one = self.value(field.kind);
        let mut property = match field.shape {
            Shape::One => one,
            Shape::List => json!({ "type": "array", "items": one }),
            Shape::Map => json!({ "type": "object", "additionalProperties": one }),
        };
        let extensions = extensions(field);
        if extensions.is_empty() {
            return property;
        }
        if self.dialect == Dialect::V3 && property.get("$ref").is_some() {
            // Beside a reference, OpenAPI 3.0 reads nothing.
            property = json!({ "allOf": [property] });
        }
        if let Value::Object(property) = &mut property {
            property.extend(extensions);
        }
        property
    }

    /// One value of a type; messages and special types are referred to.
    fn value(&mut self, kind: Type) -> Value {
        match kind {
            Type::String => json!({ "type": "string" }),
            Type::Bool => json!({ "type": "boolean" }),
            Type::Int32 => json!({ "type": "integer", "format": "int32" }),
            Type::Int64 => json!({ "type": "integer", "format": "int64" }),
            Type::Double => json!({ "type": "number", "format": "double" }),
            Type::Bytes => json!({ "type": "string", "format": "byte" }),
            Type::Strings => json!({ "type": "array", "items": { "type": "string" } }),
            Type::Message(message) => {
                self.waiting.push(message);
                self.dialect.reference(&self.schema.message(message).definition())
            }
            special => {
                let (name, definition) = self.special(special);
                let reference = self.dialect.reference(&name);
                self.found.entry(name).or_insert(definition);
                reference
            }
        }
    }

    fn special(&self, kind: Type) -> (String, Value) {
        let string = |format: &str| json!({ "type": "string", "format": format });
        // A number too; version 2 has no words for it.
        let either = |number: &str, v2: Value, v3: Value| match self.dialect {
            Dialect::V2 => v2,
            Dialect::V3 => {
                let mut either = v3;
                either["oneOf"] = json!([{ "type": "string" }, { "type": number }]);
                either
            }
        };
        let (package, name, definition) = match kind {
            Type::Time => (META, "Time", string("date-time")),
            Type::MicroTime => (META, "MicroTime", string("date-time")),
            Type::Duration => (META, "Duration", json!({ "type": "string" })),
            Type::Fields => (META, "FieldsV1", json!({ "type": "object" })),
            Type::Raw => ("io.k8s.apimachinery.pkg.runtime", "RawExtension", json!({ "type": "object" })),
            Type::Quantity => {
                let quantity = either("number", json!({ "type": "string" }), json!({}));
                ("io.k8s.apimachinery.pkg.api.resource", "Quantity", quantity)
            }
            Type::IntOrString => {
                let format = json!({ "format": "int-or-string" });
                let int_or_string = either("integer", string("int-or-string"), format);
                ("io.k8s.apimachinery.pkg.util.intstr", "IntOrString", int_or_string)
            }
            Type::PropsOrArray => (APIEXTENSIONS, "JSONSchemaPropsOrArray", json!({})),
            Type::PropsOrBool => (APIEXTENSIONS, "JSONSchemaPropsOrBool", json!({})),
            Type::PropsOrStrings => (APIEXTENSIONS, "JSONSchemaPropsOrStringArray", json!({})),
            _ => (APIEXTENSIONS, "JSON", json!({})),
        };
        (format!("{package}.{name}"), definition)
    }
}

/// The extension that says which kind a definition or an operation is about.
pub(super) fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "kind": kind, "version": version })
}

fn extensions(field: &Field) -> Map<String, Value> {
    let mut extensions = Map::new();
    let keys: Vec<&str> = field.list_map_keys().collect();
    if !keys.is_empty() {
        extensions.insert("x-kubernetes-list-map-keys".to_owned(), keys.into());
    }
    if let Some(list_type) = field.list_type() {
        extensions.insert("x-kubernetes-list-type".to_owned(), list_type.into());
    }
    if field.atomic_map() {
        extensions.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    let (strategy, merge_key) = field.patch_words();
    if let Some(merge_key) = merge_key {
        extensions.insert("x-kubernetes-patch-merge-key".to_owned(), merge_key.into());
    }
    if let Some(strategy) = strategy {
        extensions.insert("x-kubernetes-patch-strategy".to_owned(), strategy.into());
    }
    extensions
}
