//! Which families of addresses a Service has: by what it says, what it had, and what the cluster has. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/service/storage/alloc.go (`initIPFamilyFields`).

use std::net::IpAddr;

use oarlock_api::meta;
use oarlock_api::service::{self, Family};
use oarlock_api::status::Cause;
use oarlock_api::validate;
use serde_json::{Value, json};

const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";
const POLICY: &str = "spec.ipFamilyPolicy";

/// The fields that belong together.
#[derive(Debug, Clone, PartialEq)]
struct Fields {
    ips: Vec<String>,
    families: Vec<String>,
    policy: Option<String>,
}

impl Fields {
    fn read(spec: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            let list = spec[field].as_array().map_or(&[][..], Vec::as_slice);
            list.iter().map(|v| v.as_str().unwrap_or("").to_owned()).collect()
        };
        let policy = spec["ipFamilyPolicy"].as_str().filter(|p| !p.is_empty()).map(str::to_owned);
        Self { ips: texts("clusterIPs"), families: texts("ipFamilies"), policy }
    }

    fn write(self, spec: &mut Value) {
        let spec = meta::map_of(spec);
        for (field, list) in [("clusterIPs", self.ips), ("ipFamilies", self.families)] {
            if list.is_empty() {
                spec.shift_remove(field);
            } else {
                spec.insert(field.to_owned(), json!(list));
            }
        }
        if let Some(policy) = self.policy {
            spec.insert("ipFamilyPolicy".to_owned(), json!(policy));
        }
    }

    fn is(&self, policy: &str) -> bool {
        self.policy.as_deref() == Some(policy)
    }
}

fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Cause {
    let message = format!("Invalid value: {value}: {why}");
    Cause { reason: "FieldValueInvalid".to_owned(), message, field: field.into() }
}

/// Completes `ipFamilies` and `ipFamilyPolicy`, and drops a second address that the policy no longer wants. `configured`
/// are the cluster's families, the primary first.
pub(super) fn complete(
    old: Option<&Value>,
    new: &mut Value,
    configured: &[Family],
) -> Result<(), Vec<Cause>> {
    if service::kind(&new["spec"]) == "ExternalName" {
        return Ok(());
    }
    let before = old.map(|old| Fields::read(&old["spec"]));
    let mut after = Fields::read(&new["spec"]);
    // A Service that prefers two families does not get the second by itself when the cluster does.
    if after.is("PreferDualStack") && before.as_ref() == Some(&after) {
        return Ok(());
    }
    let selectorless = service::is_headless(&new["spec"]) && !service::has_selector(&new["spec"]);
    if after.policy.is_none() {
        let kept = before.as_ref().and_then(|before| before.policy.clone());
        let fresh = if selectorless { REQUIRE } else { SINGLE };
        after.policy = Some(kept.unwrap_or_else(|| fresh.to_owned()));
    }
    let causes = validate::cluster_ips(&new["spec"]);
    if !causes.is_empty() {
        return Err(causes);
    }
    let mut causes = Vec::new();
    if let Some(before) = &before {
        reduce(before, &mut after, &mut causes);
    }
    check_single(&after, &mut causes);
    infer(&mut after, configured, &mut causes);
    if !causes.is_empty() {
        return Err(causes);
    }
    if !selectorless {
        check_configured(&after, configured)?;
    }
    let primary = configured.first().copied().unwrap_or(Family::V4);
    if after.families.is_empty() {
        after.families.push(primary.name().to_owned());
    }
    if !after.is(SINGLE)
        && let [only] = &after.families[..]
        && (selectorless || configured.len() == 2)
        && let Some(family) = Family::parse(only)
    {
        after.families.push(family.other().name().to_owned());
    }
    check_external(&after, &new["spec"])?;
    after.write(&mut new["spec"]);
    Ok(())
}

/// Kubernetes accepts addresses from outside that no dataplane will ever answer; here they are refused.
fn check_external(after: &Fields, spec: &Value) -> Result<(), Vec<Cause>> {
    let ips = spec["externalIPs"].as_array().map_or(&[][..], Vec::as_slice);
    let foreign = ips.iter().enumerate().filter_map(|(i, value)| {
        let family = Family::of(value.as_str()?.parse().ok()?).name();
        let why = format!("{family} is not one of this Service's `ipFamilies`");
        let fits = after.families.iter().any(|known| known == family);
        (!fits).then(|| invalid(format!("spec.externalIPs[{i}]"), value, &why))
    });
    let causes: Vec<Cause> = foreign.collect();
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

/// A second address or family may be given back, but only on purpose.
fn reduce(before: &Fields, after: &mut Fields, causes: &mut Vec<Cause>) {
    if after.is(SINGLE) {
        if after.ips == before.ips {
            after.ips.truncate(1);
        }
        if after.families == before.families {
            after.families.truncate(1);
        }
        return;
    }
    for (is, was, what) in
        [(&after.ips, &before.ips, "cluster IP"), (&after.families, &before.families, "IP family")]
    {
        if !is.is_empty() && is.len() < was.len() {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            causes.push(invalid(POLICY, &json!(after.policy), &why));
        }
    }
}

fn check_single(after: &Fields, causes: &mut Vec<Cause>) {
    for (list, what) in [(&after.ips, "cluster IPs"), (&after.families, "IP families")] {
        if after.is(SINGLE) && list.len() == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            causes.push(invalid(POLICY, &json!(after.policy), &why));
        }
    }
}

/// Addresses tell their families.
fn infer(after: &mut Fields, configured: &[Family], causes: &mut Vec<Cause>) {
    for (i, ip) in after.ips.iter().enumerate().skip(after.families.len()) {
        let Ok(ip) = ip.parse::<IpAddr>() else { return };
        let family = Family::of(ip);
        if configured.contains(&family) {
            after.families.push(family.name().to_owned());
        } else {
            let why = format!("{} is not configured on this cluster", family.name());
            causes.push(invalid(format!("spec.clusterIPs[{i}]"), &json!(after.ips), &why));
        }
    }
}

fn check_configured(after: &Fields, configured: &[Family]) -> Result<(), Vec<Cause>> {
    let mut causes = Vec::new();
    if after.is(REQUIRE) && configured.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(invalid(POLICY, &json!(REQUIRE), why));
    }
    for (i, family) in after.families.iter().enumerate() {
        if !Family::parse(family).is_some_and(|family| configured.contains(&family)) {
            let why = "not configured on this cluster";
            causes.push(invalid(format!("spec.ipFamilies[{i}]"), &json!(family), why));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}
