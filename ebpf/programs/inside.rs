//! Services for pods that are served packet by packet (see [`oarlock_ebpf::opted_out`]): the first packet of a connection to a
//! frontend, as the pod sends it, and the backend that it gets.
//!
//! Backends see the pod's own address, as by the socket hooks, but in two cases: the pod itself, whose answers would never leave it,
//! and backends outside the cluster, to whom what pods send is masqueraded anyhow. They see the node's.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::count::{INSIDE, Whose};
use oarlock_ebpf::flow::{Flow, Translation};
use oarlock_ebpf::layout::FrontendKey;
use oarlock_ebpf::reason::Reason;

use crate::choose::{self, Choice};
use crate::packet::{self, Packet};
use crate::{count, flows, maps, nat, watch, way};

/// The translation of a connection or datagram that begins. Nothing: it is to no Service, or nobody answers; what nobody answers
/// goes on to the routes, of which one refuses it.
#[inline(always)]
pub fn begin(ctx: &TcContext, packet: &Packet) -> Option<&'static Translation> {
    if !flows::may_begin(packet) {
        return None;
    }
    let flow = &packet.flow;
    let service = maps::service(&FrontendKey::new(flow.destination, flow.destination_port(), flow.protocol))?;
    let line = maps::line(service)?;
    let client = AffinityKey::outside(flow.source, line.service);
    let range = maps::published(&line.inside);
    let (index, backend) = match choose::backend(service, line, range, &client, Choice::InTurn) {
        Ok(chosen) => chosen,
        Err(reason) => {
            maps::count(reason);
            count::dropped(line.counted, reason);
            watch::lost(&packet.seen(line.counted), reason);
            return None;
        }
    };
    let leaves = flow.to(backend.address(), backend.port());
    let whose = Whose::new(index, line.counted);
    let Some(entry) = reach(ctx, flow, leaves, (whose.word(), backend.generation())) else {
        count::dropped(line.counted, Reason::NoPort);
        watch::lost(&packet.seen(line.counted), Reason::NoPort);
        return None;
    };
    maps::count(Reason::Translated);
    count::begun(whose, INSIDE);
    watch::begun(&packet.seen(line.counted), &entry.to, Reason::Translated);
    Some(entry)
}

#[inline(always)]
fn reach(ctx: &TcContext, flow: &Flow, leaves: Flow, chosen: (u32, u32)) -> Option<&'static Translation> {
    let settings = nat::settings()?;
    let backend = leaves.destination;
    let (address, by) = if backend == flow.source {
        (settings.node, 0)
    } else if backend == settings.node || settings.in_cluster(backend) || nat::is_near(backend) {
        if let Some(entry) = flows::keep(flow, leaves, (0, 0), chosen) {
            return Some(entry);
        }
        // The pod's port already talks to this backend by another frontend: another port tells them apart.
        (flow.source, 0)
    } else {
        // The stack would not take a packet from a pod with the node's address: it leaves from here.
        match way::of(ctx.as_ptr(), &leaves, packet::link(ctx)) {
            0 => return None,
            link => (settings.node, link),
        }
    };
    flows::claim(flow, leaves, address, (by, 0), chosen)
}
