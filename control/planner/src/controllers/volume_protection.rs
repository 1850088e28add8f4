//! Claims that pods use and volumes that claims have stay until they are not used any more, though they were deleted.
//!
//! Source: k8s.io/kubernetes/pkg/controller/volume/{pvcprotection,pvprotection}.

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use oarlock_api::meta;
use oarlock_api::storage::{CLAIM_PROTECTION, VOLUME_PROTECTION};

use super::volume_binder::without_finalizer;
use super::{Settings, own};
use crate::change::Plan;
use crate::world::{Held, Key, World};

pub(super) fn affected_claims(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        let claims = world.pod(key).into_iter().flat_map(|pod| &pod.claims);
        return claims.map(|claim| (key.0.clone(), claim.to_string())).collect();
    }
    own(kind, &PERSISTENT_VOLUME_CLAIMS, key)
}

pub(super) fn plan_claim(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(held) = going(world, &PERSISTENT_VOLUME_CLAIMS, key, CLAIM_PROTECTION) else {
        return Plan::nothing();
    };
    // A pod that no node has been given yet will not get one: the scheduler refuses claims that go.
    if world.pods_with_claim(key).any(|(_, pod)| pod.node.is_some()) {
        return Plan::nothing();
    }
    Plan::of(vec![without_finalizer(&PERSISTENT_VOLUME_CLAIMS, key, held, CLAIM_PROTECTION)])
}

pub(super) fn affected_volumes(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    own(kind, &PERSISTENT_VOLUMES, key)
}

pub(super) fn plan_volume(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(held) = going(world, &PERSISTENT_VOLUMES, key, VOLUME_PROTECTION) else {
        return Plan::nothing();
    };
    if held.value["status"]["phase"] == "Bound" {
        return Plan::nothing();
    }
    Plan::of(vec![without_finalizer(&PERSISTENT_VOLUMES, key, held, VOLUME_PROTECTION)])
}

/// An object that is being deleted and held by this finalizer.
fn going<'w>(world: &'w World, kind: &Kind, key: &Key, finalizer: &str) -> Option<&'w Held> {
    let held = world.get(kind, key)?;
    let waits = meta::is_terminating(&held.value) && meta::finalizers(&held.value).any(|f| f == finalizer);
    waits.then_some(held)
}
