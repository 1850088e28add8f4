//! Reads JSON names, required fields, list types and top-level kinds out of the source of `k8s-openapi`.
//!
//! In: the folder of one version. Out: [`Struct`]s by package and name. The source is generated code, so lines are
//! enough.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::rust_files;

/// How server-side apply merges a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    Set,
    /// A map by these JSON keys.
    Map(Vec<String>),
}

/// One JSON field.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Its name in JSON.
    pub(crate) name: String,
    /// Its Rust type in `k8s-openapi`.
    pub(crate) rust_type: String,
    pub(crate) required: bool,
    pub(crate) list_type: Option<ListType>,
    pub(crate) atomic_map: bool,
}

/// One definition.
#[derive(Clone, Debug)]
pub(crate) struct Struct {
    /// The definition's name without its package.
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    /// The API group, for a top-level kind.
    pub(crate) group: Option<String>,
    /// apiVersion and kind are part of it.
    pub(crate) typed: bool,
}

/// Every definition, by package (`api.core.v1`) and name.
pub(crate) fn read(root: &Path) -> Result<BTreeMap<String, BTreeMap<String, Struct>>, String> {
    let mut packages: BTreeMap<String, BTreeMap<String, Struct>> = BTreeMap::new();
    let mut keys = JsonNames::new();
    let files = rust_files(root)?;
    for (_, text) in &files {
        json_names(text, &mut keys);
    }
    for (_, text) in &files {
        let Some(definition) = text.strip_prefix("// Generated from definition io.k8s.") else { continue };
        let definition = definition.lines().next().unwrap_or_default();
        // The generic list has no package; k8s-pb's list messages stand for it.
        let Some((package, name)) = definition.rsplit_once('.') else { continue };
        if text.contains("\npub struct ") {
            packages
                .entry(package.replace('-', "_"))
                .or_default()
                .insert(name.to_owned(), read_struct(name, text, &keys));
        }
    }
    Ok(packages)
}

/// Rust field name to JSON name; the same everywhere but for a few (`ref_path` is `$ref`).
type JsonNames = BTreeMap<String, BTreeSet<String>>;

fn json_names(text: &str, names: &mut JsonNames) {
    for line in text.lines() {
        let Some((json, rust)) = line.trim().split_once(" => Field::Key_") else { continue };
        let json = json.trim_matches('"').to_owned();
        names.entry(rust.trim_end_matches(',').to_owned()).or_default().insert(json);
    }
}

fn read_struct(name: &str, text: &str, all_names: &JsonNames) -> Struct {
    let mut names = JsonNames::new();
    json_names(text, &mut names);
    let required: BTreeSet<&str> = block(text, "            \"required\": [", "            ],")
        .lines()
        .map(|line| line.trim().trim_matches([',', '"']))
        .collect();
    let merges = block(text, "fn merge_from(&mut self, other: Self) {", "\n    }\n");
    let declarations = block(text, "\npub struct ", "\n}");
    let fields = declarations
        .lines()
        .filter_map(|line| line.strip_prefix("    pub ")?.strip_suffix(',')?.split_once(": "))
        .filter_map(|(rust_name, rust_type)| {
            let json = names.get(rust_name)?.first()?.clone();
            Some(Field {
                required: required.contains(json.as_str()),
                rust_type: rust_type.to_owned(),
                list_type: list_type(merges, rust_name, all_names),
                atomic_map: merges.contains(&format!("map::atomic(&mut self.{rust_name},")),
                name: json,
            })
        })
        .collect();
    let group = block(text, "impl crate::Resource for ", "\n}")
        .lines()
        .find_map(|line| line.trim().strip_prefix("const GROUP: &'static str = \"")?.strip_suffix("\";"))
        .map(str::to_owned);
    let typed = names.contains_key("api_version") && !declarations.contains("    pub api_version: ");
    Struct { name: name.to_owned(), fields, group, typed }
}

/// The list type that a `DeepMerge` implementation states for a field.
fn list_type(merges: &str, rust_name: &str, names: &JsonNames) -> Option<ListType> {
    if merges.contains(&format!("list::set(&mut self.{rust_name},")) {
        return Some(ListType::Set);
    }
    let needle = format!("list::map(\n            &mut self.{rust_name},");
    let call = merges.split(&needle).nth(1)?;
    let keys = call.lines().find(|line| line.contains("lhs, rhs"))?;
    let keys = keys
        .split("lhs.")
        .skip(1)
        .filter_map(|part| names.get(part.split(' ').next()?)?.last().cloned())
        .collect();
    Some(ListType::Map(keys))
}

/// The text between two marks, or nothing.
fn block<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map_or("", |(block, _)| block)
}
