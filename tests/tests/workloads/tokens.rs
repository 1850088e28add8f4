//! What a pod has and may by its account: the mounted token, the CA and the namespace beside it, with which an unmodified client inside
//! the pod finds and asks the API server.

use std::path::Path;

use oarlock_tests::cluster::{Cluster, wait};
use serde_json::{Value, json};

use super::SOON;

const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) fn a_pod_asks_the_api_server_by_its_token(cluster: &Cluster) {
    cluster.kubectl("create role lister --verb=list --resource=pods");
    run(cluster, "asker", &json!({}));
    run(cluster, "silent", &json!({"automountServiceAccountToken": false}));
    cluster.kubectl("wait pod/asker pod/silent --for=condition=Ready --timeout=30s");
    let read = |file: &str| cluster.kubectl(&format!("exec asker -- cat {PLACE}/{file}"));
    assert_eq!(cluster.kubectl(&format!("exec asker -- ls {PLACE}")), "ca.crt\nnamespace\ntoken");
    assert_eq!((read("namespace").as_str(), read("ca.crt")), ("default", own_ca(cluster)));
    let token = read("token");
    is_bound_to_the_pod(cluster, &token);
    let nothing = cluster.shell(&format!("kubectl exec silent -- ls {PLACE}"));
    assert!(!nothing.well && nothing.text.contains("No such file"), "{}", nothing.text);

    // The client has no configuration but what is in the pod.
    let ask = |what: &str| cluster.shell(&format!("kubectl exec asker -- /client/kubectl {what}"));
    let forbidden = ask("get pods");
    let why = "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the \
               namespace \"default\"";
    assert!(!forbidden.well && forbidden.text.contains(why), "{}", forbidden.text);
    cluster.kubectl("create rolebinding lister --role=lister --serviceaccount=default:default");
    let listed = ask("get pods -o name");
    assert!(listed.well && listed.text.contains("pod/asker\n"), "{}", listed.text);
    let may = ask("auth can-i list secrets").text;
    assert!(may.starts_with("no"), "{may}");

    cluster.kubectl("delete pod asker silent");
    wait("the token dies with its pod", SOON, || {
        let said = by_token(cluster, &token, "get pods -n default").text;
        if said.contains("Unauthorized") || said.contains("logged in") { Ok(()) } else { Err(said) }
    });
    cluster.kubectl("delete role/lister rolebinding/lister");
}

/// A pod with the machine's kubectl in it, and the libraries that it may need.
fn run(cluster: &Cluster, name: &str, spec: &Value) {
    let kubectl = cluster.shell("readlink -f $(command -v kubectl)").text;
    let folder = Path::new(kubectl.trim()).parent().unwrap_or(Path::new("/usr/bin"));
    let places = [(folder, "/client"), (Path::new("/usr/lib"), "/lib"), (Path::new("/lib64"), "/lib64")];
    let there: Vec<_> = places.into_iter().filter(|(path, _)| path.exists()).collect();
    let volumes: Vec<Value> =
        there.iter().map(|(path, at)| json!({"name": &at[1..], "hostPath": {"path": path}})).collect();
    let mounts: Vec<Value> =
        there.iter().map(|(_, at)| json!({"name": &at[1..], "mountPath": at, "readOnly": true})).collect();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0, "volumes": volumes, "containers": [{
            "name": "c", "image": "oarlock/toolbox:0.1.0", "command": ["sleep", "600"], "volumeMounts": mounts}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    cluster.kubectl(&format!("apply -f - <<'END'\n{pod}\nEND"));
}

/// The CA that the kubeconfig trusts.
fn own_ca(cluster: &Cluster) -> String {
    let data = "{.clusters[0].cluster.certificate-authority-data}";
    let said = cluster.shell(&format!("kubectl config view --raw -o jsonpath='{data}' | base64 -d"));
    said.text.trim().to_owned()
}

/// What the token says, as anybody can read it.
fn is_bound_to_the_pod(cluster: &Cluster, token: &str) {
    let payload = token.split('.').nth(1).unwrap_or_default().replace('-', "+").replace('_', "/");
    let padded = format!("{payload}{}", "=".repeat((4 - payload.len() % 4) % 4));
    let claims: Value =
        serde_json::from_str(&cluster.shell(&format!("echo {padded} | base64 -d")).text).unwrap_or_default();
    let (pod, of) = (cluster.json("get pod asker"), &claims["kubernetes.io"]);
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(of["pod"], json!({"name": "asker", "uid": pod["metadata"]["uid"]}));
    assert_eq!(of["node"]["name"], pod["spec"]["nodeName"]);
    let life = claims["exp"].as_i64().unwrap_or(0) - claims["iat"].as_i64().unwrap_or(0);
    assert!(life >= 3607, "{claims}");
    let who = by_token(cluster, token, "auth can-i --list -n default");
    assert!(who.well, "outside of the pod, too: {}", who.text);
}

/// kubectl with a token alone.
fn by_token(cluster: &Cluster, token: &str, what: &str) -> oarlock_tests::cluster::Said {
    let server = cluster.kubectl("config view -o jsonpath='{.clusters[0].cluster.server}'");
    let to = format!("--kubeconfig=/dev/null --server={server} --insecure-skip-tls-verify --token={token}");
    cluster.shell(&format!("kubectl {to} {what} </dev/null"))
}
