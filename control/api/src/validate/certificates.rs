//! CertificateSigningRequests.
//!
//! Source: k8s.io/kubernetes/pkg/apis/certificates/validation/validation.go.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, list, text};
use crate::{certificates, meta};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// The shortest life that may be asked for, in seconds.
const SHORTEST: i64 = 600;
/// The longest domain and the longest name of a signer.
const DOMAIN: usize = 253;
const SIGNER: usize = DOMAIN + 1 + DOMAIN + 63 + 1;
/// Conditions that stay once they are there.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

pub(super) fn request(errors: &mut Errors, object: &Value) {
    let spec = &object["spec"];
    if let Err(why) = certificates::pem_of(object).and_then(|pem| certificates::read(&pem)) {
        errors.invalid("spec.request", &spec["request"], why);
    }
    if list(spec, "usages").is_empty() {
        errors.required("spec.usages", "");
    }
    let mut seen = BTreeSet::new();
    for (i, usage) in list(spec, "usages").iter().enumerate() {
        let field = format!("spec.usages[{i}]");
        errors.one_of(&field, usage, USAGES);
        if !seen.insert(usage.as_str()) {
            errors.duplicate(field, usage);
        }
    }
    let signer = text(spec, "signerName");
    if signer == certificates::LEGACY {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid("spec.signerName", format!("{signer:?}"), why);
    } else {
        signer_name(errors, signer);
    }
    if spec["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < SHORTEST) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid("spec.expirationSeconds", &spec["expirationSeconds"], why);
    }
}

fn signer_name(errors: &mut Errors, signer: &str) {
    let field = "spec.signerName";
    let mut wrong = |value: &str, why: &str| errors.invalid(field, format!("{value:?}"), why);
    if signer.is_empty() {
        return errors.required(field, "");
    }
    let Some((domain, path)) = signer.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return wrong(signer, why);
    };
    let too_long = |max: usize| format!("Too long: may not be more than {max} bytes");
    let label = |(label, why): (&str, String)| format!("validating label {label:?}: {why}");
    let first = |text: &str, check: fn(&str) -> Result<(), String>| {
        text.split('.').map(str::to_owned).find_map(|part| check(&part).err().map(|why| label((&part, why))))
    };
    if let Some(why) = first(domain, meta::check_dns1123_label) {
        wrong(domain, &why);
    }
    if !domain.contains('.') {
        wrong(domain, "should be a domain with at least two segments separated by dots");
    }
    if let Some(why) = first(path, meta::check_dns1123_subdomain) {
        wrong(path, &why);
    }
    for (length, max) in [(domain.len(), DOMAIN), (signer.len(), SIGNER)] {
        if length > max {
            errors.push("FieldValueTooLong", field, too_long(max));
        }
    }
}

/// What a write through `part` (empty, `status` or `approval`) may change of the status.
pub(super) fn status(errors: &mut Errors, old: &Value, new: &Value, part: &str) {
    conditions(errors, list(&new["status"], "conditions"));
    let count = |object: &Value, kind: &str| {
        list(&object["status"], "conditions").iter().filter(|condition| condition["type"] == kind).count()
    };
    for kind in DECISIONS {
        let (before, after) = (count(old, kind), count(new, kind));
        if after < before {
            let why = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden("status.conditions", why);
        }
        if after > before && part != "approval" && kind != "Failed" {
            errors
                .forbidden("status.conditions", format!("updates may not add a condition of type {kind:?}"));
        }
    }
    let (before, after) = (text(&old["status"], "certificate"), text(&new["status"], "certificate"));
    if before == after {
        return;
    }
    if part != "status" {
        errors.forbidden("status.certificate", "updates may not set certificate content");
    } else if !before.is_empty() {
        errors.forbidden("status.certificate", "updates may not modify existing certificate content");
    }
    if let Err(why) = certificate(after) {
        errors.invalid("status.certificate", "\"<certificate data>\"", why);
    }
}

fn conditions(errors: &mut Errors, conditions: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = |field: &str| format!("status.conditions[{i}].{field}");
        let (kind, status) = (text(condition, "type"), text(condition, "status"));
        if kind.is_empty() {
            errors.required(at("type"), "");
        }
        let known: &[&str] =
            if DECISIONS.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.required(at("status"), "");
        } else {
            errors.one_of(&at("status"), &condition["status"], known);
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(at("type"), format!("{kind:?}"), why);
        }
        if !seen.insert(kind) {
            errors.duplicate(at("type"), format!("{kind:?}"));
        }
    }
}

/// PEM blocks of certificates, and nothing else but comments before them.
fn certificate(text: &str) -> Result<(), String> {
    let bytes = certificates::decode(text)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let mut count = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&bytes) {
        let block = block.map_err(|e| format!("invalid data: {e}"))?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        block.parse_x509().map_err(|e| e.to_string())?;
        count += 1;
    }
    if count == 0 { Err("must contain one or more PEM blocks".to_owned()) } else { Ok(()) }
}
