//! The field table: what every Kubernetes message of this version looks like, in JSON and on the wire.
//!
//! In: `schema/table.txt`, generated from the sources of k8s-pb and k8s-openapi (`cargo xtask schema`). Out: lookups
//! ([`Schema::kind`], [`Schema::field`]) and what is driven by them: protobuf decoding, strict checks, pruning, patch
//! keys. Never: knowledge about a single kind; that is the catalogue's.

mod body;
mod check;
mod duplicates;
mod patch;
mod protobuf;
mod prune;
mod scalar;
mod table;
mod zeros;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

pub use body::{Body, List, is_protobuf, watch_event};
pub use check::{Report, WrongType, strict_error};
pub use duplicates::{json_findings, yaml_findings};
pub use patch::PatchMeta;
pub use protobuf::{DecodeError, EncodeError};

/// The messages of every API group this version knows.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<Message>,
    fields: Vec<Field>,
    kinds: HashMap<(&'static str, &'static str, &'static str), MessageRef>,
    /// `JSONSchemaProps`, which three special types refer to.
    props: MessageRef,
}

/// One message of a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageRef(u16);

/// One message.
#[derive(Debug)]
pub struct Message {
    /// `io.k8s.api.apps.v1`
    pub package: &'static str,
    /// `apps`, or empty for the core group.
    pub group: &'static str,
    /// `v1`
    pub version: &'static str,
    /// `Deployment`
    pub name: &'static str,
    /// It carries apiVersion and kind.
    pub kind: bool,
    /// Server-side apply treats it as one value.
    pub atomic: bool,
    fields: Range<u16>,
}

/// How many values a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    One,
    /// A JSON array.
    List,
    /// A JSON object with free keys.
    Map,
}

/// What one value of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string.
    String,
    /// true or false.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating point number.
    Double,
    /// Bytes; base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds (`meta/v1.Time`).
    Time,
    /// RFC 3339 with microseconds (`meta/v1.MicroTime`).
    MicroTime,
    /// Go's notation, `1m30s` (`meta/v1.Duration`).
    Duration,
    /// `resource.Quantity`: a string, or a number.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// An object of any kind (`runtime.RawExtension`).
    Raw,
    /// The fields of a managed fields entry.
    Fields,
    /// Any JSON.
    Json,
    /// A list of strings that is a message of its own on the wire (`ExtraValue`, `Verbs`).
    Strings,
    /// A schema or a list of schemas (`items`).
    PropsOrArray,
    /// A schema or a boolean (`additionalProperties`).
    PropsOrBool,
    /// A schema or a list of strings (`dependencies`).
    PropsOrStrings,
    /// A message.
    Message(MessageRef),
}

/// One JSON field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// The tags of the embedded messages around it that JSON does not show (0: none), outermost first.
    outer: [u8; 2],
    /// Its tag there; 0: not on the wire.
    tag: u16,
    /// How many values.
    pub shape: Shape,
    /// What each value is.
    pub kind: Type,
    /// OpenAPI's `required`.
    pub required: bool,
    /// A zero that was sent differs from none.
    pointer: bool,
    /// The rest of the table's line: patch and list facts, read when asked for.
    facts: &'static str,
}

impl Schema {
    /// The table of this version, loaded at the first call.
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Schema> = OnceLock::new();
        BUILTIN.get_or_init(|| table::load(include_str!("schema/table.txt")))
    }

    /// The message of a kind. The options of meta/v1 (`DeleteOptions`, ...) are registered in every group and version.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<MessageRef> {
        let found = |group: &str, version: &str| {
            // The map's keys are 'static; a lookup needs no such lifetime.
            self.kinds.get(&(group, version, kind)).copied()
        };
        found(group, version).or_else(|| {
            let everywhere = kind.ends_with("Options") || kind == "WatchEvent";
            let meta = everywhere || group == "meta.k8s.io" && version == "v1";
            found("", "v1").filter(|message| meta && self.message(*message).package == table::META)
        })
    }

    /// Like [`Self::kind`], for `apps/v1` or `v1`.
    pub fn kind_of(&self, api_version: &str, kind: &str) -> Option<MessageRef> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kind(group, version, kind)
    }

    /// What is known about a message.
    pub fn message(&self, message: MessageRef) -> &Message {
        &self.messages[usize::from(message.0)]
    }

    /// All fields of a message, without the apiVersion and kind of kinds.
    pub fn fields(&self, message: MessageRef) -> &[Field] {
        let range = &self.message(message).fields;
        &self.fields[usize::from(range.start)..usize::from(range.end)]
    }

    /// The field of a message with this JSON name.
    pub fn field(&self, message: MessageRef, name: &str) -> Option<&Field> {
        let found = self.fields(message).iter().find(|field| field.name == name);
        found.or_else(|| {
            table::TYPE_META.iter().find(|field| self.message(message).kind && field.name == name)
        })
    }

    /// Every message, for generators.
    pub fn messages(&self) -> impl Iterator<Item = MessageRef> + use<> {
        (0..u16::try_from(self.messages.len()).unwrap_or(u16::MAX)).map(MessageRef)
    }

    /// The message that describes a CRD's schema.
    pub fn json_schema_props(&self) -> MessageRef {
        self.props
    }
}

impl Message {
    /// `io.k8s.api.apps.v1.Deployment`
    pub fn definition(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
}

impl Field {
    /// The message that the field's values are, if they are one.
    pub fn message(&self) -> Option<MessageRef> {
        match self.kind {
            Type::Message(message) => Some(message),
            _ => None,
        }
    }

    fn fact(&self, name: &str) -> Option<&'static str> {
        self.facts.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests;
