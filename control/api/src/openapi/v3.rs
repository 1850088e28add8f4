//! The words of OpenAPI 3.0. In: operations and definitions of one group version. Out: its document.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::definitions::{Definitions, PATCH, group_version_kind};
use super::operations::{self, Body, Operation, Parameter, Path};
use crate::catalogue::Catalogue;
use crate::schema::Schema;

/// The document of one group version.
pub(super) fn document(schema: &Schema, catalogue: &Catalogue, group: &str, version: &str) -> Value {
    let served = operations::group_versions(catalogue);
    let kinds = || catalogue.served().filter(|kind| (kind.group, kind.version) == (group, version));
    let roots = kinds().flat_map(|kind| operations::roots(schema, kind));
    let schemas = Definitions::new(schema, Dialect::V3, &served).reach(roots);
    let paths: Map<String, Value> = kinds()
        .flat_map(|kind| operations::paths(schema, kind))
        .map(|path| (path.path.clone(), path_item(&path)))
        .collect();
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": crate::SERVER_VERSION },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn path_item(path: &Path) -> Value {
    let mut item: Map<String, Value> = path
        .operations
        .iter()
        .map(|operation| (operation.method.to_owned(), self::operation(operation)))
        .collect();
    let string = json!({ "type": "string", "uniqueItems": true });
    let mut parameters: Vec<Value> = path
        .parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": string }))
        .collect();
    parameters.push(query(&("pretty", "string")));
    item.insert("parameters".to_owned(), parameters.into());
    Value::Object(item)
}

fn operation(operation: &Operation) -> Value {
    let (group, version, kind) = operation.kind;
    let content = match &operation.answer {
        Some(definition) => json!({ "application/json": { "schema": Dialect::V3.reference(definition) } }),
        None => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let responses: Map<String, Value> = operation
        .codes
        .iter()
        .map(|code| ((*code).to_owned(), json!({ "description": "OK", "content": content })))
        .collect();
    let mut value = json!({
        "tags": [operation.tag],
        "operationId": operation.id,
        "parameters": operation.query.iter().map(query).collect::<Vec<_>>(),
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": group_version_kind(group, version, kind),
    });
    if let Some(body) = body(&operation.body) {
        value["requestBody"] = body;
    }
    value
}

fn query((name, kind): &Parameter) -> Value {
    json!({ "name": name, "in": "query", "schema": { "type": kind, "uniqueItems": true } })
}

fn body(body: &Body) -> Option<Value> {
    let (definition, types, required): (_, &[&str], _) = match body {
        Body::None => return None,
        Body::Object(definition) => (definition.as_str(), &["*/*"], true),
        Body::DeleteOptions(definition) => (definition.as_str(), &["*/*"], false),
        Body::Patch => (PATCH, operations::PATCH_TYPES, true),
    };
    let content: Map<String, Value> = types
        .iter()
        .map(|media_type| ((*media_type).to_owned(), json!({ "schema": Dialect::V3.reference(definition) })))
        .collect();
    let mut value = json!({ "content": content });
    if required {
        value["required"] = true.into();
    }
    Some(value)
}
