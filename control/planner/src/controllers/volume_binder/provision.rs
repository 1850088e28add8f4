//! Volumes that are made for a claim: directories of a node here, anything else by who calls itself the class' provisioner.

use oarlock_api::catalogue::PERSISTENT_VOLUMES;
use oarlock_api::meta;
use oarlock_api::storage::{
    LOCAL_FINALIZER, LOCAL_PROVISIONER, PROVISIONED_BY, SELECTED_NODE, STORAGE_PROVISIONER, VOLUMES_DIR,
    class_name, volume_mode,
};
use serde_json::{Value, json};

use super::claim::Claim;
use crate::change::{Change, Part};
use crate::volumes;
use crate::world::NodeView;

/// The name of the annotation before it was settled; provisioners of others may look for it.
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

pub(super) fn plan(claim: &Claim<'_>) -> Vec<Change> {
    let Some(class) = volumes::class_of(claim.world, claim.object()) else {
        let why = format!("storageclass.storage.k8s.io {:?} not found", class_name(claim.object()));
        return vec![failed(claim, why)];
    };
    let provisioner = class["provisioner"].as_str().unwrap_or("");
    if provisioner.starts_with("kubernetes.io/") {
        return vec![failed(claim, format!("no volume plugin matched name: {provisioner}"))];
    }
    if meta::annotation(claim.object(), STORAGE_PROVISIONER) != Some(provisioner) {
        let annotations = json!({STORAGE_PROVISIONER: provisioner, OLD_PROVISIONER: provisioner});
        return vec![claim.patch(Part::Main, json!({"metadata": {"annotations": annotations}}))];
    }
    if provisioner == LOCAL_PROVISIONER {
        return local(claim, class);
    }
    let why = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    vec![claim.say("Normal", "ExternalProvisioning", why)]
}

fn failed(claim: &Claim<'_>, why: String) -> Change {
    claim.say("Warning", "ProvisioningFailed", why)
}

/// A directory of the node that the scheduler chose, else of the one that has the fewest.
fn local(claim: &Claim<'_>, class: &Value) -> Vec<Change> {
    let object = claim.object();
    if volume_mode(object) == "Block" {
        let why =
            format!("{LOCAL_PROVISIONER} makes directories: a claim with volumeMode Block cannot have one");
        return vec![failed(claim, why)];
    }
    if object["spec"].get("selector").is_some_and(|selector| !selector.is_null()) {
        return vec![failed(claim, "claim Selector is not supported".to_owned())];
    }
    let chosen = meta::annotation(object, SELECTED_NODE).filter(|name| !name.is_empty());
    let place = match chosen {
        Some(name) => claim.world.node(name).and_then(|node| Some((node, root(claim, node)?))),
        None => fewest(claim, class),
    };
    match (place, chosen) {
        (Some((node, root)), _) => make(claim, class, node, root),
        (None, Some(name)) => {
            // The scheduler chooses another.
            let why = format!("node {name:?} cannot have the volume: it is gone, or its agent keeps none");
            let forget = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
            vec![claim.patch(Part::Main, forget), failed(claim, why)]
        }
        (None, None) => vec![failed(claim, "no node can have the volume".to_owned())],
    }
}

/// Where a node keeps directories for volumes.
fn root<'w>(claim: &Claim<'w>, node: &NodeView) -> Option<&'w str> {
    let key = (String::new(), node.name.to_string());
    let object = claim.world.get(&oarlock_api::catalogue::NODES, &key)?;
    meta::annotation(&object.value, VOLUMES_DIR).filter(|path| path.starts_with('/'))
}

fn fewest<'w>(claim: &Claim<'w>, class: &Value) -> Option<(&'w NodeView, &'w str)> {
    let usable = claim.world.nodes().filter(|node| &*node.ready == "True" && !node.unschedulable);
    let able = usable.filter(|node| volumes::is_allowed(class, node));
    able.filter_map(|node| Some((node, root(claim, node)?)))
        .min_by_key(|(node, _)| claim.world.local_volumes(&node.name).count())
}

fn make(claim: &Claim<'_>, class: &Value, node: &NodeView, root: &str) -> Vec<Change> {
    let (key, object) = (claim.key, claim.object());
    let name = format!("pvc-{}", meta::uid(object));
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]});
    let volume = json!({
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: LOCAL_PROVISIONER},
            "finalizers": [LOCAL_FINALIZER],
        },
        "spec": {
            "capacity": {"storage": object["spec"]["resources"]["requests"]["storage"]},
            "accessModes": object["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": class["reclaimPolicy"],
            "storageClassName": class_name(object),
            "volumeMode": "Filesystem",
            "claimRef": {
                "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": key.0, "name": key.1,
                "uid": meta::uid(object), "resourceVersion": meta::resource_version(object),
            },
            "local": {"path": format!("{}/{name}", root.trim_end_matches('/'))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    });
    let message = format!("Provisioner is provisioning volume for claim \"{}/{}\"", key.0, key.1);
    vec![
        Change::Create { kind: &PERSISTENT_VOLUMES, namespace: String::new(), object: volume },
        claim.say("Normal", "Provisioning", message),
    ]
}
