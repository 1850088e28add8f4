//! The kernel's tables of policies against what is wanted, in the one order that never denies what both the old and the new
//! policies allow: what the new ones allow, then who is who, then which policy holds, then away with what is not needed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use oarlock_ebpf::flow::{Flow, TCP, is_over};
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::maps::{self, MAX_IDENTITIES, MAX_ISOLATED, MAX_RULES};
use oarlock_ebpf::policy::{Allowed, EGRESS, INGRESS, Isolation, Rule, judged, judged6};

use super::rules::{self, Peer, Rules};
use super::{DataplaneError, Wanted, full};
use crate::net::Connection;

/// Handles of the maps.
pub(in crate::dataplane) struct Handles {
    pub(in crate::dataplane) isolated: HashMap<MapData, u32, Isolation>,
    pub(in crate::dataplane) identities: Identities,
    pub(in crate::dataplane) rules: LpmTrie<MapData, Rule, u32>,
    pub(in crate::dataplane) allowed: HashMap<MapData, Flow, Allowed>,
    pub(in crate::dataplane) allowed6: HashMap<MapData, Flow6, Allowed>,
    pub(in crate::dataplane) revision: Array<MapData, u32>,
}

/// The tables of who is who, one for each family.
pub(in crate::dataplane) struct Identities {
    pub(in crate::dataplane) four: LpmTrie<MapData, [u8; 4], u32>,
    pub(in crate::dataplane) six: LpmTrie<MapData, [u8; 16], u32>,
}

impl Identities {
    /// All of them, as far as they can be read.
    pub(super) fn all(&self) -> impl Iterator<Item = (IpNet, u32)> {
        let net = |ip: IpAddr, bits: u32| IpNet::new(ip, u8::try_from(bits).ok()?).ok();
        let four = self.four.iter().filter_map(Result::ok);
        let six = self.six.iter().filter_map(Result::ok);
        let four = four.filter_map(move |(key, of)| Some((net(key.data().into(), key.prefix_len())?, of)));
        four.chain(six.filter_map(move |(key, of)| Some((net(key.data().into(), key.prefix_len())?, of))))
    }

    fn insert(&mut self, net: &IpNet, identity: u32) -> Result<(), MapError> {
        let bits = u32::from(net.prefix_len());
        match net.addr() {
            IpAddr::V4(ip) => self.four.insert(&Key::new(bits, ip.octets()), identity, 0),
            IpAddr::V6(ip) => self.six.insert(&Key::new(bits, ip.octets()), identity, 0),
        }
    }

    fn remove(&mut self, net: &IpNet) -> Result<(), MapError> {
        let bits = u32::from(net.prefix_len());
        match net.addr() {
            IpAddr::V4(ip) => self.four.remove(&Key::new(bits, ip.octets())),
            IpAddr::V6(ip) => self.six.remove(&Key::new(bits, ip.octets())),
        }
    }
}

/// The table that holds a range.
pub(super) const fn map_of(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => maps::IDENTITIES,
        IpNet::V6(_) => maps::IDENTITIES6,
    }
}

/// The tables and what is known of them.
pub(in crate::dataplane) struct Tables {
    handles: Handles,
    isolated: BTreeMap<u32, Isolation>,
    prefixes: OrdMap<IpNet, u32>,
    lines: BTreeSet<(u32, Rule)>,
    /// What the numbers in the tables stand for, as far as this agent has written them.
    numbers: BTreeMap<u32, Arc<Rules>>,
    identities: BTreeMap<u32, Arc<BTreeSet<Peer>>>,
    /// The links that there were, isolated or not. None before the first look, when any pod may have run for long.
    linked: Option<BTreeSet<u32>>,
}

impl Tables {
    /// Takes over what an earlier agent has left.
    pub(in crate::dataplane) fn adopt(handles: Handles) -> Self {
        let isolated = handles.isolated.iter().filter_map(Result::ok).collect();
        let prefixes = handles.identities.all().collect();
        let lines = handles.rules.iter().filter_map(Result::ok);
        let lines = lines.map(|(key, _)| (key.prefix_len(), key.data())).collect();
        let (numbers, identities) = (BTreeMap::new(), BTreeMap::new());
        Self { handles, isolated, prefixes, lines, numbers, identities, linked: None }
    }

    /// The pods that have run without a policy and are to be isolated.
    pub(in crate::dataplane) fn closing(&self, wanted: &Wanted) -> BTreeSet<IpAddr> {
        let ran = |link: &u32| self.linked.as_ref().is_none_or(|linked| linked.contains(link));
        let closing =
            wanted.isolated.iter().filter(|(link, _)| ran(link) && !self.isolated.contains_key(link));
        closing
            .flat_map(|(_, isolation)| [isolation.address.into(), isolation.address6.into()])
            .filter(|ip: &IpAddr| !ip.is_unspecified())
            .collect()
    }

    /// Has the connections of pods that are to be isolated judged by who has begun them, which no packet says any more.
    pub(in crate::dataplane) fn know(&mut self, connections: &[Connection]) {
        for connection in connections {
            let accepted = connection.is_accepted;
            let direction = if accepted { INGRESS } else { EGRESS };
            let (from, to) = if accepted {
                (connection.remote, connection.local)
            } else {
                (connection.local, connection.remote)
            };
            // Of no revision: judged at its next packet. A table that forgets it forgets the oldest.
            let unknown = Allowed::new(0, 0, crate::dataplane::now());
            match (from.0, to.0) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    let flow = Flow::new((source.octets(), from.1), (destination.octets(), to.1), TCP);
                    let _ = self.handles.allowed.insert(judged(flow, direction), unknown, 0);
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    let flow = Flow6::new((source.octets(), from.1), (destination.octets(), to.1), TCP);
                    let _ = self.handles.allowed6.insert(judged6(flow, direction), unknown, 0);
                }
                // No socket has both.
                _ => {}
            }
        }
    }

    /// Makes the tables enforce exactly what is wanted. Of a table that is full what does not fit stays forbidden.
    pub(in crate::dataplane) fn sync(&mut self, wanted: &Wanted) -> Result<(), DataplaneError> {
        if self.isolated == wanted.isolated
            && self.prefixes.ptr_eq(&wanted.prefixes)
            && self.numbers == wanted.numbers
            && self.identities == wanted.identities
            && self.linked.as_ref() == Some(&wanted.links)
        {
            return Ok(());
        }
        let mut first = Ok(());
        let mut keep = |outcome: Result<(), DataplaneError>| {
            let is_done = outcome.is_ok();
            if first.is_ok() {
                first = outcome;
            }
            is_done
        };
        let needed = lines(&wanted.numbers, &wanted.identities);
        let both = {
            let numbers = self.numbers.iter().chain(&wanted.numbers);
            let numbers: BTreeMap<u32, Arc<Rules>> = numbers.map(|(n, r)| (*n, Arc::clone(r))).collect();
            let identities = self.identities.iter().chain(&wanted.identities);
            lines(&numbers, &identities.map(|(i, peers)| (*i, Arc::clone(peers))).collect())
        };
        for line in both.union(&needed) {
            if !self.lines.contains(line) && keep(insert_line(&mut self.handles.rules, *line)) {
                self.lines.insert(*line);
            }
        }
        let revokes =
            self.move_prefixes(&wanted.prefixes, &mut keep) | self.isolate(&wanted.isolated, &mut keep);
        if revokes {
            keep(self.revise(wanted.isolated.is_empty()));
        }
        for (bits, data) in self.lines.extract_if(.., |line| !needed.contains(line)) {
            keep(gone(self.handles.rules.remove(&Key::new(bits, data)), maps::RULES));
        }
        self.numbers.clone_from(&wanted.numbers);
        self.identities.clone_from(&wanted.identities);
        self.linked = Some(wanted.links.clone());
        first
    }

    /// Who is who. True: somebody may be less than before.
    fn move_prefixes(
        &mut self,
        wanted: &OrdMap<IpNet, u32>,
        keep: &mut impl FnMut(Result<(), DataplaneError>) -> bool,
    ) -> bool {
        let (mut revokes, mut done) = (false, wanted.clone());
        for change in self.prefixes.diff(wanted) {
            match change {
                DiffItem::Add(net, identity) | DiffItem::Update { new: (net, identity), .. } => {
                    revokes = true;
                    let written = self.handles.identities.insert(net, *identity);
                    if !keep(written.map_err(|e| refused(map_of(net), MAX_IDENTITIES, &e))) {
                        done.remove(net);
                    }
                }
                DiffItem::Remove(net, _) => {
                    revokes = true;
                    keep(gone(self.handles.identities.remove(net), map_of(net)));
                }
            }
        }
        self.prefixes = done;
        revokes
    }

    /// Which policies hold. True: somebody may be allowed less than before.
    fn isolate(
        &mut self,
        wanted: &BTreeMap<u32, Isolation>,
        keep: &mut impl FnMut(Result<(), DataplaneError>) -> bool,
    ) -> bool {
        let mut revokes = false;
        for (link, isolation) in wanted {
            if self.isolated.get(link) == Some(isolation) {
                continue;
            }
            revokes = true;
            let written = self.handles.isolated.insert(link, isolation, 0);
            if keep(written.map_err(|e| refused(maps::ISOLATED, MAX_ISOLATED, &e))) {
                self.isolated.insert(*link, *isolation);
            }
        }
        for (link, _) in self.isolated.extract_if(.., |link, _| !wanted.contains_key(link)) {
            revokes = true;
            let removed = self.handles.isolated.remove(&link);
            keep(gone(removed, maps::ISOLATED));
        }
        revokes
    }

    /// Has every connection judged again. The highest revision that there ever was is beside the present one.
    fn revise(&mut self, is_off: bool) -> Result<(), DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::POLICIES), e);
        let next = self.handles.revision.get(&1, 0).unwrap_or(0).wrapping_add(1).max(1);
        self.handles.revision.set(1, next, 0).map_err(failed)?;
        self.handles.revision.set(0, if is_off { 0 } else { next }, 0).map_err(failed)
    }

    /// The links whose pods policies select.
    pub(in crate::dataplane) fn isolated(&self) -> impl Iterator<Item = u32> {
        self.isolated.keys().copied()
    }

    /// Forgets connections that are over; `now` in seconds since boot.
    pub(in crate::dataplane) fn collect(&mut self, now: u32) {
        forget(&mut self.handles.allowed, |flow, seen| is_over(flow.protocol, seen, now));
        forget(&mut self.handles.allowed6, |flow, seen| is_over(flow.protocol, seen, now));
    }
}

/// Takes connections away of which it is so by who they are and when a packet was seen last.
fn forget<F: aya::Pod>(table: &mut HashMap<MapData, F, Allowed>, is_over: impl Fn(&F, u32) -> bool) {
    let entries = table.iter().filter_map(Result::ok);
    let over: Vec<F> =
        entries.filter(|(flow, entry)| is_over(flow, entry.seen)).map(|(flow, _)| flow).collect();
    for flow in over {
        // The kernel may have forgotten it meanwhile.
        let _ = table.remove(&flow);
    }
}

/// What the tables hold for these numbers and identities.
pub(super) fn lines(
    numbers: &BTreeMap<u32, Arc<Rules>>,
    identities: &BTreeMap<u32, Arc<BTreeSet<Peer>>>,
) -> BTreeSet<(u32, Rule)> {
    let numbers = numbers.iter().map(|(number, rules)| (*number, &**rules));
    rules::lines(numbers, identities.iter().map(|(identity, peers)| (*identity, &**peers)))
}

fn insert_line(
    table: &mut LpmTrie<MapData, Rule, u32>,
    (bits, data): (u32, Rule),
) -> Result<(), DataplaneError> {
    table.insert(&Key::new(bits, data), 1, 0).map_err(|e| refused(maps::RULES, MAX_RULES, &e))
}

fn refused(map: &'static str, capacity: u32, error: &MapError) -> DataplaneError {
    match error {
        MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(nix::libc::ENOSPC) => {
            full(map, capacity)
        }
        MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(nix::libc::E2BIG) => {
            full(map, capacity)
        }
        other => DataplaneError::kernel(format!("write the map {map}"), other),
    }
}

/// What is gone already is as good.
fn gone(removed: Result<(), MapError>, map: &'static str) -> Result<(), DataplaneError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
        Err(error) => Err(DataplaneError::kernel(format!("remove from the map {map}"), error)),
    }
}
