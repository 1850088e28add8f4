//! Writes a Swagger 2.0 document as gnostic's `openapi.v2.Document`, the protobuf that kubectl up to 1.26 insists on.
//!
//! In: the document as a value. Out: bytes. Tags are those of google/gnostic-models `openapiv2/OpenAPIv2.proto`; what our
//! documents never contain is not written. Extensions travel as YAML text, which JSON is.

use serde_json::{Map, Value};

/// The wire form of the document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(1, &document["swagger"]);
    out.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    out.message(8, |paths| {
        for (name, item) in entries(&document["paths"]) {
            paths.named(2, name, |value| path_item(value, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in entries(&document["definitions"]) {
            definitions.named(1, name, |value| schema(value, definition));
        }
    });
    out.bytes
}

fn path_item(out: &mut Writer, item: &Value) {
    for (tag, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            out.message(tag, |out| operation(out, value));
        }
    }
    for value in items(&item["parameters"]) {
        out.message(9, |out| parameter(out, value));
    }
}

fn operation(out: &mut Writer, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for value in items(&operation["parameters"]) {
        out.message(8, |out| parameter(out, value));
    }
    out.message(9, |responses| {
        for (code, response) in entries(&operation["responses"]) {
            responses.named(1, code, |value| {
                value.message(1, |out| {
                    out.text(1, &response["description"]);
                    out.message(2, |item| item.message(1, |out| schema(out, &response["schema"])));
                });
            });
        }
    });
    extensions(out, 13, operation);
}

/// A `ParametersItem`.
fn parameter(out: &mut Writer, parameter: &Value) {
    out.message(1, |out| {
        if parameter["in"] == "body" {
            out.message(1, |body| {
                body.text(2, &parameter["name"]);
                body.text(3, &parameter["in"]);
                body.flag(4, &parameter["required"]);
                body.message(5, |out| schema(out, &parameter["schema"]));
            });
            return;
        }
        let is_path = parameter["in"] == "path";
        // In a query parameter, allow_empty_value moves the later fields by one.
        let (place, type_tag, unique_tag) = if is_path { (4, 5, 19) } else { (3, 6, 20) };
        out.message(2, |out| {
            out.message(place, |out| {
                out.flag(1, &parameter["required"]);
                out.text(2, &parameter["in"]);
                out.text(4, &parameter["name"]);
                out.text(type_tag, &parameter["type"]);
                out.flag(unique_tag, &parameter["uniqueItems"]);
            });
        });
    });
}

fn schema(out: &mut Writer, value: &Value) {
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(4, &value["description"]);
    out.texts(19, &value["required"]);
    if let Some(additional) = value.get("additionalProperties") {
        out.message(21, |item| match additional {
            Value::Bool(_) => item.flag(2, additional),
            schema_value => item.message(1, |out| schema(out, schema_value)),
        });
    }
    if value["type"].is_string() {
        out.message(22, |item| item.text(1, &value["type"]));
    }
    if let Some(items) = value.get("items") {
        out.message(23, |item| item.message(1, |out| schema(out, items)));
    }
    if let Some(properties) = value.get("properties") {
        out.message(25, |out| {
            for (name, property) in entries(properties) {
                out.named(1, name, |value| schema(value, property));
            }
        });
    }
    extensions(out, 31, value);
}

fn extensions(out: &mut Writer, tag: u32, value: &Value) {
    for (name, extension) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        out.named(tag, name, |any| any.text(2, &Value::from(extension.to_string())));
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Protobuf's wire form: tag and length in front of everything that we write, but for flags.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn write(&mut self, tag: u32, bytes: &[u8]) {
        self.varint(u64::from(tag << 3 | 2));
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn message(&mut self, tag: u32, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.write(tag, &inner.bytes);
    }

    /// One of gnostic's `Named…` messages: name (1) and value (2).
    fn named(&mut self, tag: u32, name: &str, fill: impl FnOnce(&mut Self)) {
        self.message(tag, |out| {
            out.write(1, name.as_bytes());
            out.message(2, fill);
        });
    }

    fn text(&mut self, tag: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.write(tag, text.as_bytes());
        }
    }

    fn texts(&mut self, tag: u32, values: &Value) {
        items(values).iter().for_each(|value| self.text(tag, value));
    }

    fn flag(&mut self, tag: u32, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(u64::from(tag << 3));
            self.varint(1);
        }
    }
}
