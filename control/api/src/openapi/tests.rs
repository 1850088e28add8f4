//! The documents hold together, and say what kubectl looks for. The wire form is read back with messages of the tests' own.

use std::collections::BTreeSet;

use prost::Message;

use super::*;
use crate::catalogue::Kind;

fn with_document(check: impl FnOnce(&Catalogue, &Value)) {
    let catalogue = Catalogue::builtin();
    let document = OpenApi::new(&catalogue).v2_value();
    check(&catalogue, &document);
}

/// Every `$ref` below a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().filter(|_| name == "$ref") {
                    Some(reference) => drop(found.insert(reference.to_owned())),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn patch_of<'d>(document: &'d Value, kind: &Kind) -> &'d Value {
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let path = format!("/{}{scope}/{}/{{name}}", path_of(kind.group, kind.version), kind.plural);
    &document["paths"][&path]["patch"]
}

#[test]
fn every_reference_of_version_2_has_its_definition_and_every_definition_a_use() {
    with_document(|_, document| {
        let mut found = BTreeSet::new();
        references(document, &mut found);
        let defined: BTreeSet<String> = document["definitions"]
            .as_object()
            .unwrap()
            .keys()
            .map(|name| format!("#/definitions/{name}"))
            .collect();
        assert!(found.is_subset(&defined), "{:?}", found.difference(&defined));
        // The kinds of CREATE-only subresources are used by operations; nothing else may be left.
        assert!(defined.is_subset(&found), "{:?}", defined.difference(&found));
    });
}

#[test]
fn every_kind_is_defined_with_its_group_version_kind() {
    with_document(|catalogue, document| {
        for kind in catalogue.served() {
            let expected = json!({"group": kind.group, "kind": kind.kind, "version": kind.version});
            let definitions = document["definitions"].as_object().unwrap();
            let defined = definitions.values().filter(|definition| {
                definition["x-kubernetes-group-version-kind"]
                    .as_array()
                    .is_some_and(|all| all.contains(&expected))
            });
            assert_eq!(defined.count(), 1, "{}", kind.kind);
        }
    });
}

#[test]
fn every_patch_says_what_kubectl_looks_for() {
    let catalogue = Catalogue::builtin();
    let api = OpenApi::new(&catalogue);
    let v2 = api.v2_value();
    for kind in catalogue.served().filter(|kind| kind.allows("patch")) {
        let expected = json!({"group": kind.group, "kind": kind.kind, "version": kind.version});
        let v3 = api.v3(kind.group, kind.version).unwrap();
        for patch in [patch_of(&v2, kind), patch_of(&v3, kind)] {
            assert_eq!(patch["x-kubernetes-group-version-kind"], expected);
            let names: Vec<_> = patch["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
            for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
                assert!(names.contains(&&json!(name)), "{} {name}", kind.kind);
            }
        }
        let strategic = "application/strategic-merge-patch+json";
        assert!(patch_of(&v2, kind)["consumes"].as_array().unwrap().contains(&json!(strategic)));
        assert!(patch_of(&v3, kind)["requestBody"]["content"].get(strategic).is_some());
    }
}

#[test]
fn operations_have_names_of_their_own() {
    with_document(|_, document| {
        let mut seen = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                let id = operation["operationId"].as_str().unwrap();
                assert!(seen.insert(id.to_owned()), "{method} {path}: {id}");
            }
        }
        assert!(
            seen.contains("patchAppsV1NamespacedDeployment")
                && seen.contains("listCoreV1PodForAllNamespaces")
        );
    });
}

#[test]
fn patch_keys_are_in_both_versions() {
    let catalogue = Catalogue::builtin();
    let api = OpenApi::new(&catalogue);
    let v2 = &api.v2_value()["definitions"];
    let v3 = &api.v3("apps", "v1").unwrap()["components"]["schemas"];
    for definitions in [v2, v3] {
        let containers = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let strategy = &definitions["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
        assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    }
    let strategy = &v3["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    let reference = "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy";
    assert_eq!(strategy["allOf"][0]["$ref"], reference);
    assert_eq!(strategy.get("$ref"), None);
}

#[test]
fn the_index_of_version_3_lists_each_group_version_once() {
    let catalogue = Catalogue::builtin();
    let api = OpenApi::new(&catalogue);
    let index = api.v3_index();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    for (path, entry) in paths {
        let mut parts = path.rsplit('/');
        let (version, group) = (parts.next().unwrap(), parts.next().unwrap());
        let group = if group == "api" { "" } else { group };
        let url = format!("/openapi/v3/{path}?hash={}", api.hash(group, version));
        assert_eq!(entry["serverRelativeURL"], url.as_str());
        let document = api.v3(group, version).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {reference}");
        }
    }
    assert_eq!(api.v3("apps", "v2"), None);
    assert_ne!(api.hash("apps", "v1"), api.hash("", "v1"));
}

#[test]
fn clients_get_the_format_that_they_accept() {
    let accepted = V2Format::accepted;
    assert_eq!(
        accepted("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"),
        Some(V2Format::Protobuf)
    );
    assert_eq!(
        accepted("application/com.github.proto-openapi.spec.v2.v1.0+protobuf, */*"),
        Some(V2Format::Protobuf)
    );
    assert_eq!(accepted("application/json;q=0.9"), Some(V2Format::Json));
    assert_eq!(accepted("text/html, */*"), Some(V2Format::Json));
    assert_eq!(accepted(""), Some(V2Format::Json));
    assert_eq!(accepted("application/yaml"), None);
}

/// What the tests need of gnostic's messages, written down from its .proto file independently of the encoder.
mod wire {
    #[derive(prost::Message)]
    pub(super) struct Document {
        #[prost(string, tag = "1")]
        pub(super) swagger: String,
        #[prost(message, optional, tag = "8")]
        pub(super) paths: Option<Paths>,
        #[prost(message, optional, tag = "9")]
        pub(super) definitions: Option<Definitions>,
    }

    #[derive(prost::Message)]
    pub(super) struct Paths {
        #[prost(message, repeated, tag = "2")]
        pub(super) path: Vec<NamedPathItem>,
    }

    #[derive(prost::Message)]
    pub(super) struct NamedPathItem {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<PathItem>,
    }

    #[derive(prost::Message)]
    pub(super) struct PathItem {
        #[prost(message, optional, tag = "8")]
        pub(super) patch: Option<Operation>,
        #[prost(message, repeated, tag = "9")]
        pub(super) parameters: Vec<ParametersItem>,
    }

    #[derive(prost::Message)]
    pub(super) struct Operation {
        #[prost(string, tag = "5")]
        pub(super) operation_id: String,
        #[prost(string, repeated, tag = "7")]
        pub(super) consumes: Vec<String>,
        #[prost(message, repeated, tag = "8")]
        pub(super) parameters: Vec<ParametersItem>,
        #[prost(message, repeated, tag = "13")]
        pub(super) vendor_extension: Vec<NamedAny>,
    }

    #[derive(prost::Message)]
    pub(super) struct ParametersItem {
        #[prost(message, optional, tag = "1")]
        pub(super) parameter: Option<Parameter>,
    }

    #[derive(prost::Message)]
    pub(super) struct Parameter {
        #[prost(message, optional, tag = "1")]
        pub(super) body_parameter: Option<BodyParameter>,
        #[prost(message, optional, tag = "2")]
        pub(super) non_body_parameter: Option<NonBodyParameter>,
    }

    #[derive(prost::Message)]
    pub(super) struct BodyParameter {
        #[prost(string, tag = "2")]
        pub(super) name: String,
        #[prost(bool, tag = "4")]
        pub(super) required: bool,
        #[prost(message, optional, tag = "5")]
        pub(super) schema: Option<Schema>,
    }

    #[derive(prost::Message)]
    pub(super) struct NonBodyParameter {
        #[prost(message, optional, tag = "3")]
        pub(super) query: Option<Query>,
        #[prost(message, optional, tag = "4")]
        pub(super) path: Option<PathParameter>,
    }

    #[derive(prost::Message)]
    pub(super) struct Query {
        #[prost(string, tag = "2")]
        pub(super) place: String,
        #[prost(string, tag = "4")]
        pub(super) name: String,
        #[prost(string, tag = "6")]
        pub(super) kind: String,
        #[prost(bool, tag = "20")]
        pub(super) unique_items: bool,
    }

    #[derive(prost::Message)]
    pub(super) struct PathParameter {
        #[prost(bool, tag = "1")]
        pub(super) required: bool,
        #[prost(string, tag = "4")]
        pub(super) name: String,
        #[prost(string, tag = "5")]
        pub(super) kind: String,
    }

    #[derive(prost::Message)]
    pub(super) struct Definitions {
        #[prost(message, repeated, tag = "1")]
        pub(super) additional_properties: Vec<NamedSchema>,
    }

    #[derive(prost::Message)]
    pub(super) struct NamedSchema {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Schema>,
    }

    #[derive(prost::Message)]
    pub(super) struct Schema {
        #[prost(string, tag = "1")]
        pub(super) reference: String,
        #[prost(string, tag = "2")]
        pub(super) format: String,
        #[prost(string, repeated, tag = "19")]
        pub(super) required: Vec<String>,
        #[prost(message, optional, boxed, tag = "21")]
        pub(super) additional_properties: Option<Box<AdditionalProperties>>,
        #[prost(message, optional, tag = "22")]
        pub(super) kind: Option<Strings>,
        #[prost(message, optional, tag = "23")]
        pub(super) items: Option<Items>,
        #[prost(message, optional, tag = "25")]
        pub(super) properties: Option<Definitions>,
        #[prost(message, repeated, tag = "31")]
        pub(super) vendor_extension: Vec<NamedAny>,
    }

    #[derive(prost::Message)]
    pub(super) struct AdditionalProperties {
        #[prost(message, optional, boxed, tag = "1")]
        pub(super) schema: Option<Box<Schema>>,
    }

    #[derive(prost::Message)]
    pub(super) struct Items {
        #[prost(message, repeated, tag = "1")]
        pub(super) schema: Vec<Schema>,
    }

    #[derive(prost::Message)]
    pub(super) struct Strings {
        #[prost(string, repeated, tag = "1")]
        pub(super) value: Vec<String>,
    }

    #[derive(prost::Message)]
    pub(super) struct NamedAny {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Any>,
    }

    #[derive(prost::Message)]
    pub(super) struct Any {
        #[prost(string, tag = "2")]
        pub(super) yaml: String,
    }
}

fn wire_document() -> wire::Document {
    let catalogue = Catalogue::builtin();
    wire::Document::decode(&*OpenApi::new(&catalogue).v2(V2Format::Protobuf)).unwrap()
}

/// A schema of the wire as the JSON that it stands for.
fn schema_json(schema: &wire::Schema) -> Value {
    let mut value = serde_json::Map::new();
    let mut insert = |name: &str, part: Value| drop(value.insert(name.to_owned(), part));
    if !schema.reference.is_empty() {
        insert("$ref", json!(schema.reference));
    }
    if let Some(kind) = &schema.kind {
        insert("type", json!(kind.value[0]));
    }
    if !schema.format.is_empty() {
        insert("format", json!(schema.format));
    }
    if !schema.required.is_empty() {
        insert("required", json!(schema.required));
    }
    if let Some(additional) = &schema.additional_properties {
        insert("additionalProperties", schema_json(additional.schema.as_ref().unwrap()));
    }
    if let Some(items) = &schema.items {
        insert("items", schema_json(&items.schema[0]));
    }
    if let Some(properties) = &schema.properties {
        insert("properties", named_json(properties));
    }
    for extension in &schema.vendor_extension {
        let yaml = &extension.value.as_ref().unwrap().yaml;
        insert(&extension.name, serde_yaml::from_str(yaml).unwrap());
    }
    Value::Object(value)
}

fn named_json(definitions: &wire::Definitions) -> Value {
    let named = definitions.additional_properties.iter();
    named.map(|named| (named.name.clone(), schema_json(named.value.as_ref().unwrap()))).collect()
}

#[test]
fn definitions_survive_the_wire_form() {
    let document = wire_document();
    assert_eq!(document.swagger, "2.0");
    let definitions = named_json(&document.definitions.unwrap());
    with_document(|_, expected| assert!(definitions == expected["definitions"]));
}

#[test]
fn operations_survive_the_wire_form() {
    let paths = wire_document().paths.unwrap().path;
    with_document(|_, document| assert_eq!(paths.len(), document["paths"].as_object().unwrap().len()));
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let item = paths.into_iter().find(|named| named.name == path).unwrap().value.unwrap();
    let patch = item.patch.unwrap();
    assert_eq!(patch.operation_id, "patchAppsV1NamespacedDeployment");
    assert!(patch.consumes.contains(&"application/strategic-merge-patch+json".to_owned()));
    let parameters: Vec<wire::Parameter> =
        patch.parameters.into_iter().filter_map(|item| item.parameter).collect();
    let body = parameters.iter().find_map(|parameter| parameter.body_parameter.as_ref()).unwrap();
    assert!(body.required && body.name == "body");
    assert_eq!(
        body.schema.as_ref().unwrap().reference,
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
    );
    let queries = parameters.iter().filter_map(|p| p.non_body_parameter.as_ref()?.query.as_ref());
    let queries: Vec<_> =
        queries.map(|q| (q.name.as_str(), q.place.as_str(), q.kind.as_str(), q.unique_items)).collect();
    assert!(queries.contains(&("dryRun", "query", "string", true)), "{queries:?}");
    assert!(queries.contains(&("force", "query", "boolean", true)), "{queries:?}");
    let kind = patch.vendor_extension.iter().find(|e| e.name == "x-kubernetes-group-version-kind").unwrap();
    let kind: Value = serde_yaml::from_str(&kind.value.as_ref().unwrap().yaml).unwrap();
    assert_eq!(kind, json!({"group": "apps", "kind": "Deployment", "version": "v1"}));
    let names = item
        .parameters
        .iter()
        .filter_map(|p| p.parameter.as_ref()?.non_body_parameter.as_ref()?.path.as_ref());
    let names: Vec<_> = names.map(|path| (path.name.as_str(), path.required, path.kind.as_str())).collect();
    assert_eq!(names, [("name", true, "string"), ("namespace", true, "string")]);
}
