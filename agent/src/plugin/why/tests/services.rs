//! Services.

use serde_json::{Value, json};

use super::*;

fn service() -> Value {
    json!({"metadata": {"name": "web", "namespace": "d", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 80}]}})
}

fn slice(pods: &[&Value]) -> Value {
    let endpoint = |pod: &&Value| {
        json!({"nodeName": pod["spec"]["nodeName"], "targetRef": {"uid": pod["metadata"]["uid"]},
            "conditions": {"ready": super::super::pod::is_well(pod)}})
    };
    json!({"endpoints": pods.iter().map(endpoint).collect::<Vec<_>>()})
}

fn answer(service: Value, pods: Vec<Value>, events: Vec<Value>) -> String {
    let slices = vec![slice(&pods.iter().collect::<Vec<_>>())];
    let nodes = vec![node("node1", "True"), node("node2", "True")];
    Subject::Service.explain(&Evidence { pods, events, slices, nodes, ..evidence(service) }).text()
}

#[test]
fn without_endpoints_the_pods_troubles_are_told() {
    let pods = vec![unready("a"), unready("b")];
    let events = vec![event(&pods[0], Some("web"), REFUSED, 2), event(&pods[1], Some("web"), REFUSED, 2)];
    assert_eq!(
        answer(service(), pods, events),
        "\
service d/web has no endpoint that is ready: connections are refused
- pods a and b: container web has run for 90s and does not pass its readiness probe: Readiness probe failed: HTTP probe failed with statuscode: 503 (2 times, last 5s ago)
    kubectl -n d logs a -c web
    kubectl oarlock why pod a -n d
"
    );
}

#[test]
fn a_selector_that_fits_nobody_is_compared_with_who_comes_nearest() {
    let answer = |service: &Value, pods: Vec<Value>| {
        Subject::Service.explain(&Evidence { pods, ..evidence(service.clone()) }).text()
    };
    let mut service = service();
    service["spec"]["selector"] = json!({"app": "web", "tier": "front"});
    let mut near = well("near");
    near["metadata"]["labels"] = json!({"app": "web", "tier": "frnot"});
    let mut far = well("far");
    far["metadata"]["labels"] = json!({"app": "db"});
    assert_eq!(
        answer(&service, vec![far.clone(), near]),
        "\
service d/web has no endpoint that is ready: connections are refused
- no pod in namespace d has the labels app=web,tier=front
    pod near comes nearest, but has tier: frnot
"
    );
    assert!(answer(&service, vec![far.clone()]).ends_with("    others there have app=db\n"));
    far["metadata"]["labels"] = json!({"run": "x"});
    assert!(answer(&service, vec![far]).ends_with("    and none has one of them\n"));
    assert!(answer(&service, vec![]).ends_with("    there is no pod in it at all\n"));
    service["spec"]["selector"] = Value::Null;
    assert!(answer(&service, vec![]).contains("- it selects no pods: somebody has to keep EndpointSlices"));
    let mut dns = service.clone();
    dns["metadata"] = json!({"namespace": "kube-system", "name": "kube-dns"});
    assert!(
        answer(&dns, vec![]).starts_with("service kube-system/kube-dns is answered by each node's own agent")
    );
    service["spec"] = json!({"type": "ExternalName", "externalName": "example.com"});
    assert_eq!(
        answer(&service, vec![]),
        "service d/web is another name for example.com: nobody here answers it\n"
    );
}

#[test]
fn ports_policies_and_addresses_are_told_that_lead_nowhere() {
    let trace = "- what a packet meets on its way: kubectl oarlock trace pod/NAME svc/d/web\n";
    assert_eq!(
        answer(service(), vec![well("a")], vec![]),
        format!("service d/web is answered by 1 endpoint\n{trace}")
    );
    let mut service = service();
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["ports"][0]["targetPort"] = json!("http");
    assert_eq!(
        answer(service.clone(), vec![well("a")], vec![]),
        format!(
            "\
service d/web is answered by 1 endpoint
- its port 80 leads to a port by the name http, which no container has
- externalTrafficPolicy is Local: clients outside find nobody on node2, where no endpoint is
- it has no load balancer's address: nobody has written one into status.loadBalancer.ingress
    its ClusterIP and NodePorts answer without one
{trace}"
        )
    );
}

#[test]
fn ready_pods_that_are_no_endpoints_are_told() {
    let evidence = Evidence { pods: vec![well("a")], ..evidence(service()) };
    assert_eq!(
        Subject::Service.explain(&evidence).text(),
        "\
service d/web has no endpoint that is ready: connections are refused
- ready and not among the endpoints: a
    is a control plane leading?
"
    );
}
