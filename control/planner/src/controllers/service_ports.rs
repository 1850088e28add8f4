//! Ports that no dataplane of ours carries: SCTP is accepted, as everywhere, and the user is told by an event and a condition
//! that nobody answers. The condition also remembers that it was said.

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, SERVICES};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Key, World};

const CONDITION: &str = "oarlock.io/PortsServed";
const REASON: &str = "ProtocolNotSupported";

pub(super) fn affected(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    own(kind, &SERVICES, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&SERVICES, key) else { return Plan::nothing() };
    let service = &*held.value;
    let wanted = refused(&service["spec"]).map(|ports| {
        format!("not served: {ports}; the dataplane of this version of Oarlock carries TCP and UDP")
    });
    let conditions = service["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let present = conditions.iter().find(|c| c["type"] == CONDITION);
    if present.map(|c| &c["message"]) == wanted.as_ref().map(|m| json!(m)).as_ref() {
        return Plan::nothing();
    }
    let others = conditions.iter().filter(|c| c["type"] != CONDITION).cloned();
    let said = wanted.as_ref().map(|message| {
        json!({
            "type": CONDITION, "status": "False", "reason": REASON, "message": message,
            "lastTransitionTime": meta::time(now),
        })
    });
    let all: Vec<Value> = others.chain(said).collect();
    let mut changes = vec![Change::Patch {
        kind: &SERVICES,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Status,
        patch: json!({
            "metadata": {"resourceVersion": held.revision.to_string()},
            "status": {"conditions": if all.is_empty() { Value::Null } else { json!(all) }},
        }),
    }];
    changes.extend(wanted.map(|message| Change::Event {
        about: EventAbout {
            kind: &SERVICES,
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: meta::uid(service).to_owned(),
        },
        kind: "Warning",
        reason: REASON,
        message,
        component: "service-controller",
    }));
    Plan::of(changes)
}

/// The ports that nobody carries, as `kubectl get` shows ports.
fn refused(spec: &Value) -> Option<String> {
    let ports = spec["ports"].as_array()?.iter().filter(|port| port["protocol"] == "SCTP");
    let shown: Vec<String> = ports.map(|port| format!("{}/SCTP", port["port"])).collect();
    (!shown.is_empty() && spec["type"] != "ExternalName").then(|| shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn sctp_is_announced_once_and_taken_back() {
        let mut service = json!({"metadata": {"name": "s", "uid": "u"},
            "spec": {"ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "SCTP"}]}});
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let key = ("d".to_owned(), "s".to_owned());
        let look = |service: &Value| {
            let mut world = World::default();
            world.put(&SERVICES, "d", "s", &Arc::new(service.clone()), 7);
            plan(&world, &settings, &key, Timestamp::UNIX_EPOCH).changes
        };
        let changes = look(&service);
        let [Change::Patch { part: Part::Status, patch, .. }, Change::Event { kind, message, .. }] =
            &changes[..]
        else {
            panic!("{changes:?}")
        };
        assert!(*kind == "Warning" && message.starts_with("not served: 81/SCTP;"), "{message}");
        service["status"] = patch["status"].clone();
        assert_eq!(look(&service), []);
        service["spec"]["ports"][1]["protocol"] = json!("UDP");
        let changes = look(&service);
        let [Change::Patch { patch, .. }] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(patch["status"]["conditions"], Value::Null);
    }
}
