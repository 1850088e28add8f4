//! Pod security by a namespace's labels, and what the node sees to: who must not be root is not, and calls of the kernel are filtered.

use oarlock_tests::cluster::{Cluster, Said, wait};
use serde_json::{Value, json};

use super::SOON;

pub(super) fn a_restricted_namespace_runs_what_asks_for_little(cluster: &Cluster) {
    cluster.kubectl("create namespace guarded");
    cluster.kubectl("label namespace guarded pod-security.kubernetes.io/enforce=restricted");
    let own = |user: Option<u32>| {
        let mut context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        if let Some(user) = user {
            context["runAsUser"] = json!(user);
        }
        context
    };
    let refused = apply(cluster, "guarded", "open", &json!({}), &json!({}));
    let why = "pods \"open\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \
               \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
               securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
               securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
               securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    assert!(!refused.well && refused.text.contains(why), "{}", refused.text);
    let little = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    for (name, user) in [("little", Some(1234)), ("root", None)] {
        let made = apply(cluster, "guarded", name, &own(user), &little);
        assert!(made.well, "{}", made.text);
    }
    let open =
        apply(cluster, "default", "open", &json!({"seccompProfile": {"type": "Unconfined"}}), &json!({}));
    assert!(open.well, "{}", open.text);
    cluster.kubectl("wait -n guarded pod/little --for=condition=Ready --timeout=30s");
    cluster.kubectl("wait pod/open --for=condition=Ready --timeout=30s");
    let status = |pod: &str| {
        cluster.kubectl(&format!("exec {pod} -- grep -E '^(Uid|Seccomp|NoNewPrivs|CapBnd):' /proc/1/status"))
    };
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        words(status("-n guarded little")),
        "Uid: 1234 1234 1234 1234 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2"
    );
    assert!(words(status("open")).ends_with("NoNewPrivs: 0 Seccomp: 0"), "{}", status("open"));
    wait("the node refuses to run an image as root", SOON, || {
        let said = cluster.kubectl("describe pod root -n guarded");
        let reason = said.contains("CreateContainerConfigError");
        if reason && said.contains("container has runAsNonRoot and image will run as root") {
            Ok(())
        } else {
            Err(said)
        }
    });
    let warned = cluster.shell(
        "kubectl label namespace default pod-security.kubernetes.io/enforce=restricted --dry-run=server",
    );
    let told = "Warning: existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:latest\"";
    assert!(warned.well && warned.text.contains(told), "{}", warned.text);
    another_networks_docker_gives_no_host_network(cluster);
    cluster.kubectl("delete pod open");
    cluster.kubectl("delete namespace guarded --timeout=60s");
}

/// Docker is on the machine's network here, not on the node's.
fn another_networks_docker_gives_no_host_network(cluster: &Cluster) {
    let spec = json!({"spec": {"hostNetwork": true}});
    cluster.kubectl(&format!("run on-host --image=oarlock/web:0.1.0 --overrides='{spec}'"));
    let why = "is in another network namespace than this node's agent";
    wait("the pod is refused", SOON, || {
        let said = cluster
            .kubectl("get pod on-host -o jsonpath='{.status.phase} {.status.reason} {.status.message}'");
        if said.starts_with("Failed HostNetworkNotSupported") && said.contains(why) {
            Ok(())
        } else {
            Err(said)
        }
    });
    let events = cluster.kubectl("get events --field-selector involvedObject.name=on-host");
    assert!(events.contains("HostNetworkNotSupported") && events.contains(why), "{events}");
    cluster.kubectl("delete pod on-host");
}

fn apply(cluster: &Cluster, namespace: &str, name: &str, of_pod: &Value, own: &Value) -> Said {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": {
        "terminationGracePeriodSeconds": 0, "securityContext": of_pod, "containers": [{
            "name": "c", "image": "oarlock/toolbox:0.1.0", "command": ["sleep", "600"], "securityContext": own}]}});
    cluster.shell(&format!("kubectl apply -f - <<'END'\n{pod}\nEND"))
}
