//! Golden plans: what is planned for a StatefulSet and its pods, as text.

mod claims;

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use oarlock_api::defaults;
use serde_json::{Value, json};

use super::super::{CONTROLLERS, Settings};
use crate::change::{Change, Plan};
use crate::world::World;

const NOW: &str = "2026-01-01T00:01:00Z";

/// A set in a world, with a revision for each image that it has had: `r1`, `r2`, ...
struct Case {
    set: Value,
    revisions: Vec<Value>,
    pods: Vec<Value>,
    claims: Vec<Value>,
    now: Timestamp,
}

impl Case {
    fn new(spec: Value) -> Self {
        let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "serviceName": "nginx", "replicas": 3, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        for (field, value) in spec.as_object().unwrap() {
            set["spec"][field] = value.clone();
        }
        defaults::apply(&STATEFUL_SETS, &mut set);
        let mut case = Self {
            set,
            revisions: Vec::new(),
            pods: Vec::new(),
            claims: Vec::new(),
            now: NOW.parse().unwrap(),
        };
        case.revise();
        case.set["status"] = json!({"currentRevision": case.revision(1)});
        case
    }

    /// The next image, and its revision.
    fn updated(mut self) -> Self {
        let image = format!("i:{}", self.revisions.len() + 1);
        self.set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        self.revise();
        self
    }

    fn revise(&mut self) {
        let plan = self.plan();
        let made = plan.changes.into_iter().find_map(|change| match change {
            Change::Create { kind, mut object, .. } if *kind == CONTROLLER_REVISIONS => {
                object["metadata"]["uid"] = object["metadata"]["name"].clone();
                Some(object)
            }
            _ => None,
        });
        self.revisions.extend(made);
    }

    fn revision(&self, number: usize) -> String {
        self.revisions[number - 1]["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// A pod of a revision: `ready`, `broken`, `ending`, `Failed`, `Succeeded`, `fresh` (ready since three seconds).
    fn pod(mut self, ordinal: i64, revision: usize, is: &str) -> Self {
        let name = format!("web-{ordinal}");
        let ready = matches!(is, "ready" | "ending" | "fresh");
        let since = if is == "fresh" { "2026-01-01T00:00:57Z" } else { "2026-01-01T00:00:00Z" };
        let phase = if matches!(is, "Failed" | "Succeeded") { is } else { "Running" };
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": [{"uid": "u", "controller": true}],
                "labels": {"app": "web", "controller-revision-hash": self.revision(revision),
                    "statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": ordinal.to_string()}},
            "spec": {"nodeName": "n"},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": since}]}});
        if is == "ending" {
            pod["metadata"]["deletionTimestamp"] = json!(NOW);
        }
        self.pods.push(pod);
        self
    }

    fn plan(&self) -> Plan {
        let mut world = World::default();
        world.put(&STATEFUL_SETS, "d", "web", &Arc::new(self.set.clone()), 1);
        for (kind, objects) in [
            (&CONTROLLER_REVISIONS, &self.revisions),
            (&PERSISTENT_VOLUME_CLAIMS, &self.claims),
            (&PODS, &self.pods),
        ] {
            for object in objects {
                let name = object["metadata"]["name"].as_str().unwrap();
                world.put(kind, "d", name, &Arc::new(object.clone()), 2);
            }
        }
        let controller = CONTROLLERS.iter().find(|c| c.name == "statefulset").unwrap();
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        (controller.plan)(&world, &settings, &("d".to_owned(), "web".to_owned()), self.now)
    }

    /// What is done to pods and revisions, one a line.
    fn does(&self) -> String {
        let mut text = String::new();
        for change in self.plan().changes {
            let _ = match change {
                Change::Create { object, .. } => {
                    let (metadata, image) = (&object["metadata"], &object["spec"]["containers"][0]["image"]);
                    let name = metadata["name"].as_str().unwrap();
                    writeln!(text, "create {name} {}", image.as_str().unwrap_or("revision"))
                }
                Change::Delete { name, .. } => writeln!(text, "delete {name}"),
                Change::Patch { kind, name, patch, .. } if *kind != STATEFUL_SETS => {
                    writeln!(text, "patch {name} {patch}")
                }
                Change::Event { kind, reason, message, .. } => writeln!(text, "{kind} {reason}: {message}"),
                _ => Ok(()),
            };
        }
        for (i, revision) in self.revisions.iter().enumerate() {
            text = text.replace(revision["metadata"]["name"].as_str().unwrap(), &format!("r{}", i + 1));
        }
        text.trim_end().to_owned()
    }

    fn status(&self) -> Value {
        let status = self.plan().changes.into_iter().find_map(|change| match change {
            Change::Patch { kind, patch, .. } if *kind == STATEFUL_SETS => Some(patch["status"].clone()),
            _ => None,
        });
        let mut text = status.unwrap_or(Value::Null).to_string();
        for (i, revision) in self.revisions.iter().enumerate() {
            text = text.replace(revision["metadata"]["name"].as_str().unwrap(), &format!("r{}", i + 1));
        }
        serde_json::from_str(&text).unwrap()
    }
}

fn parallel() -> Value {
    json!({"podManagementPolicy": "Parallel"})
}

#[test]
fn a_pod_has_a_name_a_host_name_and_a_domain_that_stay() {
    let case = Case::new(json!({"ordinals": {"start": 5}}));
    let plan = case.plan();
    let Some(Change::Create { object, .. }) = plan.changes.first() else { panic!("{plan:?}") };
    similar_asserts::assert_eq!(
        object["metadata"],
        json!({"generateName": "web-", "name": "web-5",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true, "blockOwnerDeletion": true}],
            "labels": {"app": "web", "controller-revision-hash": case.revision(1),
                "statefulset.kubernetes.io/pod-name": "web-5", "apps.kubernetes.io/pod-index": "5"}})
    );
    assert_eq!(
        (&object["spec"]["hostname"], &object["spec"]["subdomain"]),
        (&json!("web-5"), &json!("nginx"))
    );
}

#[test]
fn pods_are_made_one_after_another_when_those_before_are_ready() {
    let new = || Case::new(json!({}));
    assert_eq!(new().does(), "create web-0 i:1");
    assert_eq!(new().pod(0, 1, "broken").does(), "");
    assert_eq!(new().pod(0, 1, "ready").does(), "create web-1 i:1");
    assert_eq!(new().pod(0, 1, "ready").pod(2, 1, "ready").does(), "create web-1 i:1");
    assert_eq!(new().pod(0, 1, "ending").pod(1, 1, "ready").does(), "", "one that ends is waited for");
}

#[test]
fn in_parallel_nobody_waits() {
    let new = || Case::new(parallel());
    assert_eq!(new().does(), "create web-0 i:1\ncreate web-1 i:1\ncreate web-2 i:1");
    assert_eq!(new().pod(0, 1, "broken").pod(1, 1, "ending").does(), "create web-2 i:1");
    let deleted = |n| {
        format!("delete web-{n}\nNormal SuccessfulDelete: delete Pod web-{n} in StatefulSet web successful")
    };
    let large = Case::new(json!({"podManagementPolicy": "Parallel", "replicas": 0}));
    let large = large.pod(0, 1, "broken").pod(1, 1, "ready");
    assert_eq!(large.does(), format!("{}\n{}", deleted(1), deleted(0)));
}

#[test]
fn what_is_beyond_goes_from_the_top_when_all_below_are_ready() {
    let large = || Case::new(json!({"replicas": 1})).pod(0, 1, "ready");
    let deletes = |n| {
        format!("delete web-{n}\nNormal SuccessfulDelete: delete Pod web-{n} in StatefulSet web successful")
    };
    assert_eq!(large().pod(1, 1, "ready").pod(2, 1, "ready").does(), deletes(2));
    assert_eq!(large().pod(1, 1, "ready").pod(2, 1, "ending").does(), "");
    assert_eq!(large().pod(1, 1, "ready").pod(2, 1, "broken").does(), deletes(2), "the only broken one");
    assert_eq!(large().pod(1, 1, "broken").pod(2, 1, "broken").does(), "", "a broken one below holds it");
    let broken = Case::new(json!({"replicas": 1})).pod(0, 1, "broken").pod(1, 1, "ready");
    assert_eq!(broken.does(), "");
    // A later start: what is below the range goes, too.
    let moved = Case::new(json!({"replicas": 1, "ordinals": {"start": 2}}));
    assert_eq!(moved.pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 1, "ready").does(), deletes(1));
}

#[test]
fn a_pod_that_has_ended_is_made_anew() {
    assert_eq!(
        Case::new(json!({})).pod(0, 1, "Failed").does(),
        "Warning RecreatingFailedPod: StatefulSet d/web is recreating failed Pod web-0\n\
         delete web-0\nNormal SuccessfulDelete: delete Pod web-0 in StatefulSet web successful"
    );
    assert_eq!(
        Case::new(json!({})).pod(0, 1, "Succeeded").does().lines().next(),
        Some("Normal RecreatingTerminatedPod: StatefulSet d/web is recreating terminated Pod web-0")
    );
}

#[test]
fn an_update_goes_from_the_top_one_after_another() {
    let new = || Case::new(json!({})).updated();
    let deletes = |n| {
        format!("delete web-{n}\nNormal SuccessfulDelete: delete Pod web-{n} in StatefulSet web successful")
    };
    assert_eq!(new().pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 1, "ready").does(), deletes(2));
    assert_eq!(new().pod(0, 1, "ready").pod(1, 1, "ready").does(), "create web-2 i:2");
    assert_eq!(new().pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 2, "broken").does(), "");
    assert_eq!(new().pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 2, "ready").does(), deletes(1));
}

#[test]
fn a_partition_keeps_those_below_as_they_were() {
    let new = || {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
        Case::new(json!({"updateStrategy": rolling})).updated()
    };
    assert_eq!(new().does(), "create web-0 i:1", "also when they are made anew");
    assert_eq!(new().pod(0, 1, "ready").pod(1, 1, "ready").does(), "create web-2 i:2");
    let held = new().pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 2, "ready");
    assert_eq!(held.does(), "");
    let status = held.status();
    assert_eq!((&status["currentReplicas"], &status["updatedReplicas"]), (&json!(2), &json!(1)));
    assert_eq!((&status["currentRevision"], &status["updateRevision"]), (&json!("r1"), &json!("r2")));
}

#[test]
fn several_go_at_a_time_where_the_strategy_says_so() {
    let new = || {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
        Case::new(json!({"podManagementPolicy": "Parallel", "updateStrategy": rolling})).updated()
    };
    let deleted =
        |case: Case| case.does().lines().filter(|l| l.starts_with("delete")).collect::<Vec<_>>().join(", ");
    let all = |zero: &str| new().pod(0, 1, zero).pod(1, 1, "ready").pod(2, 1, "ready");
    assert_eq!(deleted(all("ready")), "delete web-2, delete web-1");
    assert_eq!(deleted(all("broken")), "delete web-2, delete web-0", "what serves nobody costs nothing");
    assert_eq!(deleted(all("ending")), "delete web-2");
}

#[test]
fn on_delete_waits_for_the_user_and_makes_the_newest() {
    let new = || Case::new(json!({"updateStrategy": {"type": "OnDelete"}})).updated();
    assert_eq!(new().pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 1, "ready").does(), "");
    assert_eq!(new().pod(1, 1, "ready").pod(2, 1, "ready").does(), "create web-0 i:2");
}

#[test]
fn min_ready_seconds_are_waited_for() {
    let new = || Case::new(json!({"minReadySeconds": 10}));
    let fresh = new().pod(0, 1, "fresh");
    assert_eq!((fresh.does().as_str(), fresh.plan().again.map(|d| d.as_secs())), ("", Some(1)));
    assert_eq!(
        (&fresh.status()["readyReplicas"], &fresh.status()["availableReplicas"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(new().pod(0, 1, "ready").does(), "create web-1 i:1");
}

#[test]
fn the_status_is_as_upstream_writes_it() {
    let fields = |case: Case| case.status().to_string();
    assert_eq!(
        fields(Case::new(json!({}))),
        r#"{"observedGeneration":1,"replicas":0,"readyReplicas":null,"currentReplicas":null,"updatedReplicas":null,"currentRevision":"r1","updateRevision":"r1","collisionCount":0,"availableReplicas":0}"#
    );
    let done = Case::new(json!({})).updated().pod(0, 2, "ready").pod(1, 2, "ready").pod(2, 2, "ready");
    assert_eq!(
        fields(done),
        r#"{"observedGeneration":1,"replicas":3,"readyReplicas":3,"currentReplicas":3,"updatedReplicas":3,"currentRevision":"r2","updateRevision":"r2","collisionCount":0,"availableReplicas":3}"#
    );
}

#[test]
fn revisions_beyond_the_limit_go_but_for_those_in_use() {
    let case = Case::new(json!({"revisionHistoryLimit": 1})).updated().updated().updated().updated();
    let case = case.pod(0, 3, "broken");
    // r1: current, r3: a pod's, r5: wanted; of r2 and r4 one is kept.
    assert_eq!(case.does(), "delete r2");
}

#[test]
fn an_older_template_is_the_newest_revision_again() {
    let mut case = Case::new(json!({})).updated().pod(0, 2, "broken");
    case.set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:1");
    assert_eq!(case.does(), r#"patch r1 {"metadata":{"resourceVersion":"2"},"revision":3}"#);
}

#[test]
fn what_was_left_by_a_deleted_set_is_taken_in_as_it_is() {
    let mut case = Case::new(json!({})).pod(0, 1, "ready").pod(1, 1, "ready").pod(2, 1, "ready");
    case.set["status"] = json!({});
    for object in case.revisions.iter_mut().chain(&mut case.pods) {
        object["metadata"]["ownerReferences"] = Value::Null;
    }
    let said = case.does();
    let patched: Vec<&str> = said.lines().map(|l| l.split(" {").next().unwrap()).collect();
    assert_eq!(patched, ["patch web-0", "patch web-1", "patch web-2", "patch r1"]);
    for object in case.revisions.iter_mut().chain(&mut case.pods) {
        object["metadata"]["ownerReferences"] = json!([{"uid": "u", "controller": true}]);
    }
    assert_eq!(case.does(), "", "nothing restarts");
}

#[test]
fn a_pod_that_does_not_say_which_it_is_is_told() {
    let mut case = Case::new(json!({"replicas": 1})).pod(0, 1, "ready");
    case.pods[0]["metadata"]["labels"].as_object_mut().unwrap().shift_remove("apps.kubernetes.io/pod-index");
    let labels = r#"{"statefulset.kubernetes.io/pod-name":"web-0","apps.kubernetes.io/pod-index":"0"}"#;
    assert_eq!(case.does(), format!(r#"patch web-0 {{"metadata":{{"labels":{labels}}}}}"#));
}

#[test]
fn somebody_elses_pod_of_that_name_is_waited_for() {
    let mut case = Case::new(json!({})).pod(0, 1, "ready");
    case.pods[0]["metadata"]["ownerReferences"] = json!([{"uid": "other", "controller": true}]);
    assert_eq!(case.does(), "");
}
