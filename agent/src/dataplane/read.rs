//! The kernel's tables, read from their pins: beside a running agent, and without one. What does not fit together there is told
//! as a difference, whatever is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use ipnet::IpNet;
use oarlock_ebpf::affinity::{Member, SourceRange};
use oarlock_ebpf::flow::{self, Flow, MASQUERADED, PER_PACKET, REPLY, Settings, Translation};
use oarlock_ebpf::flow6::{Flow6, Settings6, Translation6};
use oarlock_ebpf::layout::{Backend, EXTERNAL, MAGLEV, RANDOM, SOURCE_RANGES, ServiceLine, SlotRange};
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::table::Bucket;
use oarlock_ebpf::{LAYOUT_VERSION, maps};

use super::DataplaneError;
use super::addresses::Addresses;
use super::answering::Ranges;
use super::compile::Algorithm;
use super::door::{self, Door, Doors};
use super::load::{chain, pins};
use super::opted_out::OptedOut;
use super::picture::{self, Dump, FlowPicture, FrontendPicture, NodePicture, Picture, PodPicture};
use super::policies::{self, PolicyPicture};
use super::sync::parse_range;
use super::verify::Difference;

/// What the kernel has, and what in it does not fit together.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// The tables.
    pub tables: Picture,
    /// What is wrong with them whatever is wanted.
    pub flaws: Vec<Difference>,
}

/// The tables of a node as they are.
///
/// # Errors
/// No tables are pinned for this node, or they cannot be read.
pub fn kernel(bpffs: &Path, node_name: &str) -> Result<Kernel, DataplaneError> {
    let pins = existing(bpffs, node_name)?;
    let mut services = Services::open(&pins)?;
    let frontends = services.read()?;
    services.check_members(&pins)?;
    let (pods, nodes, tunnel_ends) = addresses(&pins)?;
    let settings: Array<MapData, Settings> = open(&pins, maps::SETTINGS, Map::Array)?;
    let settings6: Array<MapData, Settings6> = open(&pins, maps::SETTINGS6, Map::Array)?;
    let node =
        NodePicture::of(&settings.get(&0, 0).unwrap_or_default(), &settings6.get(&0, 0).unwrap_or_default());
    let policies = policies(&pins)?;
    let (leaving, routes) = (Vec::new(), None);
    let opted_out = OptedOut(open(&pins, maps::OPTED_OUT, Map::HashMap)?);
    let per_packet = opted_out.names();
    let layout_version = LAYOUT_VERSION;
    if opted_out.is_anybody() != settings.get(&0, 0).is_ok_and(|settings| settings.has(PER_PACKET)) {
        let problem = "is not as OPTED_OUT has pods";
        services.flaws.push(Difference::plain(
            maps::SETTINGS,
            "whether pods are served packet by packet",
            problem,
        ));
    }
    let direct = Ranges(open(&pins, maps::DIRECT, Map::LpmTrie)?).all();
    let tables = Picture {
        layout_version,
        node,
        frontends,
        pods,
        nodes,
        tunnel_ends,
        per_packet,
        direct,
        routes,
        policies,
        leaving,
    };
    Ok(Kernel { tables, flaws: services.flaws })
}

fn policies(pins: &Path) -> Result<PolicyPicture, DataplaneError> {
    let read = policies::Read {
        isolated: open(pins, maps::ISOLATED, Map::HashMap)?,
        identities: policies::IdentityTables {
            four: open(pins, maps::IDENTITIES, Map::LpmTrie)?,
            six: open(pins, maps::IDENTITIES6, Map::LpmTrie)?,
        },
        rules: open(pins, maps::RULES, Map::LpmTrie)?,
        revision: open(pins, maps::POLICIES, Map::Array)?,
    };
    Ok(read.picture())
}

/// The same, with what passes and what was counted.
///
/// # Errors
/// No tables are pinned for this node, or they cannot be read.
pub fn dump(bpffs: &Path, node_name: &str) -> Result<Dump, DataplaneError> {
    let pins = existing(bpffs, node_name)?;
    let tables = kernel(bpffs, node_name)?.tables;
    let counters: PerCpuArray<MapData, u64> = open(&pins, maps::COUNTERS, Map::PerCpuArray)?;
    let count = |reason: Reason| counters.get(&(reason as u32), 0).map_or(0, |each| each.iter().sum());
    let counters = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), count(*reason))).collect();
    Ok(Dump { tables, flows: flows(&pins)?, counters })
}

fn existing(bpffs: &Path, node_name: &str) -> Result<PathBuf, DataplaneError> {
    let pins = pins(bpffs, node_name);
    if pins.exists() {
        return Ok(pins);
    }
    let why = "no agent of this name and version has run here; `ls` its parent folder shows those that have";
    Err(DataplaneError::Host {
        what: format!("nothing is pinned at {}", pins.display()),
        why: why.to_owned(),
    })
}

/// The tables of Services.
struct Services {
    frontends: Doors,
    lines: Array<MapData, ServiceLine>,
    slots: Array<MapData, u32>,
    backends: Array<MapData, Backend>,
    ranges: BTreeMap<u64, BTreeSet<IpNet>>,
    /// Those that lines with affinity need, and whose they are.
    members: BTreeSet<Member>,
    /// The numbers of Services whose lines ask for source ranges.
    ranged: BTreeSet<u64>,
    /// Whose each number of counters is.
    counted: BTreeMap<u32, u64>,
    flaws: Vec<Difference>,
}

impl Services {
    fn open(pins: &Path) -> Result<Self, DataplaneError> {
        let ranges: LpmTrie<MapData, SourceRange, u32> = open(pins, maps::SOURCE_RANGES, Map::LpmTrie)?;
        let mut of_services = BTreeMap::<u64, BTreeSet<IpNet>>::new();
        for (service, range) in ranges.keys().filter_map(Result::ok).filter_map(|key| parse_range(&key)) {
            of_services.entry(service).or_default().insert(range);
        }
        Ok(Self {
            frontends: Doors {
                four: open(pins, maps::FRONTENDS, Map::HashMap)?,
                six: open(pins, maps::FRONTENDS6, Map::HashMap)?,
            },
            lines: open(pins, maps::SERVICE_TABLE, Map::Array)?,
            slots: open(pins, maps::SLOTS, Map::Array)?,
            backends: open(pins, maps::BACKENDS, Map::Array)?,
            ranges: of_services,
            members: BTreeSet::new(),
            ranged: BTreeSet::new(),
            counted: BTreeMap::new(),
            flaws: Vec::new(),
        })
    }

    fn read(&mut self) -> Result<Vec<FrontendPicture>, DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("read the map {}", maps::FRONTENDS), e);
        let mut all = self.frontends.all().map_err(failed)?;
        all.sort_unstable();
        let mut lines = BTreeSet::new();
        let mut pictures = Vec::with_capacity(all.len());
        for (key, index) in all {
            let picture = self.one(key, index)?;
            if !lines.insert(index) {
                let problem = "has the line of another frontend".to_owned();
                self.flaws.push(Difference::of(key.map(), &picture, problem));
            }
            pictures.push(picture);
        }
        self.check_ranges();
        Ok(pictures)
    }

    fn one(&mut self, key: Door, index: u32) -> Result<FrontendPicture, DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("read the map {}", maps::SERVICE_TABLE), e);
        let outside_table = index >= maps::MAX_SERVICES;
        let line =
            if outside_table { ServiceLine::default() } else { self.lines.get(&index, 0).map_err(failed)? };
        let ranged = line.flags & SOURCE_RANGES != 0;
        let ranges = self.ranges.get(&line.service).filter(|_| ranged);
        let mut picture = FrontendPicture {
            address: key.ip,
            port: key.port,
            protocol: picture::protocol(key.protocol),
            service: picture::service(line.service),
            name: None,
            algorithm: match line.flags {
                flags if flags & MAGLEV != 0 => Algorithm::Maglev,
                flags if flags & RANDOM != 0 => Algorithm::Random,
                _ => Algorithm::RoundRobin,
            },
            affinity_seconds: line.affinity,
            external: line.flags & EXTERNAL != 0,
            source_ranges: ranges.into_iter().flatten().copied().collect(),
            inside: Vec::new(),
            outside: Vec::new(),
        };
        if outside_table {
            let problem = format!("leads to line {index}, which the service table does not have");
            self.flaws.push(Difference::of(key.map(), &picture, problem));
        }
        if ranged {
            self.ranged.insert(line.service);
        }
        if line.counted != 0 && *self.counted.entry(line.counted).or_insert(line.service) != line.service {
            let problem = format!("is counted under {}, which is another Service's", line.counted);
            self.flaws.push(Difference::of(maps::SERVICE_TABLE, &picture, problem));
        }
        picture.inside = self.peers(line.inside, &line, &picture);
        picture.outside = self.peers(line.outside, &line, &picture);
        Ok(picture)
    }

    /// Who is in these slots.
    fn peers(&mut self, range: SlotRange, line: &ServiceLine, of: &FrontendPicture) -> Vec<SocketAddr> {
        let mut peers = Vec::with_capacity(range.count().into());
        for at in 0..u32::from(range.count()) {
            let slot = range.base().saturating_add(at);
            let Ok(index) = self.slots.get(&slot, 0) else {
                let problem = format!("has slot {slot}, which does not exist");
                self.flaws.push(Difference::of(maps::SERVICE_TABLE, of, problem));
                break;
            };
            match self.backends.get(&index, 0) {
                Ok(backend) if backend != Backend::default() => {
                    peers.push(SocketAddr::from(door::peer(&backend)));
                    if line.affinity != 0 {
                        self.members.insert(Member::new(line.service, index, backend.generation()));
                    }
                }
                Ok(_) => {
                    let problem = format!("slot {slot} leads to backend {index}, which is empty");
                    self.flaws.push(Difference::of(maps::BACKENDS, of, problem));
                }
                Err(_) => {
                    let problem = format!("slot {slot} leads to backend {index}, which does not exist");
                    self.flaws.push(Difference::of(maps::SLOTS, of, problem));
                }
            }
        }
        peers
    }

    /// Whether exactly the backends of Services with affinity are known to be theirs.
    fn check_members(&mut self, pins: &Path) -> Result<(), DataplaneError> {
        let table: HashMap<MapData, Member, u32> = open(pins, maps::MEMBERS, Map::HashMap)?;
        let present: BTreeSet<Member> = table.keys().filter_map(Result::ok).collect();
        let flaw = |member: &Member, problem: &str| Difference {
            map: maps::MEMBERS.to_owned(),
            entry: format!("backend {}, generation {}", member.backend(), member.generation()),
            service: Some(picture::service(member.service())),
            problem: problem.to_owned(),
        };
        self.flaws.extend(self.members.difference(&present).map(|member| flaw(member, "is missing")));
        self.flaws.extend(present.difference(&self.members).map(|member| flaw(member, "is not wanted")));
        Ok(())
    }

    /// Ranges that no line asks for.
    fn check_ranges(&mut self) {
        let strays = self.ranges.iter().filter(|(service, _)| !self.ranged.contains(service));
        let strays = strays.flat_map(|(service, ranges)| ranges.iter().map(|range| (*service, range)));
        self.flaws.extend(strays.map(|(service, range)| Difference {
            map: maps::SOURCE_RANGES.to_owned(),
            entry: range.to_string(),
            service: Some(picture::service(service)),
            problem: "is not wanted".to_owned(),
        }));
    }
}

fn addresses(pins: &Path) -> Result<Known, DataplaneError> {
    let tables = Addresses {
        four: open(pins, maps::ADDRESSES, Map::HashMap)?,
        six: open(pins, maps::ADDRESSES6, Map::HashMap)?,
    };
    let mut all = tables.all();
    all.sort_unstable();
    let of_kind = |kind| all.iter().filter(move |(_, owner)| owner.kind == kind);
    let pods = of_kind(flow::LOCAL_POD).map(|(ip, owner)| PodPicture::of(*ip, owner)).collect();
    let ends = of_kind(flow::TUNNEL_END).filter_map(|(ip, _)| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    Ok((pods, of_kind(flow::NODE).map(|(ip, _)| *ip).collect(), ends.collect()))
}

/// Pods of this node, nodes, and where else nodes take frames of the tunnel.
type Known = (Vec<PodPicture>, Vec<IpAddr>, BTreeSet<Ipv4Addr>);

/// The table of flows, as it is read bit by bit.
pub(super) fn buckets(pins: &Path) -> Result<impl Iterator<Item = Bucket>, DataplaneError> {
    let table: Array<MapData, Bucket> = open(pins, maps::FLOWS, Map::Array)?;
    Ok((0..table.len()).filter_map(move |number| table.get(&number, 0).ok()))
}

fn flows(pins: &Path) -> Result<Vec<FlowPicture>, DataplaneError> {
    let mut all: Vec<(Flow, Translation)> =
        buckets(pins)?.flat_map(|bucket| bucket.flows().collect::<Vec<_>>()).collect();
    all.retain(|(_, entry)| entry.backend != REPLY);
    all.sort_by_key(|(key, _)| *key);
    let source = |flow: &Flow| SocketAddrV4::new(flow.source.into(), flow.source_port()).into();
    let destination =
        |flow: &Flow| SocketAddrV4::new(flow.destination.into(), flow.destination_port()).into();
    let picture = |(key, entry): (Flow, Translation)| FlowPicture {
        protocol: picture::protocol(key.protocol),
        source: source(&key),
        destination: destination(&key),
        translated_source: source(&entry.to),
        translated_destination: destination(&entry.to),
        masqueraded: entry.backend == MASQUERADED,
        handed_to: entry.handed_to().map(Ipv4Addr::from),
        closing: entry.seen & flow::CLOSING != 0,
        seen_seconds_after_boot: flow::seconds(entry.seen),
    };
    let four = all.into_iter().map(picture).collect::<Vec<_>>();
    Ok(four.into_iter().chain(flows6(pins)?).collect())
}

fn flows6(pins: &Path) -> Result<Vec<FlowPicture>, DataplaneError> {
    let mut all: Vec<(Flow6, Translation6)> = Vec::new();
    for name in [maps::FLOWS6_TCP, maps::FLOWS6_OTHER] {
        let table: HashMap<MapData, Flow6, Translation6> = open(pins, name, Map::LruHashMap)?;
        all.extend(table.iter().filter_map(Result::ok).filter(|(_, entry)| entry.backend != REPLY));
    }
    all.sort_by_key(|(key, _)| *key);
    let source = |flow: &Flow6| SocketAddr::new(IpAddr::from(flow.source), flow.source_port());
    let destination = |flow: &Flow6| SocketAddr::new(IpAddr::from(flow.destination), flow.destination_port());
    let picture = |(key, entry): (Flow6, Translation6)| FlowPicture {
        protocol: picture::protocol(key.protocol),
        source: source(&key),
        destination: destination(&key),
        translated_source: source(&entry.to),
        translated_destination: destination(&entry.to),
        masqueraded: entry.backend == MASQUERADED,
        handed_to: None,
        closing: entry.seen & flow::CLOSING != 0,
        seen_seconds_after_boot: flow::seconds(entry.seen),
    };
    Ok(all.into_iter().map(picture).collect())
}

fn open<M>(pins: &Path, name: &'static str, kind: fn(MapData) -> Map) -> Result<M, DataplaneError>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + 'static,
{
    let path: PathBuf = pins.join(name);
    let what = || format!("open {}", path.display());
    let data = MapData::from_pin(&path).map_err(|e| DataplaneError::kernel(what(), chain(&e)))?;
    M::try_from(kind(data)).map_err(|e| DataplaneError::kernel(what(), chain(&e)))
}
