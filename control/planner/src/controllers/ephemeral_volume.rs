//! Claims of generic ephemeral volumes: made for one pod, and gone with it (its owner).
//!
//! Source: k8s.io/kubernetes/pkg/controller/volume/ephemeral.

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, PERSISTENT_VOLUME_CLAIMS, PODS};
use oarlock_api::{meta, storage};
use serde_json::{Value, json};

use super::Settings;
use super::template::owner_reference;
use crate::change::{Change, Plan};
use crate::world::{Key, World};

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        return world
            .pod(key)
            .filter(|pod| pod.ephemeral.is_some())
            .map(|_| key.clone())
            .into_iter()
            .collect();
    }
    if *kind != PERSISTENT_VOLUME_CLAIMS {
        return Vec::new();
    }
    let pods = world.pods_with_claim(key).filter(|(_, pod)| pod.ephemeral.is_some());
    pods.map(|(pod, _)| pod.clone()).collect()
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(pod) = world.pod(key).filter(|pod| pod.is_active()) else { return Plan::nothing() };
    let volumes = pod.ephemeral.as_deref().and_then(Value::as_array).into_iter().flatten();
    let claims = volumes.filter_map(|volume| Some((storage::claim_of(&key.1, volume)?, volume)));
    let missing = claims
        .filter(|(name, _)| world.get(&PERSISTENT_VOLUME_CLAIMS, &(key.0.clone(), name.clone())).is_none());
    let changes = missing.map(|(name, volume)| {
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.1, "uid": pod.uid}});
        let mut metadata = json!({"name": name, "ownerReferences": [owner_reference(&owner)]});
        for field in ["labels", "annotations"] {
            if let Some(given) = template["metadata"].get(field) {
                metadata[field] = given.clone();
            }
        }
        let object = json!({"metadata": metadata, "spec": template["spec"]});
        Change::Create { kind: &PERSISTENT_VOLUME_CLAIMS, namespace: key.0.clone(), object }
    });
    Plan::of(changes.collect())
}

/// Whether a claim was made for this pod, not by somebody who took its name before.
pub(crate) fn is_made_for(claim: &Value, pod_uid: &str) -> bool {
    meta::controller_of(claim).is_some_and(|owner| owner["uid"] == pod_uid)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_pods_own_claim_is_made_once_and_is_its() {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"volumes": [
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "e", "emptyDir": {}}]},
            "status": {"phase": "Pending"}});
        let mut world = World::default();
        world.put(&PODS, "d", "p", &Arc::new(pod), 1);
        let key = ("d".to_owned(), "p".to_owned());
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(affected(&world, &PODS, &key), vec![key.clone()]);
        let changes = plan(&world, &settings, &key, now).changes;
        let [Change::Create { object, .. }] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(object["metadata"]["name"], "p-scratch");
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        assert!(is_made_for(object, "u") && !is_made_for(object, "other"));
        world.put(&PERSISTENT_VOLUME_CLAIMS, "d", "p-scratch", &Arc::new(object.clone()), 2);
        assert_eq!(plan(&world, &settings, &key, now), Plan::nothing());
    }
}
