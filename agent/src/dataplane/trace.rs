//! The path that one packet would take, and why: computed from the tables, nothing is sent. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use oarlock_ebpf::policy::{EGRESS, INGRESS};
use serde::{Deserialize, Serialize};

use super::compile::Algorithm;
use super::picture::{FrontendPicture, Picture, distinct};

/// A packet that might be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who would send it.
    pub from: IpAddr,
    /// To whom.
    pub to: SocketAddr,
    /// `TCP` or `UDP`.
    pub protocol: String,
}

/// What would become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What each hook would do, in order.
    pub steps: Vec<Step>,
    /// `delivered` on this node, `forwarded` to another or out, `refused`, `dropped`, or `passed`: left to the node's stack.
    pub verdict: String,
}

/// What a hook would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where.
    pub hook: String,
    /// What, and why.
    pub what: String,
}

const SOCKET: &str = "socket";
const UPLINK: &str = "uplink in (XDP, tc)";
const POD_LINK: &str = "pod's link (tc)";
const OUT: &str = "uplink out (tc)";
const ROUTES: &str = "node's routes";

/// Of a node whose tables these are; it masquerades what pods begin, or leaves that to others.
#[must_use]
pub fn trace(tables: &Picture, question: &Question, masquerades: bool) -> Trace {
    let mut path = Path { tables, question, masquerades, steps: Vec::new() };
    let from = question.from;
    let inside = tables.node.is_at(from) || from.is_loopback() || path.is_pod(from);
    let verdict = if inside { path.inside() } else { path.outside() };
    Trace { steps: path.steps, verdict: verdict.to_owned() }
}

struct Path<'t> {
    tables: &'t Picture,
    question: &'t Question,
    masquerades: bool,
    steps: Vec<Step>,
}

impl<'t> Path<'t> {
    fn step(&mut self, hook: &str, what: impl Into<String>) {
        self.steps.push(Step { hook: hook.to_owned(), what: what.into() });
    }

    fn is_pod(&self, address: IpAddr) -> bool {
        self.tables.pods.iter().any(|pod| pod.address == address)
    }

    /// Whether a pod is served packet by packet.
    fn is_opted_out(&self, address: IpAddr) -> bool {
        let pod = self.tables.pods.iter().find(|pod| pod.address == address);
        pod.is_some_and(|pod| self.tables.per_packet.contains(&format!("link {}", pod.link)))
    }

    /// The node's address of the family of another one; that of IPv4 where it has no other.
    fn own(&self, like: IpAddr) -> IpAddr {
        let node = &self.tables.node;
        node.address6.filter(|_| like.is_ipv6()).map_or(node.address.into(), IpAddr::V6)
    }

    fn in_cluster(&self, address: IpAddr) -> bool {
        self.tables.node.clusters().any(|cidr| cidr.contains(&address))
    }

    fn frontend(&self) -> Option<&'t FrontendPicture> {
        let Question { to, protocol, .. } = self.question;
        self.tables
            .frontends
            .iter()
            .find(|f| (f.address, f.port, &f.protocol) == (to.ip(), to.port(), protocol))
    }

    /// A pod or process of this node: asked at its socket, or at its link.
    fn inside(&mut self) -> &'static str {
        let (from, to) = (self.question.from, self.question.to);
        let is_pod = self.is_pod(from);
        let (hook, refusal) = match self.is_opted_out(from) {
            true => (POD_LINK, "the node's routes refuse"),
            false => (SOCKET, "ECONNREFUSED"),
        };
        let own_loopback = is_pod && to.ip().is_loopback();
        let Some(frontend) = self.frontend().filter(|_| !own_loopback) else {
            let why = if own_loopback {
                format!("{to} is the pod's own loopback: nobody else's, not translated")
            } else {
                format!("{to} is no Service's: not translated")
            };
            self.step(hook, why);
            return if own_loopback { "delivered" } else { self.on(to, is_pod) };
        };
        let service = name(frontend);
        if frontend.inside.is_empty() {
            self.step(
                hook,
                format!("{to} is {service}, which has no endpoints for clients on this node: {refusal}"),
            );
            return "refused";
        }
        self.step(hook, format!("{to} is {service}: becomes {}", choice(&frontend.inside, frontend)));
        self.each(&frontend.inside, |path, to| path.on(to, is_pod))
    }

    /// Who comes by an uplink.
    fn outside(&mut self) -> &'static str {
        let (from, to) = (self.question.from, self.question.to);
        let Some(frontend) = self.frontend() else {
            self.step(UPLINK, format!("{to} is no Service's: not translated"));
            if self.is_pod(to.ip()) {
                return self.hand_over(UPLINK, to);
            }
            self.step(ROUTES, "left to the node's stack");
            return "passed";
        };
        let service = name(frontend);
        if !frontend.external && !self.tables.node.external_cluster_ips {
            let what =
                format!("{to} is {service}, at an address that is not for clients outside: not translated");
            self.step(UPLINK, what);
            return "passed";
        }
        let ranges = &frontend.source_ranges;
        if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(&from)) {
            self.step(UPLINK, format!("{to} is {service}; {from} is in none of its source ranges"));
            return "dropped";
        }
        if frontend.outside.is_empty() {
            let what =
                format!("{to} is {service}, which has no endpoints for clients outside: the stack refuses");
            self.step(UPLINK, what);
            return "refused";
        }
        self.step(UPLINK, format!("{to} is {service}: becomes {}", choice(&frontend.outside, frontend)));
        let node = self.own(to.ip());
        self.each(&frontend.outside, |path, backend| {
            let ip = backend.ip();
            if path.is_pod(ip) {
                path.step(POD_LINK, format!("{ip} sees the client; its answers become {to}'s here"));
                return path.hand_over(UPLINK, backend);
            }
            if path.tables.node.is_at(ip) {
                path.step(
                    OUT,
                    "a process of this node sees the client; its answers become the Service's here",
                );
                return "delivered";
            }
            if let Some(own) = path.tables.answers_itself(ip) {
                let what = format!(
                    "{ip} is elsewhere: goes as it came to its node {own}, where it sees the client; its answers leave there"
                );
                path.step(UPLINK, what);
                return "forwarded";
            }
            let what =
                format!("{ip} is elsewhere: leaves as {node} with a port of ours, by the link it came by");
            path.step(UPLINK, what);
            "forwarded"
        })
    }

    /// What becomes of each backend, told once where it is the same.
    fn each(
        &mut self,
        backends: &[SocketAddr],
        mut on: impl FnMut(&mut Self, SocketAddr) -> &'static str,
    ) -> &'static str {
        let backends: BTreeMap<IpAddr, SocketAddr> = backends.iter().map(|at| (at.ip(), *at)).collect();
        let verdicts: BTreeSet<&'static str> = backends.into_values().map(|at| on(self, at)).collect();
        let all: Vec<&'static str> = verdicts.into_iter().collect();
        match all[..] {
            [] => "refused",
            [only] => only,
            ["delivered", "forwarded"] => "delivered or forwarded",
            ["delivered", "dropped"] => "delivered or dropped",
            ["dropped", "forwarded"] => "dropped or forwarded",
            _ => "delivered, dropped or forwarded",
        }
    }

    /// Whether policies let a packet come to a pod of this node or leave it. What they do not mention is not told.
    fn passes(&mut self, direction: u8, pod: IpAddr, (peer, port): (IpAddr, u16)) -> bool {
        // The node reaches its pods and they it, and each itself (ebpf/programs/policy.rs).
        if self.tables.node.is_at(peer) || peer == pod {
            return true;
        }
        let of = (self.question.protocol.as_str(), port);
        let Some(judgement) = self.tables.policies.judge(direction, pod, peer, of) else { return true };
        let (way, other) = if direction == INGRESS { ("come in", "from") } else { ("go out", "to") };
        let who = if judgement.policies.is_empty() {
            "policies".to_owned()
        } else {
            format!("policies ({})", judgement.policies.join(", "))
        };
        let may = if judgement.allowed { "may" } else { "may not" };
        let at = if direction == INGRESS { format!("at port {port}") } else { format!("at its port {port}") };
        self.step(POD_LINK, format!("by the {who} of {pod} {} {may} {way} {other} {peer} {at}", of.0));
        judgement.allowed
    }

    /// A packet of this node to an address that is final.
    fn on(&mut self, at: SocketAddr, from_pod: bool) -> &'static str {
        let (node, to, from) = (self.own(at.ip()), at.ip(), self.question.from);
        if from_pod && !self.passes(EGRESS, from, (to, at.port())) {
            return "dropped";
        }
        if self.is_pod(to) && from_pod {
            return self.hand_over(POD_LINK, at);
        }
        if self.is_pod(to) || self.tables.node.is_at(to) || to.is_loopback() {
            let what = if self.is_pod(to) { "a pod of this node" } else { "this node" };
            self.step(ROUTES, format!("{to} is {what}"));
            return "delivered";
        }
        if self.in_cluster(to) || self.tables.nodes.contains(&to) {
            let what = if self.in_cluster(to) { "a pod of another node" } else { "another node" };
            let by = self.tables.node.overlay.as_ref().filter(|_| self.in_cluster(to));
            let by = by.map_or(String::new(), |overlay| format!(", by the link {}", overlay.link));
            self.step(ROUTES, format!("{to} is {what}{by}"));
            return "forwarded";
        }
        if from_pod && self.masquerades {
            self.step(OUT, format!("{to} is outside the cluster: leaves as {node}"));
        } else {
            self.step(ROUTES, format!("{to} is outside the cluster"));
        }
        "forwarded"
    }

    fn hand_over(&mut self, hook: &str, at: SocketAddr) -> &'static str {
        let pod = at.ip();
        if !self.passes(INGRESS, pod, (self.question.from, at.port())) {
            return "dropped";
        }
        let known = self.tables.pods.iter().find(|known| known.address == pod);
        // One that waits in a queue, by its limits, is met by the routes.
        match known.filter(|known| known.ends.is_some()).map(|known| known.link) {
            Some(link) => {
                self.step(hook, format!("{pod} is a pod of this node: straight into it, by link {link}"))
            }
            None => self.step(ROUTES, format!("{pod} is a pod of this node")),
        }
        "delivered"
    }
}

fn name(frontend: &FrontendPicture) -> String {
    frontend.name.clone().unwrap_or_else(|| format!("a Service ({})", frontend.service))
}

fn choice(backends: &[SocketAddr], frontend: &FrontendPicture) -> String {
    let backends = distinct(backends);
    let all = backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match (backends.len(), frontend.affinity_seconds) {
        (1, _) => all,
        (count, 0) => match frontend.algorithm {
            Algorithm::RoundRobin => format!("one of {count} in turn: {all}"),
            Algorithm::Random => format!("one of {count} at random: {all}"),
            Algorithm::Maglev => format!("one of {count} by a hash of the client's address and port: {all}"),
        },
        (count, seconds) => format!("one of {count}, for each client the same for {seconds} s: {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tables() -> Picture {
        with_policies(false)
    }

    fn with_policies(judged: bool) -> Picture {
        let frontend = |address: &str, port: u16, inside: &[&str], outside: &[&str], external: bool| {
            json!({"address": address, "port": port, "protocol": "TCP", "service": "00ff", "name": "d/web:http",
                "affinitySeconds": 0, "external": external, "sourceRanges": [], "inside": inside, "outside": outside})
        };
        let both = ["10.244.0.5:80", "10.244.1.5:80"];
        let mut balanced = frontend("192.0.2.7", 80, &both, &both[..1], true);
        balanced["sourceRanges"] = json!(["198.51.100.0/24"]);
        let policies = json!({"enforced": true, "identities": [{"range": "10.244.0.5/32", "identity": "0a"}, {"range": "fd00:10:244::/64", "identity": "0a"}],
            "isolated": [{"link": 7, "address": "10.244.0.5", "ingress": null, "egress": "0e", "policies": ["d/out"]},
                         {"link": 0, "address": "10.244.0.6", "address6": "fd00:10:244::6", "ingress": "01", "egress": null}],
            "allowed": [{"number": "01", "identity": "0a", "protocol": "TCP", "ports": [80, 81]},
                        {"number": "0e", "identity": null, "protocol": "UDP", "ports": null}]});
        let policies = if judged {
            policies
        } else {
            json!({"enforced": false, "identities": [], "isolated": [], "allowed": []})
        };
        serde_json::from_value(json!({"layoutVersion": 1, "policies": policies, "nodes": ["172.30.77.11", "172.30.77.12"],
            "node": {"address": "172.30.77.11", "clusterCidr": "10.244.0.0/16", "externalClusterIps": false,
                     "namespaceCookie": 1, "overlay": null},
            "pods": [{"address": "10.244.0.5", "link": 7, "ends": ["02:00:00:00:00:05", "02:00:00:00:00:01"]}, {"address": "10.244.0.6", "link": 0, "ends": null}, {"address": "fd00:10:244::6", "link": 0, "ends": null}],
            "frontends": [frontend("10.96.0.10", 80, &both, &both, false), frontend("10.96.0.11", 80, &[], &[], false),
                          frontend("172.30.77.11", 30080, &both, &both, true), balanced]}))
        .unwrap()
    }

    fn told(from: &str, to: &str) -> (Vec<String>, String) {
        let question =
            Question { from: from.parse().unwrap(), to: to.parse().unwrap(), protocol: "TCP".to_owned() };
        said(&tables(), &question)
    }

    fn said(tables: &Picture, question: &Question) -> (Vec<String>, String) {
        let Trace { steps, verdict } = trace(tables, question, true);
        (steps.into_iter().map(|step| format!("{}: {}", step.hook, step.what)).collect(), verdict)
    }

    #[test]
    fn clients_of_the_node_are_translated_at_their_sockets() {
        let (steps, verdict) = told("10.244.0.6", "10.96.0.10:80");
        let expected = [
            "socket: 10.96.0.10:80 is d/web:http: becomes one of 2 in turn: 10.244.0.5:80 10.244.1.5:80",
            "pod's link (tc): 10.244.0.5 is a pod of this node: straight into it, by link 7",
            "node's routes: 10.244.1.5 is a pod of another node",
        ];
        assert_eq!(
            (&steps[..], verdict.as_str()),
            (&expected.map(str::to_owned)[..], "delivered or forwarded")
        );
        let (steps, verdict) = told("172.30.77.11", "10.96.0.11:80");
        let refused = "socket: 10.96.0.11:80 is d/web:http, which has no endpoints for clients on this node: ECONNREFUSED";
        assert_eq!((&steps[..], verdict.as_str()), (&[refused.to_owned()][..], "refused"));
        assert_eq!(told("10.244.0.5", "127.0.0.1:30080").1, "delivered", "its own loopback");
        let (steps, verdict) = told("10.244.0.5", "203.0.113.9:443");
        assert_eq!(
            (steps[1].as_str(), verdict.as_str()),
            ("uplink out (tc): 203.0.113.9 is outside the cluster: leaves as 172.30.77.11", "forwarded")
        );
    }

    #[test]
    fn a_pod_that_opts_out_is_asked_at_its_link_even_if_what_comes_to_it_waits_in_a_queue() {
        let mut tables = tables();
        tables.pods[1].link = 9;
        tables.per_packet = ["link 9".to_owned(), "namespace 4242".to_owned()].into();
        let ask = |from: &str, to: &str| Question {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol: "TCP".to_owned(),
        };
        let (steps, _) = said(&tables, &ask("10.244.0.6", "10.96.0.10:80"));
        assert!(steps[0].starts_with("pod's link (tc): 10.96.0.10:80 is d/web:http: becomes"), "{steps:?}");
        let (steps, _) = said(&tables, &ask("10.244.0.5", "10.96.0.10:80"));
        assert!(steps[0].starts_with("socket: "), "the other one has not opted out: {steps:?}");
        let (steps, verdict) = said(&tables, &ask("10.244.0.5", "10.244.0.6:80"));
        let by_routes = "node's routes: 10.244.0.6 is a pod of this node";
        assert_eq!((steps.last().map(String::as_str), verdict.as_str()), (Some(by_routes), "delivered"));
    }

    #[test]
    fn policies_are_told_where_they_are_enforced() {
        let told = |from: &str, to: &str, protocol: &str| {
            let question = Question {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                protocol: protocol.to_owned(),
            };
            said(&with_policies(true), &question)
        };
        let (steps, verdict) = told("10.244.0.5", "10.96.0.10:80", "TCP");
        let out = "pod's link (tc): by the policies (d/out) of 10.244.0.5 TCP may not go out to 10.244.1.5 at its port 80";
        assert_eq!((steps.last().map(String::as_str), verdict.as_str()), (Some(out), "delivered or dropped"));
        assert_eq!(told("10.244.0.5", "10.244.0.6:81", "TCP").1, "dropped", "it may not go out");
        assert_eq!(told("10.244.0.5", "10.244.0.6:81", "UDP").1, "dropped", "nor may that come in");
        let (steps, verdict) = told("172.30.77.200", "10.244.0.6:80", "TCP");
        let stranger = "pod's link (tc): by the policies of 10.244.0.6 TCP may not come in from 172.30.77.200 at port 80";
        assert_eq!((steps.last().map(String::as_str), verdict.as_str()), (Some(stranger), "dropped"));
        assert_eq!(told("172.30.77.11", "10.244.0.6:80", "TCP").1, "delivered", "the node reaches its pods");
        assert_eq!(told("10.244.0.5", "203.0.113.9:53", "UDP").1, "forwarded");
        assert_eq!(told("fd00:10:244::7", "[fd00:10:244::6]:80", "TCP").1, "delivered", "as by IPv4");
        assert_eq!(told("fd00:10:244::7", "[fd00:10:244::6]:82", "TCP").1, "dropped");
        assert_eq!(told("2001:db8::7", "[fd00:10:244::6]:80", "TCP").1, "dropped");
    }

    #[test]
    fn clients_outside_are_translated_at_the_uplink_if_they_may_be() {
        let (steps, verdict) = told("172.30.77.200", "172.30.77.11:30080");
        assert_eq!(verdict, "delivered or forwarded");
        assert_eq!(
            steps[1],
            "pod's link (tc): 10.244.0.5 sees the client; its answers become 172.30.77.11:30080's here"
        );
        assert_eq!(
            steps[3],
            "uplink in (XDP, tc): 10.244.1.5 is elsewhere: leaves as 172.30.77.11 with a port of ours, by the link it came by"
        );
        assert_eq!(told("172.30.77.200", "10.96.0.10:80").1, "passed", "not for clients outside");
        assert_eq!(told("172.30.77.200", "192.0.2.7:80").1, "dropped", "in none of the source ranges");
        assert_eq!(
            told("198.51.100.9", "192.0.2.7:80").1,
            "delivered",
            "the local policy knows the one here"
        );
        assert_eq!(told("172.30.77.200", "172.30.77.11:22").1, "passed");
    }

    #[test]
    fn nodes_that_answer_themselves_are_told_where_a_client_outside_is_handed_over() {
        let mut tables = tables();
        tables.direct = [("10.244.1.0/24".parse().unwrap(), [172, 30, 77, 12].into())].into();
        let ask = |from: &str, to: &str| Question {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol: "TCP".to_owned(),
        };
        let (steps, verdict) = said(&tables, &ask("172.30.77.200", "172.30.77.11:30080"));
        let handed = "uplink in (XDP, tc): 10.244.1.5 is elsewhere: goes as it came to its node 172.30.77.12, where it sees the \
                      client; its answers leave there";
        assert_eq!(
            (steps.last().map(String::as_str), verdict.as_str()),
            (Some(handed), "delivered or forwarded")
        );
        let (steps, verdict) = said(&tables, &ask("198.51.100.9", "192.0.2.7:80"));
        assert_eq!(verdict, "delivered", "by its local policy the Service never leaves the node: {steps:?}");
        assert!(!steps.iter().any(|step| step.contains("172.30.77.12")), "{steps:?}");
        let (steps, _) = said(&tables, &ask("10.244.0.6", "10.96.0.10:80"));
        assert!(!steps.iter().any(|step| step.contains("172.30.77.12")), "nor is who is inside: {steps:?}");
        tables.direct = [("10.244.2.0/24".parse().unwrap(), [172, 30, 77, 13].into())].into();
        let (steps, _) = said(&tables, &ask("172.30.77.200", "172.30.77.11:30080"));
        let elsewhere = "10.244.1.5 is elsewhere: leaves as 172.30.77.11 with a port of ours";
        assert!(steps.last().is_some_and(|step| step.contains(elsewhere)), "of another node: {steps:?}");
    }
}
