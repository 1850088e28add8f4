//! NetworkPolicies of this node: what they allow to its pods, compiled purely, and then brought into the kernel's tables.
//!
//! Each address is one of few identities, by the peers that name it; what is allowed is a line for a policy, an identity and a port.
//! Numbers are made of what they stand for: an agent that starts anew writes what is there already.

mod identities;
mod picture;
mod rules;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_api::k8s::api::networking::v1::NetworkPolicy;
use oarlock_api::network_policy::Member;
use oarlock_ebpf::policy::{ANYBODY, Isolation, NOBODY};
use sha2::{Digest as _, Sha256};

use super::{DataplaneError, PodLink};
use crate::desired::{Objects, Snapshot};
use crate::dual_ip::DualIp;
use identities::Identities;
use rules::{Peer, Rules};

pub(super) use picture::{PolicyPicture, Read, wanted};
pub(super) use tables::{Handles, Identities as IdentityTables, Tables};

/// What the kernel is to enforce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The numbers of all pods' links.
    links: BTreeSet<u32>,
    /// By the number of the pod's link.
    isolated: BTreeMap<u32, Isolation>,
    /// What each number allows.
    numbers: BTreeMap<u32, Arc<Rules>>,
    /// The peers whose addresses each identity has.
    identities: BTreeMap<u32, Arc<BTreeSet<Peer>>>,
    /// The identity of the addresses in a range, if no longer one says otherwise.
    prefixes: OrdMap<IpNet, u32>,
}

/// What the policies of a snapshot are for this node's kernel. Remembers the last one: of many pods elsewhere one change costs one.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    policies: Objects<NetworkPolicy>,
    pods: Objects<Pod>,
    members: Objects<Member>,
    links: BTreeMap<u32, (DualIp, String)>,
    identities: Identities,
    wanted: Wanted,
}

impl Compiler {
    /// Takes a snapshot over, with the links of this node's pods: number to addresses and uid.
    pub(super) fn update(&mut self, snapshot: &Snapshot, links: BTreeMap<u32, (DualIp, String)>) -> &Wanted {
        let has_moved = !self.policies.ptr_eq(&snapshot.network_policies)
            || !self.pods.ptr_eq(&snapshot.pods)
            || self.links != links;
        let members = std::mem::replace(&mut self.members, snapshot.network_peers.clone());
        if has_moved || self.asks_members() && !members.ptr_eq(&self.members) {
            self.policies = snapshot.network_policies.clone();
            self.pods = snapshot.pods.clone();
            self.links = links;
            self.wanted.links = self.links.keys().copied().collect();
            self.isolate();
        }
        let named: BTreeSet<&Peer> = self
            .wanted
            .numbers
            .values()
            .flat_map(|rules| rules.iter())
            .map(|allowed| &allowed.peer)
            .collect();
        self.identities.follow(&members, &self.members, &named);
        self.wanted.identities =
            self.identities.identities().map(|(number, peers)| (number, Arc::clone(peers))).collect();
        self.wanted.prefixes = self.identities.prefixes().clone();
        &self.wanted
    }

    /// Whether what is allowed depends on what the peers' ports are called.
    fn asks_members(&self) -> bool {
        self.policies.values().any(|policy| rules::asks_members(policy))
    }

    fn isolate(&mut self) {
        (self.wanted.isolated, self.wanted.numbers) = Default::default();
        if self.policies.is_empty() {
            return;
        }
        let by_uid: BTreeMap<&str, &Pod> =
            self.pods.values().filter_map(|pod| Some((pod.metadata.uid.as_deref()?, &**pod))).collect();
        let mut numbers = Numbers::default();
        for (link, (address, uid)) in &self.links {
            let Some(pod) = by_uid.get(uid.as_str()) else { continue };
            let (ingress, egress) = rules::of_pod(pod, &self.policies, &self.members);
            if ingress.is_none() && egress.is_none() {
                continue;
            }
            let mut number = |rules: Option<Rules>| rules.map_or(0, |rules| numbers.take(rules));
            let isolation = Isolation {
                address: address.v4.octets(),
                ingress: number(ingress),
                egress: number(egress),
                address6: address.v6.map(|ip| ip.octets()).unwrap_or_default(),
            };
            self.wanted.isolated.insert(*link, isolation);
        }
        self.wanted.numbers = numbers.iter().map(|(number, rules)| (number, Arc::clone(rules))).collect();
    }
}

/// Gives each thing a number that is made of what it is.
#[derive(Debug)]
struct Numbers<T> {
    /// Each thing, and how many use it.
    things: BTreeMap<u32, (Arc<T>, usize)>,
    numbers: BTreeMap<Arc<T>, u32>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { things: BTreeMap::new(), numbers: BTreeMap::new() }
    }
}

impl<T: Ord + std::fmt::Debug> Numbers<T> {
    /// The number of a thing, for one more user.
    fn take(&mut self, thing: T) -> u32 {
        let thing = Arc::new(thing);
        let number = self.numbers.get(&thing).copied().unwrap_or_else(|| {
            let hash = Sha256::digest(format!("{thing:?}"));
            let mut number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
            // 0 and the highest have a meaning of their own.
            while number == NOBODY || number == ANYBODY || self.things.contains_key(&number) {
                number = number.wrapping_add(1);
            }
            self.numbers.insert(Arc::clone(&thing), number);
            number
        });
        self.things.entry(number).or_insert((thing, 0)).1 += 1;
        number
    }

    /// One user less; the last one takes the thing along.
    fn give(&mut self, number: u32) {
        let Some((thing, users)) = self.things.get_mut(&number) else { return };
        *users -= 1;
        if *users == 0 {
            self.numbers.remove(thing);
            self.things.remove(&number);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        self.things.iter().map(|(number, (thing, _))| (*number, thing))
    }
}

/// The links of pods that there are: number to address and uid.
pub(super) fn numbered(pods: &BTreeMap<Ipv4Addr, PodLink>) -> BTreeMap<u32, (DualIp, String)> {
    let number = |link: &PodLink| nix::net::if_::if_nametoindex(link.name.as_str()).ok();
    let address = |ip: &Ipv4Addr, link: &PodLink| DualIp { v4: *ip, v6: link.ip6 };
    pods.iter()
        .filter_map(|(ip, link)| Some((number(link)?, (address(ip, link), link.uid.clone()))))
        .collect()
}

fn full(map: &'static str, capacity: u32) -> DataplaneError {
    DataplaneError::Full { map, capacity }
}
