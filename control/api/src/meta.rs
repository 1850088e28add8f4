//! Metadata of objects on the generic path: reading and writing it on JSON values, and the rules for names.
//!
//! Nothing here knows the time: it is an argument.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A string at `metadata.<field>`; empty when absent.
#[must_use]
pub fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata.name`.
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
#[must_use]
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`.
#[must_use]
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// Whether `metadata.deletionTimestamp` is set.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata.labels`.
#[must_use]
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

/// One annotation.
#[must_use]
pub fn annotation<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`.
#[must_use]
pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}

/// The owner reference with `controller: true`.
#[must_use]
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| o.get("controller").and_then(Value::as_bool) == Some(true))
}

fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata`, made if it is missing. An object that is no map, or whose metadata is none, becomes one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_at(map_of(object), "metadata")
}

/// The map at `key`, made if it is missing or something else.
pub fn map_at<'v>(map: &'v mut Map<String, Value>, key: &str) -> &'v mut Map<String, Value> {
    map_of(map.entry(key).or_insert(Value::Null))
}

/// The value as a map; anything else is replaced by an empty one.
pub fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// A time as Kubernetes writes it in `Time` fields: RFC 3339, seconds, `Z`.
#[must_use]
pub fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as Kubernetes writes it in `MicroTime` fields.
#[must_use]
pub fn micro_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either form of time.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
    must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn framed(text: &str, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// A DNS-1123 label: at most 63 bytes.
///
/// # Errors
/// Upstream's explanation.
pub fn check_dns1123_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_long(63));
    }
    if framed(text, |b| lower(b) || b == b'-', lower) { Ok(()) } else { Err(DNS1123_LABEL.to_owned()) }
}

/// A DNS-1123 subdomain: labels and dots, at most 253 bytes.
///
/// # Errors
/// Upstream's explanation.
pub fn check_dns1123_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err(too_long(253));
    }
    let labels = |t: &str| t.split('.').all(|label| framed(label, |b| lower(b) || b == b'-', lower));
    if labels(text) { Ok(()) } else { Err(DNS1123_SUBDOMAIN.to_owned()) }
}

/// What can be a part of a path (names of roles, which may hold colons).
///
/// # Errors
/// Upstream's explanation.
pub fn check_path_segment(text: &str) -> Result<(), String> {
    if text == "." || text == ".." {
        return Err(format!("may not be '{text}'"));
    }
    match text.chars().find(|c| matches!(c, '/' | '%')) {
        Some(bad) => Err(format!("may not contain '{bad}'")),
        None => Ok(()),
    }
}

/// A DNS-1035 label (names of Services).
///
/// # Errors
/// Upstream's explanation.
pub fn check_dns1035_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_long(63));
    }
    let starts = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if starts && framed(text, |b| lower(b) || b == b'-', lower) {
        Ok(())
    } else {
        Err(DNS1035_LABEL.to_owned())
    }
}

/// A label's value.
///
/// # Errors
/// Upstream's explanation.
pub fn check_label_value(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_long(63));
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || framed(text, inner, |b| b.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err(LABEL_VALUE.to_owned())
    }
}

/// A qualified name: `[prefix/]name`, as keys of labels and annotations are.
///
/// # Errors
/// Upstream's explanation.
pub fn check_qualified_name(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return Err(format!(
                "a valid label key must consist of an optional prefix and a name; {QUALIFIED_NAME}"
            ));
        }
        Some(("", _)) => return Err("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            check_dns1123_subdomain(prefix).map_err(|e| format!("prefix part {e}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    if name.len() > 63 {
        return Err(format!("name part {}", too_long(63)));
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if framed(name, inner, |b| b.is_ascii_alphanumeric()) { Ok(()) } else { Err(QUALIFIED_NAME.to_owned()) }
}

/// The alphabet of generated names: no vowels, nothing that looks like another.
pub const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name from a `generateName` prefix (cut to 58 bytes) and five characters picked by `random`.
#[must_use]
pub fn generate_name(prefix: &str, mut random: u64) -> String {
    let mut end = prefix.len().min(58);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    for _ in 0..5 {
        name.push(char::from(NAME_ALPHABET[(random % 27) as usize]));
        random /= 27;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_checked_as_upstream_does() {
        for good in ["a", "a-b", "0", "web.example.com"] {
            assert_eq!(check_dns1123_subdomain(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", &"a".repeat(254)] {
            assert!(check_dns1123_subdomain(bad).is_err(), "{bad}");
        }
        assert!(check_dns1035_label("1a").is_err() && check_dns1123_label("1a").is_ok());
        assert!(check_dns1123_label("a.b").is_err());
        for good in ["app", "example.com/App_1", "a.b/c"] {
            assert_eq!(check_qualified_name(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "A_/b", &"a".repeat(64)] {
            assert!(check_qualified_name(bad).is_err(), "{bad}");
        }
        assert!(check_label_value("").is_ok() && check_label_value("-").is_err());
    }

    #[test]
    fn times_have_upstreams_precision() {
        let now: Timestamp = "2026-11-23T05:06:07.123456789Z".parse().unwrap();
        assert_eq!(time(now), "2026-11-23T05:06:07Z");
        assert_eq!(micro_time(now), "2026-11-23T05:06:07.123456Z");
        assert_eq!(parse_time(&time(now)).map(time), Some(time(now)));
    }

    #[test]
    fn metadata_is_made_where_it_is_missing() {
        let mut object = json!({"metadata": "nonsense"});
        metadata_mut(&mut object).insert("name".into(), json!("a"));
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
        assert!(!is_terminating(&object) && uid(&object).is_empty() && controller_of(&object).is_none());
    }

    proptest! {
        #[test]
        fn generated_names_are_valid_and_short(prefix in "[a-z][a-z0-9-]{0,80}", random: u64) {
            let name = generate_name(&prefix, random);
            prop_assert!(name.len() <= 63);
            prop_assert_eq!(check_dns1123_subdomain(&name), Ok(()));
        }
    }
}
