//! Which volume fits a claim. Pure; asked by the binder and by the scheduler.
//!
//! Source: `FindMatchingVolume` of k8s.io/component-helpers/storage/volume.

use oarlock_api::catalogue::{PERSISTENT_VOLUMES, STORAGE_CLASSES};
use oarlock_api::meta;
use oarlock_api::node_selector::NodeSelector;
use oarlock_api::selector::Selector;
use oarlock_api::storage::{self, BOUND_BY_CONTROLLER};
use serde_json::{Value, json};

use crate::change::{Change, Part};
use crate::world::{Held, Key, NodeView, World};

/// A volume by its name, as an object.
pub(crate) fn volume<'w>(world: &'w World, name: &str) -> Option<&'w Held> {
    world.get(&PERSISTENT_VOLUMES, &(String::new(), name.to_owned()))
}

/// The class of a claim.
pub(crate) fn class_of<'w>(world: &'w World, claim: &Value) -> Option<&'w Value> {
    let name = storage::class_name(claim);
    world.get(&STORAGE_CLASSES, &(String::new(), name.to_owned())).map(|held| &*held.value)
}

/// Whether a claim's volume is chosen when its first pod is.
pub(crate) fn waits_for_pod(world: &World, claim: &Value) -> bool {
    class_of(world, claim).is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer")
}

/// Whether a volume names this claim: as the user wrote it, without a uid, or as the controller did.
pub(crate) fn is_meant_for(volume: &Value, key: &Key, claim: &Value) -> bool {
    let reference = &volume["spec"]["claimRef"];
    reference["namespace"] == *key.0
        && reference["name"] == *key.1
        && reference["uid"].as_str().is_none_or(|uid| uid.is_empty() || uid == meta::uid(claim))
}

/// Whether a node can reach a volume.
pub(crate) fn is_reachable(volume: &Value, node: &NodeView) -> bool {
    let required = &volume["spec"]["nodeAffinity"]["required"];
    if required.is_null() {
        return true;
    }
    let selector = NodeSelector::parse(required);
    selector.is_ok_and(|s| s.matches(&node.name, |key| node.labels.get(key).map(AsRef::as_ref)))
}

/// Whether a class makes volumes for a node.
pub(crate) fn is_allowed(class: &Value, node: &NodeView) -> bool {
    let terms = class["allowedTopologies"].as_array().map_or(&[][..], Vec::as_slice);
    let fits = |expression: &Value| {
        let held = expression["key"].as_str().and_then(|key| node.labels.get(key));
        let values = expression["values"].as_array().into_iter().flatten();
        held.is_some_and(|held| values.filter_map(Value::as_str).any(|value| *value == **held))
    };
    let all = |term: &Value| term["matchLabelExpressions"].as_array().into_iter().flatten().all(fits);
    terms.is_empty() || terms.iter().any(all)
}

/// Why a volume that the claim asks for by name does not do.
pub(crate) fn mismatch(volume: &Value, claim: &Value) -> Option<&'static str> {
    let (spec, asked) = (&volume["spec"], storage::size(&claim["spec"]["resources"]["requests"]));
    if storage::size(&spec["capacity"]) < asked {
        Some("requested PV is too small")
    } else if storage::class_name(volume) != storage::class_name(claim) {
        Some("storageClassName does not match")
    } else if storage::volume_mode(volume) != storage::volume_mode(claim) {
        Some("incompatible volumeMode")
    } else if !has_modes(volume, claim) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

fn has_modes(volume: &Value, claim: &Value) -> bool {
    let modes = |object: &Value| object["spec"]["accessModes"].as_array().cloned().unwrap_or_default();
    let offered = modes(volume);
    modes(claim).iter().all(|mode| offered.contains(mode))
}

/// The volume that is meant for a claim, else the smallest that does and is not taken; on a node, if one is given.
pub(crate) fn find<'w>(
    world: &'w World,
    key: &Key,
    claim: &Value,
    node: Option<&NodeView>,
    only_meant: bool,
    taken: &[&str],
) -> Option<(&'w str, &'w Held)> {
    let reachable = |held: &Held| node.is_none_or(|node| is_reachable(&held.value, node));
    let usable = |held: &Held| {
        let (volume, asked) = (&*held.value, storage::size(&claim["spec"]["resources"]["requests"]));
        storage::volume_mode(volume) == storage::volume_mode(claim)
            && !meta::is_terminating(volume)
            && has_modes(volume, claim)
            && storage::size(&volume["spec"]["capacity"]) >= asked
    };
    let meant = world.volumes_of(key).filter_map(|name| Some((name.as_str(), volume(world, name)?)));
    let mut meant = meant.filter(|(_, held)| is_meant_for(&held.value, key, claim));
    if let Some(found) = meant.find(|(_, held)| usable(held)) {
        return Some(found).filter(|(_, held)| reachable(held));
    }
    if only_meant {
        return None;
    }
    let selector = Selector::from_label_selector(claim["spec"].get("selector")).ok()?;
    let selected = |held: &Held| selector.as_ref().is_none_or(|s| s.matches(meta::labels(&held.value)));
    let free = world.free_volumes(storage::class_name(claim));
    free.filter(|name| !taken.contains(&name.as_str()))
        .filter_map(|name| Some((name.as_str(), volume(world, name)?)))
        .filter(|(_, held)| held.value["status"]["phase"] == "Available" && usable(held))
        .filter(|(_, held)| selected(held) && reachable(held))
        .min_by(|(a, x), (b, y)| {
            let size = |held: &Held| storage::size(&held.value["spec"]["capacity"]);
            size(x).cmp(&size(y)).then_with(|| a.cmp(b))
        })
}

/// The first step of binding: the volume names the claim, if nobody has written it since it was looked at.
pub(crate) fn give(name: &str, volume: &Held, claim_key: &Key, claim: &Value) -> Change {
    let reference = json!({
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim_key.0, "name": claim_key.1,
        "uid": meta::uid(claim), "resourceVersion": meta::resource_version(claim),
    });
    let mut change = json!({"spec": {"claimRef": reference}});
    // Who had named the claim before keeps naming it when the claim goes.
    if volume.value["spec"]["claimRef"].is_null() {
        change["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
    }
    change["metadata"]["resourceVersion"] = json!(volume.revision.to_string());
    Change::Patch {
        kind: &PERSISTENT_VOLUMES,
        namespace: String::new(),
        name: name.to_owned(),
        part: Part::Main,
        patch: change,
    }
}
