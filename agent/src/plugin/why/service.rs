//! Why a Service has nobody, or not everybody, who answers. Pure.

use std::collections::BTreeSet;

use oarlock_api::meta;
use serde_json::Value;

use super::told::{and, count, list, text};
use super::{Answer, Evidence, Finding, deployment, pod};

/// Labels that are named of others.
const NAMED: usize = 5;

pub(super) fn explain(evidence: &Evidence) -> Answer {
    let service = &evidence.object;
    let called = format!("service {}/{}", meta::namespace(service), meta::name(service));
    if service["spec"]["type"] == "ExternalName" {
        let to = text(&service["spec"]["externalName"]);
        let head = format!("{called} is another name for {to}: nobody here answers it");
        return Answer { head, findings: Vec::new() };
    }
    if is_cluster_dns(service) {
        let head = format!("{called} is answered by each node's own agent, which needs no endpoints");
        let look = Finding::new("does a node answer: kubectl oarlock why node NAME");
        return Answer { head, findings: vec![look] };
    }
    let ready = endpoints(evidence).filter(|endpoint| answers(endpoint)).count();
    let head = match ready {
        0 => format!("{called} has no endpoint that is ready: connections are refused"),
        ready => format!("{called} is answered by {}", count(ready, "endpoint")),
    };
    let mut findings = Vec::new();
    let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty());
    match selector {
        None if endpoints(evidence).next().is_none() => {
            findings.push(Finding::new(
                "it selects no pods: somebody has to keep EndpointSlices with the label \
                 kubernetes.io/service-name, and nobody does",
            ));
        }
        None => {}
        Some(_) => findings.extend(selected(evidence, service)),
    }
    findings.extend(local(evidence, service));
    findings.extend(balancer(service));
    if findings.is_empty() {
        findings = evidence.warnings(service);
    }
    if ready > 0 {
        let name = format!("svc/{}/{}", meta::namespace(service), meta::name(service));
        findings.push(Finding::new(format!(
            "what a packet meets on its way: kubectl oarlock trace pod/NAME {name}"
        )));
    }
    Answer { head, findings }
}

/// The Service behind which agents answer names.
fn is_cluster_dns(service: &Value) -> bool {
    meta::namespace(service) == "kube-system"
        && meta::name(service) == "kube-dns"
        && service["spec"]["selector"].as_object().is_none_or(|selector| selector.is_empty())
}

fn endpoints(evidence: &Evidence) -> impl Iterator<Item = &Value> {
    evidence.slices.iter().flat_map(|slice| list(&slice["endpoints"]))
}

/// Unknown counts as ready.
fn answers(endpoint: &Value) -> bool {
    endpoint["conditions"]["ready"] != false
}

/// How many of the Service's labels a pod has, and those that it has not.
fn differences<'s>(service: &'s Value, pod: &Value) -> (usize, Vec<(&'s str, &'s str)>) {
    let labels = meta::labels(pod);
    let selector = service["spec"]["selector"].as_object();
    let (mut same, mut other) = (0, Vec::new());
    for (key, value) in selector.into_iter().flatten() {
        if labels.and_then(|labels| labels.get(key)) == Some(value) {
            same += 1;
        } else {
            other.push((key.as_str(), text(value)));
        }
    }
    (same, other)
}

fn selected(evidence: &Evidence, service: &Value) -> Vec<Finding> {
    let is_meant = |pod: &&Value| differences(service, pod).1.is_empty();
    let pods: Vec<Value> = evidence.pods.iter().filter(is_meant).cloned().collect();
    if pods.is_empty() {
        return vec![nobody(evidence, service)];
    }
    let mut found = deployment::troubled(evidence, &pods);
    found.extend(unknown_ports(service, &pods));
    let over = pods.iter().filter(|pod| pod["status"]["phase"] == "Succeeded").count();
    if over == pods.len() {
        found.push(Finding::new("all pods that it selects have ended"));
    }
    let known: BTreeSet<&str> = endpoints(evidence)
        .filter(|endpoint| answers(endpoint))
        .map(|endpoint| text(&endpoint["targetRef"]["uid"]))
        .collect();
    let unheard = pods.iter().filter(|one| pod::is_well(one) && !known.contains(meta::uid(one)));
    let unheard: Vec<&str> = unheard.map(meta::name).collect();
    if found.is_empty() && !unheard.is_empty() {
        let said = format!("ready and not among the endpoints: {}", and(&unheard));
        found.push(Finding::new(said).and("is a control plane leading?"));
    }
    found
}

/// No pod has all the labels; those that have the most may be meant.
fn nobody(evidence: &Evidence, service: &Value) -> Finding {
    let selector = service["spec"]["selector"].as_object();
    let words: Vec<String> =
        selector.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    let finding = Finding::new(format!(
        "no pod in namespace {} has the labels {}",
        meta::namespace(service),
        words.join(",")
    ));
    let near = evidence.pods.iter().map(|pod| (pod, differences(service, pod)));
    let Some((pod, (same, other))) =
        near.max_by_key(|(pod, (same, _))| (*same, std::cmp::Reverse(meta::name(pod))))
    else {
        return finding.and("there is no pod in it at all");
    };
    if same == 0 {
        return match others(evidence, service) {
            others if others.is_empty() => finding.and("and none has one of them"),
            others => finding.and(format!("others there have {}", and(&others))),
        };
    }
    let labels = meta::labels(pod);
    let differs = other.iter().map(|(key, _)| {
        let has = labels.and_then(|labels| labels.get(*key)).map_or("no value", |value| text(value));
        format!("{key}: {has}")
    });
    let differs: Vec<String> = differs.collect();
    finding.and(format!("pod {} comes nearest, but has {}", meta::name(pod), and(&differs)))
}

/// The values that pods have of the labels by which a Service selects.
fn others(evidence: &Evidence, service: &Value) -> Vec<String> {
    let keys = service["spec"]["selector"].as_object().into_iter().flatten().map(|(key, _)| key);
    let has = keys.flat_map(|key| {
        let values = evidence.pods.iter().filter_map(move |pod| meta::labels(pod)?.get(key)?.as_str());
        values.map(move |value| format!("{key}={value}"))
    });
    has.collect::<BTreeSet<String>>().into_iter().take(NAMED).collect()
}

/// Ports by names that no container has.
fn unknown_ports(service: &Value, pods: &[Value]) -> Vec<Finding> {
    let has = |name: &str| {
        let ports = |pod: &Value| {
            let containers = list(&pod["spec"]["containers"]);
            containers.flat_map(|container| list(&container["ports"])).any(|port| port["name"] == name)
        };
        pods.iter().any(ports)
    };
    let missing = list(&service["spec"]["ports"]).filter_map(|port| {
        let name = port["targetPort"].as_str().filter(|name| !has(name))?;
        let said =
            format!("its port {} leads to a port by the name {name}, which no container has", port["port"]);
        Some(Finding::new(said))
    });
    missing.collect()
}

/// Nodes that answer nobody, as only endpoints of their own count.
fn local(evidence: &Evidence, service: &Value) -> Vec<Finding> {
    let with: BTreeSet<&str> = endpoints(evidence)
        .filter(|endpoint| answers(endpoint))
        .map(|endpoint| text(&endpoint["nodeName"]))
        .collect();
    if with.is_empty() {
        return Vec::new();
    }
    let without: Vec<&str> =
        evidence.nodes.iter().map(meta::name).filter(|name| !with.contains(name)).collect();
    let from = [("externalTrafficPolicy", "clients outside"), ("internalTrafficPolicy", "pods")];
    let told = |(field, who): (&str, &str)| {
        let is = service["spec"][field] == "Local" && !without.is_empty();
        is.then(|| {
            let said = format!(
                "{field} is Local: {who} find nobody on {}, where no endpoint is",
                and(&without[..without.len().min(5)])
            );
            Finding::new(said)
        })
    };
    from.into_iter().filter_map(told).collect()
}

fn balancer(service: &Value) -> Option<Finding> {
    let waits = service["spec"]["type"] == "LoadBalancer"
        && list(&service["status"]["loadBalancer"]["ingress"]).next().is_none();
    waits.then(|| {
        let said =
            "it has no load balancer's address: nobody has written one into status.loadBalancer.ingress";
        Finding::new(said).and("its ClusterIP and NodePorts answer without one")
    })
}
