//! Programs on links (TCX, kernel 6.6): the node's uplinks and the host's side of each pod's link. Pinned, so that they stay
//! while the agent is away; a new agent replaces the program of a pinned link atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use oarlock_ebpf::flow::{self, Flow, Settings, Translation};
use oarlock_ebpf::maps;

use super::load::chain;
use super::{Acceleration, DataplaneError, Mode, Uplink, collect, express};

/// The hooks on uplinks.
const UPLINK: [(&str, TcAttachType); 2] =
    [("uplink_ingress", TcAttachType::Ingress), ("uplink_egress", TcAttachType::Egress)];
/// The hook on the host's side of a pod's link, where what the pod sends comes in.
const POD: (&str, TcAttachType) = ("pod_egress", TcAttachType::Ingress);

/// The packet path of a node.
pub(super) struct Links {
    ebpf: Ebpf,
    pins: PathBuf,
    settings: Array<MapData, Settings>,
    addresses: HashMap<MapData, [u8; 4], u32>,
    tcp: HashMap<MapData, Flow, Translation>,
    other: HashMap<MapData, Flow, Translation>,
    /// Links of pods that carry our program, by address: name and number, as a name may come back as another link.
    pods: BTreeMap<Ipv4Addr, (String, u32)>,
}

/// The maps of the packet path.
pub(super) struct LinkMaps {
    pub(super) settings: Array<MapData, Settings>,
    pub(super) addresses: HashMap<MapData, [u8; 4], u32>,
    pub(super) tcp: HashMap<MapData, Flow, Translation>,
    pub(super) other: HashMap<MapData, Flow, Translation>,
}

impl Links {
    /// Loads the programs and attaches to the uplinks.
    pub(super) fn open(
        mut ebpf: Ebpf,
        maps: LinkMaps,
        pins: PathBuf,
        uplinks: &[Uplink],
    ) -> Result<Self, DataplaneError> {
        for name in UPLINK.iter().map(|(name, _)| *name).chain([POD.0]) {
            let program = classifier(&mut ebpf, name)?;
            program.load().map_err(|e| DataplaneError::kernel(format!("load {name}"), chain(&e)))?;
        }
        let LinkMaps { settings, addresses, tcp, other } = maps;
        let mut links = Self { ebpf, pins, settings, addresses, tcp, other, pods: BTreeMap::new() };
        for uplink in uplinks {
            for hook in UPLINK {
                links.attach(hook, &uplink.name)?;
            }
        }
        Ok(links)
    }

    /// Gives an uplink XDP where that is wanted and possible.
    pub(super) fn accelerate(&mut self, uplink: &Uplink, wanted: Acceleration) -> Mode {
        let outcome = express::arrange(&mut self.ebpf, &self.pins, uplink, wanted);
        Mode { uplink: uplink.name.clone(), without_xdp: outcome.err() }
    }

    /// Says what the node is.
    pub(super) fn set(&mut self, settings: Settings) -> Result<(), DataplaneError> {
        if self.settings.get(&0, 0).ok() == Some(settings) {
            return Ok(());
        }
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::SETTINGS), e);
        self.settings.set(0, settings, 0).map_err(failed)
    }

    /// Makes the programs know exactly these nodes.
    pub(super) fn set_nodes(&mut self, nodes: &BTreeSet<Ipv4Addr>) -> Result<(), DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::ADDRESSES), e);
        let present: Vec<([u8; 4], u32)> = self.addresses.iter().filter_map(Result::ok).collect();
        for node in nodes {
            if !present.contains(&(node.octets(), flow::NODE)) {
                self.addresses.insert(node.octets(), flow::NODE, 0).map_err(failed)?;
            }
        }
        for (address, kind) in present {
            if kind == flow::NODE && !nodes.contains(&Ipv4Addr::from(address)) {
                self.addresses.remove(&address).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Makes exactly these pods, with their links, answer for Services on this node.
    pub(super) fn set_pods(&mut self, pods: &BTreeMap<Ipv4Addr, String>) -> Result<(), DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::ADDRESSES), e);
        let mut first = Ok(());
        for (ip, link) in pods {
            // A link that is not there yet rings the bell when it is.
            let Ok(number) = nix::net::if_::if_nametoindex(link.as_str()) else { continue };
            if self.pods.get(ip).is_some_and(|known| known.1 == number) {
                continue;
            }
            if let Err(error) = self.attach(POD, link) {
                first = first.and(Err(error));
                continue;
            }
            self.addresses.insert(ip.octets(), flow::LOCAL_POD, 0).map_err(failed)?;
            self.pods.insert(*ip, (link.clone(), number));
        }
        let known: Vec<([u8; 4], u32)> = self.addresses.iter().filter_map(Result::ok).collect();
        for (address, kind) in known {
            if kind == flow::LOCAL_POD && !pods.contains_key(&Ipv4Addr::from(address)) {
                self.addresses.remove(&address).map_err(failed)?;
            }
        }
        for (_, (link, _)) in self.pods.extract_if(.., |ip, link| pods.get(ip) != Some(&link.0)) {
            // The kernel has taken the program away with the link.
            let _ = fs::remove_file(pin_of(&self.pins, POD.0, &link));
        }
        first
    }

    /// Takes flows away that are over. Returns how many entries there are left and how many went.
    pub(super) fn collect(&mut self, now: u32) -> (usize, usize) {
        let (mut left, mut gone) = (0, 0);
        for table in [&mut self.tcp, &mut self.other] {
            let entries: std::collections::HashMap<Flow, Translation> =
                table.iter().filter_map(Result::ok).collect();
            let over = collect::over(&entries, now);
            left += entries.len();
            for (key, entry) in over {
                // A packet may have come meanwhile, or the kernel have forgotten it.
                if table.get(&key, 0).is_ok_and(|present| present == entry) && table.remove(&key).is_ok() {
                    gone += 1;
                }
            }
        }
        (left - gone, gone)
    }

    fn attach(&mut self, (name, kind): (&str, TcAttachType), interface: &str) -> Result<(), DataplaneError> {
        let failed = |why: String| DataplaneError::kernel(format!("attach {name} to {interface}"), why);
        let pin = pin_of(&self.pins, name, interface);
        let program = classifier(&mut self.ebpf, name)?;
        if let Ok(old) = PinnedLink::from_pin(&pin)
            && let Ok(link) = SchedClassifierLink::try_from(FdLink::from(old))
            && let Ok(id) = program.attach_to_link(link)
        {
            // The pin holds the link; this handle of it may go.
            return program.take_link(id).map(drop).map_err(|e| failed(chain(&e)));
        }
        // No pin, or that of a link that is gone or cannot be used. The new link is there before the old one is let go.
        let new = self.pins.join("attaching");
        let _ = fs::remove_file(&new);
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, kind, order).map_err(|e| failed(chain(&e)))?;
        let link = program.take_link(id).map_err(|e| failed(chain(&e)))?;
        let link: FdLink = link.try_into().map_err(|e| failed(chain(&e)))?;
        link.pin(&new).map_err(|e| failed(chain(&e)))?;
        fs::rename(&new, &pin).map_err(|e| failed(e.to_string()))
    }
}

pub(super) fn pin_of(pins: &Path, program: &str, interface: &str) -> PathBuf {
    // A dot is not allowed in names of the BPF file system, but is in those of links.
    pins.join(format!("link_{program}_{}", interface.replace('.', "_")))
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier, DataplaneError> {
    let failed = |why: String| DataplaneError::kernel(format!("load {name}"), why);
    let program = ebpf.program_mut(name).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
    program.try_into().map_err(|e| failed(chain(&e)))
}
