//! What pods made from a template look like, and the hash that tells templates apart. Pure.

use oarlock_api::meta::{self, NAME_ALPHABET, map_at, map_of};
use serde_json::{Value, json};

/// The label that keeps the pods of different templates apart.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Ten characters of upstream's name alphabet for a template and a collision count.
pub(super) fn hash(template: &Value, collisions: i64) -> String {
    // FNV-1a: stable across builds; only this cluster's own objects have to agree on it.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let text = format!("{template}{}", if collisions > 0 { collisions.to_string() } else { String::new() });
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut word = String::with_capacity(10);
    for _ in 0..10 {
        word.push(char::from(NAME_ALPHABET[(hash % 27) as usize]));
        hash /= 27;
    }
    word
}

/// The template without the hash label, for comparison.
pub(super) fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH_LABEL);
    }
    template
}

/// The template with the hash label.
pub(super) fn with_hash(template: &Value, hash: &str) -> Value {
    let mut template = template.clone();
    map_at(meta::metadata_mut(&mut template), "labels").insert(HASH_LABEL.to_owned(), json!(hash));
    template
}

/// A pod of a template, controlled by an owner.
pub(super) fn pod(template: &Value, owner: &Value) -> Value {
    let name = meta::name(owner);
    let mut metadata = json!({
        "generateName": format!("{name}-"),
        "ownerReferences": [owner_reference(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({"metadata": metadata, "spec": template["spec"]})
}

/// The reference that says who controls an object.
pub(super) fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta::name(owner), "uid": meta::uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// `value`, or null when it is zero: upstream leaves zeros out, and a null takes a field away.
pub(super) fn omit_zero(value: i64) -> Value {
    if value == 0 { Value::Null } else { json!(value) }
}

/// A field of an object's annotations as a number.
pub(super) fn annotation_number(object: &Value, key: &str) -> i64 {
    meta::annotation(object, key).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Sets an annotation of an object that is being made.
pub(super) fn annotate(object: &mut Value, key: &str, value: impl ToString) {
    let annotations = map_at(map_at(map_of(object), "metadata"), "annotations");
    annotations.insert(key.to_owned(), json!(value.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_follows_the_template_and_the_collisions() {
        let template = json!({"metadata": {"labels": {"a": "b"}}});
        assert_eq!(hash(&template, 0), hash(&template, 0));
        assert_ne!(hash(&template, 0), hash(&template, 1));
        assert_ne!(hash(&template, 0), hash(&json!({}), 0));
        assert_eq!(without_hash(&with_hash(&template, "x")), template);
    }
}
