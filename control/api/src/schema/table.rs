//! Loads the text of the field table. In: the text. Out: a [`Schema`]. Its lines are checked by tests, not at run time:
//! a line that cannot be understood is left out.

use std::collections::HashMap;

use super::{Field, Message, MessageRef, Schema, Shape, Type};

/// The package whose options belong to every group.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// apiVersion and kind: JSON fields of every kind that are not on the wire.
pub(super) static TYPE_META: [Field; 2] = [type_meta("apiVersion"), type_meta("kind")];

const fn type_meta(name: &'static str) -> Field {
    Field {
        name,
        outer: [0, 0],
        tag: 0,
        shape: Shape::One,
        kind: Type::String,
        required: false,
        pointer: false,
        facts: "",
    }
}

/// A message's definition name, as package and name.
type Definition = (&'static str, &'static str);

/// Reads the whole table; see `generate/render.rs` for the format.
pub(super) fn load(text: &'static str) -> Schema {
    let mut indexes = HashMap::new();
    each_message(text, |package, name| {
        let index = u16::try_from(indexes.len()).unwrap_or(u16::MAX);
        indexes.insert((package, name), MessageRef(index));
    });
    let mut schema = Schema {
        messages: Vec::with_capacity(indexes.len()),
        fields: Vec::with_capacity(text.lines().count() - indexes.len()),
        kinds: HashMap::new(),
        props: MessageRef(0),
    };
    let mut package = [""; 3];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("package ") {
            let mut words = rest.split(' ');
            package = [(); 3].map(|()| words.next().unwrap_or_default());
        } else if let Some(rest) = line.strip_prefix(' ') {
            schema.fields.extend(field(rest, package[0], &indexes));
            if let Some(message) = schema.messages.last_mut() {
                message.fields.end = u16::try_from(schema.fields.len()).unwrap_or(u16::MAX);
            }
        } else {
            let message = message(line, package, &schema);
            let reference = MessageRef(u16::try_from(schema.messages.len()).unwrap_or(u16::MAX));
            if message.kind {
                schema.kinds.insert((message.group, message.version, message.name), reference);
            }
            schema.messages.push(message);
        }
    }
    let props = indexes.iter().find(|((_, name), _)| *name == "JSONSchemaProps");
    schema.props = props.map_or(MessageRef(0), |(_, index)| *index);
    schema
}

fn each_message(text: &'static str, mut found: impl FnMut(&'static str, &'static str)) {
    let mut package = "";
    for line in text.lines().filter(|line| !line.starts_with(['#', ' '])) {
        match line.strip_prefix("package ") {
            Some(rest) => package = rest.split(' ').next().unwrap_or_default(),
            None => found(package, line.split(' ').next().unwrap_or_default()),
        }
    }
}

fn message(line: &'static str, [package, group, version]: [&'static str; 3], schema: &Schema) -> Message {
    let start = u16::try_from(schema.fields.len()).unwrap_or(u16::MAX);
    Message {
        package,
        group: if group == "-" { "" } else { group },
        version,
        name: line.split(' ').next().unwrap_or_default(),
        kind: line.split(' ').skip(1).any(|word| word == "kind"),
        atomic: line.split(' ').skip(1).any(|word| word == "atomic"),
        fields: start..start,
    }
}

fn field(
    line: &'static str,
    package: &'static str,
    indexes: &HashMap<Definition, MessageRef>,
) -> Option<Field> {
    let mut words = line.splitn(4, ' ');
    let (name, path, kind, facts) =
        (words.next()?, words.next()?, words.next()?, words.next().unwrap_or_default());
    let (shape, kind) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
        (Some(item), _) => (Shape::List, item),
        (_, Some(value)) => (Shape::Map, value),
        _ => (Shape::One, kind),
    };
    let (outer, tag) = path.rsplit_once('.').unwrap_or(("", path));
    let mut tags = outer.split('.').map(|tag| tag.parse().unwrap_or_default());
    let definition = kind.rsplit_once('.').unwrap_or((package, kind));
    Some(Field {
        name,
        outer: [tags.next().unwrap_or_default(), tags.next().unwrap_or_default()],
        tag: tag.parse().ok()?,
        shape,
        kind: scalar(kind).or_else(|| indexes.get(&definition).copied().map(Type::Message))?,
        required: facts.split(' ').any(|word| word == "required"),
        pointer: facts.split(' ').any(|word| word == "pointer"),
        facts,
    })
}

fn scalar(word: &str) -> Option<Type> {
    Some(match word {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "micro-time" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "int-or-string" => Type::IntOrString,
        "raw" => Type::Raw,
        "fields" => Type::Fields,
        "json" => Type::Json,
        "strings" => Type::Strings,
        "props-or-array" => Type::PropsOrArray,
        "props-or-bool" => Type::PropsOrBool,
        "props-or-strings" => Type::PropsOrStrings,
        _ => return None,
    })
}
