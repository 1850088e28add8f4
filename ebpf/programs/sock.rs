//! Socket hooks: a connection or datagram to a Service is given a backend before the first packet exists, so that traffic
//! between pods costs nothing per packet. Names go back when the socket is asked whom it talks to.
//!
//! The kernel's contract: return 1 to go on, 0 to refuse with the errno set by bpf_set_retval (kernel 5.18; EPERM before).

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::layout::{Believed, FrontendKey, SocketKey};
use oarlock_ebpf::reason::Reason;

use crate::choose::{self, Choice};
use crate::maps;

const GO_ON: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, Choice::InTurn)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, Choice::By(cookie(&ctx)))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx)
}

/// The address and port in the context.
#[inline(always)]
fn peer(ctx: &SockAddrContext) -> ([u8; 4], u16) {
    // SAFETY: the kernel passes a valid context; these fields may be read by these hooks.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    // Both are in network order in memory; the port is in the low half of its word.
    (address.to_ne_bytes(), u16::from_be(port as u16))
}

#[inline(always)]
fn set_peer(ctx: &SockAddrContext, address: [u8; 4], port: u16) {
    // SAFETY: as above; these fields may be written by these hooks.
    unsafe {
        (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(address);
        (*ctx.sock_addr).user_port = u32::from(port.to_be());
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of these hooks.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn translate(ctx: &SockAddrContext, choice: Choice) -> i32 {
    let (address, port) = peer(ctx);
    // SAFETY: a field that may be read.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let Some(service) = maps::service(&FrontendKey::new(address, port, protocol)) else { return GO_ON };
    let Some(line) = maps::line(service) else {
        maps::count(Reason::BadTable);
        return GO_ON;
    };
    // SAFETY: the helper takes the context of these hooks.
    let client = AffinityKey::inside(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }, line.service);
    let range = maps::published(&line.inside);
    let (_, backend) = match choose::backend(service, line, range, &client, choice) {
        Ok(chosen) => chosen,
        Err(reason) => {
            maps::count(reason);
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
    set_peer(ctx, to, to_port);
    maps::count(Reason::Translated);
    GO_ON
}

#[inline(always)]
fn reverse(ctx: &SockAddrContext) -> i32 {
    let (address, port) = peer(ctx);
    if let Some(believed) = maps::believed(&SocketKey::new(cookie(ctx), address, port)) {
        set_peer(ctx, believed.address(), believed.port());
        maps::count(Reason::Reversed);
    }
    GO_ON
}
