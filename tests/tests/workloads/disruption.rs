//! Pods that have to go: off a node that is drained, as far as their budget allows, and from a full node for somebody who matters
//! more.

use oarlock_tests::cluster::{Cluster, wait};
use serde_json::{Value, json};

use super::{NAMES, SOON, becomes, rolled_out, why, words};

pub(super) fn a_drain_waits_for_a_budget(cluster: &Cluster) {
    let selector = json!({"matchLabels": {"app": "guarded"}});
    let template = json!({"metadata": {"labels": {"app": "guarded"}}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": "oarlock/web:0.1.0"}]}});
    let guarded = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "guarded"},
        "spec": {"replicas": 2, "selector": selector, "template": template}});
    apply(cluster, &[guarded]);
    cluster.kubectl("create poddisruptionbudget guarded --selector=app=guarded --min-available=2");
    rolled_out(cluster, "deployment/guarded");
    becomes(cluster, "pdb guarded", "{.status.currentHealthy} {.status.disruptionsAllowed}", &["0", "2"]);
    let pods = words(cluster, "pods -l app=guarded", NAMES);
    let node = words(cluster, &format!("pod {}", pods[0]), "{.spec.nodeName}").remove(0);

    let log = Cluster::folder().join("drain.log");
    let drain = format!("kubectl drain {node} --pod-selector=app=guarded --timeout=60s");
    let said = cluster.shell(&format!("{drain} >{} 2>&1 &", log.display()));
    assert!(said.well, "{}", said.text);
    wait("the budget holds the drain", SOON, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let refusal = "Cannot evict pod as it would violate the pod's disruption budget.";
        if said.contains(refusal) { Ok(()) } else { Err(said) }
    });
    assert_eq!(words(cluster, "pods -l app=guarded", NAMES), pods, "nobody has gone");
    assert!(cluster.kubectl(&format!("get node {node}")).contains("Ready,SchedulingDisabled"));
    let said = why(cluster, &format!("node {node}"));
    assert!(said.contains("is ready") && said.contains("- it is cordoned: no new pod comes to it"), "{said}");

    cluster.kubectl("patch pdb guarded -p '{\"spec\": {\"minAvailable\": 1}}'");
    wait("the drain ends", SOON, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains(&format!("node/{node} drained")) { Ok(()) } else { Err(said) }
    });
    rolled_out(cluster, "deployment/guarded");
    let nodes = words(cluster, "pods -l app=guarded", "{.items[*].spec.nodeName}");
    assert!(nodes.len() == 2 && !nodes.contains(&node), "{nodes:?}");
    let kept = words(cluster, "pods -l app=guarded", NAMES);
    assert!(!kept.contains(&pods[0]), "{kept:?}");
    cluster.kubectl(&format!("uncordon {node}"));
    cluster.kubectl("delete deployment/guarded pdb/guarded --wait=false");
}

pub(super) fn who_matters_more_gets_a_full_node(cluster: &Cluster) {
    let cores = words(cluster, "node node1", "{.status.allocatable.cpu}").remove(0);
    let cores: u32 = cores.parse().unwrap_or(1);
    // Two of them do not fit.
    let most = format!("{}m", cores * 600);
    let class = |name: &str, value: u32, policy: &str| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "preemptionPolicy": policy})
    };
    let pod = |name: &str, class: Option<&str>| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "priorityClassName": class, "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": "node1"},
            "containers": [{"name": "web", "image": "oarlock/web:0.1.0", "resources": {"requests": {"cpu": most}}}]}})
    };
    apply(cluster, &[class("urgent", 1000, "PreemptLowerPriority"), class("patient", 1000, "Never")]);
    apply(cluster, &[pod("ordinary", None)]);
    becomes(cluster, "pod ordinary", "{.status.phase}", &["Running"]);

    apply(cluster, &[pod("patient", Some("patient"))]);
    let why = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector. \
               preemption: not eligible due to preemptionPolicy=Never.";
    wait("who may displace nobody waits", SOON, || {
        let said = cluster.kubectl("get pod patient -o jsonpath='{.status.conditions[0].message}'");
        if said == why { Ok(()) } else { Err(said) }
    });
    cluster.kubectl("delete pod patient");

    apply(cluster, &[pod("urgent", Some("urgent"))]);
    becomes(cluster, "pod urgent", "{.status.phase} {.spec.nodeName}", &["Running", "node1"]);
    becomes(cluster, "pods ordinary --ignore-not-found", "{.metadata.name}", &[]);
    let uid = words(cluster, "pod urgent", "{.metadata.uid}").remove(0);
    let wanted = [
        ("ordinary", "Preempted", format!("Preempted by pod {uid} on node node1")),
        ("urgent", "Scheduled", "Successfully assigned default/urgent to node1".to_owned()),
    ];
    wait("events tell of it", SOON, || {
        let events = cluster.json("get events");
        let told = |(pod, reason, message): &(&str, &str, String)| {
            events["items"].as_array().into_iter().flatten().any(|event| {
                event["involvedObject"]["name"] == *pod
                    && event["reason"] == *reason
                    && event["message"] == *message
            })
        };
        if wanted.iter().all(told) { Ok(()) } else { Err(cluster.kubectl("get events")) }
    });
    cluster.kubectl("delete pod/urgent priorityclass/urgent priorityclass/patient --wait=false");
}

fn apply(cluster: &Cluster, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl(&format!("apply -f - <<'END'\n{list}\nEND"));
}
