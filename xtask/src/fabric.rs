//! The network of a cluster on one machine: a bridge in a namespace of its own, nodes and an outside client around it.
//!
//! The machine is not a node: it reaches pods by routes through the fabric. Before anything else, its ranges are made
//! unreachable, so that no packet of the cluster can leave by the machine's own uplink.
//!
//! Nodes may be spread over several networks. Then the bridges' namespace is the router between them: one that knows of nodes
//! alone, and lets nobody's address pass but theirs, as routers of clouds do.

use std::process::Command;

use anyhow::Result;

use crate::exec::{output, succeeds};

/// The machine's address on the fabric.
pub(crate) const HOST: &str = "172.30.77.1";
const FABRIC: &str = "oarlock-fabric";
const CLIENT: &str = "oarlock-client";
/// The range of pods, and that of Services.
const PODS: &str = "10.244.0.0/16";
const SERVICES: &str = "10.96.0.0/16";
/// The ranges of IPv6, of pods and Services: addresses that nobody routes (RFC 4193).
const RANGES6: [&str; 2] = ["fd00:10:244::/56", "fd00:10:96::/112"];
/// How many networks nodes may be spread over.
pub(crate) const NETWORKS: u8 = 3;
/// Marks the machine's routes as ours.
const PROTOCOL: &str = "201";

/// The namespace of a node.
pub(crate) fn node_namespace(number: u8) -> String {
    format!("oarlock-node{number}")
}

/// The address of a node where all are on one network.
pub(crate) fn node_ip(number: u8) -> String {
    address(0, 10 + number)
}

/// The address of a node where nodes are dealt out to this many networks.
pub(crate) fn node_ip_of(number: u8, networks: u8) -> String {
    address(network_of(number, networks), 10 + number)
}

/// Whether a node's address is on the network of the machine and the client.
pub(crate) fn is_near(node: &str) -> bool {
    node.starts_with("172.30.77.") || node.starts_with("fd00:172:30:77:")
}

fn network_of(number: u8, networks: u8) -> u8 {
    (number - 1) % networks
}

fn address(network: u8, host: u8) -> String {
    format!("172.30.{}.{host}", 77 + network)
}

/// The range of a network's nodes.
fn range(network: u8) -> String {
    format!("{}/24", address(network, 0))
}

/// The same of IPv6.
fn range6(network: u8) -> String {
    format!("fd00:172:30:{}::/64", 77 + network)
}

/// The router's address on a network.
fn router(network: u8) -> String {
    address(network, 254)
}

fn bridge(network: u8) -> String {
    if network == 0 { "oarlock-br".to_owned() } else { format!("oarlock-br{network}") }
}

/// What is unreachable but by the fabric.
fn ranges() -> Vec<String> {
    let four = (0..NETWORKS).map(range).chain([PODS.to_owned(), SERVICES.to_owned()]);
    let six = (0..NETWORKS).map(range6).chain(RANGES6.map(str::to_owned));
    four.chain(six.filter(|_| has_ipv6())).collect()
}

/// The address of IPv6 that a machine has beside one of IPv4 on the fabric: the same numbers, the last one at the end.
pub(crate) fn beside(address: &str) -> String {
    let (network, host) = address.rsplit_once('.').unwrap_or_default();
    format!("fd00:{}::{host}", network.replace('.', ":"))
}

/// The ranges of pods, and of Services, of a cluster with dual stack.
pub(crate) fn dual_ranges() -> [String; 2] {
    [format!("{PODS},{}", RANGES6[0]), format!("{SERVICES},{}", RANGES6[1])]
}

/// Whether this machine's kernel gives links IPv6.
pub(crate) fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6").is_ok_and(|off| off.trim() == "0")
}

fn ip(arguments: &str) -> Result<()> {
    output("ip", &arguments.split(' ').collect::<Vec<_>>()).map(drop)
}

fn has_namespace(name: &str) -> bool {
    std::path::Path::new("/run/netns").join(name).exists()
}

/// Whether there is a fabric, whole or not.
pub(crate) fn exists() -> bool {
    has_namespace(FABRIC)
}

/// Makes what is missing of the fabric with this many nodes; repairs what a crash left half made.
pub(crate) fn up(nodes: u8, networks: u8, xdp: bool, dual: bool) -> Result<()> {
    for range in ranges() {
        ip(&format!("route replace unreachable {range} metric 4000 proto {PROTOCOL}"))?;
    }
    namespace(FABRIC)?;
    for network in 0..networks {
        let name = bridge(network);
        if !has_link(FABRIC, &name) {
            ip(&format!("-n {FABRIC} link add {name} type bridge"))?;
        }
        ip(&format!("-n {FABRIC} link set {name} up"))?;
    }
    if !succeeds("ip", &["link", "show", "oarlock-host"]) {
        ip(&format!("link add oarlock-host type veth peer name host netns {FABRIC}"))?;
    }
    ip(&format!("-n {FABRIC} link set host master oarlock-br up"))?;
    ip(&format!("addr replace {HOST}/24 dev oarlock-host"))?;
    ip("link set oarlock-host up")?;
    if dual {
        ip(&format!("addr replace {}/64 dev oarlock-host nodad", beside(HOST)))?;
    }
    feature(None, "oarlock-host", "tx", !xdp)?;
    for number in 1..=nodes {
        let network = network_of(number, networks);
        let (namespace, port) = (node_namespace(number), format!("node{number}"));
        let address = node_ip_of(number, networks);
        join(&namespace, &port, network, &address, xdp)?;
        give_ipv6(&namespace, &address, dual)?;
    }
    join(CLIENT, "client", 0, "172.30.77.200", xdp)?;
    give_ipv6(CLIENT, "172.30.77.200", dual)?;
    if networks > 1 { route_between(nodes, networks, dual) } else { Ok(()) }
}

/// A router between the networks, and everybody's way to it. Only addresses of its own networks pass (RFC 3704 2.2); of IPv6, for which
/// kernels have no such filter, others find no way back.
fn route_between(nodes: u8, networks: u8, dual: bool) -> Result<()> {
    let forwarding = dual.then_some("ipv6.conf.all.forwarding=1");
    for setting in ["ipv4.ip_forward=1", "ipv4.conf.all.rp_filter=1"].into_iter().chain(forwarding) {
        output("ip", &["netns", "exec", FABRIC, "sysctl", "-qw", &format!("net.{setting}")])?;
    }
    for network in 0..networks {
        let (address, bridge) = (router(network), bridge(network));
        ip(&format!("-n {FABRIC} addr replace {address}/24 dev {bridge}"))?;
        if dual {
            ip(&format!("-n {FABRIC} addr replace {}/64 dev {bridge} nodad", beside(&address)))?;
        }
    }
    let nodes = (1..=nodes).map(|number| (node_namespace(number), network_of(number, networks)));
    for (namespace, here) in nodes.chain([(CLIENT.to_owned(), 0)]) {
        for there in (0..networks).filter(|there| *there != here) {
            route_over(&format!("-n {namespace} "), (there, here), "eth0", dual)?;
        }
    }
    for there in 1..networks {
        route_over("", (there, 0), &format!("oarlock-host proto {PROTOCOL}"), dual)?;
    }
    Ok(())
}

/// A route to a network by the router of another one.
fn route_over(inside: &str, (there, here): (u8, u8), link: &str, dual: bool) -> Result<()> {
    let router = router(here);
    ip(&format!("{inside}route replace {} via {router} dev {link}", range(there)))?;
    if dual {
        ip(&format!("{inside}route replace {} via {} dev {link}", range6(there), beside(&router)))?;
    }
    Ok(())
}

/// Readies the bridge's port of a node for what the node sends by XDP.
pub(crate) fn prepare_peer(number: u8, agent: &str) -> Result<()> {
    let inside = format!("--net=/run/netns/{FABRIC}");
    let port = format!("node{number}");
    output("nsenter", &[&inside, agent, "dataplane", "prepare-peer", "--iface", &port]).map(drop)
}

/// Switches an offload of a link. Without `tx`, those who send by it complete their checksums, which XDP needs; with it they
/// leave that to a network card, which virtual links do not have, as the kernel knows: XDP leaves such packets to tc.
fn feature(namespace: Option<&str>, link: &str, feature: &str, on: bool) -> Result<()> {
    let inside = namespace.map(|name| ["ip", "netns", "exec", name]);
    let value = if on { "on" } else { "off" };
    let words =
        [inside.as_ref().map_or(&[][..], |i| &i[..]), &["ethtool", "-K", link, feature, value]].concat();
    output(words[0], &words[1..]).map(drop)
}

fn namespace(name: &str) -> Result<()> {
    if has_namespace(name) { Ok(()) } else { ip(&format!("netns add {name}")) }
}

fn has_link(namespace: &str, name: &str) -> bool {
    succeeds("ip", &["-n", namespace, "link", "show", name])
}

fn join(name: &str, port: &str, network: u8, address: &str, xdp: bool) -> Result<()> {
    namespace(name)?;
    if !has_link(name, "eth0") {
        // One queue: with XDP each queue of a veth is polled by itself, and packets of one connection that two cores have
        // sent overtake each other.
        let one = "numtxqueues 1 numrxqueues 1";
        ip(&format!("-n {FABRIC} link add {port} {one} type veth peer name eth0 {one} netns {name}"))?;
    }
    ip(&format!("-n {FABRIC} link set {port} master {} up", bridge(network)))?;
    ip(&format!("-n {name} addr replace {address}/24 dev eth0"))?;
    ip(&format!("-n {name} link set eth0 up"))?;
    feature(Some(name), "eth0", "tx", !xdp)?;
    ip(&format!("-n {name} link set lo up"))
}

/// An address of IPv6 beside the one of IPv4. Nobody else has it: no time is spent on looking for who might.
fn give_ipv6(name: &str, address: &str, dual: bool) -> Result<()> {
    if dual { ip(&format!("-n {name} addr replace {}/64 dev eth0 nodad", beside(address))) } else { Ok(()) }
}

/// A route of the machine to the Services, through the first node.
pub(crate) fn route_services(dual: bool) -> Result<()> {
    let route = |range: &str, node: &str| {
        ip(&format!("route replace {range} via {node} dev oarlock-host proto {PROTOCOL}"))
    };
    route(SERVICES, &node_ip(1))?;
    if dual { route(RANGES6[1], &beside(&node_ip(1))) } else { Ok(()) }
}

/// A route of the machine to the pods of a node.
pub(crate) fn route_pods(cidr: &str, node: &str) -> Result<()> {
    ip(&format!("route replace {cidr} via {node} dev oarlock-host proto {PROTOCOL}"))
}

/// Removes everything, whatever is left of it.
pub(crate) fn down() {
    let namespaces = output("ip", &["netns", "list"]).unwrap_or_default();
    let ours = namespaces.lines().filter_map(|l| l.split(' ').next()).filter(|n| {
        *n == FABRIC
            || *n == CLIENT
            || n.strip_prefix("oarlock-node").is_some_and(|d| d.parse::<u8>().is_ok())
    });
    for namespace in ours {
        let _ = ip(&format!("netns del {namespace}"));
    }
    let _ = ip("link del oarlock-host");
    let _ = ip(&format!("route flush proto {PROTOCOL}"));
    let _ = ip(&format!("-6 route flush proto {PROTOCOL}"));
    for range in ranges() {
        let _ = ip(&format!("route del unreachable {range} metric 4000"));
    }
}

/// A command that runs in a namespace's network (and only there: /sys stays as it is).
pub(crate) fn command_in(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}
