//! New flows and what goes nowhere, one by one, as the programs tell while somebody looks.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use aya::maps::{Array, Map, MapData, RingBuf};
use jiff::{SignedDuration, Timestamp};
use oarlock_ebpf::event::{Event, Event6, SOCKET, TC, XDP};
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;

use super::load::{cgroup2_root, chain, pins};
use super::picture::{self, EventPicture};
use super::{DataplaneConfig, DataplaneError, Directory};

/// Who looks. There may be one for each node: it takes events away.
pub struct Watcher {
    until: Array<MapData, u32>,
    ring: RingBuf<MapData>,
    cgroups: Cgroups,
}

impl Watcher {
    /// Of a node. Nothing is told before [`Self::watch`].
    ///
    /// # Errors
    /// The tables are not pinned, or cannot be used.
    pub fn open(config: &DataplaneConfig) -> Result<Self, DataplaneError> {
        let pins = pins(&config.bpffs, &config.node_name);
        let open = |name: &str| {
            let path = pins.join(name);
            let failed = |e| DataplaneError::kernel(format!("open {}", path.display()), chain(&e));
            MapData::from_pin(&path).map_err(failed)
        };
        let failed = |e| DataplaneError::kernel("use the ring buffer of events", chain(&e));
        Ok(Self {
            until: Array::try_from(Map::Array(open(maps::WATCH)?)).map_err(failed)?,
            ring: RingBuf::try_from(Map::RingBuf(open(maps::EVENTS)?)).map_err(failed)?,
            cgroups: Cgroups { own: config.cgroup.clone(), known: HashMap::new(), may_look: true },
        })
    }

    /// Makes the programs tell for as long from now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch(&mut self, time: Duration) -> Result<(), DataplaneError> {
        let until = now().saturating_add(time).as_secs();
        let until = u32::try_from(until).unwrap_or(u32::MAX);
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::WATCH), e);
        self.until.set(0, until, 0).map_err(failed)
    }

    /// What was told since the last time.
    pub fn take(&mut self, directory: &Directory) -> Vec<EventPicture> {
        let (clock, wall) = (now(), Timestamp::now());
        let mut events = Vec::new();
        self.cgroups.may_look = true;
        while let Some(item) = self.ring.next() {
            let Some(event) = Told::read(&item) else { continue };
            let age = clock.saturating_sub(Duration::from_nanos(event.at));
            let age = SignedDuration::try_from(age).unwrap_or_default();
            let at = wall.checked_sub(age).unwrap_or(wall);
            let client = (event.hook == SOCKET).then(|| self.cgroups.client(event.cgroup)).flatten();
            events.push(EventPicture { client, ..picture(&event, at, directory) });
        }
        events
    }
}

/// The programs' clock.
fn now() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).unwrap_or_default()
}

/// What the programs have told, of either family.
struct Told {
    at: u64,
    what: u32,
    hook: u32,
    service: u32,
    cgroup: u64,
    protocol: u8,
    /// Source and destination.
    flow: [SocketAddr; 2],
    to: Option<[SocketAddr; 2]>,
}

impl Told {
    /// A record is as long as an event of one family, or it is none of ours.
    fn read(record: &[u8]) -> Option<Self> {
        if let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(record) {
            let to = Some(&event.to).filter(|to| **to != Flow::NONE).map(ends);
            let Event { at, what, hook, service, cgroup, flow, .. } = event;
            return Some(Self {
                at,
                what,
                hook,
                service,
                cgroup,
                protocol: flow.protocol,
                flow: ends(&flow),
                to,
            });
        }
        let event = bytemuck::try_pod_read_unaligned::<Event6>(record).ok()?;
        let to = Some(&event.to).filter(|to| **to != Flow6::NONE).map(ends6);
        let Event6 { at, what, hook, service, cgroup, flow, .. } = event;
        Some(Self { at, what, hook, service, cgroup, protocol: flow.protocol, flow: ends6(&flow), to })
    }
}

fn ends(flow: &Flow) -> [SocketAddr; 2] {
    let (from, to) = ((flow.source, flow.source_port()), (flow.destination, flow.destination_port()));
    [from, to].map(|(ip, port)| SocketAddrV4::new(ip.into(), port).into())
}

fn ends6(flow: &Flow6) -> [SocketAddr; 2] {
    let (from, to) = ((flow.source, flow.source_port()), (flow.destination, flow.destination_port()));
    [from, to].map(|(ip, port)| SocketAddrV6::new(ip.into(), port, 0, 0).into())
}

fn picture(event: &Told, at: Timestamp, directory: &Directory) -> EventPicture {
    let what = Reason::ALL.get(event.what as usize).map_or("unknown", |reason| reason.name());
    let hook = match event.hook {
        SOCKET => "socket",
        XDP => "xdp",
        TC => "tc",
        _ => "unknown",
    };
    let of_socket = event.hook == SOCKET;
    EventPicture {
        at,
        what: what.to_owned(),
        hook: hook.to_owned(),
        protocol: picture::protocol(event.protocol),
        source: (!of_socket).then_some(event.flow[0]),
        destination: event.flow[1],
        translated_source: event.to.filter(|_| !of_socket).map(|to| to[0]),
        translated_destination: event.to.map(|to| to[1]),
        service: directory.name(event.service).map(|name| name.to_string()),
        client: None,
    }
}

/// The cgroups of this node by number.
struct Cgroups {
    /// The node's own.
    own: String,
    known: HashMap<u64, String>,
    /// Whether those that are new may be looked for: once for all that is taken at a time.
    may_look: bool,
}

impl Cgroups {
    /// Who is in it: `pod UID`, `node`, or its path.
    fn client(&mut self, number: u64) -> Option<String> {
        if !self.known.contains_key(&number) && std::mem::take(&mut self.may_look) {
            self.known = below(&self.own);
        }
        let path = self.known.get(&number)?;
        Some(who(&self.own, path))
    }
}

/// Who is in a cgroup, by its path.
fn who(own: &str, path: &str) -> String {
    let rest = path.strip_prefix(own.trim_end_matches('/')).unwrap_or(path);
    match rest.trim_start_matches('/') {
        "" => "node".to_owned(),
        rest => match rest.strip_prefix("pod").and_then(|rest| rest.split('/').next()) {
            Some(uid) if own != "/" => format!("pod {uid}"),
            _ => path.to_owned(),
        },
    }
}

/// The cgroup and all below it: number, and path from the root of the hierarchy.
fn below(own: &str) -> HashMap<u64, String> {
    let mut known = HashMap::new();
    let Some(root) = cgroup2_root() else { return known };
    let mut rest = vec![root.join(own.trim_start_matches('/'))];
    while let Some(folder) = rest.pop() {
        let Ok(metadata) = folder.metadata() else { continue };
        let path = folder.strip_prefix(&root).unwrap_or(&folder).to_string_lossy().into_owned();
        known.insert(metadata.ino(), format!("/{path}"));
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        rest.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_says_who_is_in_it() {
        let own = "/oarlock/node1";
        assert_eq!(who(own, "/oarlock/node1"), "node");
        assert_eq!(who(own, "/oarlock/node1/podab-cd/0123"), "pod ab-cd");
        assert_eq!(who("/", "/"), "node");
        assert_eq!(who("/", "/kubepods/pod12/34"), "/kubepods/pod12/34");
        assert_eq!(who("/", "/pods.slice"), "/pods.slice");
    }

    /// Records of another version of the programs, or of none.
    #[test]
    fn fuzz_events() {
        let records =
            [vec![0; size_of::<Event>()], vec![0xff; size_of::<Event>()], vec![7; size_of::<Event6>()]];
        oarlock_fuzz::Target::new("events").with(records).run(|input| {
            if let Some(event) = Told::read(input) {
                assert!([size_of::<Event>(), size_of::<Event6>()].contains(&input.len()));
                serde_json::to_string(&picture(&event, Timestamp::UNIX_EPOCH, &Directory::new(true)))
                    .unwrap();
            }
        });
    }
}
