//! The kernel's tables of policies against what is wanted, in the one order that never denies what both the old and the new
//! policies allow: what the new ones allow, then who is who, then which policy holds, then away with what is not needed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::Ipv4Net;
use oarlock_ebpf::flow::{Flow, TCP, is_over};
use oarlock_ebpf::maps::{self, MAX_IDENTITIES, MAX_ISOLATED, MAX_RULES};
use oarlock_ebpf::policy::{Allowed, EGRESS, INGRESS, Isolation, Rule, judged};

use super::rules::{self, Peer, Rules};
use super::{DataplaneError, Wanted, full};
use crate::net::Connection;

/// Handles of the maps.
pub(in crate::dataplane) struct Handles {
    pub(in crate::dataplane) isolated: HashMap<MapData, u32, Isolation>,
    pub(in crate::dataplane) identities: LpmTrie<MapData, [u8; 4], u32>,
    pub(in crate::dataplane) rules: LpmTrie<MapData, Rule, u32>,
    pub(in crate::dataplane) allowed: HashMap<MapData, Flow, Allowed>,
    pub(in crate::dataplane) revision: Array<MapData, u32>,
}

/// The tables and what is known of them.
pub(in crate::dataplane) struct Tables {
    handles: Handles,
    isolated: BTreeMap<u32, Isolation>,
    prefixes: OrdMap<Ipv4Net, u32>,
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
        let nets = handles.identities.iter().filter_map(Result::ok).filter_map(|(key, identity)| {
            let bits = u8::try_from(key.prefix_len()).ok()?;
            Some((Ipv4Net::new(Ipv4Addr::from(key.data()), bits).ok()?, identity))
        });
        let prefixes = nets.collect();
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
        closing.map(|(_, isolation)| Ipv4Addr::from(isolation.address).into()).collect()
    }

    /// Has the connections of pods that are to be isolated judged by who has begun them, which no packet says any more.
    pub(in crate::dataplane) fn know(&mut self, connections: &[Connection]) {
        for connection in connections {
            let (IpAddr::V4(local), IpAddr::V4(remote)) = (connection.local.0, connection.remote.0) else {
                continue;
            };
            let ports = (connection.local.1, connection.remote.1);
            let begun = Flow::new((local.octets(), ports.0), (remote.octets(), ports.1), TCP);
            let (flow, direction) =
                if connection.is_accepted { (begun.reversed(), INGRESS) } else { (begun, EGRESS) };
            // Of no revision: judged at its next packet. A table that forgets it forgets the oldest.
            let seen = crate::dataplane::now();
            let _ = self.handles.allowed.insert(judged(flow, direction), Allowed::new(0, 0, seen), 0);
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
        wanted: &OrdMap<Ipv4Net, u32>,
        keep: &mut impl FnMut(Result<(), DataplaneError>) -> bool,
    ) -> bool {
        let (mut revokes, mut done) = (false, wanted.clone());
        for change in self.prefixes.diff(wanted) {
            let key = |net: &Ipv4Net| Key::new(u32::from(net.prefix_len()), net.addr().octets());
            match change {
                DiffItem::Add(net, identity) | DiffItem::Update { new: (net, identity), .. } => {
                    revokes = true;
                    let written = self.handles.identities.insert(&key(net), identity, 0);
                    if !keep(written.map_err(|e| refused(maps::IDENTITIES, MAX_IDENTITIES, &e))) {
                        done.remove(net);
                    }
                }
                DiffItem::Remove(net, _) => {
                    revokes = true;
                    keep(gone(self.handles.identities.remove(&key(net)), maps::IDENTITIES));
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
        let entries = self.handles.allowed.iter().filter_map(Result::ok);
        let over: Vec<Flow> = entries
            .filter(|(flow, entry)| is_over(flow.protocol, entry.seen, now))
            .map(|(flow, _)| flow)
            .collect();
        for flow in over {
            // The kernel may have forgotten it meanwhile.
            let _ = self.handles.allowed.remove(&flow);
        }
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
