//! The words of Swagger 2.0. In: operations and definitions. Out: the document.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::definitions::{Definitions, PATCH, group_version_kind};
use super::operations::{self, Body, Operation, Parameter, Path};
use crate::catalogue::Catalogue;
use crate::schema::Schema;

/// The whole document.
pub(super) fn document(schema: &Schema, catalogue: &Catalogue) -> Value {
    let served = operations::group_versions(catalogue);
    let roots = catalogue.served().flat_map(|kind| operations::roots(schema, kind));
    let definitions = Definitions::new(schema, Dialect::V2, &served).reach(roots);
    let paths: Map<String, Value> = catalogue
        .served()
        .flat_map(|kind| operations::paths(schema, kind))
        .map(|path| (path.path.clone(), path_item(&path)))
        .collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": crate::SERVER_VERSION },
        "paths": paths,
        "definitions": definitions,
    })
}

fn path_item(path: &Path) -> Value {
    let mut item: Map<String, Value> = path
        .operations
        .iter()
        .map(|operation| (operation.method.to_owned(), self::operation(operation)))
        .collect();
    let mut parameters: Vec<Value> = path
        .parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true }))
        .collect();
    parameters.push(query(&("pretty", "string")));
    item.insert("parameters".to_owned(), parameters.into());
    Value::Object(item)
}

fn operation(operation: &Operation) -> Value {
    let (group, version, kind) = operation.kind;
    let mut parameters: Vec<Value> = body(&operation.body).into_iter().collect();
    parameters.extend(operation.query.iter().map(query));
    let consumes = if operation.body == Body::Patch { operations::PATCH_TYPES } else { &["*/*"] };
    let answer = match &operation.answer {
        Some(definition) => Dialect::V2.reference(definition),
        None => json!({ "type": "string" }),
    };
    let responses: Map<String, Value> = operation
        .codes
        .iter()
        .map(|code| ((*code).to_owned(), json!({ "description": "OK", "schema": answer })))
        .collect();
    json!({
        "tags": [operation.tag],
        "operationId": operation.id,
        "consumes": consumes,
        "produces": ["application/json"],
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": group_version_kind(group, version, kind),
    })
}

fn query((name, kind): &Parameter) -> Value {
    json!({ "name": name, "in": "query", "type": kind, "uniqueItems": true })
}

fn body(body: &Body) -> Option<Value> {
    let (definition, required) = match body {
        Body::None => return None,
        Body::Object(definition) => (definition.as_str(), true),
        Body::DeleteOptions(definition) => (definition.as_str(), false),
        Body::Patch => (PATCH, true),
    };
    let mut parameter = json!({ "name": "body", "in": "body", "schema": Dialect::V2.reference(definition) });
    if required {
        parameter["required"] = true.into();
    }
    Some(parameter)
}
