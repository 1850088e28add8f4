//! Small families, collected step by step until nothing changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{CONFIG_MAPS, Kind, PODS};
use serde_json::{Value, json};

use super::super::{CONTROLLERS, Settings};
use super::{FOREGROUND, ORPHAN};
use crate::change::Change;
use crate::world::World;

const TIME: &str = "2026-01-01T00:00:00Z";

/// Objects by name; ConfigMaps but for those named `pod-...`.
struct Family(BTreeMap<String, Value>);

fn kind_of(name: &str) -> &'static Kind {
    if name.starts_with("pod") { &PODS } else { &CONFIG_MAPS }
}

fn owner(name: &str, blocks: bool) -> Value {
    let kind = kind_of(name);
    json!({"apiVersion": "v1", "kind": kind.kind, "name": name, "uid": name, "blockOwnerDeletion": blocks})
}

impl Family {
    /// Names with the names of their owners, whom they block.
    fn of(members: &[(&str, &[&str])]) -> Self {
        let member = |(name, owners): &(&str, &[&str])| {
            let owners: Vec<Value> = owners.iter().map(|name| owner(name, true)).collect();
            let object =
                json!({"metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": owners}});
            ((*name).to_owned(), object)
        };
        Self(members.iter().map(member).collect())
    }

    fn deleted(mut self, name: &str, finalizer: &str) -> Self {
        let metadata = &mut self.0.get_mut(name).unwrap()["metadata"];
        metadata["deletionTimestamp"] = json!(TIME);
        metadata["finalizers"] = json!([finalizer]);
        self
    }

    fn plan(&self, name: &str) -> Vec<Change> {
        let mut world = World::default();
        for (name, object) in &self.0 {
            world.put(kind_of(name), "d", name, &Arc::new(object.clone()), 1);
        }
        let controller = CONTROLLERS.iter().find(|c| c.name == "garbagecollector").unwrap();
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let key = (format!("/{}/d", kind_of(name).plural), name.to_owned());
        (controller.plan)(&world, &settings, &key, Timestamp::UNIX_EPOCH).changes
    }

    fn carry_out(&mut self, change: Change) -> String {
        match change {
            Change::Delete { name, .. } => {
                let object = self.0.get_mut(&name).unwrap();
                let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
                object["metadata"]["deletionTimestamp"] = json!(TIME);
                if held {
                    return format!("{name} ends");
                }
                self.0.remove(&name);
                format!("{name} goes")
            }
            Change::Patch { name, patch, .. } => {
                let object = self.0.get_mut(&name).unwrap();
                let field = if patch["metadata"].get("finalizers").is_some() {
                    "finalizers"
                } else {
                    "ownerReferences"
                };
                object["metadata"][field] = patch["metadata"][field].clone();
                if field == "ownerReferences" {
                    return format!("{name} has other owners");
                }
                let free = object["metadata"]["finalizers"].is_null();
                if free && object["metadata"].get("deletionTimestamp").is_some() {
                    self.0.remove(&name);
                    return format!("{name} goes");
                }
                format!("{name} will wait")
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everybody's turn, by name, until nothing is left to do.
    fn collect(&mut self) -> String {
        let mut done = Vec::new();
        for _ in 0..20 {
            let before = done.len();
            for name in self.0.keys().cloned().collect::<Vec<_>>() {
                if self.0.contains_key(&name) {
                    for change in self.plan(&name) {
                        done.push(self.carry_out(change));
                    }
                }
            }
            if done.len() == before {
                return done.join(", ");
            }
        }
        panic!("no end: {done:?}");
    }

    fn left(&self) -> String {
        self.0.keys().cloned().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn who_is_deleted_in_the_foreground_goes_last() {
    let mut family = Family::of(&[("a", &[]), ("b", &["a"]), ("pod", &["b"])]).deleted("a", FOREGROUND);
    assert_eq!(family.collect(), "b will wait, b ends, pod goes, b goes, a goes");
}

#[test]
fn owners_in_a_circle_do_not_wait_for_each_other() {
    for members in [
        &[("a", &["b"][..]), ("b", &["a"])][..],
        &[("a", &["c"]), ("b", &["a"]), ("c", &["b"])],
        &[("a", &["a"])],
    ] {
        let mut family = Family::of(members).deleted("a", FOREGROUND);
        let done = family.collect();
        assert_eq!(family.left(), "", "{done}");
        let mut all = Family::of(members);
        for (name, _) in members {
            all = all.deleted(name, FOREGROUND);
        }
        let done = all.collect();
        assert_eq!(all.left(), "", "all are deleted at once: {done}");
    }
}

#[test]
fn who_has_another_owner_stays_and_holds_nobody() {
    let mut family = Family::of(&[("a", &[]), ("b", &[]), ("pod", &["a", "b"])]).deleted("a", FOREGROUND);
    assert_eq!(family.collect(), "pod has other owners, a goes");
    assert_eq!(family.0["pod"]["metadata"]["ownerReferences"], json!([owner("b", true)]));
}

#[test]
fn who_does_not_block_is_not_waited_for() {
    let mut family = Family::of(&[("a", &[]), ("b", &["a"])]).deleted("a", FOREGROUND);
    let metadata = &mut family.0.get_mut("b").unwrap()["metadata"];
    metadata["ownerReferences"][0]["blockOwnerDeletion"] = json!(false);
    metadata["finalizers"] = json!(["x.io/held"]);
    assert_eq!(family.collect().split(", ").next(), Some("a goes"));
}

#[test]
fn orphans_keep_their_other_owners() {
    let mut family =
        Family::of(&[("a", &[]), ("b", &[]), ("c", &["a"]), ("pod-1", &["a"]), ("pod-2", &["a", "b"])]);
    family = family.deleted("a", ORPHAN);
    assert_eq!(
        family.collect(),
        "c has other owners, pod-1 has other owners, pod-2 has other owners, a goes"
    );
    assert_eq!(family.left(), "b c pod-1 pod-2");
    assert_eq!(family.0["pod-2"]["metadata"]["ownerReferences"], json!([owner("b", true)]));
}

#[test]
fn owners_of_kinds_that_are_not_kept_here_are_let_be() {
    let mut family = Family::of(&[("pod-1", &["gone"]), ("pod-2", &["gone"])]);
    family.0.get_mut("pod-1").unwrap()["metadata"]["ownerReferences"][0]["apiVersion"] =
        json!("example.com/v1");
    assert_eq!(family.collect(), "pod-2 goes");
}

#[test]
fn an_owner_of_another_namespace_is_none() {
    let mut family = Family::of(&[("a", &[]), ("b", &["a"])]);
    let mut world = World::default();
    world.put(&CONFIG_MAPS, "other", "a", &Arc::new(family.0.remove("a").unwrap()), 1);
    world.put(&CONFIG_MAPS, "d", "b", &Arc::new(family.0.remove("b").unwrap()), 1);
    let controller = CONTROLLERS.iter().find(|c| c.name == "garbagecollector").unwrap();
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    let key = ("/configmaps/d".to_owned(), "b".to_owned());
    let changes = (controller.plan)(&world, &settings, &key, Timestamp::UNIX_EPOCH).changes;
    assert!(matches!(&changes[..], [Change::Delete { .. }]), "{changes:?}");
}

/// What a change of an object touches, told by names.
fn touched(world: &World, name: &str) -> Vec<String> {
    let controller = CONTROLLERS.iter().find(|c| c.name == "garbagecollector").unwrap();
    let keys = (controller.affected)(world, kind_of(name), &("d".to_owned(), name.to_owned()));
    let mut names: Vec<String> = keys.into_iter().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn what_changes_while_all_its_owners_live_costs_no_plan_and_what_they_leave_behind_is_looked_at() {
    let family = Family::of(&[("owner", &[]), ("pod-a", &["owner"]), ("b", &["owner", "pod-a"])]);
    let mut world = World::default();
    let put = |world: &mut World, name: &str, object: &Value| {
        world.put(kind_of(name), "d", name, &Arc::new(object.clone()), 1);
    };
    for (name, object) in &family.0 {
        put(&mut world, name, object);
    }
    for name in ["owner", "pod-a", "b"] {
        put(&mut world, name, &family.0[name]);
        assert!(touched(&world, name).is_empty(), "{name}");
    }
    let family = family.deleted("owner", FOREGROUND);
    put(&mut world, "owner", &family.0["owner"]);
    assert_eq!(touched(&world, "owner"), ["b", "owner", "pod-a"]);
    assert_eq!(touched(&world, "pod-a"), ["owner", "pod-a"], "it may be what the owner waits for");
    world.delete(&CONFIG_MAPS, "d", "owner", 2);
    assert_eq!(touched(&world, "owner"), ["b", "pod-a"]);
    assert_eq!(touched(&world, "b"), ["b"]);
    world.delete(&PODS, "d", "pod-a", 3);
    assert_eq!(touched(&world, "pod-a"), ["b"]);
    assert!(touched(&world, "owner").is_empty(), "that was before");
}

#[test]
fn what_another_of_the_same_name_has_replaced_has_left_its_own_behind() {
    let family = Family::of(&[("owner", &[]), ("b", &["owner"])]);
    let mut world = World::default();
    for (name, object) in &family.0 {
        world.put(kind_of(name), "d", name, &Arc::new(object.clone()), 1);
    }
    let mut another = family.0["owner"].clone();
    another["metadata"]["uid"] = json!("another");
    world.put(&CONFIG_MAPS, "d", "owner", &Arc::new(another), 2);
    assert_eq!(touched(&world, "owner"), ["b"]);
}
