//! Who may send frames of the tunnel between nodes: only nodes. Its link takes them from whoever reaches its port, and what is inside would
//! be taken for what a node has let through.
//!
//! Nodes listen at each of their addresses. Those of this node its routes know; of others there are in the table those by which nodes
//! are known, and those that they have in the tunnel.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::direct::PORT;
use oarlock_ebpf::flow::{Flow, LOCAL_POD, NODE, TUNNEL_END, UDP};
use oarlock_ebpf::reason::Reason;

use crate::{maps, nat, packet, way};

/// Whether what a pod sends is one; it is counted then.
#[inline(always)]
pub fn is_forged(ctx: &TcContext, flow: &Flow) -> bool {
    if flow.protocol != UDP || flow.destination_port() != PORT || !is_taken(ctx, flow) {
        return false;
    }
    maps::count(Reason::TunnelForged);
    true
}

/// Whether a node is where it goes. What this node's routes lead nowhere is for the node itself, or would go nowhere anyhow.
#[inline(always)]
fn is_taken(ctx: &TcContext, flow: &Flow) -> bool {
    match nat::kind_of(flow.destination) {
        NODE | TUNNEL_END => true,
        LOCAL_POD => false,
        _ => way::of(ctx.as_ptr(), flow, packet::link(ctx)) == 0,
    }
}
