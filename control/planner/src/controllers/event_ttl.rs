//! Events are kept for an hour after they were last seen.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{EVENTS, Kind};
use oarlock_api::meta;

use super::{Settings, own};
use crate::change::{Change, Plan};
use crate::world::{Key, World};

const TTL: i64 = 3600;

pub(super) fn affected(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    own(kind, &EVENTS, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&EVENTS, key) else { return Plan::nothing() };
    let times = [held.value["lastTimestamp"].as_str(), held.value["metadata"]["creationTimestamp"].as_str()];
    let Some(last) = times.into_iter().flatten().filter_map(meta::parse_time).next() else {
        return Plan::nothing();
    };
    let left = TTL - (now.as_second() - last.as_second());
    if left > 0 {
        return Plan::nothing().again(Duration::from_secs(u64::try_from(left).unwrap_or(1)));
    }
    Plan::of(vec![Change::Delete {
        kind: &EVENTS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: meta::uid(&held.value).to_owned(),
        grace: None,
    }])
}
