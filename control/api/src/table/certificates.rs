//! Rows of CertificateSigningRequests.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, human_duration, text, word};
use crate::{certificates, meta};

pub(super) const COLUMNS: &[Column] =
    &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")];

pub(super) fn cells(object: &Value, age: Value) -> Vec<Value> {
    let spec = &object["spec"];
    let duration = spec["expirationSeconds"].as_i64().map_or_else(|| "<none>".to_owned(), human_duration);
    let mut state = vec![if certificates::is(object, "Denied") {
        "Denied"
    } else if certificates::is(object, "Approved") {
        "Approved"
    } else {
        "Pending"
    }];
    if certificates::is(object, "Failed") {
        state.push("Failed");
    }
    if certificates::is_issued(object) {
        state.push("Issued");
    }
    let requestor = spec["username"].as_str().unwrap_or("");
    vec![
        json!(meta::name(object)),
        age,
        json!(word(&spec["signerName"])),
        json!(requestor),
        json!(duration),
        json!(state.join(",")),
    ]
}
