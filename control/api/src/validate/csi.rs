//! What drivers of volumes (CSI) say of themselves and of nodes: kept for those that speak of it among each other.
//!
//! Source: k8s.io/kubernetes/pkg/apis/storage/validation/validation.go.

use serde_json::Value;

use super::{Errors, list, text};
use crate::meta as rules;
use crate::quantity::Quantity;
use crate::selector::Selector;

/// The longest name that a driver may give a node.
const MAX_NODE_ID: usize = 192;
/// Of an attachment: what is said of a failure, and all that a driver says of a volume.
const MAX_MESSAGE: usize = 1 << 10;
const MAX_METADATA: usize = 256 << 10;
const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
/// How long tokens for drivers live, in seconds.
const TEN_MINUTES: i64 = 600;
const LONGEST: i64 = 1 << 32;

/// A CSIDriver, with its defaults.
pub(super) fn driver(errors: &mut Errors, spec: &Value) {
    errors.one_of("spec.fsGroupPolicy", &spec["fsGroupPolicy"], POLICIES);
    let requests = list(spec, "tokenRequests");
    for (i, request) in requests.iter().enumerate() {
        let Some(life) = request["expirationSeconds"].as_i64() else { continue };
        let field = format!("spec.tokenRequests[{i}].expirationSeconds");
        if life < TEN_MINUTES {
            errors.invalid(field, life, "may not specify a duration less than 10 minutes");
        } else if life > LONGEST {
            errors.invalid(field, life, "may not specify a duration larger than 2^32 seconds");
        }
    }
    let audience = |(i, request)| (format!("spec.tokenRequests[{i}].audience"), text(request, "audience"));
    errors.unique(requests.iter().enumerate().map(audience));
    for mode in list(spec, "volumeLifecycleModes") {
        errors.one_of("spec.volumeLifecycleModes", mode, &["Ephemeral", "Persistent"]);
    }
    if let Some(period) = spec["nodeAllocatableUpdatePeriodSeconds"].as_i64().filter(|period| *period < 10) {
        let field = "spec.nodeAllocatableUpdatePeriodSeconds";
        errors.invalid(field, period, "must be greater than or equal to 10 seconds");
    }
}

pub(super) fn driver_update(errors: &mut Errors, old: &Value, new: &Value) {
    for (field, told) in
        [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
    {
        errors.immutable(&format!("spec.{told}"), &old[field], &new[field]);
    }
}

/// A CSINode.
pub(super) fn node(errors: &mut Errors, spec: &Value) {
    let drivers = list(spec, "drivers");
    for (i, driver) in drivers.iter().enumerate() {
        let field = format!("spec.drivers[{i}]");
        name(errors, &format!("{field}.name"), text(driver, "name"));
        let id = text(driver, "nodeID");
        if id.is_empty() {
            errors.required(format!("{field}.nodeID"), "");
        } else if id.len() > MAX_NODE_ID {
            let why = format!("must be {MAX_NODE_ID} characters or less");
            errors.invalid(format!("{field}.nodeID"), format!("{id:?}"), why);
        }
        errors.not_negative(&format!("{field}.allocatable.count"), &driver["allocatable"]["count"]);
        let keys = list(driver, "topologyKeys").iter().filter_map(Value::as_str);
        errors.unique(keys.clone().map(|key| (field.clone(), key)));
        for key in keys {
            if key.is_empty() {
                errors.required(&field, "");
            }
            if let Err(why) = rules::check_qualified_name(key) {
                errors.invalid(&field, format!("{key:?}"), why);
            }
        }
    }
    let named = |(i, driver)| (format!("spec.drivers[{i}].name"), text(driver, "name"));
    errors.unique(drivers.iter().enumerate().map(named));
}

/// A driver that stays is what it was.
pub(super) fn node_update(errors: &mut Errors, old: &Value, new: &Value) {
    for driver in list(new, "drivers") {
        let old = list(old, "drivers").iter().find(|old| old["name"] == driver["name"]);
        errors.immutable("spec.drivers", old.unwrap_or(driver), driver);
    }
}

/// The name of a driver.
fn name(errors: &mut Errors, field: &str, name: &str) {
    if let Err(why) = rules::check_dns1123_subdomain(name) {
        errors.invalid(field, format!("{name:?}"), why);
    }
}

/// A CSIStorageCapacity.
pub(super) fn capacity(errors: &mut Errors, capacity: &Value) {
    name(errors, "storageClassName", text(capacity, "storageClassName"));
    for field in ["capacity", "maximumVolumeSize"] {
        let size = capacity[field].as_str().and_then(|size| size.parse::<Quantity>().ok());
        if size.is_some_and(|size| size.is_negative()) {
            errors.invalid(field, &capacity[field], "must be greater than or equal to 0");
        }
    }
    let topology = capacity.get("nodeTopology").filter(|topology| !topology.is_null());
    if let Some(why) = topology.and_then(|topology| Selector::from_label_selector(Some(topology)).err()) {
        errors.invalid("nodeTopology", &capacity["nodeTopology"], why);
    }
}

pub(super) fn capacity_update(errors: &mut Errors, old: &Value, new: &Value) {
    for field in ["nodeTopology", "storageClassName"] {
        errors.immutable(field, &old[field], &new[field]);
    }
}

/// A VolumeAttachment.
pub(super) fn attachment(errors: &mut Errors, spec: &Value) {
    let attacher = text(spec, "attacher");
    if attacher.is_empty() {
        errors.required("spec.attacher", "");
    }
    name(errors, "spec.attacher", attacher);
    let source = &spec["source"];
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source["inlineVolumeSpec"].is_null(), source["persistentVolumeName"].as_str()) {
        (true, None) => errors.required("spec.source", one),
        (false, Some(_)) => errors.forbidden("spec.source", one),
        (false, None) => errors.unsupported("spec.source.inlineVolumeSpec"),
        (true, Some("")) => {
            errors
                .required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName");
        }
        (true, Some(volume)) => name(errors, "spec.source.persistentVolumeName", volume),
    }
    name(errors, "spec.nodeName", text(spec, "nodeName"));
}

pub(super) fn attachment_update(errors: &mut Errors, old: &Value, new: &Value) {
    errors.immutable("spec", &old["spec"], &new["spec"]);
    let status = &new["status"];
    let metadata = status["attachmentMetadata"].as_object().into_iter().flatten();
    let size: usize = metadata.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_METADATA {
        too_long(errors, "status.attachmentMetadata");
    }
    for field in ["attachError", "detachError"] {
        if text(&status[field], "message").len() > MAX_MESSAGE {
            too_long(errors, &format!("status.{field}.message"));
        }
    }
}

fn too_long(errors: &mut Errors, field: &str) {
    errors.push("FieldValueTooLong", field, format!("Too long: may not be more than {MAX_METADATA} bytes"));
}
