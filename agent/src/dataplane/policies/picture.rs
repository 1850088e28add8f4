//! What the tables of policies say, in a form that is the same for the kernel's and for those that are wanted, and what that means
//! for one packet. docs/observability.md describes it; fields are only added.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData};
use ipnet::IpNet;
use oarlock_ebpf::maps;
use oarlock_ebpf::policy::{ANYBODY, EVERY_PORT, EVERY_PROTOCOL, INGRESS, Isolation, NOBODY, Rule};
use serde::{Deserialize, Serialize};

use super::super::verify::Difference;
use super::tables::{Identities as Known, map_of};
use super::{Compiler, PodLink, Snapshot, Wanted, numbered, rules};
use crate::dual_ip::DualIp;

/// The tables of NetworkPolicies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPicture {
    /// Whether packets are judged at all.
    pub enforced: bool,
    /// The pods that policies select, sorted by their links.
    pub isolated: Vec<IsolatedPicture>,
    /// Which addresses are whom, sorted: of an address the longest range counts.
    pub identities: Vec<IdentityPicture>,
    /// What is allowed, sorted.
    pub allowed: Vec<AllowedPicture>,
}

/// A pod that policies select.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IsolatedPicture {
    /// The number of the node's end of its link.
    pub link: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its address of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// The number of what may come in: 8 hexadecimal digits; none: everything.
    pub ingress: Option<String>,
    /// The number of what may go out.
    pub egress: Option<String>,
    /// `namespace/name` of the policies that select it. The kernel does not know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// Which addresses are whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdentityPicture {
    /// The addresses.
    pub range: IpNet,
    /// The number of the identity; none: nobody that a policy names.
    pub identity: Option<String>,
}

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AllowedPicture {
    /// The number of what it belongs to ([`IsolatedPicture::ingress`], [`IsolatedPicture::egress`]).
    pub number: String,
    /// To whom; none: to everybody.
    pub identity: Option<String>,
    /// `TCP`, `UDP`, `SCTP` or the protocol's number; none: all.
    pub protocol: Option<String>,
    /// The first and the last port; none: all.
    pub ports: Option<[u16; 2]>,
}

impl fmt::Display for AllowedPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &Option<String>, all: &str| text.clone().unwrap_or_else(|| all.to_owned());
        write!(f, "{} to {} by ", self.number, word(&self.identity, "everybody"))?;
        write!(f, "{}", word(&self.protocol, "all protocols"))?;
        match self.ports {
            None => Ok(()),
            Some([first, last]) if first == last => write!(f, " port {first}"),
            Some([first, last]) => write!(f, " ports {first}-{last}"),
        }
    }
}

fn hex(number: u32) -> String {
    format!("{number:08x}")
}

fn unless(number: u32, nothing: u32) -> Option<String> {
    (number != nothing).then(|| hex(number))
}

fn protocol(number: u8) -> String {
    match number {
        132 => "SCTP".to_owned(),
        number => super::super::picture::protocol(number),
    }
}

impl IsolatedPicture {
    fn is_at(&self, ip: IpAddr) -> bool {
        DualIp { v4: self.address, v6: self.address6 }.all().any(|own| own == ip)
    }

    fn of(link: u32, isolation: &Isolation) -> Self {
        Self {
            link,
            address: isolation.address.into(),
            address6: Some(isolation.address6.into()).filter(|ip: &Ipv6Addr| !ip.is_unspecified()),
            ingress: unless(isolation.ingress, 0),
            egress: unless(isolation.egress, 0),
            policies: Vec::new(),
        }
    }
}

impl AllowedPicture {
    fn of(bits: u32, rule: &Rule) -> Self {
        let [number, identity] =
            [0, 4].map(|at| u32::from_ne_bytes([rule[at], rule[at + 1], rule[at + 2], rule[at + 3]]));
        let first = u16::from_be_bytes([rule[9], rule[10]]);
        let compared = bits.saturating_sub(EVERY_PORT);
        let spread = u16::MAX.checked_shr(compared).unwrap_or(0);
        Self {
            number: hex(number),
            identity: unless(identity, ANYBODY),
            protocol: (bits > EVERY_PROTOCOL).then(|| protocol(rule[8])),
            ports: (bits > EVERY_PORT).then_some([first, first | spread]),
        }
    }
}

/// What is wanted, compiled anew.
pub(in crate::dataplane) fn wanted(snapshot: &Snapshot, pods: &BTreeMap<Ipv4Addr, PodLink>) -> PolicyPicture {
    let links = numbered(pods);
    let mut compiler = Compiler::default();
    let mut picture = of(compiler.update(snapshot, links.clone()));
    for isolated in &mut picture.isolated {
        let uid = links.get(&isolated.link).map(|(_, uid)| uid.as_str());
        let pod = snapshot.pods.values().find(|pod| pod.metadata.uid.as_deref() == uid);
        isolated.policies = pod.map(|pod| rules::names(pod, &snapshot.network_policies)).unwrap_or_default();
    }
    picture
}

/// Compiled already.
pub(super) fn of(wanted: &Wanted) -> PolicyPicture {
    let lines = super::tables::lines(&wanted.numbers, &wanted.identities);
    let mut picture = PolicyPicture {
        enforced: !wanted.isolated.is_empty(),
        isolated: wanted.isolated.iter().map(|(link, of)| IsolatedPicture::of(*link, of)).collect(),
        identities: identities(wanted.prefixes.iter().map(|(net, number)| (*net, *number))),
        allowed: lines.iter().map(|(bits, rule)| AllowedPicture::of(*bits, rule)).collect(),
    };
    picture.sort();
    picture
}

fn identities(all: impl Iterator<Item = (IpNet, u32)>) -> Vec<IdentityPicture> {
    all.map(|(range, number)| IdentityPicture { range, identity: unless(number, NOBODY) }).collect()
}

/// The kernel's tables.
pub(in crate::dataplane) struct Read {
    pub(in crate::dataplane) isolated: HashMap<MapData, u32, Isolation>,
    pub(in crate::dataplane) identities: Known,
    pub(in crate::dataplane) rules: LpmTrie<MapData, Rule, u32>,
    pub(in crate::dataplane) revision: Array<MapData, u32>,
}

impl Read {
    /// As they are.
    pub(in crate::dataplane) fn picture(&self) -> PolicyPicture {
        let isolated = self.isolated.iter().filter_map(Result::ok);
        let rules = self.rules.keys().filter_map(Result::ok);
        let mut picture = PolicyPicture {
            enforced: self.revision.get(&0, 0).is_ok_and(|revision| revision != 0),
            isolated: isolated.map(|(link, of)| IsolatedPicture::of(link, &of)).collect(),
            identities: identities(self.identities.all()),
            allowed: rules.map(|key| AllowedPicture::of(key.prefix_len(), &key.data())).collect(),
        };
        picture.sort();
        picture
    }
}

impl PolicyPicture {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn sort(&mut self) {
        self.isolated.sort();
        self.identities.sort();
        self.allowed.sort();
    }

    /// What differs from what is wanted.
    pub(in crate::dataplane) fn compare(&self, wanted: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        if self.enforced != wanted.enforced {
            let [is, should] = [self, wanted].map(|one| if one.enforced { "on" } else { "off" });
            all.push(Difference::plain(
                maps::POLICIES,
                "judging packets",
                format!("is {is}, should be {should}"),
            ));
        }
        let number = |number: &Option<String>| number.clone().unwrap_or_else(|| "everything".to_owned());
        let isolated = |one: &Self| -> BTreeMap<String, String> {
            let of = |i: &IsolatedPicture| {
                let entry = format!("pod {} (link {})", DualIp { v4: i.address, v6: i.address6 }, i.link);
                (entry, format!("in {} and out {}", number(&i.ingress), number(&i.egress)))
            };
            one.isolated.iter().map(of).collect()
        };
        differ(maps::ISOLATED, &isolated(self), &isolated(wanted), &mut all);
        let identities = |one: &Self, map: &str| -> BTreeMap<String, String> {
            let of = |i: &IdentityPicture| {
                (i.range.to_string(), i.identity.clone().unwrap_or_else(|| "nobody".to_owned()))
            };
            one.identities.iter().filter(|i| map_of(&i.range) == map).map(of).collect()
        };
        for map in [maps::IDENTITIES, maps::IDENTITIES6] {
            differ(map, &identities(self, map), &identities(wanted, map), &mut all);
        }
        let allowed = |one: &Self| -> BTreeMap<String, String> {
            one.allowed.iter().map(|allowed| (allowed.to_string(), "allowed".to_owned())).collect()
        };
        differ(maps::RULES, &allowed(self), &allowed(wanted), &mut all);
        all
    }

    /// Whether a packet may come to a pod of this node ([`INGRESS`]) or leave it; none: no policy says anything.
    pub(in crate::dataplane) fn judge(
        &self,
        direction: u8,
        pod: IpAddr,
        peer: IpAddr,
        (protocol, port): (&str, u16),
    ) -> Option<Judgement<'_>> {
        let isolated = self.isolated.iter().find(|isolated| self.enforced && isolated.is_at(pod))?;
        let number = if direction == INGRESS { &isolated.ingress } else { &isolated.egress }.as_ref()?;
        let ranges = self.identities.iter().filter(|identity| identity.range.contains(&peer));
        let identity = ranges.max_by_key(|i| i.range.prefix_len()).and_then(|i| i.identity.as_ref());
        let allowed = self.allowed.iter().find(|allowed| {
            allowed.number == *number
                && (allowed.identity.is_none() || allowed.identity.as_ref() == identity)
                && allowed.protocol.as_deref().is_none_or(|one| one == protocol)
                && allowed.ports.is_none_or(|[first, last]| (first..=last).contains(&port))
        });
        Some(Judgement { policies: &isolated.policies, allowed: allowed.is_some() })
    }
}

/// What policies say of a packet.
pub(in crate::dataplane) struct Judgement<'p> {
    /// Those that select the pod.
    pub(in crate::dataplane) policies: &'p [String],
    pub(in crate::dataplane) allowed: bool,
}

/// Entries that are missing, other than wanted, or too many.
fn differ(
    map: &str,
    is: &BTreeMap<String, String>,
    should: &BTreeMap<String, String>,
    all: &mut Vec<Difference>,
) {
    let entries: BTreeSet<&String> = is.keys().chain(should.keys()).collect();
    for entry in entries {
        let problem = match (is.get(entry), should.get(entry)) {
            (None, Some(should)) => format!("is missing: {should}"),
            (Some(is), None) => format!("is there and should not be: {is}"),
            (Some(is), Some(should)) if is != should => format!("is {is}, should be {should}"),
            _ => continue,
        };
        all.push(Difference::plain(map, entry, problem));
    }
}
