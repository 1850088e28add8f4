//! Autoscalers on metrics that a pod serves: an API of its own over TLS, which the control plane hands requests on to, and asks itself.

#![expect(clippy::unwrap_used, reason = "steps of a test panic, as tests do")]

use std::path::PathBuf;

use base64::Engine as _;
use oarlock_daemon::pki::Ca;
use oarlock_tests::cluster::{Cluster, shell, wait};
use serde_json::{Value, json};

use super::{SOON, becomes};

const ADAPTER: &str = env!("CARGO_BIN_EXE_adapter");
const CUSTOM: &str = "v1beta2.custom.metrics.k8s.io";
const EXTERNAL: &str = "v1beta1.external.metrics.k8s.io";
const REPLICAS: &str = "{.spec.replicas}";

/// Where the adapter's program, its certificates and its values are, for the pod as for us.
fn folder() -> PathBuf {
    Cluster::folder().join("adapter")
}

fn measure(metric: &str, value: &str) {
    std::fs::write(folder().join(metric), value).unwrap();
}

/// An adapter answers for two groups, and an autoscaler watches a queue by both.
pub(super) fn a_pod_answers_for_an_api(cluster: &Cluster) {
    let ca = prepare(cluster);
    let bundle = base64::engine::general_purpose::STANDARD.encode(ca.certificate_pem());
    let service = |name: &str| {
        let (version, group) = name.split_once('.').unwrap();
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100, "caBundle": bundle,
                "service": {"namespace": "metrics", "name": "adapter"}}})
    };
    apply(cluster, &[service(CUSTOM), service(EXTERNAL)]);
    let row = |name: &str| {
        let said = cluster.kubectl(&format!("get apiservice {name} --no-headers"));
        said.split_whitespace().skip(1).take(3).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    wait("the API has no Service", SOON, || match row(CUSTOM) {
        row if row == "metrics/adapter False (ServiceNotFound)" => Ok(()),
        other => Err(other),
    });
    assert!(row("v1.apps").starts_with("Local True"), "{}", row("v1.apps"));
    apply(cluster, &objects());
}

/// What the adapter needs: its program with its libraries, a certificate, and who may speak for others.
fn prepare(cluster: &Cluster) -> Ca {
    let folder = folder();
    std::fs::create_dir_all(&folder).unwrap();
    let to = folder.display();
    let copied = shell(&format!(
        "cp {ADAPTER} {to}/adapter && cp $(ldd {ADAPTER} | grep -o '/[^ ]*') {to}/ && \
         ln -sf $(ldd {ADAPTER} | grep -o '/[^ ]*ld-linux[^ ]*' | xargs basename) {to}/ld.so"
    ));
    assert!(copied.well, "{}", copied.text);
    let ca = Ca::load_or_create_as(&folder, "adapter-ca").unwrap();
    let own = ca.issue_server("adapter", &["adapter.metrics.svc".to_owned()]).unwrap();
    std::fs::write(folder.join("adapter.crt"), &own.certificate_pem).unwrap();
    std::fs::write(folder.join("adapter.key"), &own.key_pem).unwrap();
    cluster.kubectl("create namespace metrics");
    let trust = cluster.json("-n kube-system get configmap extension-apiserver-authentication");
    assert_eq!(trust["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    let front = trust["data"]["requestheader-client-ca-file"].as_str().unwrap();
    std::fs::write(folder.join("front-proxy-ca.crt"), front).unwrap();
    measure("rate", "10");
    measure("depth", "5");
    ca
}

fn apply(cluster: &Cluster, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl(&format!("apply -f - <<'END'\n{list}\nEND\n"));
}

fn objects() -> [Value; 4] {
    let metadata = |name: &str| json!({"name": name, "namespace": "metrics"});
    let pod = |name: &str, container: Value, volumes: Value| {
        json!({"metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes}})
    };
    let image = "oarlock/toolbox:0.1.0";
    let command = ["/adapter/ld.so", "--library-path", "/adapter", "/adapter/adapter", "/adapter"];
    let adapter = json!({"name": "adapter", "image": image, "command": command, "ports": [{"containerPort": 6443}],
        "readinessProbe": {"tcpSocket": {"port": 6443}, "periodSeconds": 1},
        "volumeMounts": [{"name": "adapter", "mountPath": "/adapter"}]});
    let volumes = json!([{"name": "adapter", "hostPath": {"path": folder(), "type": "Directory"}}]);
    let selector = |name: &str| json!({"matchLabels": {"app": name}});
    let average = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("adapter"),
            "spec": {"selector": selector("adapter"), "template": pod("adapter", adapter, volumes)}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("adapter"),
            "spec": {"selector": {"app": "adapter"}, "ports": [{"port": 443, "targetPort": 6443}]}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata("queue"),
            "spec": {"replicas": 1, "podManagementPolicy": "Parallel", "serviceName": "queue", "selector": selector("queue"),
                "template": pod("queue", json!({"name": "c", "image": image}), json!([]))}}),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata("queue"),
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "queue"}, "minReplicas": 1, "maxReplicas": 4,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "rate"}, "target": average("10")}},
                    {"type": "External", "external": {"metric": {"name": "depth"}, "target": average("5")}}]}}),
    ]
}

/// The API is there, for kubectl and for the autoscaler.
pub(super) fn an_autoscaler_asks_it(cluster: &Cluster) {
    for name in [CUSTOM, EXTERNAL] {
        cluster.kubectl(&format!("wait --for=condition=Available --timeout=60s apiservice/{name}"));
    }
    let raw =
        |path: &str| serde_json::from_str::<Value>(&cluster.kubectl(&format!("get --raw '{path}'"))).unwrap();
    let values = raw("/apis/custom.metrics.k8s.io/v1beta2/namespaces/metrics/pods/*/rate");
    assert_eq!(
        (&values["items"][0]["value"], &values["metadata"]["askedBy"]),
        (&json!("10"), &json!("kubernetes-admin"))
    );
    let versions = cluster.kubectl("api-versions");
    assert!(versions.contains("custom.metrics.k8s.io/v1beta2"), "{versions}");
    let refused = cluster.shell(
        "kubectl --as=nobody get --raw /apis/custom.metrics.k8s.io/v1beta2/namespaces/metrics/pods/x/rate",
    );
    assert!(refused.text.contains("cannot get resource \"pods/rate\""), "{}", refused.text);
    // Three times as deep as one pod bears.
    measure("depth", "15");
}

/// The queue is deep, then empty.
pub(super) fn it_grows_by_what_it_hears(cluster: &Cluster) {
    becomes(cluster, "-n metrics statefulset queue", REPLICAS, &["3"]);
    said(cluster, &["New size: 3; reason: external metric depth(nil) above target", "ValidMetricFound"]);
    measure("depth", "1");
    measure("rate", "3");
}

/// It has shrunk; and without the adapter nothing is known, which is said.
pub(super) fn it_shrinks_and_knows_nothing_without_it(cluster: &Cluster) {
    becomes(cluster, "-n metrics statefulset queue", REPLICAS, &["1"]);
    said(cluster, &["New size: 1; reason: All metrics below target", "\"rate\" on pods:", "3 / 10", "1 / 5"]);
    cluster.kubectl("-n metrics scale deployment adapter --replicas=0");
    wait("nobody answers any more", SOON, || {
        let asked =
            cluster.shell("kubectl get --raw /apis/external.metrics.k8s.io/v1beta1/namespaces/metrics/depth");
        let away = "the server is currently unable to handle the request";
        if asked.text.contains(away) { Ok(()) } else { Err(asked.text) }
    });
    becomes(
        cluster,
        &format!("apiservice {CUSTOM}"),
        "{.status.conditions[0].reason}",
        &["MissingEndpoints"],
    );
    said(
        cluster,
        &[
            "ScalingActive",
            "FailedGetPodsMetric",
            "unable to handle the request (get pods.custom.metrics.k8s.io *)",
        ],
    );
    cluster.kubectl(&format!("delete apiservice {CUSTOM} {EXTERNAL}"));
    cluster.kubectl("delete namespace metrics --wait=false");
}

fn said(cluster: &Cluster, wanted: &[&str]) {
    wait(&format!("the autoscaler says {wanted:?}"), SOON, || {
        let described = cluster.kubectl("-n metrics describe hpa queue");
        if wanted.iter().all(|words| described.contains(words)) { Ok(()) } else { Err(described) }
    });
}
