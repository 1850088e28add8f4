//! What only the packet path of IPv6 has: programs that those of tc and XDP hand packets on to, settings, and flows in tables of their own.

use std::collections::HashMap as Table;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{SchedClassifier, Xdp};
use oarlock_ebpf::flow::{REPLY, are_over};
use oarlock_ebpf::flow6::{Flow6, POD_IN, POD_OUT, Settings6, Translation6, UPLINK_IN, UPLINK_OUT};
use oarlock_ebpf::maps;

use super::load::chain;
use super::verified::verified;
use super::{DataplaneConfig, DataplaneError, Overlay};
use ipnet::Ipv6Net;

/// The programs, and where those of IPv4 look for them. The longest first.
const PROGRAMS: [(&str, u32); 4] = [
    ("pod_egress6", POD_OUT),
    ("uplink_ingress6", UPLINK_IN),
    ("uplink_egress6", UPLINK_OUT),
    ("pod_ingress6", POD_IN),
];

/// That of XDP.
const EXPRESS: &str = "uplink_express6";

/// The programs' names.
pub(super) fn programs() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

/// The maps.
pub(super) struct Maps {
    pub(super) settings: Array<MapData, Settings6>,
    pub(super) tcp: HashMap<MapData, Flow6, Translation6>,
    pub(super) other: HashMap<MapData, Flow6, Translation6>,
    /// Its entries go when nobody has it any more; it is pinned.
    pub(super) programs: ProgramArray<MapData>,
    /// The same of XDP.
    pub(super) express: ProgramArray<MapData>,
}

impl Maps {
    /// Puts the program of XDP where frames are handed on to it, once some uplink has that. Without it tc has the frames.
    pub(super) fn place_express(&mut self, ebpf: &mut Ebpf) -> Result<(), String> {
        let program = ebpf.program_mut(EXPRESS).ok_or("the object does not hold it")?;
        let program: &mut Xdp = program.try_into().map_err(|e| chain(&e))?;
        if program.fd().is_err() {
            verified(|| program.load())
                .map_err(|e| format!("the kernel refuses the program: {}", chain(&e)))?;
        }
        let fd = program.fd().map_err(|e| chain(&e))?;
        self.express.set(0, fd, 0).map_err(|e| chain(&e))
    }

    /// Puts the programs, which are loaded, where packets are handed on to them; those of an agent before go.
    pub(super) fn place(&mut self, ebpf: &Ebpf) -> Result<(), DataplaneError> {
        for (name, index) in PROGRAMS {
            let failed = |why: String| DataplaneError::kernel(format!("use {name}"), why);
            let program =
                ebpf.program(name).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
            let program: &SchedClassifier = program.try_into().map_err(|e| failed(chain(&e)))?;
            let fd = program.fd().map_err(|e| failed(chain(&e)))?;
            let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::PROGRAMS6), chain(&e));
            self.programs.set(index, fd, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Says what the node is.
    pub(super) fn set(&mut self, settings: Settings6) -> Result<(), DataplaneError> {
        if self.settings.get(&0, 0).ok() == Some(settings) {
            return Ok(());
        }
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::SETTINGS6), e);
        self.settings.set(0, settings, 0).map_err(failed)
    }

    /// Takes flows away that are over. Returns how many entries there are left and how many went.
    pub(super) fn collect(&mut self, now: u32) -> (usize, usize) {
        let (mut left, mut gone) = (0, 0);
        for table in [&mut self.tcp, &mut self.other] {
            let entries: Table<Flow6, Translation6> = table.iter().filter_map(Result::ok).collect();
            left += entries.len();
            for (key, entry) in over(&entries, now) {
                // A packet may have come meanwhile, or the kernel have forgotten it.
                if table.get(&key, 0).is_ok_and(|present| present == entry) && table.remove(&key).is_ok() {
                    gone += 1;
                }
            }
        }
        (left - gone, gone)
    }
}

/// The entries that are over, those of requests first: no request may find its entry without that of its reply. The two entries of a
/// connection go together.
fn over(entries: &Table<Flow6, Translation6>, now: u32) -> Vec<(Flow6, Translation6)> {
    let is_over = |key: &Flow6, entry: &Translation6| {
        let other = entries.get(&entry.to.reversed()).map(|other| other.seen);
        are_over(key.protocol, entry.seen, other, now)
    };
    let mut over: Vec<(Flow6, Translation6)> = entries
        .iter()
        .filter(|(key, entry)| is_over(key, entry))
        .map(|(key, entry)| (*key, *entry))
        .collect();
    over.sort_by_key(|(_, entry)| entry.backend == REPLY);
    over
}

/// What the programs are to know of the node.
pub(super) fn settings(
    config: &DataplaneConfig,
    cluster: Option<Ipv6Net>,
    overlay: Option<&Overlay>,
) -> Settings6 {
    let there = overlay.and_then(|overlay| overlay.address6).or(config.node_ip6);
    Settings6 {
        node: config.node_ip6.map(|ip| ip.octets()).unwrap_or_default(),
        cluster: cluster.map(|range| range.network().octets()).unwrap_or_default(),
        mask: cluster.map(|range| range.netmask().octets()).unwrap_or_default(),
        overlay_address: there.map(|ip| ip.octets()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_ebpf::flow::{CLOSING, TCP};

    #[test]
    fn both_entries_of_a_connection_go_together_the_replys_last() {
        let asked = Flow6::new(([1; 16], 40_000), ([2; 16], 80), TCP);
        let leaves = asked.to([3; 16], 8080);
        let entry = |to, backend, seen| Translation6 { to, link: 0, backend, generation: 0, seen };
        let there = (asked, entry(leaves, 7, 100 | CLOSING));
        let back = (leaves.reversed(), entry(asked.reversed(), REPLY, 120));
        let entries = Table::from([there, back]);
        assert_eq!(over(&entries, 150), [], "the reply was seen 30 seconds ago");
        assert_eq!(over(&entries, 151), [there, back]);
    }
}
