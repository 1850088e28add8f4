//! A node without Oarlock, to compare with: a pod that asks, three that answer, and a client outside, wired as the agent
//! wires pods, and in containers like those of pods. With or without the rules that kube-proxy would write, which stay in the
//! node's network namespace.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::exec::output;

/// The Service of the lab.
pub(super) const CLUSTER_IP: &str = "10.96.0.80:80";
/// Its NodePort, at the node's address for outside clients.
pub(super) const NODE_PORT: &str = "172.30.78.1:30090";
/// The pods that answer.
pub(super) const BACKENDS: [&str; 3] = ["10.244.9.11", "10.244.9.12", "10.244.9.13"];
/// The ports of the pods' web servers: one for each way, as in manifests/bench/quick.yaml and for its reason.
pub(super) const DIRECT_PORT: u16 = 80;
const CLUSTER_PORT: u16 = 81;
const NODE_PORT_PORT: u16 = 82;
const ASKING: &str = "10.244.9.10";
/// The node's address for its pods, and for clients outside.
pub(super) const GATEWAY: &str = "10.244.9.1";
pub(super) const OUTER: &str = "172.30.78.1";
const NAMES: [&str; 3] = ["node", "fabric", "out"];
/// The first one asks, the others answer.
pub(super) const PODS: [&str; 4] = ["pod0", "pod1", "pod2", "pod3"];

/// Namespaces and containers; gone when dropped.
#[derive(Debug)]
pub(super) struct Lab {
    prefix: String,
}

impl Lab {
    /// Makes the lab; `rules` says whether the node translates Services with kube-proxy's rules or knows none.
    pub(super) fn make(name: &str, rules: bool) -> Result<Self> {
        let lab = Self { prefix: format!("oarlock-bench-{name}-") };
        lab.remove();
        for namespace in NAMES {
            ip(&format!("netns add {}{namespace}", lab.prefix))?;
        }
        for pod in PODS {
            let name = lab.run(pod, "none", "toolbox", &["sleep", "86400"])?;
            let pid = output("docker", &["inspect", "-f", "{{.State.Pid}}", &name])?;
            ip(&format!("netns attach {name} {}", pid.trim()))?;
        }
        for namespace in NAMES.iter().chain(&PODS) {
            lab.inside(namespace, "ip link set lo up")?;
        }
        lab.inside("node", "sysctl -qw net.ipv4.ip_forward=1")?;
        lab.inside("node", &format!("ip addr add {GATEWAY}/32 dev lo"))?;
        let addresses = std::iter::once(&ASKING).chain(&BACKENDS);
        for (pod, address) in PODS.iter().zip(addresses) {
            let link = format!("v{pod}");
            lab.pair("node", &link, pod)?;
            lab.inside("node", &format!("ip route add {address}/32 dev {link}"))?;
            lab.inside(pod, &format!("ip addr add {address}/32 dev eth0"))?;
            lab.inside(pod, &format!("ip route add {GATEWAY} dev eth0 scope link"))?;
            lab.inside(pod, &format!("ip route add default via {GATEWAY} dev eth0"))?;
        }
        // A bridge between node and client, as in the fabric of a cluster.
        lab.inside("fabric", "ip link add bench-br type bridge && ip link set bench-br up")?;
        for (port, address) in [("node", "172.30.78.1/24"), ("out", "172.30.78.2/24")] {
            lab.pair("fabric", port, port)?;
            lab.inside("fabric", &format!("ip link set {port} master bench-br"))?;
            lab.inside(port, &format!("ip addr add {address} dev eth0"))?;
        }
        lab.inside("out", "ip route add 10.0.0.0/8 via 172.30.78.1")?;
        if rules {
            lab.inside("node", &format!("iptables-restore <<'END'\n{}END", kube_proxy_rules()))?;
        }
        for pod in PODS.iter().skip(1) {
            for port in [DIRECT_PORT, CLUSTER_PORT, NODE_PORT_PORT] {
                let network = format!("container:{}{pod}", lab.prefix);
                lab.run(&format!("{pod}-{port}"), &network, "web", &["/web", &port.to_string(), pod])?;
            }
        }
        Ok(lab)
    }

    /// A container of ours, with Docker's defaults as those of pods have. Its name.
    fn run(&self, name: &str, network: &str, image: &str, command: &[&str]) -> Result<String> {
        let name = format!("{}{name}", self.prefix);
        let image = format!("oarlock/{image}:0.1.0");
        let options = ["run", "--detach", "--rm", "--name", &name, "--network", network, &image];
        output("docker", &[&options[..], command].concat())?;
        Ok(name)
    }

    /// A command in one of the lab's pods: its program comes next.
    pub(super) fn exec(&self, pod: &str) -> Command {
        let mut command = Command::new("docker");
        command.args(["exec", &format!("{}{pod}", self.prefix)]);
        command
    }

    /// A command in one of the lab's namespaces: its program comes next.
    pub(super) fn command(&self, namespace: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}{namespace}", self.prefix));
        command
    }

    fn inside(&self, namespace: &str, script: &str) -> Result<()> {
        let said = self.command(namespace).args(["sh", "-c", script]).output()?;
        if said.status.success() {
            return Ok(());
        }
        bail!("{script} in {}{namespace}: {}", self.prefix, String::from_utf8_lossy(&said.stderr).trim())
    }

    /// A link from one namespace to another, where it is eth0.
    fn pair(&self, namespace: &str, link: &str, other: &str) -> Result<()> {
        let prefix = &self.prefix;
        let from = format!("-n {prefix}{namespace} link");
        ip(&format!("{from} add {link} type veth peer name eth0 netns {prefix}{other}"))?;
        ip(&format!("{from} set {link} up"))?;
        ip(&format!("-n {prefix}{other} link set eth0 up"))
    }

    fn remove(&self) {
        let filter = format!("name=^{}", self.prefix);
        let found = output("docker", &["ps", "--all", "--quiet", "--filter", &filter]).unwrap_or_default();
        let containers: Vec<&str> = found.split_whitespace().collect();
        if !containers.is_empty() {
            let _ = output("docker", &[&["rm", "--force"], &containers[..]].concat());
        }
        for namespace in NAMES.iter().chain(&PODS).map(|n| format!("{}{n}", self.prefix)) {
            if Path::new("/run/netns").join(&namespace).exists() {
                let _ = ip(&format!("netns del {namespace}"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(arguments: &str) -> Result<()> {
    output("ip", &arguments.split(' ').collect::<Vec<_>>()).map(drop)
}

/// The rules of kube-proxy 1.33 (pkg/proxy/iptables/proxier.go) for a Service with two ports, the second one with a NodePort,
/// and three endpoints, in the order in which it writes them.
fn kube_proxy_rules() -> String {
    let (cluster_ip, port) = CLUSTER_IP.split_once(':').unwrap_or_default();
    let (_, node_port) = NODE_PORT.split_once(':').unwrap_or_default();
    let service = format!("-d {cluster_ip}/32 -p tcp -m tcp --dport {port}");
    let other = format!("-d {cluster_ip}/32 -p tcp -m tcp --dport {NODE_PORT_PORT}");
    let mut nat = format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-EXT-NODE - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-NODEPORTS -p tcp -m tcp --dport {node_port} -j KUBE-EXT-NODE
-A KUBE-EXT-NODE -j KUBE-MARK-MASQ
"
    );
    for (name, service, port) in [("CLUSTER", &service, CLUSTER_PORT), ("NODE", &other, NODE_PORT_PORT)] {
        nat += &chains_of_a_port(name, service, port);
    }
    nat += "-A KUBE-EXT-NODE -j KUBE-SVC-NODE
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
";
    nat + "*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"
}

/// What one port of a Service needs: its chain, one for each endpoint, and the choice between them.
fn chains_of_a_port(name: &str, service: &str, target: u16) -> String {
    let mut rules = format!(
        ":KUBE-SVC-{name} - [0:0]
-A KUBE-SERVICES {service} -j KUBE-SVC-{name}
-A KUBE-SVC-{name} ! -s 10.244.0.0/16 {service} -j KUBE-MARK-MASQ
"
    );
    for (number, (backend, choice)) in BACKENDS.iter().zip(["0.33333333349", "0.50000000000", ""]).enumerate()
    {
        let endpoint = format!("KUBE-SEP-{name}-{number}");
        let chance = match choice {
            "" => String::new(),
            chance => format!("-m statistic --mode random --probability {chance} "),
        };
        rules += &format!(
            ":{endpoint} - [0:0]
-A KUBE-SVC-{name} {chance}-j {endpoint}
-A {endpoint} -s {backend}/32 -j KUBE-MARK-MASQ
-A {endpoint} -p tcp -m tcp -j DNAT --to-destination {backend}:{target}
"
        );
    }
    rules
}
