//! Programs in their places: the node's cgroup, its uplinks and the host's side of each pod's link. Pinned, so that they stay
//! while the agent is away; a new agent replaces the program of a pinned link atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SchedClassifier, TcAttachType};
use ipnet::Ipv4Net;
use oarlock_ebpf::flow::{self, Owner, Settings};
use oarlock_ebpf::flow6::Settings6;
use oarlock_ebpf::maps;

use super::addresses::Addresses;
use super::answering::Ranges;
use super::load::chain;
use super::opted_out::OptedOut;
use super::verified::load_all;
use super::{Acceleration, DataplaneError, Mode, PodLink, Tc, Uplink, clsact, express, six, sweep};

/// The hooks of the node's cgroup.
const SOCKETS: [&str; 8] = [
    "sock_connect4",
    "sock_connect6",
    "sock_sendmsg4",
    "sock_sendmsg6",
    "sock_recvmsg4",
    "sock_recvmsg6",
    "sock_getpeername4",
    "sock_getpeername6",
];
/// The hooks on uplinks.
const UPLINK: [(&str, TcAttachType); 2] =
    [("uplink_ingress", TcAttachType::Ingress), ("uplink_egress", TcAttachType::Egress)];
/// The hooks on uplinks where somebody else runs the pods' network: replies get their Service's address back on their way out,
/// and nothing is masqueraded.
const UPLINK_OF_OTHERS: [(&str, TcAttachType); 2] =
    [("uplink_ingress", TcAttachType::Ingress), ("pod_egress", TcAttachType::Egress)];
/// The hook on the host's side of a pod's link, where what the pod sends comes in.
const POD: (&str, TcAttachType) = ("pod_egress", TcAttachType::Ingress);

/// The hook there for what comes to a pod by the node's stack. Only where policies select the pod.
const TO_POD: (&str, TcAttachType) = ("pod_ingress", TcAttachType::Egress);

/// The program that the agent runs over the table of flows. Attached nowhere.
const SWEEP: &str = "flows_sweep";

/// The packet path of a node.
pub(super) struct Links {
    ebpf: Ebpf,
    hooks: Hooks,
    /// Whether our programs are in their places. Before, those of another layout are.
    in_place: bool,
    settings: Array<MapData, Settings>,
    addresses: Addresses,
    answering: Ranges,
    opted_out: OptedOut,
    six: six::Maps,
    /// The pods' links, by address.
    wanted: BTreeMap<Ipv4Addr, PodLink>,
    /// Links of pods that carry our program, by address: name and number, as a name may come back as another link, and what the
    /// programs know of the pod.
    pods: BTreeMap<Ipv4Addr, (String, u32, Owner)>,
    /// Links that carry the program for what comes by the stack: number to name.
    isolated: BTreeMap<u32, String>,
    /// Links of pods that are served packet by packet: answers of the node's own processes are translated there.
    answered: BTreeSet<u32>,
}

/// Where the programs belong, and where their links are pinned.
pub(super) struct Hooks {
    pub(super) cgroup: File,
    pub(super) cgroup_path: PathBuf,
    pub(super) pins: PathBuf,
    /// Pins of agents of other layouts, whose programs are in their places.
    pub(super) others: Vec<PathBuf>,
    pub(super) uplinks: Vec<Uplink>,
    /// See [`super::DataplaneConfig::masquerade`].
    pub(super) masquerade: bool,
    pub(super) tc: Tc,
    /// A link of another kind that carries traffic of other nodes.
    pub(super) overlay: Option<String>,
}

impl Hooks {
    /// The own pin of a program's link, then those that other layouts have.
    pub(super) fn pins(&self, program: &str, interface: &str) -> Vec<PathBuf> {
        [&self.pins].into_iter().chain(&self.others).map(|pins| pin_of(pins, program, interface)).collect()
    }
}

/// The maps of the packet path.
pub(super) struct LinkMaps {
    pub(super) settings: Array<MapData, Settings>,
    pub(super) addresses: Addresses,
    pub(super) answering: Ranges,
    pub(super) opted_out: OptedOut,
    pub(super) six: six::Maps,
}

impl Links {
    /// Loads the programs. Puts them in their places, unless those of another layout are there.
    pub(super) fn open(mut ebpf: Ebpf, maps: LinkMaps, hooks: Hooks) -> Result<Self, DataplaneError> {
        // What is behind links is long, what is at sockets short.
        let uplink = UPLINK.iter().map(|(name, _)| *name);
        let of_links = six::programs().chain([POD.0]).chain(uplink).chain([TO_POD.0, SWEEP]);
        load_all(&mut ebpf, of_links.chain(SOCKETS))?;
        let LinkMaps { settings, addresses, answering, opted_out, mut six } = maps;
        six.place(&ebpf)?;
        let (wanted, pods) = (BTreeMap::new(), BTreeMap::new());
        let (in_place, isolated, answered) = (false, BTreeMap::new(), BTreeSet::new());
        let mut links = Self {
            ebpf,
            hooks,
            in_place,
            settings,
            addresses,
            answering,
            opted_out,
            six,
            wanted,
            pods,
            isolated,
            answered,
        };
        if links.hooks.others.is_empty() {
            links.place()?;
        }
        Ok(links)
    }

    /// Puts the programs in the places of those of other layouts, now that the tables are filled, and removes what those had.
    pub(super) fn take_over(&mut self) -> Result<(), DataplaneError> {
        if self.in_place && self.hooks.others.is_empty() {
            return Ok(());
        }
        self.place()?;
        if self.hooks.masquerade {
            self.set_pods(&self.wanted.clone())?;
        }
        for other in std::mem::take(&mut self.hooks.others) {
            tracing::info!(from = %other.display(), to = %self.hooks.pins.display(), "took over from another layout");
            fs::remove_dir_all(&other).map_err(|e| DataplaneError::Host {
                what: format!("cannot remove {}", other.display()),
                why: e.to_string(),
            })?;
        }
        Ok(())
    }

    /// The node's cgroup in the file system.
    pub(super) fn cgroup(&self) -> &Path {
        &self.hooks.cgroup_path
    }

    fn place(&mut self) -> Result<(), DataplaneError> {
        for name in SOCKETS {
            self.attach_to_cgroup(name)?;
        }
        let uplinks = self.hooks.uplinks.iter().map(|uplink| uplink.name.clone());
        for name in uplinks.chain(self.hooks.overlay.clone()).collect::<Vec<_>>() {
            self.attach_to_uplink(&name)?;
        }
        self.in_place = true;
        Ok(())
    }

    fn attach_to_uplink(&mut self, uplink: &str) -> Result<(), DataplaneError> {
        let (wanted, other) =
            if self.hooks.masquerade { (UPLINK, UPLINK_OF_OTHERS) } else { (UPLINK_OF_OTHERS, UPLINK) };
        for hook in wanted {
            self.attach(hook, uplink)?;
        }
        for (name, _) in other.into_iter().filter(|hook| !wanted.contains(hook)) {
            // Of an agent that ran the pods itself, or the other way round; mostly there is none.
            let _ = fs::remove_file(pin_of(&self.hooks.pins, name, uplink));
        }
        Ok(())
    }

    /// Attaches to the link by which other nodes' pods are reached.
    pub(super) fn set_overlay(&mut self, overlay: Option<String>) -> Result<(), DataplaneError> {
        if let Some(name) = overlay.as_ref().filter(|_| self.in_place) {
            self.attach_to_uplink(name)?;
        }
        self.hooks.overlay = overlay;
        Ok(())
    }

    /// Hands clients of exactly these ranges' pods over to these nodes, which answer them themselves.
    pub(super) fn set_answering(
        &mut self,
        ranges: &BTreeMap<Ipv4Net, Ipv4Addr>,
    ) -> Result<(), DataplaneError> {
        self.answering.set(ranges)
    }

    /// Gives an uplink XDP where that is wanted and possible.
    pub(super) fn accelerate(&mut self, uplink: &Uplink, wanted: Acceleration) -> Mode {
        let outcome = express::arrange(&mut self.ebpf, &self.hooks, uplink, wanted);
        if outcome.is_ok()
            && let Err(why) = self.six.place_express(&mut self.ebpf)
        {
            tracing::warn!(why, "frames of IPv6 are left to tc");
        }
        Mode { uplink: uplink.name.clone(), without_xdp: outcome.err(), tc: self.hooks.tc }
    }

    /// Says what the node is to IPv6.
    pub(super) fn set6(&mut self, settings: Settings6) -> Result<(), DataplaneError> {
        self.six.set(settings)
    }

    /// Says what the node is; whether there are pods that are served packet by packet we know ourselves.
    pub(super) fn set(&mut self, mut settings: Settings) -> Result<(), DataplaneError> {
        settings.flags &= !flow::PER_PACKET;
        if self.opted_out.is_anybody() {
            settings.flags |= flow::PER_PACKET;
        }
        if self.settings.get(&0, 0).ok() == Some(settings) {
            return Ok(());
        }
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::SETTINGS), e);
        self.settings.set(0, settings, 0).map_err(failed)
    }

    /// Makes the programs know exactly these nodes, and these ends of the tunnel.
    pub(super) fn set_nodes(
        &mut self,
        nodes: &BTreeSet<IpAddr>,
        ends: &BTreeSet<Ipv4Addr>,
    ) -> Result<(), DataplaneError> {
        let present: BTreeMap<IpAddr, Owner> = self.addresses.all().into_iter().collect();
        let ends = ends.iter().map(|end| (IpAddr::V4(*end), Owner::by_routes(flow::TUNNEL_END)));
        let nodes = nodes.iter().map(|node| (*node, Owner::by_routes(flow::NODE)));
        let wanted: BTreeMap<IpAddr, Owner> = ends.chain(nodes).collect();
        // Where somebody else gives pods their addresses, that may be one which we would take for a node's own.
        let is_pods = |address: &IpAddr, owner: &Owner| {
            owner.kind == flow::TUNNEL_END
                && present.get(address).is_some_and(|is| is.kind == flow::LOCAL_POD)
        };
        for (address, owner) in &wanted {
            if present.get(address) != Some(owner) && !is_pods(address, owner) {
                self.addresses.insert(*address, *owner)?;
            }
        }
        for (address, owner) in present {
            if owner.kind != flow::LOCAL_POD && !wanted.contains_key(&address) {
                self.addresses.remove(address)?;
            }
        }
        Ok(())
    }

    /// Makes exactly these pods, with their links, answer for Services on this node.
    pub(super) fn set_pods(&mut self, pods: &BTreeMap<Ipv4Addr, PodLink>) -> Result<(), DataplaneError> {
        self.wanted.clone_from(pods);
        if !self.in_place {
            return self.set_opted_out();
        }
        let mut first = Ok(());
        for (ip, link) in pods {
            // A link that is not there yet rings the bell when it is.
            let Ok(number) = nix::net::if_::if_nametoindex(link.name.as_str()) else { continue };
            let owner = owner(link, number);
            let known = self.pods.get(ip).map(|known| (known.1, known.2));
            let has_six = link.ip6.is_none_or(|ip| self.addresses.get(ip.into()) == Some(owner));
            if known == Some((number, owner)) && has_six {
                continue;
            }
            if known.is_none_or(|known| known.0 != number)
                && let Err(error) = self.attach(POD, &link.name)
            {
                first = first.and(Err(error));
                continue;
            }
            for ip in [Some(IpAddr::V4(*ip)), link.ip6.map(IpAddr::V6)].into_iter().flatten() {
                self.addresses.insert(ip, owner)?;
            }
            self.pods.insert(*ip, (link.name.clone(), number, owner));
        }
        self.set_opted_out()?;
        let sixes: BTreeSet<Ipv6Addr> = pods.values().filter_map(|link| link.ip6).collect();
        self.forget_pods(|ip| match ip {
            IpAddr::V4(ip) => pods.contains_key(&ip),
            IpAddr::V6(ip) => sixes.contains(&ip),
        })?;
        for (_, (link, ..)) in
            self.pods.extract_if(.., |ip, link| pods.get(ip).is_none_or(|pod| pod.name != link.0))
        {
            // The kernel has taken the programs away with the link.
            for (program, _) in [POD, TO_POD] {
                let _ = fs::remove_file(pin_of(&self.hooks.pins, program, &link));
            }
        }
        first
    }

    /// Makes exactly those pods served packet by packet that are to be: first at their links, then no more at their sockets. Only whose link
    /// carries our program; before ours are in their places, all of them.
    fn set_opted_out(&mut self) -> Result<(), DataplaneError> {
        let of_pod = |(ip, link): (&Ipv4Addr, &PodLink)| {
            let cookie = link.per_packet?;
            let number = if self.in_place {
                self.pods.get(ip).map(|(_, number, _)| *number)
            } else {
                nix::net::if_::if_nametoindex(link.name.as_str()).ok()
            };
            Some((number?, cookie))
        };
        let wanted: Vec<(u32, u64)> = self.wanted.iter().filter_map(of_pod).collect();
        self.answered = wanted.iter().map(|(link, _)| *link).collect();
        self.opted_out.set(&wanted)?;
        match self.settings.get(&0, 0) {
            Ok(settings) => self.set(settings),
            Err(_) => Ok(()),
        }
    }

    /// Whether a pod's link carries our program. While programs of another layout serve, theirs is there.
    pub(super) fn is_linked(&self, pod: Ipv4Addr) -> bool {
        if self.in_place { self.pods.contains_key(&pod) } else { self.wanted.contains_key(&pod) }
    }

    /// The pods' links.
    pub(super) fn pods(&self) -> &BTreeMap<Ipv4Addr, PodLink> {
        &self.wanted
    }

    /// Has what comes to exactly these pods by the node's stack judged too, and answers of the node's own processes translated of
    /// those that are served packet by packet.
    pub(super) fn isolate(&mut self, links: impl Iterator<Item = u32>) -> Result<(), DataplaneError> {
        if !self.in_place {
            return Ok(());
        }
        let names: BTreeMap<u32, String> =
            self.pods.values().map(|(name, number, _)| (*number, name.clone())).collect();
        let wanted: BTreeMap<u32, String> = links
            .chain(self.answered.iter().copied())
            .filter_map(|number| Some((number, names.get(&number)?.clone())))
            .collect();
        let mut first = Ok(());
        for (number, name) in &wanted {
            if self.isolated.get(number) == Some(name) {
                continue;
            }
            match self.attach(TO_POD, name) {
                Ok(()) => drop(self.isolated.insert(*number, name.clone())),
                Err(error) => first = first.and(Err(error)),
            }
        }
        for (_, name) in self.isolated.extract_if(.., |number, _| !wanted.contains_key(number)) {
            let _ = fs::remove_file(pin_of(&self.hooks.pins, TO_POD.0, &name));
            if self.hooks.tc == Tc::Clsact {
                clsact::detach(TO_POD.0, TO_POD.1, &name);
            }
        }
        first
    }

    /// Takes these addresses for those of pods of this node, whoever has plugged them.
    pub(super) fn add_foreign_pods(&mut self, pods: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        let pod = Owner::by_routes(flow::LOCAL_POD);
        for ip in pods.iter().copied() {
            if self.addresses.get(ip) != Some(pod) {
                self.addresses.insert(ip, pod)?;
            }
        }
        Ok(())
    }

    /// Forgets the addresses of pods but those to keep.
    pub(super) fn forget_pods(&mut self, keep: impl Fn(IpAddr) -> bool) -> Result<(), DataplaneError> {
        for (address, owner) in self.addresses.all() {
            if owner.kind == flow::LOCAL_POD && !keep(address) {
                self.addresses.remove(address)?;
            }
        }
        Ok(())
    }

    /// Takes flows away that are over. Returns how many entries there are left and how many went.
    pub(super) fn collect(&mut self) -> Result<(usize, usize), DataplaneError> {
        let (left6, gone6) = self.six.collect(super::now());
        let (left, gone) = sweep::sweep(classifier(&mut self.ebpf, SWEEP)?)?;
        Ok((left + left6, gone + gone6))
    }

    fn attach(&mut self, (name, kind): (&str, TcAttachType), interface: &str) -> Result<(), DataplaneError> {
        let failed = |why: String| DataplaneError::kernel(format!("attach {name} to {interface}"), why);
        let program = classifier(&mut self.ebpf, name)?;
        if self.hooks.tc == Tc::Clsact {
            return clsact::attach(program, kind, interface).map_err(failed);
        }
        let replaced = self.hooks.pins(name, interface).into_iter().find_map(|pin| {
            let old = PinnedLink::from_pin(&pin).ok()?;
            let link = SchedClassifierLink::try_from(FdLink::from(old)).ok()?;
            program.attach_to_link(link).ok()
        });
        let id = match replaced {
            Some(id) => id,
            // No pin, or that of a link that is gone or cannot be used.
            None => {
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                program.attach_with_options(interface, kind, order).map_err(|e| failed(chain(&e)))?
            }
        };
        let link = program.take_link(id).map_err(|e| failed(chain(&e)))?;
        let link: FdLink = link.try_into().map_err(|e| failed(chain(&e)))?;
        pin(link, &pin_of(&self.hooks.pins, name, interface)).map_err(failed)
    }

    fn attach_to_cgroup(&mut self, name: &str) -> Result<(), DataplaneError> {
        let failed = |why: String| DataplaneError::kernel(format!("attach {name} to the node's cgroup"), why);
        let program = sockets(&mut self.ebpf, name)?;
        // A link takes no flags and always stands beside others (kernel/bpf/cgroup.c, cgroup_bpf_link_attach): until the old
        // one goes both run, and the second finds nothing left to do.
        let mode = CgroupAttachMode::Single;
        let id = program.attach(&self.hooks.cgroup, mode).map_err(|e| failed(chain(&e)))?;
        let link = program.take_link(id).map_err(|e| failed(chain(&e)))?;
        let link: FdLink = link.try_into().map_err(|e| failed(chain(&e)))?;
        pin(link, &self.hooks.pins.join(format!("link_{name}"))).map_err(failed)
    }
}

/// What the programs are to know of a pod whose link has this number.
pub(super) fn owner(link: &PodLink, number: u32) -> Owner {
    link.ends.map_or_else(
        || Owner::by_routes(flow::LOCAL_POD),
        |ends| Owner { kind: flow::LOCAL_POD, link: number, ends },
    )
}

/// Takes the filters of all links away, where [`Tc::Clsact`] has put them. Links that are pinned go with their pins.
pub(super) fn remove_filters() {
    for interface in nix::net::if_::if_nameindex().iter().flatten() {
        let name = interface.name().to_string_lossy();
        for (program, kind) in UPLINK.iter().chain(&UPLINK_OF_OTHERS).chain([&POD, &TO_POD]) {
            clsact::detach(program, *kind, &name);
        }
    }
}

/// Pins a link in place of what is there, which the kernel lets go only then.
pub(super) fn pin(link: FdLink, path: &Path) -> Result<(), String> {
    let new = path.with_file_name("pinning");
    // What a crash may have left.
    let _ = fs::remove_file(&new);
    link.pin(&new).map_err(|e| chain(&e))?;
    fs::rename(&new, path).map_err(|e| e.to_string())
}

pub(super) fn pin_of(pins: &Path, program: &str, interface: &str) -> PathBuf {
    // A dot is not allowed in names of the BPF file system, but is in those of links.
    pins.join(format!("link_{program}_{}", interface.replace('.', "_")))
}

fn sockets<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut CgroupSockAddr, DataplaneError> {
    let failed = |why: String| DataplaneError::kernel(format!("load {name}"), why);
    let program = ebpf.program_mut(name).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
    program.try_into().map_err(|e| failed(chain(&e)))
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier, DataplaneError> {
    let failed = |why: String| DataplaneError::kernel(format!("load {name}"), why);
    let program = ebpf.program_mut(name).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
    program.try_into().map_err(|e| failed(chain(&e)))
}
