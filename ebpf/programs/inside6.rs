//! Services over IPv6 for pods that are served packet by packet: as [`crate::inside`].

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::count::{INSIDE, Whose};
use oarlock_ebpf::layout::FrontendKey6;
use oarlock_ebpf::reason::Reason;

use crate::choose::{self, Choice};
use crate::maps6::{self, Work};
use crate::packet6::Packet;
use crate::{count, flows6, maps, packet, watch, way6};

/// Whether the packet is one to a Service: its translation is in [`Work::entry`] then.
#[inline(always)]
pub fn find(ctx: &TcContext, work: &mut Work, packet: &Packet) -> bool {
    if flows6::present(work, packet) { work.entry.has_backend() } else { begin(ctx, work, packet) }
}

#[inline(always)]
fn begin(ctx: &TcContext, work: &mut Work, packet: &Packet) -> bool {
    if !flows6::may_begin(work, packet) {
        return false;
    }
    work.frontend =
        FrontendKey6::new(work.flow.destination, work.flow.destination_port(), work.flow.protocol);
    let Some(service) = maps6::service(&work.frontend) else { return false };
    let Some(line) = maps::line(service) else { return false };
    work.client = AffinityKey::outside6(work.flow.source, line.service);
    let range = maps::published(&line.inside);
    let (index, backend) = match choose::backend(service, line, range, &work.client, Choice::InTurn) {
        Ok(chosen) => chosen,
        Err(reason) => {
            maps::count(reason);
            count::dropped(line.counted, reason);
            watch::lost6(&flows6::seen(work, packet, line.counted), reason);
            return false;
        }
    };
    work.leaves = work.flow.to(backend.address6(), backend.port());
    let whose = Whose::new(index, line.counted);
    if !reach(ctx, work, (whose.word(), backend.generation())) {
        count::dropped(line.counted, Reason::NoPort);
        watch::lost6(&flows6::seen(work, packet, line.counted), Reason::NoPort);
        return false;
    }
    maps::count(Reason::Translated);
    count::begun(whose, INSIDE);
    watch::begun6(&flows6::seen(work, packet, line.counted), &work.entry.to, Reason::Translated);
    true
}

#[inline(always)]
fn reach(ctx: &TcContext, work: &mut Work, chosen: (u32, u32)) -> bool {
    let Some(settings) = maps6::settings() else { return false };
    let backend = &work.leaves.destination;
    let by = if *backend == work.flow.source {
        0
    } else if *backend == settings.node || settings.in_cluster(backend) || maps6::kind_of(backend) != 0 {
        // Where the pod's port already talks to this backend by another frontend, another port tells them apart.
        return flows6::keep(work, (0, 0), chosen) || flows6::claim(work, (0, 0), chosen);
    } else {
        match way6::of(ctx.as_ptr(), work, settings, packet::link(ctx)) {
            0 => return false,
            link => link,
        }
    };
    work.leaves = work.leaves.from(settings.node, 0);
    flows6::claim(work, (by, 0), chosen)
}
