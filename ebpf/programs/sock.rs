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
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::layout::{Backend, Believed, Believed6, FrontendKey, FrontendKey6, SocketKey, SocketKey6};
use oarlock_ebpf::opted_out;
use oarlock_ebpf::reason::Reason;

use crate::choose::{self, Choice};
use crate::watch::{Seen, Seen6};
use crate::{count, maps, maps6, nat, watch};

const GO_ON: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, Four::peer(&ctx), Choice::InTurn)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    match peer6(&ctx) {
        Peer6::Mapped(peer) => translate(&ctx, peer, Choice::InTurn),
        Peer6::Six(peer) => translate(&ctx, peer, Choice::InTurn),
    }
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, Four::peer(&ctx), Choice::By(cookie(&ctx)))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    match peer6(&ctx) {
        Peer6::Mapped(_) => GO_ON,
        Peer6::Six(peer) => translate(&ctx, peer, Choice::By(cookie(&ctx))),
    }
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx, Four::peer(&ctx))
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx, Four::peer(&ctx))
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

/// Whom a socket talks to, or would. One code for each family, without what the other would cost.
trait Peer: Copy {
    /// The service that answers there.
    fn service(self, protocol: u8) -> Option<u32>;
    /// Whether it is a loopback address, of which each network namespace has its own.
    fn is_loopback(self) -> bool;
    /// A backend as a peer of this kind.
    fn of(backend: &Backend) -> Self;
    /// Remembers that a socket that talks to this peer believes to talk to another.
    fn remember(self, cookie: u64, believed: Self);
    /// Whom a socket that talks to this peer believes to talk to.
    fn believed(self, cookie: u64) -> Option<Self>;
    /// Makes it the peer in the context.
    fn set(self, ctx: &SockAddrContext);
    /// Tells who looks that it became another peer, or why not.
    fn tell(self, protocol: u8, service: u32, cgroup: u64, outcome: Result<Self, Reason>);
}

/// An IPv4 address and a port.
#[derive(Clone, Copy)]
struct Four([u8; 4], u16);

impl Four {
    /// The address and port in the context.
    #[inline(always)]
    fn peer(ctx: &SockAddrContext) -> Self {
        // SAFETY: the kernel passes a valid context; these fields may be read by these hooks.
        let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
        // Both are in network order in memory; the port is in the low half of its word.
        Self(address.to_ne_bytes(), u16::from_be(port as u16))
    }
}

impl Peer for Four {
    #[inline(always)]
    fn service(self, protocol: u8) -> Option<u32> {
        maps::service(&FrontendKey::new(self.0, self.1, protocol))
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 == LOOPBACK
    }

    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        Self(backend.address(), backend.port())
    }

    #[inline(always)]
    fn remember(self, cookie: u64, believed: Self) {
        maps::remember(&SocketKey::new(cookie, self.0, self.1), &Believed::new(believed.0, believed.1));
    }

    #[inline(always)]
    fn believed(self, cookie: u64) -> Option<Self> {
        let believed = maps::believed(&SocketKey::new(cookie, self.0, self.1))?;
        Some(Self(believed.address(), believed.port()))
    }

    #[inline(always)]
    fn set(self, ctx: &SockAddrContext) {
        // SAFETY: the kernel passes a valid context; these fields may be written by these hooks.
        unsafe {
            (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(self.0);
            (*ctx.sock_addr).user_port = u32::from(self.1.to_be());
        }
    }

    #[inline(always)]
    fn tell(self, protocol: u8, service: u32, cgroup: u64, outcome: Result<Self, Reason>) {
        let asked = Flow::new(([0; 4], 0), (self.0, self.1), protocol);
        let seen = Seen { hook: SOCKET, flow: &asked, service, cgroup };
        match outcome {
            Ok(to) => watch::begun(&seen, &asked.to(to.0, to.1), Reason::Translated),
            Err(reason) => watch::lost(&seen, reason),
        }
    }
}

/// The same of a socket of IPv6 that talks IPv4.
#[derive(Clone, Copy)]
struct Mapped(Four);

impl Peer for Mapped {
    #[inline(always)]
    fn service(self, protocol: u8) -> Option<u32> {
        self.0.service(protocol)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }

    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        Self(Four::of(backend))
    }

    #[inline(always)]
    fn remember(self, cookie: u64, believed: Self) {
        self.0.remember(cookie, believed.0);
    }

    #[inline(always)]
    fn believed(self, cookie: u64) -> Option<Self> {
        self.0.believed(cookie).map(Self)
    }

    #[inline(always)]
    fn set(self, ctx: &SockAddrContext) {
        set_word(ctx, 3, u32::from_ne_bytes(self.0.0));
        set_port(ctx, self.0.1);
    }

    #[inline(always)]
    fn tell(self, protocol: u8, service: u32, cgroup: u64, outcome: Result<Self, Reason>) {
        self.0.tell(protocol, service, cgroup, outcome.map(|to| to.0));
    }
}

/// An IPv6 address and a port.
#[derive(Clone, Copy)]
struct Six([u8; 16], u16);

impl Peer for Six {
    #[inline(always)]
    fn service(self, protocol: u8) -> Option<u32> {
        maps6::service(&FrontendKey6::new(self.0, self.1, protocol))
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 == LOOPBACK6
    }

    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        Self(backend.address6(), backend.port())
    }

    #[inline(always)]
    fn remember(self, cookie: u64, believed: Self) {
        maps6::remember(&SocketKey6::new(cookie, self.0, self.1), &Believed6::new(believed.0, believed.1));
    }

    #[inline(always)]
    fn believed(self, cookie: u64) -> Option<Self> {
        let believed = maps6::believed(&SocketKey6::new(cookie, self.0, self.1))?;
        Some(Self(believed.address(), believed.port()))
    }

    #[inline(always)]
    fn set(self, ctx: &SockAddrContext) {
        let [a, b, c, d] = words(self.0);
        set_word(ctx, 0, a);
        set_word(ctx, 1, b);
        set_word(ctx, 2, c);
        set_word(ctx, 3, d);
        set_port(ctx, self.1);
    }

    #[inline(always)]
    fn tell(self, protocol: u8, service: u32, cgroup: u64, outcome: Result<Self, Reason>) {
        let asked = Flow6::new(([0; 16], 0), (self.0, self.1), protocol);
        let seen = Seen6 { hook: SOCKET, flow: &asked, service, cgroup };
        match outcome {
            Ok(to) => watch::begun6(&seen, &asked.to(to.0, to.1), Reason::Translated),
            Err(reason) => watch::lost6(&seen, reason),
        }
    }
}

/// Whom a socket of IPv6 talks to.
enum Peer6 {
    Mapped(Mapped),
    Six(Six),
}

/// The address and port in the context of a hook of IPv6.
#[inline(always)]
fn peer6(ctx: &SockAddrContext) -> Peer6 {
    let ip = [word(ctx, 0), word(ctx, 1), word(ctx, 2), word(ctx, 3)];
    // SAFETY: the kernel passes a valid context; the field may be read by these hooks.
    let port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    if ip[0] == 0 && ip[1] == 0 && ip[2] == 0xffff_u32.to_be() {
        return Peer6::Mapped(Mapped(Four(ip[3].to_ne_bytes(), port)));
    }
    Peer6::Six(Six(bytes(ip), port))
}

/// A word of the address. They are read one by one: the kernel translates each access.
#[inline(always)]
fn word(ctx: &SockAddrContext, at: usize) -> u32 {
    // SAFETY: the kernel passes a valid context, of a hook of IPv6, where this field may be read.
    unsafe { core::ptr::addr_of!((*ctx.sock_addr).user_ip6).cast::<u32>().add(at).read_volatile() }
}

#[inline(always)]
fn set_word(ctx: &SockAddrContext, at: usize, word: u32) {
    // SAFETY: as above; it may be written too.
    unsafe { core::ptr::addr_of_mut!((*ctx.sock_addr).user_ip6).cast::<u32>().add(at).write_volatile(word) };
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: as above.
    unsafe { (*ctx.sock_addr).user_port = u32::from(port.to_be()) };
}

/// An address of words in network order, as they are in memory.
#[inline(always)]
fn bytes([a, b, c, d]: [u32; 4]) -> [u8; 16] {
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

#[inline(always)]
fn words(b: [u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
    ]
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of these hooks.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn translate<P: Peer>(ctx: &SockAddrContext, peer: P, choice: Choice) -> i32 {
    // SAFETY: a field that may be read.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let Some(service) = peer.service(protocol) else { return GO_ON };
    // SAFETY: the helper takes the context of these hooks.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // A pod has a loopback of its own, on which NodePorts are nobody's but its own.
    if peer.is_loopback() && nat::settings().is_none_or(|settings| settings.namespace != namespace) {
        return GO_ON;
    }
    // Its packets are translated at the pod's link.
    if maps::is_opted_out(opted_out::of_namespace(namespace)) {
        return GO_ON;
    }
    let Some(line) = maps::line(service) else {
        maps::count(Reason::BadTable);
        return GO_ON;
    };
    // SAFETY: the helper has no conditions.
    let cgroup = if watch::is_on() { unsafe { bpf_get_current_cgroup_id() } } else { 0 };
    let client = AffinityKey::inside(namespace, line.service);
    let range = maps::published(&line.inside);
    let (index, backend) = match choose::backend(service, line, range, &client, choice) {
        Ok(chosen) => chosen,
        Err(reason) => {
            maps::count(reason);
            count::dropped(line.counted, reason);
            peer.tell(protocol, line.counted, cgroup, Err(reason));
            if reason != Reason::NoEndpoints {
                return GO_ON;
            }
            // SAFETY: the helper only sets what the system call returns.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            return REFUSE;
        }
    };
    let to = P::of(backend);
    to.remember(cookie(ctx), peer);
    to.set(ctx);
    maps::count(Reason::Translated);
    count::begun(Whose::new(index, line.counted), INSIDE);
    peer.tell(protocol, line.counted, cgroup, Ok(to));
    GO_ON
}

#[inline(always)]
fn reverse<P: Peer>(ctx: &SockAddrContext, peer: P) -> i32 {
    if let Some(believed) = peer.believed(cookie(ctx)) {
        believed.set(ctx);
        maps::count(Reason::Reversed);
    }
    GO_ON
}

#[inline(always)]
fn reverse6(ctx: &SockAddrContext) -> i32 {
    match peer6(ctx) {
        Peer6::Mapped(peer) => reverse(ctx, peer),
        Peer6::Six(peer) => reverse(ctx, peer),
    }
}
