//! What the schema says of a value as far as owners matter: one value, a struct, a map, a set, or a list with keys.

use serde_json::Value;

use super::set::key;
use crate::schema::{Field, MessageRef, Schema, Shape, Type};

/// How a value has parts that are owned one by one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// It has none: it is owned as a whole.
    Leaf,
    /// Named fields.
    Struct(MessageRef),
    /// Free keys.
    Map(Type),
    /// A list of different scalars.
    Set,
    /// A list whose items are told apart by some of their fields.
    Keyed(&'static Field),
}

impl Place {
    /// A whole object of this kind.
    pub(super) fn of_kind(group: &str, version: &str, kind: &str) -> Self {
        Schema::builtin().kind(group, version, kind).map_or(Self::Leaf, Self::Struct)
    }

    fn of_field(field: &'static Field) -> Self {
        match field.shape {
            Shape::One => Self::of_value(field.kind),
            Shape::Map if field.atomic_map() => Self::Leaf,
            Shape::Map => Self::Map(field.kind),
            Shape::List => match field.list_type() {
                Some("set") => Self::Set,
                Some("map") => Self::Keyed(field),
                _ => Self::Leaf,
            },
        }
    }

    fn of_value(kind: Type) -> Self {
        match kind {
            Type::Message(message) if !Schema::builtin().message(message).atomic => Self::Struct(message),
            _ => Self::Leaf,
        }
    }

    /// The place of a field or key by its name.
    pub(super) fn named(self, name: &str) -> Self {
        match self {
            Self::Struct(message) => {
                Schema::builtin().field(message, name).map_or(Self::Leaf, Self::of_field)
            }
            Self::Map(kind) => Self::of_value(kind),
            _ => Self::Leaf,
        }
    }

    /// The place of each item of a list.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Keyed(field) => Self::of_value(field.kind),
            _ => Self::Leaf,
        }
    }

    /// The place of a part by its element in a path.
    pub(super) fn part(self, element: &str) -> Self {
        match element.strip_prefix("f:") {
            Some(name) => self.named(name),
            None => self.item(),
        }
    }

    /// Whether a name is one of a struct's fields.
    pub(super) fn has_field(self, element: &str) -> bool {
        match (self, element.strip_prefix("f:")) {
            (Self::Struct(message), Some(name)) => Schema::builtin().field(message, name).is_some(),
            _ => false,
        }
    }

    /// The element of a list's item, or the key that it lacks.
    pub(super) fn element(self, item: &Value) -> Result<Box<str>, &'static str> {
        let Self::Keyed(field) = self else { return Ok(format!("v:{item}").into()) };
        let mut keys = Vec::new();
        for name in field.list_map_keys() {
            let value = item.get(name).filter(|value| !value.is_null()).or_else(|| default(field, name));
            keys.push((name, value.ok_or(name)?));
        }
        Ok(key(keys.into_iter()))
    }

    /// The items of a list by their elements; an item without its keys is known by what it has.
    pub(super) fn elements(self, items: &[Value]) -> Vec<(Box<str>, &Value)> {
        items
            .iter()
            .map(|item| (self.element(item).unwrap_or_else(|_| format!("v:{item}").into()), item))
            .collect()
    }
}

/// What a key is when an item does not say it.
fn default(field: &Field, name: &str) -> Option<&'static Value> {
    use std::sync::LazyLock;
    static TCP: LazyLock<Value> = LazyLock::new(|| "TCP".into());
    static EMPTY: LazyLock<Value> = LazyLock::new(|| "".into());
    let refers = |message| Schema::builtin().message(message).name == "LocalObjectReference";
    match name {
        "protocol" => Some(&TCP),
        "name" if field.message().is_some_and(refers) => Some(&EMPTY),
        _ => None,
    }
}
