//! Which addresses are which peers: ranges and single addresses, each with the peers that name it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use oarlock_api::network_policy::Member;
use oarlock_ebpf::policy::NOBODY;

use super::Numbers;
use super::rules::Peer;
use crate::desired::{Key, Objects};

/// The addresses that policies of this node name.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// The peers that matter.
    named: BTreeSet<Peer>,
    /// Who has an address: members, by group and pod.
    at: BTreeMap<IpAddr, BTreeMap<Key, Arc<Member>>>,
    /// All ranges of them and their exceptions.
    ranges: BTreeSet<IpNet>,
    /// The identity of ranges, and of addresses that groups have.
    prefixes: OrdMap<IpNet, u32>,
    /// The peers of each identity.
    numbers: Numbers<BTreeSet<Peer>>,
}

impl Identities {
    /// Takes a change of members over, and of the peers that matter.
    pub(super) fn follow(
        &mut self,
        before: &Objects<Member>,
        now: &Objects<Member>,
        named: &BTreeSet<&Peer>,
    ) {
        let mut touched = BTreeSet::new();
        for change in before.diff(now) {
            let (key, [old, new]) = match change {
                DiffItem::Add(key, new) => (key, [None, Some(new)]),
                DiffItem::Update { old: (key, old), new: (_, new) } => (key, [Some(old), Some(new)]),
                DiffItem::Remove(key, old) => (key, [Some(old), None]),
            };
            if let Some(old) = old {
                for ip in old.ips() {
                    let here = self.at.entry(ip).or_default();
                    here.remove(key);
                    if here.is_empty() {
                        self.at.remove(&ip);
                    }
                    touched.insert(ip);
                }
            }
            if let Some(new) = new {
                for ip in new.ips() {
                    self.at.entry(ip).or_default().insert(key.clone(), Arc::clone(new));
                    touched.insert(ip);
                }
            }
        }
        if self.named.iter().eq(named.iter().copied()) {
            for ip in touched {
                self.look_at(IpNet::from(ip));
            }
            return;
        }
        self.named = named.iter().map(|peer| (*peer).clone()).collect();
        let blocks = self.named.iter().filter_map(|peer| match peer {
            Peer::Block(net, except) => Some(except.iter().chain([net]).copied()),
            Peer::Anybody | Peer::Group(_) | Peer::Port(..) => None,
        });
        self.ranges = blocks.flatten().collect();
        let known = self.prefixes.keys().chain(&self.ranges).copied();
        let all: BTreeSet<IpNet> = known.chain(self.at.keys().map(|ip| IpNet::from(*ip))).collect();
        for net in all {
            self.look_at(net);
        }
    }

    /// The peers of a range or an address anew.
    fn look_at(&mut self, net: IpNet) {
        let members = (net.prefix_len() == net.max_prefix_len()).then(|| self.at.get(&net.addr())).flatten();
        let is_member = |group: &str, has: &dyn Fn(&Member) -> bool| {
            members.is_some_and(|members| {
                let first = (group.to_owned(), String::new());
                members.range(first..).take_while(|((of, _), _)| of == group).any(|(_, member)| has(member))
            })
        };
        let peers: BTreeSet<Peer> = self
            .named
            .iter()
            .filter(|peer| match peer {
                Peer::Anybody => false,
                Peer::Group(group) => is_member(group, &|_| true),
                Peer::Port(group, key, port) => {
                    is_member(group, &|member| member.ports.get(key) == Some(port))
                }
                Peer::Block(block, except) => {
                    block.contains(&net) && !except.iter().any(|except| except.contains(&net))
                }
            })
            .cloned()
            .collect();
        // An address that no group has needs no line of its own: the ranges around it say the same. Ranges do, as exceptions
        // of others.
        let is_plain = peers.iter().all(|peer| matches!(peer, Peer::Block(..)));
        let old = if is_plain && !self.ranges.contains(&net) {
            self.prefixes.remove(&net)
        } else {
            let number = if peers.is_empty() { NOBODY } else { self.numbers.take(peers) };
            self.prefixes.insert(net, number)
        };
        if let Some(old) = old {
            self.numbers.give(old);
        }
    }

    /// The peers of each identity.
    pub(super) fn identities(&self) -> impl Iterator<Item = (u32, &Arc<BTreeSet<Peer>>)> {
        self.numbers.iter()
    }

    /// The identity of each range.
    pub(super) fn prefixes(&self) -> &OrdMap<IpNet, u32> {
        &self.prefixes
    }
}
