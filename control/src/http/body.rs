//! Request bodies: JSON, YAML or protobuf in, one checked JSON object out.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use oarlock_api::catalogue::Kind;
use oarlock_api::meta::map_of;
use oarlock_api::schema::{self, Report, Schema};
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::query::FieldValidation;

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The content type without parameters; JSON when there is none.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    text.split(';').next().unwrap_or("").trim()
}

/// A decoded object and what the client should be warned of.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
}

/// What the body should be: group, version and kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'k> {
    pub(super) group: &'k str,
    pub(super) version: &'k str,
    pub(super) kind: &'k str,
}

impl<'k> Expected<'k> {
    pub(super) fn of(kind: &'k Kind) -> Self {
        Self { group: kind.group, version: kind.version, kind: kind.kind }
    }

    fn api_version(self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// Decodes and checks a body against the kind that the path names.
pub(super) fn decode(
    content_type: &str,
    body: &[u8],
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (mut object, text) = parse(content_type, body)?;
    check_type(&mut object, expected)?;
    let warnings = check_fields(&mut object, expected, validation, text)?;
    Ok(Decoded { object, warnings })
}

/// A configuration for server-side apply. Its unknown fields are whoever applies it's to refuse.
pub(super) fn configuration(
    body: &[u8],
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (mut object, text) = parse("application/yaml", body)?;
    check_type(&mut object, expected)?;
    if object["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let schema = Schema::builtin();
    let message = schema.kind(expected.group, expected.version, expected.kind);
    let report = message.map(|message| schema.check(message, &object)).unwrap_or_default();
    if let Some(wrong) = report.bad_request(expected.version, expected.kind) {
        return Err(Status::bad_request(wrong));
    }
    let duplicates = text.findings(&Report::default());
    match validation {
        FieldValidation::Strict if !duplicates.is_empty() => Err(strict(expected, &duplicates)),
        FieldValidation::Warn => Ok(Decoded { object, warnings: duplicates }),
        _ => Ok(Decoded { object, warnings: Vec::new() }),
    }
}

/// What an object was read from.
#[derive(Debug, Clone, Copy)]
enum Text<'b> {
    Json(&'b [u8]),
    Yaml(&'b str),
    /// What nobody can write twice.
    None,
}

impl Text<'_> {
    /// What is unknown in it, and what is there twice.
    fn findings(self, report: &Report) -> Vec<String> {
        match self {
            Self::Json(text) => schema::json_findings(text, &report.unknown),
            Self::Yaml(text) => schema::yaml_findings(text, &report.unknown),
            Self::None => report.findings(),
        }
    }
}

/// Any body as a value, without a check: options of deletes, for example. An empty one is `None`.
pub(super) fn options(content_type: &str, body: &[u8]) -> Result<Option<Value>, Status> {
    if body.is_empty() {
        return Ok(None);
    }
    parse(content_type, body).map(|(value, _)| Some(value))
}

fn parse<'b>(content_type: &str, body: &'b [u8]) -> Result<(Value, Text<'b>), Status> {
    match content_type {
        "application/json" | "" => {
            let value = serde_json::from_slice(body).map_err(|e| {
                Status::bad_request(format!(
                    "the object provided is unrecognized (must be of type JSON): {e}"
                ))
            })?;
            Ok((value, Text::Json(body)))
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let bad = |e: String| Status::bad_request(format!("error converting YAML to JSON: {e}"));
            let text = std::str::from_utf8(body).map_err(|e| bad(e.to_string()))?;
            let value = serde_yaml::from_str(text).map_err(|e| bad(e.to_string()))?;
            Ok((value, Text::Yaml(text)))
        }
        "application/vnd.kubernetes.protobuf" => {
            let body = Schema::builtin().decode_body(body).map_err(|e| {
                Status::bad_request(format!("the body of the request cannot be decoded: {e}"))
            })?;
            Ok((body.object, Text::None))
        }
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

fn check_type(object: &mut Value, expected: Expected<'_>) -> Result<(), Status> {
    if !object.is_object() {
        return Err(Status::bad_request("the body of the request is not an object"));
    }
    let wanted = expected.api_version();
    let stated = object["apiVersion"].as_str().unwrap_or("").to_owned();
    let kind = object["kind"].as_str().unwrap_or("").to_owned();
    if !stated.is_empty() && stated != wanted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({stated}) does not match the expected API version ({wanted})"
        )));
    }
    if !kind.is_empty() && kind != expected.kind {
        return Err(Status::bad_request(format!(
            "the object provided is of kind {kind}, the path expects {}",
            expected.kind
        )));
    }
    let map = map_of(object);
    map.insert("apiVersion".to_owned(), json!(wanted));
    map.insert("kind".to_owned(), json!(expected.kind));
    Ok(())
}

/// Wrong types are refused, unknown and doubled fields as the client asked; what is unknown goes.
fn check_fields(
    object: &mut Value,
    expected: Expected<'_>,
    validation: FieldValidation,
    text: Text<'_>,
) -> Result<Vec<String>, Status> {
    let schema = Schema::builtin();
    let Some(message) = schema.kind(expected.group, expected.version, expected.kind) else {
        return Ok(Vec::new());
    };
    let report = schema.check(message, object);
    if let Some(wrong) = report.bad_request(expected.version, expected.kind) {
        return Err(Status::bad_request(wrong));
    }
    let findings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn | FieldValidation::Strict => text.findings(&report),
    };
    if validation == FieldValidation::Strict && !findings.is_empty() {
        return Err(strict(expected, &findings));
    }
    schema.prune(message, object);
    Ok(findings)
}

/// The refusal of unknown fields.
fn strict(expected: Expected<'_>, findings: &[String]) -> Status {
    let Expected { version, kind, .. } = expected;
    let why = schema::strict_error(findings);
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// What a patch says twice: refused, or to be warned of, as the client asked.
pub(super) fn doubled(
    body: &[u8],
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(schema::json_findings(body, &[])),
        FieldValidation::Strict => match schema::json_findings(body, &[]) {
            found if found.is_empty() => Ok(found),
            found => Err(strict(expected, &found)),
        },
    }
}

/// The unknown fields that a patch would set.
pub(super) fn check_patched(
    object: &mut Value,
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    check_fields(object, expected, validation, Text::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_api::catalogue::{Catalogue, DEPLOYMENTS, PODS};
    use oarlock_fuzz::Target;

    fn refused(content_type: &str, body: &str, validation: FieldValidation) -> Status {
        decode(content_type, body.as_bytes(), Expected::of(&PODS), validation).unwrap_err()
    }

    #[test]
    fn bad_bodies_are_explained() {
        let strict = FieldValidation::Strict;
        assert!(refused("application/json", "{", strict).message.contains("EOF"));
        assert_eq!(refused("text/html", "{}", strict).code, 415);
        let other = refused("application/json", r#"{"apiVersion":"apps/v1","kind":"Pod"}"#, strict);
        assert_eq!(
            other.message,
            "the API version in the data (apps/v1) does not match the expected API version (v1)"
        );
        let unknown = refused("application/json", r#"{"spec":{"containres":[]}}"#, strict);
        assert_eq!(
            unknown.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containres\""
        );
        assert_eq!(refused("application/yaml", "a: [", strict).code, 400);
        assert_eq!(refused("application/json", "[]", strict).code, 400);
    }

    #[test]
    fn a_wrong_type_is_refused_and_an_unknown_field_is_warned_of_and_dropped() {
        let body = r#"{"spec":{"replicas":"three"}}"#;
        let error =
            decode("application/json", body.as_bytes(), Expected::of(&DEPLOYMENTS), FieldValidation::Ignore)
                .unwrap_err();
        assert!(error.message.contains("cannot unmarshal string into Go struct field"), "{error}");
        let decoded = decode(
            "application/yaml",
            b"spec: {foo: 1, nodeName: n}",
            Expected::of(&PODS),
            FieldValidation::Warn,
        )
        .unwrap();
        assert_eq!(decoded.warnings, ["unknown field \"spec.foo\""]);
        assert_eq!(decoded.object["spec"], json!({"nodeName": "n"}));
    }

    /// A line of content type and the plural of a kind, then the body.
    #[test]
    fn fuzz_bodies() {
        let catalogue = Catalogue::builtin();
        Target::new("bodies").run(|input| {
            let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
            let (head, body) =
                (String::from_utf8_lossy(&input[..end]), input.get(end + 1..).unwrap_or_default());
            let (content_type, plural) = head.split_once(' ').unwrap_or((&head, "pods"));
            let kind = catalogue.served().find(|kind| kind.plural == plural).unwrap_or(&PODS);
            for validation in [FieldValidation::Strict, FieldValidation::Warn, FieldValidation::Ignore] {
                let decoded = decode(content_type, body, Expected::of(kind), validation);
                assert!(
                    decoded
                        .as_ref()
                        .map_or_else(|status| status.code < 500, |it| it.object["kind"] == kind.kind),
                    "{decoded:?}"
                );
                let applied = configuration(body, Expected::of(kind), validation);
                assert!(
                    applied.as_ref().map_or_else(|status| status.code < 500, |it| it.object.is_object()),
                    "{applied:?}"
                );
                let _ = (doubled(body, Expected::of(kind), validation), options(content_type, body));
            }
        });
    }
}
