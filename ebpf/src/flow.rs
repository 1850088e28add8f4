//! Flows of packets and their translations. Pure.
//!
//! Each translated connection is two lines of the [table](crate::table): the packet as it comes to the packet as it leaves, and the
//! same for its replies. Whoever inserts the second one first has claimed the source port that the replies are told by.

use bytemuck::{Pod, Zeroable};

/// TCP's number in the IP header.
pub const TCP: u8 = 6;
/// UDP's number in the IP header.
pub const UDP: u8 = 17;
/// TCP flags (RFC 9293 3.1).
pub const FIN: u8 = 1;
/// The first segment of a connection.
pub const SYN: u8 = 2;
/// The connection is torn down.
pub const RST: u8 = 4;
/// Acknowledges.
pub const ACK: u8 = 16;

/// The first port that replies to translated packets come to. Below Linux's own ephemeral range (32768 to 60999) and the
/// NodePorts (30000 to 32767), so that no socket of the node is mistaken for a translated flow.
pub const FIRST_PORT: u16 = 1024;
/// How many ports there are for translated packets, per peer.
pub const PORTS: u16 = 30_000 - FIRST_PORT;
/// How many ports are tried before a new flow is refused.
pub const PROBES: u32 = 16;

/// Who sends to whom.
///
/// | byte | field |
/// |---|---|
/// | 0..4, 4..8 | source and destination, network order |
/// | 8..10, 10..12 | their ports, network order |
/// | 12 | protocol |
/// | 13 | zero; in the table of [`crate::policy`] a direction |
/// | 14..16 | zero |
/// Aligned, so that programs compare and copy it as two words.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Flow {
    /// Source address, network order.
    pub source: [u8; 4],
    /// Destination address, network order.
    pub destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    /// 6 TCP, 17 UDP.
    pub protocol: u8,
    mark: u8,
    reserved: [u8; 2],
}

impl PartialEq for Flow {
    /// As words: the compiler of the programs makes a loop over bytes of it otherwise.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        a[0] == b[0] && a[1] == b[1]
    }
}

impl core::hash::Hash for Flow {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

impl Flow {
    /// None.
    pub const NONE: Self = Self::new(([0; 4], 0), ([0; 4], 0), 0);

    /// A flow from one address and port to another.
    #[must_use]
    pub const fn new(source: ([u8; 4], u16), destination: ([u8; 4], u16), protocol: u8) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1.to_be_bytes(),
            destination_port: destination.1.to_be_bytes(),
            protocol,
            mark: 0,
            reserved: [0; 2],
        }
    }

    /// The same of numbers that lie in memory as they do in a packet: the addresses, and the source's port before the destination's.
    #[must_use]
    pub const fn of_packet(source: u32, destination: u32, ports: u32, protocol: u8) -> Self {
        let [a, b, c, d] = ports.to_ne_bytes();
        Self {
            source: source.to_ne_bytes(),
            destination: destination.to_ne_bytes(),
            source_port: [a, b],
            destination_port: [c, d],
            protocol,
            mark: 0,
            reserved: [0; 2],
        }
    }

    /// All of it.
    #[inline(always)]
    #[must_use]
    pub fn words(&self) -> [u64; 2] {
        bytemuck::cast(*self)
    }

    /// Both ports as they lie in a packet, the source's first.
    #[must_use]
    pub const fn ports(&self) -> u32 {
        let ([a, b], [c, d]) = (self.source_port, self.destination_port);
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The same flow, as a key that differs by a mark.
    #[must_use]
    pub(crate) const fn marked(mut self, mark: u8) -> Self {
        self.mark = mark;
        self
    }

    /// The port of the sender.
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.source_port)
    }

    /// The port of the receiver.
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.destination_port)
    }

    /// Changes the port of the sender.
    pub const fn set_source_port(&mut self, port: u16) {
        self.source_port = port.to_be_bytes();
    }

    /// Changes the port of the receiver.
    pub const fn set_destination_port(&mut self, port: u16) {
        self.destination_port = port.to_be_bytes();
    }

    /// What answers look like.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            mark: 0,
            reserved: [0; 2],
        }
    }

    /// The same sender to another receiver.
    #[must_use]
    pub const fn to(&self, destination: [u8; 4], port: u16) -> Self {
        Self::new((self.source, self.source_port()), (destination, port), self.protocol)
    }

    /// Another sender to the same receiver.
    #[must_use]
    pub const fn from(&self, source: [u8; 4], port: u16) -> Self {
        Self::new((source, port), (self.destination, self.destination_port()), self.protocol)
    }
}

/// How packets of a flow leave, and what is known of the connection.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Translation {
    /// The packet as it leaves.
    pub to: Flow,
    /// The link by which it leaves; 0 leaves that to the routes. With [`DIRECT`] the node that it is handed over to.
    pub link: u32,
    /// Whose it is ([`crate::count::Whose`]), perhaps [`DIRECT`]; [`REPLY`], [`MASQUERADED`] or [`ARRIVED`].
    pub backend: u32,
    /// The backend's generation when it was chosen; of a reply and of what has [`ARRIVED`], whose it is.
    pub generation: u32,
    /// When a packet was seen last, in seconds since boot, and what is known of the connection: [`CLOSING`], [`OPEN`].
    pub seen: u32,
}

/// In [`Translation::backend`]: an answer, translated back to what was asked.
pub const REPLY: u32 = u32::MAX;
/// In [`Translation::backend`]: a pod's packet that leaves the cluster with the node's address.
pub const MASQUERADED: u32 = u32::MAX - 1;
/// In [`Translation::backend`]: a packet that another node has handed over, for a pod of this one that it has chosen.
pub const ARRIVED: u32 = u32::MAX - 2;
/// A bit of [`Translation::backend`]: the packet goes as it came to the backend's node ([`crate::direct`]), which answers itself. There
/// is no entry of answers.
pub const DIRECT: u32 = 1 << 31;

impl Translation {
    /// The answer to a flow that is translated like this: what it was, as it comes and goes by this link.
    #[inline(always)]
    #[must_use]
    pub const fn answer(&self, original: &Flow, link: u32) -> Self {
        let whose = if self.has_backend() {
            self.backend
        } else if self.backend == ARRIVED {
            self.generation
        } else {
            0
        };
        Self { to: original.reversed(), link, backend: REPLY, generation: whose, seen: self.seen }
    }

    /// Whether the flow goes to a backend of a Service.
    #[must_use]
    pub const fn has_backend(&self) -> bool {
        self.backend < ARRIVED
    }

    /// The node that the flow's packets are handed over to; none of others.
    #[inline(always)]
    #[must_use]
    pub const fn handed_to(&self) -> Option<[u8; 4]> {
        if self.has_backend() && self.backend & DIRECT != 0 { Some(self.link.to_ne_bytes()) } else { None }
    }
}

/// In [`Translation::seen`]: a FIN or RST was seen.
pub const CLOSING: u32 = 1 << 31;
/// In [`Translation::seen`]: more than the first packet was seen. Of TCP one without SYN, which whoever sends from addresses that
/// are not his never gets to; of UDP one in a later second. What is open is never forgotten for something new.
pub const OPEN: u32 = 1 << 30;

/// The seconds of [`Translation::seen`].
#[must_use]
pub const fn seconds(seen: u32) -> u32 {
    seen & !(CLOSING | OPEN)
}

/// The second of so many nanoseconds since boot, by a multiplication: divisions cost as much as everything else that is done with it. A
/// year's clock is one second wrong.
#[must_use]
pub const fn second_of(nanoseconds: u64) -> u32 {
    // 2^22 / 10^9, times 2^32.
    const FACTOR: u64 = 18_014_399;
    seconds((((nanoseconds >> 22) * FACTOR) >> 32) as u32)
}

/// [`Translation::seen`] after a packet with these flags (of UDP: 0) at `now`.
#[must_use]
pub const fn seen_at(seen: u32, protocol: u8, flags: u8, now: u32) -> u32 {
    let mut next = now | (seen & (CLOSING | OPEN));
    if flags & (FIN | RST) != 0 {
        next |= CLOSING;
    } else if flags & SYN != 0 {
        // The port is used again; the answer says so for the way back.
        next &= !(CLOSING | OPEN);
    }
    let is_more = if protocol == TCP { flags & (SYN | RST) == 0 } else { seconds(seen) != now };
    if is_more { next | OPEN } else { next }
}

/// The two entries of a connection: (key, value) of its packets, then of the replies. `backend` is [`Translation::backend`] of the
/// packets, and the generation.
#[must_use]
pub const fn pair(
    original: Flow,
    leaves: Flow,
    links: (u32, u32),
    backend: (u32, u32),
    now: u32,
) -> [(Flow, Translation); 2] {
    let there =
        Translation { to: leaves, link: links.0, backend: backend.0, generation: backend.1, seen: now };
    [(original, there), (leaves.reversed(), there.answer(&original, links.1))]
}

/// The port to try at one probe, from a random beginning.
#[must_use]
pub const fn candidate(beginning: u32, probe: u32) -> u16 {
    FIRST_PORT + (beginning.wrapping_add(probe.wrapping_mul(7919)) % PORTS as u32) as u16
}

/// Whether an entry that was last seen like this is over.
#[must_use]
pub const fn is_over(protocol: u8, seen: u32, now: u32) -> bool {
    let idle = now.saturating_sub(seconds(seen));
    let patience = if seen & CLOSING != 0 {
        30
    } else if protocol != TCP {
        180
    } else if seen & OPEN != 0 {
        // RFC 5382 asks of NATs for no less than 2 h 4 min.
        6 * 3600
    } else {
        // And for no less than 4 min of what is half open (REQ-5).
        240
    };
    idle > patience
}

/// Whether the connection of an entry is over: both of its directions are, or one is left alone. `partner` is
/// [`Translation::seen`] of the other one.
#[must_use]
pub const fn are_over(protocol: u8, seen: u32, partner: Option<u32>, now: u32) -> bool {
    let Some(partner) = partner else { return is_over(protocol, seen, now) };
    // Either side's end is that of both, from the last packet of either.
    let last = if seconds(partner) > seconds(seen) { seconds(partner) } else { seconds(seen) };
    is_over(protocol, last | ((seen | partner) & (CLOSING | OPEN)), now)
}

/// Whether a connection has ended whose replies were seen last at `reply` and whose packets at `there` (none: forgotten).
/// Its client may use the port again, for another connection to the same pod, before user space has collected it.
#[must_use]
pub const fn has_closed(reply: u32, there: Option<u32>, now: u32) -> bool {
    let idle = now.saturating_sub(seconds(reply));
    match there {
        _ if reply & CLOSING == 0 => false,
        None => true,
        // One side may still send after the other's FIN; after an RST nobody does.
        Some(there) => there & CLOSING != 0 || idle > 5,
    }
}

/// What a node's programs need to know of it. Written by the agent.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct Settings {
    /// The node's address, network order.
    pub node: [u8; 4],
    /// The pods' range of the whole cluster, network order.
    pub cluster: [u8; 4],
    /// The mask of that range, network order.
    pub mask: [u8; 4],
    /// [`EXTERNAL_CLUSTER_IP`], [`PER_PACKET`], [`TUNNEL`].
    pub flags: u32,
    /// The cookie of the node's own network namespace (SO_NETNS_COOKIE).
    pub namespace: u64,
    /// The link by which pods of other nodes are reached, where those are not routed on the uplinks; 0: there is none.
    pub overlay: u32,
    /// The node's address there, network order.
    pub overlay_address: [u8; 4],
}

/// In [`Settings::flags`]: ClusterIPs are answered for clients from outside.
pub const EXTERNAL_CLUSTER_IP: u32 = 1;
/// In [`Settings::flags`]: there are pods that are served packet by packet ([`crate::opted_out`]).
pub const PER_PACKET: u32 = 2;
/// In [`Settings::flags`]: the overlay is our own tunnel, whose frames may say which pod was chosen ([`crate::direct`]).
pub const TUNNEL: u32 = 4;

impl Settings {
    /// Whether one of the flags is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether an address is of a pod of the cluster.
    #[must_use]
    pub const fn in_cluster(&self, address: [u8; 4]) -> bool {
        let (address, cluster) = (u32::from_ne_bytes(address), u32::from_ne_bytes(self.cluster));
        let mask = u32::from_ne_bytes(self.mask);
        mask != 0 && address & mask == cluster & mask
    }
}

/// Whose an address is. Written by the agent.
///
/// | byte | field |
/// |---|---|
/// | 0..4 | [`LOCAL_POD`], [`NODE`] or [`TUNNEL_END`] |
/// | 4..8 | the node's end of the pod's link; 0: it is reached by the routes alone |
/// | 8..14 | the hardware address of the pod's end |
/// | 14..20 | that of the node's end |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Pod, Zeroable)]
pub struct Owner {
    /// [`LOCAL_POD`], [`NODE`] or [`TUNNEL_END`].
    pub kind: u32,
    /// The number of the node's end of the pod's link; 0: it is reached by the routes alone.
    pub link: u32,
    /// An Ethernet header's beginning: the pod's end, then the node's.
    pub ends: [u8; 12],
}

impl Owner {
    /// An owner that is reached by the routes.
    #[must_use]
    pub const fn by_routes(kind: u32) -> Self {
        Self { kind, link: 0, ends: [0; 12] }
    }
}

/// In [`Owner::kind`]: a pod of this node.
pub const LOCAL_POD: u32 = 1;
/// In [`Owner::kind`]: a node of the cluster.
pub const NODE: u32 = 2;
/// In [`Owner::kind`]: an address at which a node takes frames of the tunnel, and that is nothing else to us: that of a node on another
/// network, or a node's own address in the tunnel. What pods send there is masqueraded as if it were nobody's.
pub const TUNNEL_END: u32 = 3;

const _: () = assert!(core::mem::size_of::<Flow>() == 16);
const _: () = assert!(core::mem::size_of::<Translation>() == 32);
const _: () = assert!(core::mem::size_of::<Settings>() == 32);
const _: () = assert!(core::mem::size_of::<Owner>() == 20);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Translation {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Owner {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies_come_back_as_answers_to_what_was_asked() {
        let asked = Flow::new(([172, 30, 77, 200], 40_000), ([172, 30, 77, 11], 30_080), TCP);
        let leaves = asked.to([10, 244, 1, 5], 80).from([172, 30, 77, 11], 2000);
        let [(key, there), (reply, back)] = pair(asked, leaves, (2, 2), (7, 1), 5);
        assert_eq!((key, there.to), (asked, leaves));
        assert_eq!(reply, Flow::new(([10, 244, 1, 5], 80), ([172, 30, 77, 11], 2000), TCP));
        assert_eq!(back.to, Flow::new(([172, 30, 77, 11], 30_080), ([172, 30, 77, 200], 40_000), TCP));
    }

    #[test]
    fn entries_end_after_their_patience() {
        assert!(!is_over(UDP, 100, 280) && is_over(UDP, 100, 281));
        assert!(!is_over(TCP, 100 | OPEN, 21_700) && is_over(TCP, 100 | OPEN, 21_701));
        assert!(!is_over(TCP, 100, 340) && is_over(TCP, 100, 341) && is_over(TCP, 100 | CLOSING, 131));
        assert!(!is_over(UDP, 100, 50), "a clock that was read before is no age");
    }

    #[test]
    fn both_directions_of_a_connection_are_over_at_once() {
        let (there, back) = (100 | CLOSING, 120);
        assert!(!are_over(TCP, there, Some(back), 150), "the reply was seen 30 seconds ago");
        assert!(are_over(TCP, there, Some(back), 151) && are_over(TCP, back, Some(there), 151));
        assert!(!are_over(UDP, 100, Some(1000), 1100), "idle in one direction only");
        assert!(are_over(UDP, 100, None, 281), "what is left alone goes by its own age");
    }

    #[test]
    fn seconds_are_those_of_the_clock() {
        for second in [0_u64, 1, 59, 86_400, 31_536_000] {
            let of = |nanoseconds| i64::from(second_of(second * 1_000_000_000 + nanoseconds));
            let wanted = i64::try_from(second).unwrap();
            assert!((wanted..=wanted + 1).contains(&of(500_000_000)), "{second}");
            assert!((wanted - 1..=wanted + 1).contains(&of(10_000_000)), "{second}");
        }
        let ten_years = second_of(315_360_000 * 1_000_000_000);
        assert!(ten_years.abs_diff(315_360_000) < 12, "{ten_years}");
    }

    #[test]
    fn a_connection_is_open_after_more_than_its_first_packet() {
        assert_eq!(seen_at(7, TCP, SYN, 9), 9);
        assert_eq!(seen_at(7, TCP, SYN | ACK, 9), 9);
        assert_eq!(seen_at(7, TCP, ACK, 7), 7 | OPEN);
        assert_eq!(seen_at(7 | OPEN, TCP, ACK | FIN, 9), 9 | OPEN | CLOSING);
        assert_eq!(seen_at(7, TCP, RST, 9), 9 | CLOSING);
        assert_eq!(seen_at(9 | OPEN | CLOSING, TCP, SYN, 9), 9, "the port is used again");
        assert_eq!((seen_at(7, UDP, 0, 7), seen_at(7, UDP, 0, 8)), (7, 8 | OPEN));
    }

    #[test]
    fn a_connection_has_closed_when_both_sides_said_so_or_one_long_ago() {
        assert!(!has_closed(100, None, 100) && !has_closed(100, Some(100 | CLOSING), 100));
        assert!(has_closed(100 | CLOSING, None, 100) && has_closed(100 | CLOSING, Some(99 | CLOSING), 100));
        assert!(!has_closed(100 | CLOSING, Some(100), 105) && has_closed(100 | CLOSING, Some(100), 106));
    }

    #[test]
    fn the_cluster_is_its_range() {
        let settings = Settings { cluster: [10, 244, 0, 0], mask: [255, 255, 0, 0], ..Settings::default() };
        assert!(settings.in_cluster([10, 244, 9, 1]) && !settings.in_cluster([10, 245, 9, 1]));
        assert!(!Settings::default().in_cluster([10, 244, 9, 1]), "nothing is known yet");
    }

    proptest! {
        #[test]
        fn ports_never_touch_those_of_sockets_and_services(beginning: u32, probe in 0..PROBES) {
            prop_assert!((1024..30_000).contains(&candidate(beginning, probe)));
        }

        #[test]
        fn a_flow_is_what_a_packet_holds(a: [u8; 4], b: [u8; 4], p: u16, q: u16) {
            let [[c, d], [e, f]] = [p.to_be_bytes(), q.to_be_bytes()];
            let ports = u32::from_ne_bytes([c, d, e, f]);
            let flow = Flow::new((a, p), (b, q), UDP);
            prop_assert_eq!(Flow::of_packet(u32::from_ne_bytes(a), u32::from_ne_bytes(b), ports, UDP), flow);
            prop_assert_eq!(flow.ports(), ports);
        }

        #[test]
        fn a_flow_reversed_twice_is_itself(a: [u8; 4], b: [u8; 4], p: u16, q: u16) {
            let flow = Flow::new((a, p), (b, q), UDP);
            prop_assert_eq!(flow.reversed().reversed(), flow);
        }
    }
}
