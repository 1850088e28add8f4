//! From NetworkPolicies to what may come to a pod and leave it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_api::k8s::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort,
};
use oarlock_api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use oarlock_api::network_policy::{Member, PodGroup, is_named, isolates, named_port, selector};
use oarlock_ebpf::policy::{ANYBODY, EVERY_PORT, EVERY_PROTOCOL, Rule, prefixes, rule};

use crate::desired::Objects;

/// Whom a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// Everybody.
    Anybody,
    /// The pods of a group.
    Group(String),
    /// Those of them whose port of this name (see [`named_port`]) has this number.
    Port(String, String, u16),
    /// The addresses of a range, but for those of others.
    Block(IpNet, BTreeSet<IpNet>),
}

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Allowed {
    pub(super) peer: Peer,
    ports: Ports,
}

/// Everything that is allowed in a direction.
pub(super) type Rules = BTreeSet<Allowed>;

/// To which ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ports {
    /// All of every protocol.
    All,
    /// All of one.
    Of(u8),
    /// Those from one to another.
    Range(u8, u16, u16),
}

impl Ports {
    /// As the kernel keeps them: protocol, port, and how many bits of a rule compare.
    fn lines(self) -> Vec<(u8, u16, u32)> {
        match self {
            Self::All => vec![(0, 0, EVERY_PROTOCOL)],
            Self::Of(protocol) => vec![(protocol, 0, EVERY_PORT)],
            Self::Range(protocol, first, last) => prefixes(first, last)
                .map(|(port, bits)| (protocol, port, EVERY_PORT + u32::from(bits)))
                .collect(),
        }
    }
}

/// The lines that numbers need for identities: (how many bits compare, data).
pub(super) fn lines<'w>(
    numbers: impl Iterator<Item = (u32, &'w Rules)>,
    identities: impl Iterator<Item = (u32, &'w BTreeSet<Peer>)>,
) -> BTreeSet<(u32, Rule)> {
    let mut of_peer: BTreeMap<&Peer, Vec<u32>> = BTreeMap::new();
    for (identity, peers) in identities {
        for peer in peers {
            of_peer.entry(peer).or_default().push(identity);
        }
    }
    let mut lines = BTreeSet::new();
    for (number, rules) in numbers {
        for Allowed { peer, ports } in rules {
            let identities = match peer {
                Peer::Anybody => &[ANYBODY][..],
                peer => of_peer.get(peer).map_or(&[][..], Vec::as_slice),
            };
            for identity in identities {
                let of_ports = ports.lines().into_iter();
                lines.extend(
                    of_ports.map(|(protocol, port, bits)| (bits, rule(number, *identity, protocol, port))),
                );
            }
        }
    }
    lines
}

/// What may come to a pod and leave it; none where no policy isolates it.
pub(super) fn of_pod(
    pod: &Pod,
    policies: &Objects<NetworkPolicy>,
    members: &Objects<Member>,
) -> (Option<Rules>, Option<Rules>) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let (mut ingress, mut egress) = (None, None);
    let first = (namespace.clone(), String::new());
    for (_, policy) in policies.range(first..).take_while(|((of, _), _)| *of == namespace) {
        let Some(spec) = policy.spec.as_ref().filter(|_| selects(policy, pod)) else { continue };
        let (comes, goes) = isolates(policy);
        if comes {
            let rules: &mut Rules = ingress.get_or_insert_default();
            rules.extend(spec.ingress.iter().flatten().flat_map(|rule| of_ingress(&namespace, rule, pod)));
        }
        if goes {
            let rules: &mut Rules = egress.get_or_insert_default();
            rules.extend(spec.egress.iter().flatten().flat_map(|rule| of_egress(&namespace, rule, members)));
        }
    }
    (ingress, egress)
}

/// `namespace/name` of the policies that select a pod.
pub(super) fn names(pod: &Pod, policies: &Objects<NetworkPolicy>) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let first = (namespace.to_owned(), String::new());
    let here = policies.range(first..).take_while(|((of, _), _)| of == namespace);
    here.filter(|(_, policy)| selects(policy, pod)).map(|((of, name), _)| format!("{of}/{name}")).collect()
}

/// Whether what a policy allows depends on what the ports of its peers are called.
pub(super) fn asks_members(policy: &NetworkPolicy) -> bool {
    let rules = policy.spec.iter().flat_map(|spec| spec.egress.iter().flatten());
    rules.flat_map(|rule| rule.ports.iter().flatten()).any(is_named)
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let wanted = policy.spec.as_ref().and_then(|spec| selector(spec.pod_selector.as_ref()).ok());
    let labels = pod.metadata.labels.as_ref();
    // A selector that does not parse, which validation lets through nowhere, isolates rather than opens.
    wanted.is_none_or(|wanted| wanted.matches_with(|key| labels?.get(key).map(String::as_str)))
}

fn of_ingress(namespace: &str, rule: &NetworkPolicyIngressRule, pod: &Pod) -> Vec<Allowed> {
    let ports = ports(rule.ports.as_deref(), |protocol, name| {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        let port = ports.find(|port| {
            port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })?;
        u16::try_from(port.container_port).ok()
    });
    let peers = peers(namespace, rule.from.as_deref());
    peers
        .iter()
        .flat_map(|peer| ports.iter().map(|ports| Allowed { peer: peer.clone(), ports: *ports }))
        .collect()
}

fn of_egress(namespace: &str, rule: &NetworkPolicyEgressRule, members: &Objects<Member>) -> Vec<Allowed> {
    let peers = peers(namespace, rule.to.as_deref());
    let numbers = ports(rule.ports.as_deref(), |_, _| None);
    let mut allowed: Vec<Allowed> = peers
        .iter()
        .flat_map(|peer| numbers.iter().map(|ports| Allowed { peer: peer.clone(), ports: *ports }))
        .collect();
    for port in rule.ports.iter().flatten() {
        let (Some(IntOrString::String(name)), Some(number)) = (&port.port, protocol(port)) else { continue };
        let key = named_port(port.protocol.as_deref().unwrap_or("TCP"), name);
        for peer in &peers {
            let group = match peer {
                Peer::Anybody => PodGroup::everything().id(),
                Peer::Group(id) => id.clone(),
                // Addresses have no ports that are called anything.
                Peer::Block(..) | Peer::Port(..) => continue,
            };
            for port in numbers_of(&group, &key, members) {
                let peer = Peer::Port(group.clone(), key.clone(), port);
                allowed.push(Allowed { peer, ports: Ports::Range(number, port, port) });
            }
        }
    }
    allowed
}

/// Which numbers a named port has in a group.
fn numbers_of(group: &str, key: &str, members: &Objects<Member>) -> BTreeSet<u16> {
    let first = (group.to_owned(), String::new());
    let of_group = members.range(first..).take_while(|((of, _), _)| of == group);
    of_group.filter_map(|(_, member)| member.ports.get(key).copied()).collect()
}

fn peers(namespace: &str, listed: Option<&[NetworkPolicyPeer]>) -> Vec<Peer> {
    match listed {
        None | Some([]) => vec![Peer::Anybody],
        Some(listed) => listed.iter().filter_map(|peer| one_peer(namespace, peer)).collect(),
    }
}

fn one_peer(namespace: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
    match &peer.ip_block {
        Some(block) => block_of(block),
        None => PodGroup::of(namespace, peer).map(|group| Peer::Group(group.id())),
    }
}

/// A range of addresses.
fn block_of(block: &IPBlock) -> Option<Peer> {
    let parse = |cidr: &String| cidr.parse::<IpNet>().ok().map(|net| net.trunc());
    let except = block.except.iter().flatten().filter_map(parse).collect();
    Some(Peer::Block(parse(&block.cidr)?, except))
}

/// The ports of a rule; names are resolved by protocol and name, and those of nothing allow nothing.
fn ports(listed: Option<&[NetworkPolicyPort]>, named: impl Fn(&str, &str) -> Option<u16>) -> Vec<Ports> {
    let Some(listed) = listed.filter(|listed| !listed.is_empty()) else { return vec![Ports::All] };
    let port = |port: &NetworkPolicyPort| {
        let number = protocol(port)?;
        Some(match &port.port {
            None => Ports::Of(number),
            Some(IntOrString::Int(first)) => {
                let first = u16::try_from(*first).ok()?;
                let last = port.end_port.map_or(Some(first), |last| u16::try_from(last).ok())?;
                Ports::Range(number, first, last)
            }
            Some(IntOrString::String(name)) => {
                let port = named(port.protocol.as_deref().unwrap_or("TCP"), name)?;
                Ports::Range(number, port, port)
            }
        })
    };
    listed.iter().filter_map(port).collect()
}

fn protocol(port: &NetworkPolicyPort) -> Option<u8> {
    match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}
