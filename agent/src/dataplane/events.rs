//! New flows and what goes nowhere, one by one, as the programs tell while somebody looks.

use std::net::SocketAddrV4;
use std::time::Duration;

use aya::maps::{Array, Map, MapData, RingBuf};
use jiff::{SignedDuration, Timestamp};
use oarlock_ebpf::event::{Event, SOCKET, TC, XDP};
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;

use super::load::{chain, pins};
use super::picture::{self, EventPicture};
use super::{DataplaneConfig, DataplaneError, Directory};

/// Who looks. There may be one for each node: it takes events away.
pub struct Watcher {
    until: Array<MapData, u32>,
    ring: RingBuf<MapData>,
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
        while let Some(item) = self.ring.next() {
            // A record is as long as an event, or it is none of ours.
            if let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(&item) {
                let age = clock.saturating_sub(Duration::from_nanos(event.at));
                let age = SignedDuration::try_from(age).unwrap_or_default();
                events.push(picture(&event, wall.checked_sub(age).unwrap_or(wall), directory));
            }
        }
        events
    }
}

/// The programs' clock.
fn now() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).unwrap_or_default()
}

fn picture(event: &Event, at: Timestamp, directory: &Directory) -> EventPicture {
    let what = Reason::ALL.get(event.what as usize).map_or("unknown", |reason| reason.name());
    let hook = match event.hook {
        SOCKET => "socket",
        XDP => "xdp",
        TC => "tc",
        _ => "unknown",
    };
    let source = |flow: &Flow| SocketAddrV4::new(flow.source.into(), flow.source_port());
    let destination = |flow: &Flow| SocketAddrV4::new(flow.destination.into(), flow.destination_port());
    let to = Some(&event.to).filter(|to| **to != Flow::NONE);
    let of_socket = event.hook == SOCKET;
    EventPicture {
        at,
        what: what.to_owned(),
        hook: hook.to_owned(),
        protocol: picture::protocol(event.flow.protocol),
        source: (!of_socket).then(|| source(&event.flow)),
        destination: destination(&event.flow),
        translated_source: to.filter(|_| !of_socket).map(source),
        translated_destination: to.map(destination),
        service: directory.name(event.service).map(|name| name.to_string()),
        namespace_cookie: of_socket.then_some(event.namespace),
    }
}
