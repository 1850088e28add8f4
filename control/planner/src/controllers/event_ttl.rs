//! Events are kept for an hour after they were last seen or written.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{EVENTS, Kind};

use super::Settings;
use crate::change::{Change, Plan};
use crate::world::{Key, World};

const TTL: i64 = 3600;
/// Events removed in one go.
const BURST: usize = 500;

/// One key for all: an event of its own in the queue would take more than what it is.
pub(super) fn affected(_: &World, kind: &'static Kind, _: &Key) -> Vec<Key> {
    if *kind == EVENTS { vec![Key::default()] } else { Vec::new() }
}

pub(super) fn plan(world: &World, _: &Settings, _: &Key, now: Timestamp) -> Plan {
    let over = now.as_second() - TTL;
    let old = world.events().by_age().take_while(|(last, ..)| *last <= over).take(BURST);
    let deletes: Vec<Change> = old
        .map(|(_, (namespace, name), uid)| Change::Delete {
            kind: &EVENTS,
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.to_owned(),
            grace: None,
        })
        .collect();
    // Their removal has this looked at again.
    if !deletes.is_empty() {
        return Plan::of(deletes);
    }
    match world.events().by_age().next() {
        Some((last, ..)) => {
            Plan::nothing().again(Duration::from_secs(u64::try_from(last - over).unwrap_or(1).max(1)))
        }
        None => Plan::nothing(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn plan_at(world: &World, second: i64) -> (Vec<String>, Option<Duration>) {
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let plan = plan(world, &settings, &Key::default(), at(second));
        let name = |change: &Change| match change {
            Change::Delete { name, uid, .. } => format!("{name} {uid}"),
            other => panic!("{other:?}"),
        };
        (plan.changes.iter().map(name).collect(), plan.again)
    }

    #[test]
    fn the_old_go_and_it_is_looked_again_when_the_next_is() {
        let mut world = World::default();
        assert_eq!(plan_at(&world, 0), (vec![], None));
        for (name, last) in [("a", 0), ("b", 10), ("c", 100)] {
            let time = at(last).to_string();
            let event =
                json!({"metadata": {"name": name, "uid": format!("of-{name}")}, "lastTimestamp": time});
            world.put(&EVENTS, "d", name, &Arc::new(event), 1);
        }
        assert_eq!(plan_at(&world, 3_590), (vec![], Some(Duration::from_secs(10))));
        assert_eq!(plan_at(&world, 3_610), (vec!["a of-a".to_owned(), "b of-b".to_owned()], None));
        world.delete(&EVENTS, "d", "a", 2);
        world.delete(&EVENTS, "d", "b", 3);
        assert_eq!(plan_at(&world, 3_610), (vec![], Some(Duration::from_secs(90))));
    }
}
