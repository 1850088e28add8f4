//! What every namespace has: the ServiceAccount `default` and the ConfigMap with the cluster's CA.

use jiff::Timestamp;
use oarlock_api::catalogue::{CONFIG_MAPS, Kind, NAMESPACES, SERVICE_ACCOUNTS};
use oarlock_api::meta;
use serde_json::json;

use super::Settings;
use crate::change::{Change, Part, Plan};
use crate::world::{Key, World};

const ACCOUNT: &str = "default";
const CA_CONFIG_MAP: &str = "kube-root-ca.crt";

pub(super) fn affected(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    let ours =
        (*kind == SERVICE_ACCOUNTS && key.1 == ACCOUNT) || (*kind == CONFIG_MAPS && key.1 == CA_CONFIG_MAP);
    if *kind == NAMESPACES {
        vec![key.clone()]
    } else if ours {
        vec![(String::new(), key.0.clone())]
    } else {
        Vec::new()
    }
}

pub(super) fn plan(world: &World, settings: &Settings, key: &Key, _: Timestamp) -> Plan {
    let namespace = &key.1;
    if world.get(&NAMESPACES, key).is_none_or(|n| meta::is_terminating(&n.value)) {
        return Plan::nothing();
    }
    let mut changes = Vec::new();
    if world.get(&SERVICE_ACCOUNTS, &(namespace.clone(), ACCOUNT.to_owned())).is_none() {
        let object = json!({"metadata": {"name": ACCOUNT}});
        changes.push(Change::Create { kind: &SERVICE_ACCOUNTS, namespace: namespace.clone(), object });
    }
    let data = json!({"ca.crt": settings.ca_pem});
    match world.get(&CONFIG_MAPS, &(namespace.clone(), CA_CONFIG_MAP.to_owned())) {
        None => {
            let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
                as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
                Kubernetes clusters.";
            let object = json!({
                "metadata": {"name": CA_CONFIG_MAP, "annotations": {"kubernetes.io/description": why}}, "data": data,
            });
            changes.push(Change::Create { kind: &CONFIG_MAPS, namespace: namespace.clone(), object });
        }
        Some(held) if held.value["data"] != data => changes.push(Change::Patch {
            kind: &CONFIG_MAPS,
            namespace: namespace.clone(),
            name: CA_CONFIG_MAP.to_owned(),
            part: Part::Main,
            patch: json!({"data": data}),
        }),
        Some(_) => {}
    }
    Plan::of(changes)
}
