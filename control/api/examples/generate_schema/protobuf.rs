//! Reads field tags and wire types of every message out of the source of `k8s-pb` (prost attributes).
//!
//! In: the folder `k8s-pb/src`. Out: [`Message`]s by package and name. The source is rustfmt-ed generated code, so
//! lines are enough; whatever does not look as expected is an error.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::{Shape, rust_files};

/// What a tag holds on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    /// A message: package and name.
    Message(String, String),
}

/// One field of a message.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) tag: u32,
    pub(crate) shape: Shape,
    pub(crate) wire: Wire,
}

/// The messages of one package (`api.core.v1`), by prost's spelling of their names.
pub(crate) type Package = BTreeMap<String, Vec<Field>>;

/// Every message of the crate, by package.
pub(crate) fn read(root: &Path) -> Result<BTreeMap<String, Package>, String> {
    let mut packages = BTreeMap::new();
    for (path, text) in rust_files(root)? {
        let folders: Vec<String> = path
            .parent()
            .into_iter()
            .flat_map(Path::components)
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                _ => None,
            })
            .collect();
        let package = read_file(&folders, &text).map_err(|e| format!("{}: {e}", path.display()))?;
        if !package.is_empty() {
            packages.insert(folders.join("."), package);
        }
    }
    Ok(packages)
}

fn read_file(folders: &[String], text: &str) -> Result<Package, String> {
    let mut package = Package::new();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        let mut fields = Vec::new();
        if line.ends_with('{') {
            loop {
                let line = lines.next().ok_or("a struct does not end")?;
                if line == "}" {
                    break;
                }
                if let Some(attribute) = line.strip_prefix("#[prost(") {
                    let declaration = declaration(&mut lines)?;
                    fields.push(field(folders, attribute, &declaration).map_err(|e| format!("{name}: {e}"))?);
                }
            }
        }
        package.insert(name.to_owned(), fields);
    }
    Ok(package)
}

/// The declaration after an attribute, which may span lines: `pub metadata: Option<..>,`.
fn declaration<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<String, String> {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        if text.ends_with(',') && text.matches('<').count() == text.matches('>').count() {
            return Ok(text.trim_end_matches(',').to_owned());
        }
    }
    Err("a field does not end".to_owned())
}

fn field(folders: &[String], attribute: &str, declaration: &str) -> Result<Field, String> {
    let attribute = attribute.trim_end_matches(")]");
    let (name, rust_type) = declaration
        .strip_prefix("pub ")
        .and_then(|rest| rest.split_once(':'))
        .ok_or("a field has no type")?;
    let tag = attribute
        .split("tag = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .and_then(|tag| tag.parse().ok())
        .ok_or_else(|| format!("no tag in {attribute}"))?;
    let (shape, kind) = if let Some(rest) = attribute.strip_prefix("btree_map = \"") {
        let value =
            rest.split('"').next().and_then(|types| types.split(", ").nth(1)).ok_or("a map without types")?;
        (Shape::Map, value)
    } else {
        let shape = if attribute.contains("repeated") { Shape::List } else { Shape::One };
        (shape, attribute.split([',', ' ']).next().unwrap_or_default())
    };
    let wire = match kind {
        "string" => Wire::String,
        "bool" => Wire::Bool,
        "int32" => Wire::Int32,
        "int64" => Wire::Int64,
        "double" => Wire::Double,
        "bytes" => Wire::Bytes,
        "message" => message(folders, rust_type)?,
        other => return Err(format!("field {name} has the unknown wire type {other}")),
    };
    Ok(Field { name: name.trim_start_matches("r#").to_owned(), tag, shape, wire })
}

/// The message that a Rust type names, from inside the module `folders`.
fn message(folders: &[String], rust_type: &str) -> Result<Wire, String> {
    let innermost = rust_type.rsplit(['<', ',', ' ']).find(|part| part.chars().any(char::is_alphanumeric));
    let path = innermost.ok_or("a message without a type")?.trim_end_matches('>').trim();
    let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    let ups = parts.iter().filter(|part| **part == "super").count();
    let kept = folders.len().checked_sub(ups).ok_or_else(|| format!("{path} leaves the crate"))?;
    let mut package: Vec<&str> = folders[..kept].iter().map(String::as_str).collect();
    let (name, modules) = parts[ups..].split_last().ok_or("a message without a name")?;
    package.extend(modules);
    Ok(Wire::Message(package.join("."), (*name).to_owned()))
}
