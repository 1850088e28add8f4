//! Nodes as clients of the API: what they may read by their pods, and what they may write.

use super::*;

const NODE: &str = "system:node:n1";

async fn as_node(api: &mut Api) {
    api.user = Some(User::known(NODE, &["system:nodes".to_owned()]));
    api.fixture.registry.catch_up().await.unwrap();
}

async fn as_admin(api: &mut Api) {
    api.user = Some(User::known("admin", &["system:masters".to_owned()]));
    api.fixture.registry.catch_up().await.unwrap();
}

/// Two nodes; a pod on the first that names a Secret, a ConfigMap and a claim with its volume, and one on the second that names others.
async fn cluster() -> Api {
    let api = api().await;
    for node in ["n1", "n2"] {
        assert_eq!(api.post("/api/v1/nodes", json!({"metadata": {"name": node}})).await.code, 201);
        for kind in ["secrets", "configmaps", "serviceaccounts"] {
            let path = format!("/api/v1/namespaces/d/{kind}");
            assert_eq!(api.post(&path, json!({"metadata": {"name": format!("of-{node}")}})).await.code, 201);
        }
        let volume = json!({"metadata": {"name": format!("of-{node}")}, "spec": {"capacity": {"storage": "1Gi"}, "storageClassName": "x",
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}}});
        assert_eq!(api.post("/api/v1/persistentvolumes", volume).await.code, 201);
        let claim = json!({"metadata": {"name": format!("of-{node}")}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "x", "volumeName": format!("of-{node}"), "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(api.post("/api/v1/namespaces/d/persistentvolumeclaims", claim).await.code, 201);
        let mut pod = pod(&format!("on-{node}"));
        pod["spec"]["nodeName"] = json!(node);
        pod["spec"]["serviceAccountName"] = json!(format!("of-{node}"));
        pod["spec"]["volumes"] = json!([
            {"name": "s", "secret": {"secretName": format!("of-{node}")}},
            {"name": "m", "configMap": {"name": format!("of-{node}")}},
            {"name": "c", "persistentVolumeClaim": {"claimName": format!("of-{node}")}},
        ]);
        let made = api.post(PODS, pod).await;
        assert_eq!(made.code, 201, "{}", made.message());
    }
    api
}

#[tokio::test]
async fn a_node_reads_what_its_pods_name_and_itself() {
    let mut api = cluster().await;
    as_node(&mut api).await;
    let d = "/api/v1/namespaces/d";
    for path in [
        format!("{d}/secrets/of-n1"),
        format!("{d}/secrets?fieldSelector=metadata.name%3Dof-n1"),
        format!("{d}/configmaps/of-n1"),
        format!("{d}/configmaps/kube-root-ca.crt"),
        format!("{d}/persistentvolumeclaims/of-n1"),
        format!("{d}/pods/on-n1"),
        "/api/v1/persistentvolumes/of-n1".to_owned(),
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".to_owned(),
        "/api/v1/nodes/n1".to_owned(),
        "/api/v1/services".to_owned(),
        "/apis/node.k8s.io/v1/runtimeclasses".to_owned(),
    ] {
        let answer = api.get(&path).await;
        // A pod names the CA's ConfigMap, whether it is there or not.
        assert!(matches!(answer.code, 200 | 404), "{path}: {} {}", answer.code, answer.message());
    }
    let unrelated = "no relationship found between node 'n1' and this object";
    for (path, why) in [
        (format!("{d}/secrets/of-n2"), unrelated),
        (format!("{d}/secrets/foo"), unrelated),
        (format!("{d}/secrets"), "No Object name found"),
        (
            "/api/v1/secrets?fieldSelector=metadata.name%3Dof-n1".to_owned(),
            "can only read namespaced object of this type",
        ),
        (format!("{d}/configmaps/of-n2"), unrelated),
        (format!("{d}/persistentvolumeclaims/of-n2"), unrelated),
        (format!("{d}/persistentvolumeclaims"), "can only get individual resources of this type"),
        ("/api/v1/persistentvolumes/of-n2".to_owned(), unrelated),
        (format!("{d}/pods/on-n2"), unrelated),
        (format!("{d}/pods"), "can only list/watch pods with spec.nodeName field selector"),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".to_owned(),
            "can only list/watch pods with spec.nodeName field selector",
        ),
        ("/api/v1/nodes".to_owned(), "node 'n1' cannot read all nodes, only its own Node object"),
        ("/api/v1/nodes/n2".to_owned(), "node 'n1' cannot read 'n2', only its own Node object"),
        (
            "/apis/coordination.k8s.io/v1/namespaces/d/leases/n1".to_owned(),
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2".to_owned(),
            "can only access node lease with the same name as the requesting node",
        ),
        ("/apis/apps/v1/deployments".to_owned(), "at the cluster scope"),
    ] {
        let answer = api.get(&path).await;
        assert_eq!(answer.code, 403, "{path}");
        assert!(answer.message().ends_with(why), "{path}: {}", answer.message());
    }
    api.user = Some(User::known(NODE, &[]));
    assert_eq!(api.get(&format!("{d}/secrets/of-n1")).await.code, 403, "a name alone makes no node");
}

#[tokio::test]
async fn a_node_writes_about_itself_and_its_pods() {
    let mut api = cluster().await;
    let uid = api.get("/api/v1/nodes/n1").await.json()["metadata"]["uid"].clone();
    let pod_uid = api.get(&format!("{PODS}/on-n1")).await.json()["metadata"]["uid"].clone();
    as_node(&mut api).await;
    let refused = |answer: &Answer, why: &str| {
        assert_eq!(answer.code, 403, "{}", answer.message());
        assert!(answer.message().ends_with(why), "{}", answer.message());
    };
    let patch = async |api: &Api, path: &str, body: Value| api.patch(path, "merge", body).await;
    // Itself.
    let label = |label: &str| json!({"metadata": {"labels": {label: "x"}}});
    assert_eq!(patch(&api, "/api/v1/nodes/n1", label("kubernetes.io/hostname")).await.code, 200);
    assert_eq!(patch(&api, "/api/v1/nodes/n1", label("example.com/x")).await.code, 200);
    for foreign in ["node-restriction.kubernetes.io/x", "x.k8s.io/y", "kubernetes.io/z"] {
        let why = format!("is not allowed to modify labels: {foreign}");
        refused(&patch(&api, "/api/v1/nodes/n1", label(foreign)).await, &why);
    }
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    refused(&patch(&api, "/api/v1/nodes/n1", taint).await, "node \"n1\" is not allowed to modify taints");
    let other = patch(&api, "/api/v1/nodes/n2/status", json!({"status": {}})).await;
    refused(&other, "node \"n1\" is not allowed to modify node \"n2\"");
    let made = api.post("/api/v1/nodes", json!({"metadata": {"name": "n3"}})).await;
    refused(&made, "node \"n1\" is not allowed to modify node \"n3\"");
    assert_eq!(api.send("DELETE", "/api/v1/nodes/n1", &[], "").await.code, 403);
    // Its pods.
    let running = json!({"status": {"phase": "Running"}});
    assert_eq!(patch(&api, &format!("{PODS}/on-n1/status"), running.clone()).await.code, 200);
    let why = "node \"n1\" can only update pod status for pods with spec.nodeName set to itself";
    refused(&patch(&api, &format!("{PODS}/on-n2/status"), running).await, why);
    refused(
        &patch(&api, &format!("{PODS}/on-n1/status"), label("a")).await,
        "node \"n1\" cannot update labels through pod status",
    );
    assert_eq!(patch(&api, &format!("{PODS}/on-n1"), label("a")).await.code, 403);
    let why = "node \"n1\" can only delete pods with spec.nodeName set to itself";
    refused(&api.send("DELETE", &format!("{PODS}/on-n2"), &[], "").await, why);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "on-n2"}});
    let why = "node \"n1\" can only evict pods with spec.nodeName set to itself";
    refused(&api.post(&format!("{PODS}/on-n2/eviction"), eviction).await, why);
    // Mirrors.
    let mut mirror = pod("m");
    mirror["spec"]["nodeName"] = json!("n1");
    assert_eq!(api.post(PODS, mirror.clone()).await.code, 403);
    mirror["metadata"]["annotations"] =
        json!({"kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h"});
    let why = "node \"n1\" can only create pods with an owner reference set to itself";
    refused(&api.post(PODS, mirror.clone()).await, why);
    let owner = |uid: &Value| json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]);
    mirror["metadata"]["ownerReferences"] = owner(&json!("other"));
    assert_eq!(api.post(PODS, mirror.clone()).await.code, 403);
    mirror["metadata"]["ownerReferences"] = owner(&uid);
    let made = api.post(PODS, mirror).await;
    assert_eq!(made.code, 201, "{}", made.message());
    // Tokens of its pods' accounts.
    let token = |bound: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}});
    let accounts = "/api/v1/namespaces/d/serviceaccounts";
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "on-n1", "uid": pod_uid});
    assert_eq!(api.post(&format!("{accounts}/of-n1/token"), token(bound.clone())).await.code, 201);
    refused(
        &api.post(&format!("{accounts}/of-n1/token"), token(Value::Null)).await,
        "node requested token not bound to a pod",
    );
    assert_eq!(api.post(&format!("{accounts}/of-n2/token"), token(bound)).await.code, 403);
    // Its Lease.
    as_admin(&mut api).await;
    assert_eq!(
        api.post("/api/v1/namespaces", json!({"metadata": {"name": "kube-node-lease"}})).await.code,
        201
    );
    as_node(&mut api).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(api.post(leases, json!({"metadata": {"name": "n1"}})).await.code, 201);
    let why = "can only access node lease with the same name as the requesting node";
    refused(&api.post(leases, json!({"metadata": {"name": "n2"}})).await, why);
    // Its pods' claims: what became of them, and nothing else.
    let claim = "/api/v1/namespaces/d/persistentvolumeclaims/of-n1/status";
    assert_eq!(patch(&api, claim, json!({"status": {"capacity": {"storage": "1Gi"}}})).await.code, 200);
    assert_eq!(patch(&api, claim, json!({"metadata": {"labels": {"a": "b"}}})).await.code, 403);
}

#[tokio::test]
async fn reviews_know_what_nodes_may() {
    let api = cluster().await;
    let may = async |attributes: Value| {
        let review =
            json!({"spec": {"user": NODE, "groups": ["system:nodes"], "resourceAttributes": attributes}});
        let answer = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await;
        answer.json()["status"]["allowed"] == true
    };
    let secret = |name: &str| json!({"verb": "get", "resource": "secrets", "namespace": "d", "name": name});
    assert!(may(secret("of-n1")).await && !may(secret("of-n2")).await);
    let pods = |node: &str| {
        json!({"verb": "list", "resource": "pods", "fieldSelector":
        {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [node]}]}})
    };
    assert!(may(pods("n1")).await && !may(pods("n2")).await);
}
