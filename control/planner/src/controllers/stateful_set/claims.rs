//! The claims of a StatefulSet's pods: one of each template for each ordinal, which outlives the pod, and goes with the set or with
//! its ordinal if the retention policy says so. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/controller/statefulset/{stateful_pod_control,stateful_set_utils}.go.

use oarlock_api::catalogue::{Kind, PERSISTENT_VOLUME_CLAIMS, STATEFUL_SETS};
use oarlock_api::meta::{self, map_at, map_of};
use serde_json::{Map, Value, json};

use super::super::template::owner_reference;
use super::{Pod, View};
use crate::change::{Change, Part};
use crate::world::{Held, Key, World};

pub(super) fn templates(set: &Value) -> &[Value] {
    set["spec"]["volumeClaimTemplates"].as_array().map_or(&[], Vec::as_slice)
}

/// `data-web-3` is made from the template `data` for the pod `web-3`.
fn name_of(template: &Value, pod: &str) -> String {
    format!("{}-{pod}", meta::name(template))
}

/// The sets whose claim this may be.
pub(super) fn sets(world: &World, kind: &Kind, claim: &Key) -> Vec<Key> {
    if *kind != PERSISTENT_VOLUME_CLAIMS {
        return Vec::new();
    }
    let is_its = |set: &Value| {
        templates(set)
            .iter()
            .any(|template| claim.1.starts_with(&name_of(template, &format!("{}-", meta::name(set)))))
    };
    let sets = world.list_in(&STATEFUL_SETS, &claim.0).filter(|(_, held)| is_its(&held.value));
    sets.map(|(key, _)| key.clone()).collect()
}

/// A pod's volumes, those of claims in place of others of the same name.
pub(super) fn mount(set: &Value, pod: &mut Value, name: &str) {
    let templates = templates(set);
    if templates.is_empty() {
        return;
    }
    let spec = map_at(map_of(pod), "spec");
    let is_claimed = |volume: &Value| templates.iter().any(|t| meta::name(t) == volume["name"]);
    let own = spec.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    let claimed = templates.iter().map(|template| {
        json!({"name": meta::name(template), "persistentVolumeClaim": {"claimName": name_of(template, name)}})
    });
    let volumes: Vec<Value> = claimed.chain(own.into_iter().filter(|volume| !is_claimed(volume))).collect();
    spec.insert("volumes".to_owned(), json!(volumes));
}

impl<'w> View<'w> {
    fn claim(&self, name: &str) -> Option<&'w Held> {
        self.world.get(&PERSISTENT_VOLUME_CLAIMS, &(self.key.0.clone(), name.to_owned()))
    }

    /// What a new pod lacks of claims; `None` while one that it had is still going.
    pub(super) fn missing_claims(&self, pod: &str) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        for template in templates(&self.held.value) {
            let name = name_of(template, pod);
            match self.claim(&name) {
                Some(held) if meta::is_terminating(&held.value) => return None,
                Some(_) => {}
                None => {
                    let set = &self.key.1;
                    let message = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
                    changes.push(Change::Create {
                        kind: &PERSISTENT_VOLUME_CLAIMS,
                        namespace: self.key.0.clone(),
                        object: self.make_claim(template, &name),
                    });
                    changes.push(self.event("Normal", "SuccessfulCreate", message));
                }
            }
        }
        Some(changes)
    }

    fn make_claim(&self, template: &Value, name: &str) -> Value {
        let mut labels: Map<String, Value> = meta::labels(template).cloned().unwrap_or_default();
        let matched = self.spec()["selector"]["matchLabels"].as_object().into_iter().flatten();
        labels.extend(matched.map(|(key, value)| (key.clone(), value.clone())));
        let mut metadata = json!({"name": name, "labels": labels});
        if let Some(annotations) = template["metadata"].get("annotations") {
            metadata["annotations"] = annotations.clone();
        }
        let owners = self.claim_owners(None);
        if !owners.is_empty() {
            metadata["ownerReferences"] = json!(owners);
        }
        json!({"metadata": metadata, "spec": template["spec"]})
    }

    fn retention(&self, field: &str) -> bool {
        self.spec()["persistentVolumeClaimRetentionPolicy"][field] == "Delete"
    }

    /// Whom a claim goes with: the pod if that is beyond the range, else the set.
    fn claim_owners(&self, beyond: Option<Pod<'w>>) -> Vec<Value> {
        match beyond {
            Some((key, view)) if self.retention("whenScaled") => {
                let pod =
                    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.1, "uid": view.uid}});
                vec![owner_reference(&pod)]
            }
            _ if self.retention("whenDeleted") => vec![owner_reference(&self.held.value)],
            _ => Vec::new(),
        }
    }

    /// Claims of present pods that do not go with whom they should.
    pub(super) fn reassign_claims(&self, ordinal: i64, pod: Pod<'w>) -> Vec<Change> {
        let beyond = (!self.wanted().contains(&ordinal)).then_some(pod);
        let wanted = self.claim_owners(beyond);
        let claims = templates(&self.held.value).iter().map(|template| name_of(template, &pod.0.1));
        let stale = claims.filter_map(|name| {
            let held = self.claim(&name)?;
            let owners = self.with_owners(&held.value, &pod.0.1, &wanted);
            let differs = owners != meta::owner_references(&held.value);
            (differs && !meta::is_terminating(&held.value)).then(|| Change::Patch {
                kind: &PERSISTENT_VOLUME_CLAIMS,
                namespace: self.key.0.clone(),
                name,
                part: Part::Main,
                patch: json!({"metadata": {
                    "resourceVersion": held.revision.to_string(), "ownerReferences": owners,
                }}),
            })
        });
        stale.collect()
    }

    /// A claim's owners with those of the set's making as they should be. Somebody else's stay, and whom a user has made its controller.
    fn with_owners(&self, claim: &Value, pod: &str, wanted: &[Value]) -> Vec<Value> {
        let is_ours = |owner: &Value| {
            owner["uid"] == meta::uid(&self.held.value) || (owner["kind"] == "Pod" && owner["name"] == pod)
        };
        let others: Vec<Value> =
            meta::owner_references(claim).iter().filter(|owner| !is_ours(owner)).cloned().collect();
        let controlled = others.iter().any(|owner| owner["controller"] == true);
        let added = wanted.iter().filter(|_| !controlled).cloned();
        others.iter().cloned().chain(added).collect()
    }
}
