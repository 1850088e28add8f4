//! Joins wire facts (`k8s-pb`) and JSON facts (`k8s-openapi`) into tables.
//!
//! In: both readings. Out: [`Table`]s with every field's JSON name, tag and type. Embedded messages (`VolumeSource`
//! in `Volume`), which JSON does not show, become a second tag in front of their fields.

use std::collections::{BTreeMap, BTreeSet};

use super::json::{ListType, Struct};
use super::protobuf::{self, Wire};
use super::{Shape, normalised};

/// A package of messages.
#[derive(Debug)]
pub(crate) struct Table {
    /// `io.k8s.api.core.v1`
    pub(crate) package: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) messages: BTreeMap<String, Message>,
}

/// One message as JSON shows it.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// It has apiVersion and kind and is registered under its name.
    pub(crate) kind: bool,
    /// Server-side apply treats it as one value.
    pub(crate) atomic: bool,
    pub(crate) fields: Vec<Field>,
}

/// One JSON field.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// 0: not on the wire.
    pub(crate) tag: u32,
    /// The tags of the embedded messages that hold it, outermost first.
    pub(crate) outer: Vec<u32>,
    /// The message that declares it, where that is an embedded one.
    pub(crate) declared_in: Option<String>,
    pub(crate) shape: Shape,
    /// A type word of the table, or a message's full name with a dot in front.
    pub(crate) kind: String,
    pub(crate) required: bool,
    pub(crate) pointer: bool,
    pub(crate) list_type: Option<ListType>,
    pub(crate) atomic_map: bool,
    /// `merge:name`
    pub(crate) patch: Option<String>,
}

/// Packages that k8s-openapi no longer (or never) had, but that clients ask for: kubectl 1.20, `kubectl top`.
const WIRE_ONLY: [&str; 7] = [
    "api.admission.v1",
    "api.autoscaling.v2beta2",
    "api.batch.v1beta1",
    "api.discovery.v1beta1",
    "api.events.v1beta1",
    "api.policy.v1beta1",
    "metrics.pkg.apis.metrics.v1beta1",
];

const META: &str = "apimachinery.pkg.apis.meta.v1";

type Packages = BTreeMap<String, protobuf::Package>;
type Structs = BTreeMap<String, BTreeMap<String, Struct>>;

/// Every message that k8s-openapi defines, their lists, the options of meta/v1, and the packages of `WIRE_ONLY`.
pub(crate) fn merge(packages: &Packages, structs: &Structs) -> Result<Vec<Table>, String> {
    let names = Names::learn(packages, structs);
    let mut tables = Vec::new();
    let mut wanted: BTreeSet<&str> = structs.keys().map(String::as_str).collect();
    wanted.extend(WIRE_ONLY);
    for package in wanted {
        let empty = (BTreeMap::new(), protobuf::Package::new());
        let defined = structs.get(package).unwrap_or(&empty.0);
        let wire = packages.get(package).unwrap_or(&empty.1);
        let mut messages = BTreeMap::new();
        for (name, definition) in defined {
            if special(package, name).is_none() {
                let fields = names.join(definition, wire_message(wire, name), packages)?;
                let kind = definition.group.is_some() || definition.typed || name == "DeleteOptions";
                messages.insert(name.clone(), Message { kind, atomic: false, fields });
            }
        }
        for (wire_name, fields) in wire {
            let name = names.message(wire_name);
            let wire_only = !structs.contains_key(package) || package == META || names.is_list(&name);
            if wire_only && !messages.contains_key(&name) && special(package, &name).is_none() {
                let fields = fields.iter().map(|field| names.wire_field(field)).collect();
                let kind = names.kinds.contains(&name) || names.is_list(&name);
                messages.insert(name, Message { kind, atomic: false, fields });
            }
        }
        let group = defined.values().find_map(|s| s.group.clone()).unwrap_or_else(|| group(package));
        let version = package.rsplit('.').next().unwrap_or_default().to_owned();
        tables.push(Table { package: package.to_owned(), group, version, messages });
    }
    drop_unknown_references(&mut tables);
    Ok(tables)
}

/// The type word of messages whose JSON is not an object of their fields.
fn special(package: &str, name: &str) -> Option<&'static str> {
    let meta = package == META;
    Some(match normalised(name).as_str() {
        "quantity" | "quantityvalue" if package == "apimachinery.pkg.api.resource" => "quantity",
        "intorstring" => "int-or-string",
        "rawextension" => "raw",
        "json" if package.starts_with("apiextensions") => "json",
        "jsonschemapropsorarray" => "props-or-array",
        "jsonschemapropsorbool" => "props-or-bool",
        "jsonschemapropsorstringarray" => "props-or-strings",
        "time" | "timestamp" if meta => "time",
        "microtime" if meta => "micro-time",
        "fieldsv1" if meta => "fields",
        "duration" if meta => "duration",
        "verbs" if meta => "strings",
        "patch" if meta => "json",
        "extravalue" => "strings",
        _ => return None,
    })
}

fn group(package: &str) -> String {
    let name = package.rsplit('.').nth(1).unwrap_or_default();
    match name {
        "core" | "api" | "util" | "pkg" | "runtime" => String::new(),
        "apps" | "batch" | "autoscaling" | "policy" | "extensions" => name.to_owned(),
        other => format!("{other}.k8s.io"),
    }
}

fn wire_message<'a>(package: &'a protobuf::Package, name: &str) -> Option<&'a Vec<protobuf::Field>> {
    let wanted = normalised(name);
    package.iter().find(|(wire_name, _)| normalised(wire_name) == wanted).map(|(_, fields)| fields)
}

/// What the definitions teach about spelling: prost's names are snake or upper-camel case.
struct Names {
    fields: BTreeMap<String, String>,
    messages: BTreeMap<String, String>,
    kinds: BTreeSet<String>,
}

impl Names {
    fn learn(packages: &Packages, structs: &Structs) -> Self {
        let all = || structs.values().flat_map(BTreeMap::values);
        let fields = all()
            .flat_map(|definition| &definition.fields)
            .map(|field| (normalised(&field.name), field.name.clone()))
            .collect();
        let mut messages: BTreeMap<String, String> =
            all().map(|definition| (normalised(&definition.name), definition.name.clone())).collect();
        // Prost spells acronyms its own way in lists too: HpaList must follow Hpa.
        for name in packages.values().flat_map(BTreeMap::keys) {
            if let Some(item) =
                name.strip_suffix("List").and_then(|item| messages.get(&normalised(item))).cloned()
            {
                messages.entry(normalised(name)).or_insert_with(|| format!("{item}List"));
            }
        }
        let mut kinds: BTreeSet<String> =
            all().filter(|d| d.group.is_some() || d.typed).map(|d| d.name.clone()).collect();
        kinds.extend(
            ["NodeMetrics", "PodMetrics", "AdmissionReview", "PartialObjectMetadata"].map(str::to_owned),
        );
        kinds.extend(
            ["ListOptions", "GetOptions", "CreateOptions", "UpdateOptions", "PatchOptions"]
                .map(str::to_owned),
        );
        Self { fields, messages, kinds }
    }

    fn message(&self, wire_name: &str) -> String {
        self.messages.get(&normalised(wire_name)).cloned().unwrap_or_else(|| wire_name.to_owned())
    }

    fn is_list(&self, name: &str) -> bool {
        name == "List" || name.strip_suffix("List").is_some_and(|item| self.kinds.contains(item))
    }

    /// Gives the fields of a definition their tags.
    fn join(
        &self,
        definition: &Struct,
        wire: Option<&Vec<protobuf::Field>>,
        packages: &Packages,
    ) -> Result<Vec<Field>, String> {
        let mut missing: BTreeMap<String, &super::json::Field> =
            definition.fields.iter().map(|field| (normalised(&field.name), field)).collect();
        let mut fields = Vec::new();
        let mut unmatched = Vec::new();
        for field in wire.into_iter().flatten() {
            match missing.remove(&normalised(&field.name)) {
                Some(json) => fields.push(self.described(field, json)),
                None => unmatched.push(field),
            }
        }
        for outer in unmatched {
            self.embedded(outer, &mut Vec::new(), packages, &mut missing, &mut fields);
        }
        // A kind's apiVersion and kind are said by the word `kind`.
        missing.retain(|name, _| {
            definition.name != "DeleteOptions" || !matches!(name.as_str(), "apiversion" | "kind")
        });
        for json in missing.into_values() {
            let (shape, kind) = json_type(&json.rust_type).ok_or_else(|| {
                format!("{}.{}: unknown type {}", definition.name, json.name, json.rust_type)
            })?;
            let wire = protobuf::Field { name: json.name.clone(), tag: 0, shape, wire: Wire::String };
            fields.push(Field { kind, ..self.described(&wire, json) });
        }
        Ok(fields)
    }

    /// Takes those missing fields that an embedded message declares, or one that is embedded in it.
    fn embedded(
        &self,
        outer: &protobuf::Field,
        path: &mut Vec<u32>,
        packages: &Packages,
        missing: &mut BTreeMap<String, &super::json::Field>,
        fields: &mut Vec<Field>,
    ) {
        let Wire::Message(package, name) = &outer.wire else { return };
        if missing.is_empty() || path.len() > 2 {
            return;
        }
        path.push(outer.tag);
        for field in packages.get(package).and_then(|package| package.get(name)).into_iter().flatten() {
            match missing.remove(&normalised(&field.name)) {
                Some(json) => fields.push(Field {
                    outer: path.clone(),
                    declared_in: Some(self.message(name)),
                    ..self.described(field, json)
                }),
                None => self.embedded(field, path, packages, missing, fields),
            }
        }
        path.pop();
    }

    fn described(&self, wire: &protobuf::Field, json: &super::json::Field) -> Field {
        Field {
            name: json.name.clone(),
            required: json.required && json.name != "metadata",
            list_type: json.list_type.clone(),
            atomic_map: json.atomic_map,
            ..self.wire_field(wire)
        }
    }

    /// A field of which only the wire's side is known.
    fn wire_field(&self, wire: &protobuf::Field) -> Field {
        let kind = match &wire.wire {
            Wire::String => "string".to_owned(),
            Wire::Bool => "bool".to_owned(),
            Wire::Int32 => "int32".to_owned(),
            Wire::Int64 => "int64".to_owned(),
            Wire::Double => "double".to_owned(),
            Wire::Bytes => "bytes".to_owned(),
            Wire::Message(package, name) => {
                let name = self.message(name);
                special(package, &name).map_or_else(|| format!(".{package}.{name}"), str::to_owned)
            }
        };
        Field {
            name: self.fields.get(&normalised(&wire.name)).cloned().unwrap_or_else(|| camel(&wire.name)),
            tag: wire.tag,
            outer: Vec::new(),
            declared_in: None,
            shape: wire.shape,
            kind,
            required: false,
            pointer: false,
            list_type: None,
            atomic_map: false,
            patch: None,
        }
    }
}

fn camel(snake: &str) -> String {
    let mut parts = snake.split('_');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.extend(letters);
    }
    name
}

/// Shape and type word of a k8s-openapi field type.
fn json_type(rust_type: &str) -> Option<(Shape, String)> {
    let inner = |text: &str, wrapper: &str| Some(text.strip_prefix(wrapper)?.strip_suffix('>')?.to_owned());
    let bare = inner(rust_type, "Option<").unwrap_or_else(|| rust_type.to_owned());
    let bare = inner(&bare, "std::boxed::Box<").unwrap_or(bare);
    let (shape, bare) = if let Some(item) = inner(&bare, "std::vec::Vec<") {
        (Shape::List, item)
    } else if let Some(value) = inner(&bare, "std::collections::BTreeMap<std::string::String, ") {
        (Shape::Map, value)
    } else {
        (Shape::One, bare)
    };
    let kind = match bare.as_str() {
        "std::string::String" => "string".to_owned(),
        "bool" => "bool".to_owned(),
        "i32" => "int32".to_owned(),
        "i64" => "int64".to_owned(),
        "f64" => "double".to_owned(),
        "crate::ByteString" => "bytes".to_owned(),
        "crate::serde_json::Value" => "json".to_owned(),
        path => {
            let path = path.strip_prefix("crate::")?.replace("::", ".");
            let (package, name) = path.rsplit_once('.')?;
            special(package, name).map_or_else(|| format!(".{path}"), str::to_owned)
        }
    };
    Some((shape, kind))
}

/// A message outside the tables can only be reached by a field that no 1.33 client knows.
fn drop_unknown_references(tables: &mut [Table]) {
    let known: BTreeSet<String> = tables
        .iter()
        .flat_map(|table| table.messages.keys().map(|name| format!(".{}.{name}", table.package)))
        .collect();
    for message in tables.iter_mut().flat_map(|table| table.messages.values_mut()) {
        message.fields.retain(|field| !field.kind.starts_with('.') || known.contains(&field.kind));
    }
}
