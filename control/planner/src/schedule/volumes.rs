//! What a pod's claims leave of the nodes: volumes that only some reach, and claims whose volume is chosen together with the
//! node.
//!
//! Source: k8s.io/kubernetes/pkg/scheduler/framework/plugins/{volumebinding,volumerestrictions}.

use oarlock_api::catalogue::{NODES, PERSISTENT_VOLUME_CLAIMS};
use oarlock_api::meta;
use oarlock_api::storage::{
    self, BIND_COMPLETED, LOCAL_PROVISIONER, NO_PROVISIONER, SELECTED_NODE, VOLUMES_DIR,
};
use serde_json::{Value, json};

use crate::change::{Change, Part};
use crate::controllers::is_made_for;
use crate::volumes;
use crate::world::{Held, Key, NodeView, PodView, World};

const AFFINITY: &str = "node(s) had volume node affinity conflict";
const NOTHING: &str = "node(s) didn't find available persistent volumes to bind";
const IN_USE: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// The claims of a pod.
#[derive(Debug, Default)]
pub(crate) struct Needs<'w> {
    /// Volumes that it has.
    bound: Vec<&'w Value>,
    /// Claims that get a volume where the pod goes.
    open: Vec<(Key, &'w Held)>,
    /// Whether another pod has a claim that is for one alone.
    in_use: bool,
}

impl<'w> Needs<'w> {
    /// Looks at the claims; the error is why no node will do, whichever it is.
    pub(crate) fn of(world: &'w World, key: &Key, pod: &PodView) -> Result<Self, String> {
        let mut needs = Self::default();
        let mut unbound = false;
        for name in &pod.claims {
            let claim_key = (key.0.clone(), name.to_string());
            let held = world.get(&PERSISTENT_VOLUME_CLAIMS, &claim_key);
            let own = is_own(pod, &key.1, name);
            let held = held.ok_or_else(|| missing(name, own))?;
            let claim = &*held.value;
            if own && !is_made_for(claim, &pod.uid) {
                return Err(format!(
                    "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                    key.0, key.0, key.1
                ));
            }
            if meta::is_terminating(claim) {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let volume = claim["spec"]["volumeName"].as_str().unwrap_or("");
            let completed = meta::annotation(claim, BIND_COMPLETED).is_some();
            if claim["status"]["phase"] == "Lost" {
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            needs.in_use |= is_for_one(claim) && is_used_elsewhere(world, &claim_key, key);
            match volumes::volume(world, volume).filter(|_| completed) {
                Some(found) => needs.bound.push(&found.value),
                // One that names its volume waits for that one.
                None if volume.is_empty() && volumes::waits_for_pod(world, claim) => {
                    needs.open.push((claim_key, held))
                }
                None => unbound = true,
            }
        }
        if unbound { Err("pod has unbound immediate PersistentVolumeClaims".to_owned()) } else { Ok(needs) }
    }

    /// Why a node is out.
    pub(crate) fn refusal(&self, world: &World, node: &NodeView) -> Option<&'static str> {
        if self.in_use {
            return Some(IN_USE);
        }
        if self.bound.iter().any(|volume| !volumes::is_reachable(volume, node)) {
            return Some(AFFINITY);
        }
        self.choose(world, node).is_none().then_some(NOTHING)
    }

    /// Whether volumes are still to be chosen, or on their way.
    pub(crate) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// Gives each open claim a volume of the node, or asks for one there. Nothing to do: they are on their way.
    pub(crate) fn settle(&self, world: &World, node: &NodeView) -> Vec<Change> {
        let chosen = self.choose(world, node).unwrap_or_default();
        let steps = self.open.iter().zip(chosen).filter_map(|((key, held), volume)| {
            let claim = &*held.value;
            match volume {
                Some((_, volume)) if volume.value["spec"]["claimRef"]["uid"] == meta::uid(claim) => None,
                Some((name, volume)) => Some(volumes::give(name, volume, key, claim)),
                None if is_sent_to(claim, node) => None,
                None => Some(Change::Patch {
                    kind: &PERSISTENT_VOLUME_CLAIMS,
                    namespace: key.0.clone(),
                    name: key.1.clone(),
                    part: Part::Main,
                    patch: json!({"metadata": {
                        "resourceVersion": held.revision.to_string(), "annotations": {SELECTED_NODE: node.name},
                    }}),
                }),
            }
        });
        steps.collect()
    }

    /// A volume for each open claim, none twice, or none for one that is to be made; `None` if a claim gets neither.
    fn choose<'a>(&'a self, world: &'a World, node: &NodeView) -> Option<Vec<Option<(&'a str, &'a Held)>>> {
        let mut chosen: Vec<Option<(&str, &Held)>> = Vec::new();
        for (key, held) in &self.open {
            let claim = &*held.value;
            let sent = meta::annotation(claim, SELECTED_NODE).is_some_and(|name| !name.is_empty());
            if sent && !is_sent_to(claim, node) {
                return None;
            }
            let taken: Vec<&str> = chosen.iter().flatten().map(|(name, _)| *name).collect();
            let found = volumes::find(world, key, claim, Some(node), sent, &taken);
            if found.is_none() && !is_made(world, claim, node) {
                return None;
            }
            chosen.push(found);
        }
        Some(chosen)
    }
}

/// Whether a claim is the pod's own, made for an ephemeral volume.
fn is_own(pod: &PodView, name: &str, claim: &str) -> bool {
    let volumes = pod.ephemeral.as_deref().and_then(Value::as_array).into_iter().flatten();
    volumes.filter_map(|volume| storage::claim_of(name, volume)).any(|own| own == claim)
}

fn missing(name: &str, own: bool) -> String {
    if own {
        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
    } else {
        format!("persistentvolumeclaim {name:?} not found")
    }
}

fn is_sent_to(claim: &Value, node: &NodeView) -> bool {
    meta::annotation(claim, SELECTED_NODE) == Some(&*node.name)
}

fn is_for_one(claim: &Value) -> bool {
    claim["spec"]["accessModes"].as_array().is_some_and(|modes| modes.iter().any(|m| m == "ReadWriteOncePod"))
}

fn is_used_elsewhere(world: &World, claim: &Key, pod: &Key) -> bool {
    world.pods_with_claim(claim).any(|(key, other)| key != pod && other.node.is_some() && !other.has_ended())
}

/// Whether somebody makes volumes for this claim on that node.
fn is_made(world: &World, claim: &Value, node: &NodeView) -> bool {
    let Some(class) = volumes::class_of(world, claim) else { return false };
    let able = match class["provisioner"].as_str() {
        None | Some(NO_PROVISIONER) => false,
        Some(LOCAL_PROVISIONER) => {
            let object = world.get(&NODES, &(String::new(), node.name.to_string()));
            object.is_some_and(|held| meta::annotation(&held.value, VOLUMES_DIR).is_some())
        }
        Some(_) => true,
    };
    able && volumes::is_allowed(class, node)
}
