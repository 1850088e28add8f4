//! Socket hooks: a connection or datagram to a Service is given a backend before the first packet exists, so that traffic
//! between pods costs nothing per packet. Names go back when the socket is asked whom it talks to.
//!
//! Sockets of IPv6 talk IPv4 too, to addresses like `::ffff:10.96.0.10` (RFC 4291 2.5.5.2): what Java and others do by default.
//! Their hooks are those of IPv6, but for datagrams without a connection, which the kernel sends as IPv4's (net/ipv6/udp.c,
//! udpv6_sendmsg).
//!
//! The kernel's contract: return 1 to go on, 0 to refuse with the errno set by bpf_set_retval (kernel 5.18; EPERM before).

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::count::{INSIDE, Whose};
use oarlock_ebpf::event::SOCKET;
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::layout::{Believed, FrontendKey, SocketKey};
use oarlock_ebpf::reason::Reason;

use crate::choose::{self, Choice};
use crate::watch::Seen;
use crate::{count, maps, nat, watch};

const GO_ON: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, peer(&ctx), Choice::InTurn, set_peer)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    mapped_peer(&ctx).map_or(GO_ON, |peer| translate(&ctx, peer, Choice::InTurn, set_mapped_peer))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, peer(&ctx), Choice::By(cookie(&ctx)), set_peer)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx, peer(&ctx), set_peer)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    mapped_peer(&ctx).map_or(GO_ON, |peer| reverse(&ctx, peer, set_mapped_peer))
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx, peer(&ctx), set_peer)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    mapped_peer(&ctx).map_or(GO_ON, |peer| reverse(&ctx, peer, set_mapped_peer))
}

/// An IPv4 address and a port.
type Peer = ([u8; 4], u16);

/// The address and port in the context.
#[inline(always)]
fn peer(ctx: &SockAddrContext) -> Peer {
    // SAFETY: the kernel passes a valid context; these fields may be read by these hooks.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    // Both are in network order in memory; the port is in the low half of its word.
    (address.to_ne_bytes(), u16::from_be(port as u16))
}

#[inline(always)]
fn set_peer(ctx: &SockAddrContext, (address, port): Peer) {
    // SAFETY: as above; these fields may be written by these hooks.
    unsafe {
        (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(address);
        (*ctx.sock_addr).user_port = u32::from(port.to_be());
    }
}

/// The same of a socket of IPv6 that talks IPv4.
#[inline(always)]
fn mapped_peer(ctx: &SockAddrContext) -> Option<Peer> {
    // SAFETY: as above, for the hooks of IPv6. Words are read one by one: the kernel translates each access.
    let (ip, port) = unsafe {
        let context = ctx.sock_addr;
        let word = |at: usize| core::ptr::addr_of!((*context).user_ip6).cast::<u32>().add(at).read_volatile();
        ([word(0), word(1), word(2), word(3)], (*context).user_port)
    };
    let is_mapped = ip[0] == 0 && ip[1] == 0 && ip[2] == 0xffff_u32.to_be();
    is_mapped.then_some((ip[3].to_ne_bytes(), u16::from_be(port as u16)))
}

#[inline(always)]
fn set_mapped_peer(ctx: &SockAddrContext, (address, port): Peer) {
    // SAFETY: as above.
    unsafe {
        let context = ctx.sock_addr;
        let ip = core::ptr::addr_of_mut!((*context).user_ip6).cast::<u32>();
        ip.add(3).write_volatile(u32::from_ne_bytes(address));
        (*context).user_port = u32::from(port.to_be());
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of these hooks.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn translate(
    ctx: &SockAddrContext,
    (address, port): Peer,
    choice: Choice,
    set: impl Fn(&SockAddrContext, Peer),
) -> i32 {
    // SAFETY: a field that may be read.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let Some(service) = maps::service(&FrontendKey::new(address, port, protocol)) else { return GO_ON };
    // SAFETY: the helper takes the context of these hooks.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // A pod has a loopback of its own, on which NodePorts are nobody's but its own.
    if address == LOOPBACK && nat::settings().is_none_or(|settings| settings.namespace != namespace) {
        return GO_ON;
    }
    let Some(line) = maps::line(service) else {
        maps::count(Reason::BadTable);
        return GO_ON;
    };
    let asked = Flow::new(([0; 4], 0), (address, port), protocol);
    // SAFETY: the helper has no conditions.
    let cgroup = if watch::is_on() { unsafe { bpf_get_current_cgroup_id() } } else { 0 };
    let seen = Seen { hook: SOCKET, flow: &asked, service: line.counted, cgroup };
    let client = AffinityKey::inside(namespace, line.service);
    let range = maps::published(&line.inside);
    let (index, backend) = match choose::backend(service, line, range, &client, choice) {
        Ok(chosen) => chosen,
        Err(reason) => {
            maps::count(reason);
            count::dropped(line.counted, reason);
            watch::lost(&seen, reason);
            if reason != Reason::NoEndpoints {
                return GO_ON;
            }
            // SAFETY: the helper only sets what the system call returns.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            return REFUSE;
        }
    };
    let (to, to_port) = (backend.address(), backend.port());
    maps::remember(&SocketKey::new(cookie(ctx), to, to_port), &Believed::new(address, port));
    set(ctx, (to, to_port));
    maps::count(Reason::Translated);
    count::begun(Whose::new(index, line.counted), INSIDE);
    watch::begun(&seen, &asked.to(to, to_port), Reason::Translated);
    GO_ON
}

#[inline(always)]
fn reverse(ctx: &SockAddrContext, (address, port): Peer, set: impl Fn(&SockAddrContext, Peer)) -> i32 {
    if let Some(believed) = maps::believed(&SocketKey::new(cookie(ctx), address, port)) {
        set(ctx, (believed.address(), believed.port()));
        maps::count(Reason::Reversed);
    }
    GO_ON
}
