//! What a namespace bounds: LimitRanges complete pods, ResourceQuotas refuse them in upstream's words, to people and to controllers.

use oarlock_tests::cluster::{Cluster, wait};
use serde_json::json;

use super::{SOON, becomes};

const OBJECTS: &str = "
apiVersion: v1
kind: LimitRange
metadata: {name: sizes}
spec: {limits: [{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, max: {cpu: 500m}}]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: few}
spec: {hard: {pods: 2, requests.cpu: 300m}}
";

pub(super) fn a_namespace_bounds_its_pods(cluster: &Cluster) {
    cluster.kubectl("create namespace bounded");
    cluster.kubectl(&format!("apply -n bounded -f - <<'END'{OBJECTS}END"));
    let limits = cluster.kubectl("describe limits sizes -n bounded");
    assert!(words_of(&limits).contains("Container cpu - 500m 100m 200m -"), "{limits}");
    cluster.kubectl("create deployment web -n bounded --image=oarlock/web:0.1.0 --replicas=3");
    becomes(cluster, "deployment web -n bounded", "{.status.readyReplicas}", &["2"]);
    let pods = cluster.json("get pods -n bounded");
    let completed = json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}});
    assert_eq!(pods["items"][0]["spec"]["containers"][0]["resources"], completed);

    let over = "is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2";
    let run = |name: &str, cpu: &str| {
        let resources = json!({"spec": {"containers": [{"name": name, "image": "oarlock/web:0.1.0", "resources": {"limits": {"cpu": cpu}}}]}});
        let with = format!("--image=oarlock/web:0.1.0 --overrides='{resources}'");
        let said = cluster.shell(&format!("kubectl run {name} -n bounded {with}"));
        assert!(!said.well, "{}", said.text);
        said.text.trim().to_owned()
    };
    assert_eq!(run("third", "50m"), format!("Error from server (Forbidden): pods \"third\" {over}"));
    assert_eq!(
        run("big", "2"),
        "Error from server (Forbidden): pods \"big\" is forbidden: maximum cpu usage per Container is 500m, but limit is 2"
    );
    wait("the controller says why a pod is missing", SOON, || {
        let said = cluster.kubectl("describe rs -n bounded");
        if said.contains("FailedCreate") && said.contains(over) { Ok(()) } else { Err(said) }
    });
    let failure = "{.status.conditions[?(@.type==\"ReplicaFailure\")].reason}";
    becomes(cluster, "deployment web -n bounded", failure, &["FailedCreate"]);
    let quota = words_of(&cluster.kubectl("describe quota few -n bounded"));
    assert!(quota.contains("pods 2 2") && quota.contains("requests.cpu 200m 300m"), "{quota}");

    // What is deleted is given back: to whoever waits for it.
    cluster.kubectl("patch quota few -n bounded -p '{\"spec\": {\"hard\": {\"pods\": \"3\"}}}'");
    becomes(cluster, "deployment web -n bounded", "{.status.readyReplicas}", &["3"]);
    cluster.kubectl("delete namespace bounded --timeout=60s");
}

/// Words with one space between them.
fn words_of(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
