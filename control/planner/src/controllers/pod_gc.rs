//! Pods that nobody will ever end: bound to a node that is gone, or deleted before they had one.

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS};

use super::{Settings, own};
use crate::change::{Change, Plan};
use crate::world::{Key, World};

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == NODES {
        return world.pods_on(&key.1).map(|(key, _)| key.clone()).collect();
    }
    own(kind, &PODS, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(pod) = world.pod(key) else { return Plan::nothing() };
    let homeless = pod.node.as_ref().is_some_and(|node| world.node(node).is_none());
    let unscheduled = pod.node.is_none() && pod.is_terminating() && pod.finalizers.is_empty();
    if !homeless && !unscheduled {
        return Plan::nothing();
    }
    Plan::of(vec![Change::Delete {
        kind: &PODS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: pod.uid.to_string(),
        grace: Some(0),
    }])
}
