//! Nodes.

use serde_json::{Value, json};

use super::*;

fn lease(seconds: i64) -> Value {
    json!({"spec": {"renewTime": ago(seconds)}})
}

#[test]
fn a_silent_node_is_told_with_its_taints() {
    let mut silent = node("node1", "Unknown");
    silent["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    let mut late = well("p");
    late["metadata"]["deletionTimestamp"] = json!(ago(60));
    let evidence = Evidence { lease: lease(240), pods: vec![late, well("q")], ..evidence(silent) };
    assert_eq!(
        Subject::Node.explain(&evidence).text(),
        "\
node node1 is not ready, for 3m20s; last heard of 4m ago
- its agent is not heard: is it running there, and does it reach the control plane's agent port?
    on the node: journalctl -u oarlock-agent
- Ready is Unknown: Kubelet stopped posting node status. (NodeStatusUnknown)
- its taint node.kubernetes.io/unreachable:NoExecute keeps pods away that do not tolerate it, and ends those that are there
- 1 pod has not ended in time
    kubectl oarlock why pod p -n d
"
    );
}

#[test]
fn a_node_that_takes_no_more_is_told_why() {
    let mut full = node("node1", "True");
    full["spec"]["unschedulable"] = json!(true);
    full["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        {"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
    full["status"]["conditions"].as_array_mut().unwrap().push(condition(
        "DiskPressure",
        "True",
        ("Full", "the disk is full"),
        10,
    ));
    let mut asks = well("p");
    asks["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1900m", "memory": "1Gi"}});
    let mut over = asks.clone();
    over["status"]["phase"] = json!("Succeeded");
    let usage = vec![json!({"usage": {"cpu": "1950m", "memory": "1Gi"}})];
    let evidence = Evidence { lease: lease(3), pods: vec![asks, over], usage, ..evidence(full) };
    assert_eq!(
        Subject::Node.explain(&evidence).text(),
        "\
node node1 is ready, for 3m20s; last heard of 3s ago
- it has DiskPressure, for 10s: the disk is full (Full)
- it is cordoned: no new pod comes to it
    kubectl uncordon node1
- its taint gpu=yes:NoSchedule keeps pods away that do not tolerate it
- its pods request 95 % of its 2 cpu: little more fits, whatever is really used
- 97 % of its cpu is really used: its pods are slow
"
    );
    let quiet = Evidence { lease: lease(3), ..super::evidence(node("node1", "True")) };
    assert_eq!(
        Subject::Node.explain(&quiet).text(),
        "node node1 is ready, for 3m20s; last heard of 3s ago\n"
    );
}
