//! Autoscalers on what pods really use: `kubectl top`, up under load and down again, what `describe` says of it. The steps are
//! apart, as measuring takes its time: other things are looked at in between.

use oarlock_tests::cluster::{Cluster, wait};

use super::{SOON, becomes};

const REPLICAS: &str = "{.spec.replicas}";

/// One pod begins to work; nobody of another Deployment does.
pub(super) fn a_pod_begins_to_work(cluster: &Cluster) {
    cluster.kubectl("apply -f manifests/scaling/");
    cluster.kubectl("-n scaling autoscale deployment calm --cpu-percent=50 --min=2 --max=4");
    cluster.kubectl("-n scaling rollout status deployment/busy --timeout=60s");
    cluster.kubectl("-n scaling exec deploy/busy -- touch /tmp/busy");
}

/// Shown what is used, and the working pod has been given company.
pub(super) fn a_deployment_grows_under_load(cluster: &Cluster) {
    wait("the Deployment has grown", SOON * 2, || {
        let replicas = cluster.kubectl(&format!("-n scaling get deployment busy -o jsonpath='{REPLICAS}'"));
        if replicas == "3" { Ok(()) } else { Err(cluster.kubectl("-n scaling describe hpa busy")) }
    });
    cluster.kubectl("-n scaling rollout status deployment/busy --timeout=60s");
    said(
        cluster,
        "busy",
        &["New size: 3; reason: cpu resource utilization (percentage of request) above target"],
    );
    said(cluster, "calm", &["New size: 2; reason: Current number of replicas below Spec.MinReplicas"]);
    becomes(cluster, "-n scaling deployment calm", REPLICAS, &["2"]);

    let nodes = top(cluster, "node");
    assert!(nodes.len() == 2 && nodes.iter().all(|row| row.len() == 5), "{nodes:?}");
    let containers = top(cluster, "pod -n scaling --containers -l app=busy");
    let used: Vec<u32> = containers.iter().map(|row| milli(&row[2])).collect();
    assert!(containers.iter().all(|row| row[1] == "worker"), "{containers:?}");
    // Its limit is 100m; what is measured is of ten seconds.
    assert!(used.iter().any(|milli| (60..=130).contains(milli)), "{containers:?}");
    let sorted = top(cluster, "pod -n scaling --sort-by=cpu");
    assert!(sorted[0][0].starts_with("busy-") && sorted.len() >= 3, "{sorted:?}");
    cluster.kubectl(
        "-n scaling get pods -l app=busy -o name | xargs -I{} kubectl -n scaling exec {} -- rm -f /tmp/busy",
    );
}

/// Nobody works any more.
pub(super) fn a_deployment_shrinks_again(cluster: &Cluster) {
    wait("the Deployment has shrunk", SOON * 2, || {
        let replicas = cluster.kubectl(&format!("-n scaling get deployment busy -o jsonpath='{REPLICAS}'"));
        if replicas == "1" { Ok(()) } else { Err(cluster.kubectl("-n scaling describe hpa busy")) }
    });
    said(
        cluster,
        "busy",
        &[
            "New size: 1; reason: All metrics below target",
            "SuccessfulRescale",
            "AbleToScale     True",
            "ScalingActive   True    ValidMetricFound",
            "resource cpu on pods  (as a percentage of request):",
        ],
    );
    let rows = cluster.kubectl("-n scaling get hpa");
    for row in ["Deployment/busy", "%/80%", "Deployment/calm", "%/50%"] {
        assert!(rows.contains(row), "{row}: {rows}");
    }
    assert!(!rows.contains("<unknown>"), "{rows}");
    cluster.kubectl("delete -f manifests/scaling/ --wait=false");
}

/// What `describe` of an autoscaler contains, soon: events come after what they tell of.
fn said(cluster: &Cluster, name: &str, wanted: &[&str]) {
    wait(&format!("the autoscaler {name} says {wanted:?}"), SOON, || {
        let described = cluster.kubectl(&format!("-n scaling describe hpa {name}"));
        if wanted.iter().all(|words| described.contains(words)) { Ok(()) } else { Err(described) }
    });
}

/// The rows of `kubectl top` without a header, word by word.
fn top(cluster: &Cluster, what: &str) -> Vec<Vec<String>> {
    let said = cluster.kubectl(&format!("top {what} --no-headers"));
    said.lines().map(|row| row.split_whitespace().map(str::to_owned).collect()).collect()
}

fn milli(cpu: &str) -> u32 {
    cpu.strip_suffix('m').and_then(|milli| milli.parse().ok()).unwrap_or_default()
}
