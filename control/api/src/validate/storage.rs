//! Volumes, claims and classes: what they must say, and what may change of them.
//!
//! Source: k8s.io/kubernetes/pkg/apis/{core,storage}/validation/validation.go.

use serde_json::{Value, json};

use super::{Errors, list, remote, text, volumes};
use crate::meta as rules;
use crate::node_selector::NodeSelector;
use crate::quantity::Quantity;
use crate::selector::Selector;
use crate::storage::{BETA_CLASS, LOCAL_PROVISIONER, size};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Fields of a volume's spec that are no source.
const NO_SOURCE: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
pub(super) fn volume(errors: &mut Errors, spec: &Value) {
    access_modes(errors, "spec.accessModes", spec, "");
    capacity(errors, &spec["capacity"]);
    errors.one_of(
        "spec.persistentVolumeReclaimPolicy",
        &spec["persistentVolumeReclaimPolicy"],
        &["Delete", "Recycle", "Retain"],
    );
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        errors.unsupported("spec.persistentVolumeReclaimPolicy");
    }
    errors.one_of("spec.volumeMode", &spec["volumeMode"], &["Block", "Filesystem"]);
    class_name(errors, "spec.storageClassName", spec);
    node_affinity(errors, spec);
    source(errors, spec);
    let given = |field: &str| spec.get(field).is_some_and(|v| !v.is_null() && *v != json!([]));
    let is_mounted = sources(spec).any(|(kind, _)| remote::SOURCES.contains(&kind));
    if given("mountOptions") && !is_mounted {
        errors.unsupported("spec.mountOptions");
    }
    if given("volumeAttributesClassName") {
        errors.unsupported("spec.volumeAttributesClassName");
    }
}

fn access_modes(errors: &mut Errors, path: &str, spec: &Value, missing: &str) {
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(path, missing);
    }
    for mode in modes {
        errors.one_of(path, mode, ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(errors: &mut Errors, capacity: &Value) {
    let Some(held) = capacity.as_object().filter(|held| !held.is_empty()) else {
        return errors.required("spec.capacity", "");
    };
    if held.len() > 1 || !held.contains_key("storage") {
        let message = format!("Unsupported value: {capacity}: supported values: \"storage\"");
        errors.push("FieldValueNotSupported", "spec.capacity", message);
    }
    positive(errors, "spec.capacity[storage]", &capacity["storage"]);
}

fn positive(errors: &mut Errors, path: &str, value: &Value) {
    let amount = value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    match amount {
        Some(amount) if amount.is_negative() || amount.is_zero() => {
            errors.invalid(path, value, "must be greater than zero");
        }
        None if !value.is_null() => {
            errors.invalid(path, value, "must be a quantity, as 5Gi");
        }
        _ => {}
    }
}

fn class_name(errors: &mut Errors, path: &str, spec: &Value) {
    let name = text(spec, "storageClassName");
    if let Some(why) =
        Some(name).filter(|n| !n.is_empty()).and_then(|n| rules::check_dns1123_subdomain(n).err())
    {
        errors.invalid(path, format!("{name:?}"), why);
    }
}

fn node_affinity(errors: &mut Errors, spec: &Value) {
    let Some(affinity) = spec.get("nodeAffinity").filter(|a| !a.is_null()) else { return };
    match affinity.get("required").filter(|r| !r.is_null()) {
        None => errors.required("spec.nodeAffinity.required", "must specify required node constraints"),
        Some(required) => {
            if let Err(error) = NodeSelector::parse(required) {
                errors.invalid(format!("spec.nodeAffinity.required.{}", error.path), required, error.why);
            }
        }
    }
}

fn sources(spec: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    let given = fields.filter(|(name, value)| !NO_SOURCE.contains(&name.as_str()) && !value.is_null());
    given.map(|(name, value)| (name.as_str(), value))
}

fn source(errors: &mut Errors, spec: &Value) {
    let mut given = sources(spec);
    let Some((kind, source)) = given.next() else {
        return errors.required("spec", "must specify a volume type");
    };
    for (more, _) in given {
        errors.forbidden(format!("spec.{more}"), "may not specify more than 1 volume type");
    }
    match kind {
        "hostPath" => volumes::host_path(errors, "spec.hostPath", source),
        "local" => {
            local(errors, source);
            if spec.get("nodeAffinity").is_none_or(Value::is_null) {
                errors.required("spec.nodeAffinity", "Local volume requires node affinity");
            }
        }
        other if remote::SOURCES.contains(&other) => {
            remote::check(errors, &format!("spec.{other}"), other, source);
            if spec["volumeMode"] == "Block" {
                errors.unsupported("spec.volumeMode");
            }
        }
        other => {
            let known = remote::SOURCES.join(", ");
            let why = format!(
                "is not supported by this version of Oarlock: volumes of type hostPath, local, {known} are"
            );
            errors.forbidden(format!("spec.{other}"), why);
        }
    }
}

fn local(errors: &mut Errors, source: &Value) {
    let path = text(source, "path");
    if path.is_empty() {
        errors.required("spec.local.path", "");
    } else {
        volumes::no_way_up(errors, "spec.local.path", path);
    }
    if source.get("fsType").is_some_and(|t| !t.is_null()) {
        errors.unsupported("spec.local.fsType");
    }
}

/// What may change of a volume: everything but where it is.
pub(super) fn volume_update(errors: &mut Errors, old: &Value, new: &Value) {
    let (old, new) = (&old["spec"], &new["spec"]);
    if sources(old).ne(sources(new)) {
        errors.forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    errors.immutable("spec.volumeMode", &old["volumeMode"], &new["volumeMode"]);
    if !old["nodeAffinity"].is_null() && old["nodeAffinity"] != new["nodeAffinity"] {
        errors.invalid("spec.nodeAffinity", &new["nodeAffinity"], "field is immutable");
    }
}

/// A claim's spec, in a claim or in a template.
pub(super) fn claim(errors: &mut Errors, path: &str, spec: &Value) {
    access_modes(errors, &format!("{path}.accessModes"), spec, "at least 1 access mode is required");
    let selector = spec.get("selector").filter(|s| !s.is_null());
    if let Some(why) = selector.and_then(|s| Selector::from_label_selector(Some(s)).err()) {
        errors.invalid(format!("{path}.selector"), &spec["selector"], why);
    }
    let requests = &spec["resources"]["requests"];
    if requests["storage"].is_null() {
        errors.required(format!("{path}.resources[storage]"), "");
    } else {
        positive(errors, &format!("{path}.resources[storage]"), &requests["storage"]);
    }
    class_name(errors, &format!("{path}.storageClassName"), spec);
    errors.one_of(&format!("{path}.volumeMode"), &spec["volumeMode"], &["Block", "Filesystem"]);
    for field in ["dataSource", "dataSourceRef", "volumeAttributesClassName"] {
        if spec.get(field).is_some_and(|v| !v.is_null() && *v != "") {
            errors.unsupported(format!("{path}.{field}"));
        }
    }
    if spec["resources"].get("limits").and_then(Value::as_object).is_some_and(|limits| !limits.is_empty()) {
        errors.unsupported(format!("{path}.resources.limits"));
    }
}

/// A claim is what it was made as, but for its volume and, while it has none, its class.
pub(super) fn claim_update(errors: &mut Errors, old: &Value, new: &Value) {
    let (was, is) = (&old["spec"], &new["spec"]);
    let mut allowed = was.clone();
    if text(was, "volumeName").is_empty() {
        carry(&mut allowed, is, "volumeName");
    }
    if was.get("storageClassName").is_none_or(Value::is_null) && rules::annotation(old, BETA_CLASS).is_none()
    {
        carry(&mut allowed, is, "storageClassName");
    }
    let (before, after) = (size(&was["resources"]["requests"]), size(&is["resources"]["requests"]));
    if before != after {
        // What admission (PersistentVolumeClaimResize) says where no class can expand its volumes.
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        return errors.forbidden("spec.resources.requests.storage", why);
    }
    carry(&mut allowed, is, "resources");
    if allowed != *is {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden("spec", why);
    }
}

fn carry(into: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => into[field] = value.clone(),
        None => drop(rules::map_of(into).shift_remove(field)),
    }
}

pub(super) fn class(errors: &mut Errors, class: &Value) {
    let provisioner = text(class, "provisioner");
    if provisioner.is_empty() {
        errors.required("provisioner", "");
    } else if let Err(why) = rules::check_qualified_name(&provisioner.to_lowercase()) {
        errors.invalid("provisioner", format!("{provisioner:?}"), why);
    }
    errors.one_of("reclaimPolicy", &class["reclaimPolicy"], &["Delete", "Retain"]);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    errors.one_of("volumeBindingMode", &class["volumeBindingMode"], &modes);
    parameters(errors, class);
    for (i, term) in list(class, "allowedTopologies").iter().enumerate() {
        topology(errors, &format!("allowedTopologies[{i}]"), term);
    }
    if class["allowVolumeExpansion"] == true {
        errors.unsupported("allowVolumeExpansion");
    }
    if provisioner == LOCAL_PROVISIONER {
        for field in ["parameters", "mountOptions"] {
            let given = class.get(field).is_some_and(|v| !v.is_null() && *v != json!([]) && *v != json!({}));
            if given {
                errors
                    .forbidden(field, format!("{LOCAL_PROVISIONER} makes plain directories: it takes none"));
            }
        }
    }
}

fn parameters(errors: &mut Errors, class: &Value) {
    let Some(parameters) = class.get("parameters").and_then(Value::as_object) else { return };
    if parameters.len() > 512 {
        errors.push("FieldValueTooLong", "parameters", "Too long: must have at most 512 items".to_owned());
    }
    if parameters.contains_key("") {
        errors.invalid("parameters", "\"\"", "field can not be empty.");
    }
    let total: usize = parameters.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if total > 256 * 1024 {
        errors.push("FieldValueTooLong", "parameters", "Too long: must have at most 262144 bytes".to_owned());
    }
}

fn topology(errors: &mut Errors, path: &str, term: &Value) {
    for (i, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
        let path = format!("{path}.matchLabelExpressions[{i}]");
        if list(expression, "values").is_empty() {
            errors.required(format!("{path}.values"), "");
        }
        let key = text(expression, "key");
        if let Err(why) = rules::check_qualified_name(key) {
            errors.invalid(format!("{path}.key"), format!("{key:?}"), why);
        }
    }
}

/// What a class stands for does not change under those who use it.
pub(super) fn class_update(errors: &mut Errors, old: &Value, new: &Value) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if old.get(field).filter(|v| !v.is_null()) != new.get(field).filter(|v| !v.is_null()) {
            errors.forbidden(field, format!("updates to {field} are forbidden."));
        }
    }
    errors.immutable("volumeBindingMode", &old["volumeBindingMode"], &new["volumeBindingMode"]);
}
