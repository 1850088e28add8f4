//! Flows of packets and their translations. Pure.
//!
//! Each translated connection is two entries of the table: the packet as it comes to the packet as it leaves, and the same
//! for its replies. Whoever inserts the second one first has claimed the source port that the replies are told by.

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
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
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
        Self::new(
            (self.destination, self.destination_port()),
            (self.source, self.source_port()),
            self.protocol,
        )
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
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Translation {
    /// The packet as it leaves.
    pub to: Flow,
    /// The link by which it leaves; 0 leaves that to the routes.
    pub link: u32,
    /// Whose it is ([`crate::count::Whose`]), [`REPLY`] or [`MASQUERADED`].
    pub backend: u32,
    /// The backend's generation when it was chosen; of a reply, whose it is.
    pub generation: u32,
    /// When a packet was seen last, in seconds since boot. The top bit says that the connection is closing.
    pub seen: u32,
}

/// In [`Translation::backend`]: an answer, translated back to what was asked.
pub const REPLY: u32 = u32::MAX;
/// In [`Translation::backend`]: a pod's packet that leaves the cluster with the node's address.
pub const MASQUERADED: u32 = u32::MAX - 1;
impl Translation {
    /// Whether the flow goes to a backend of a Service.
    #[must_use]
    pub const fn has_backend(&self) -> bool {
        self.backend < MASQUERADED
    }
}

/// In [`Translation::seen`]: a FIN or RST was seen.
pub const CLOSING: u32 = 1 << 31;

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
    let whose = if there.has_backend() { backend.0 } else { 0 };
    let back =
        Translation { to: original.reversed(), link: links.1, backend: REPLY, generation: whose, seen: now };
    [(original, there), (leaves.reversed(), back)]
}

/// The port to try at one probe, from a random beginning.
#[must_use]
pub const fn candidate(beginning: u32, probe: u32) -> u16 {
    FIRST_PORT + (beginning.wrapping_add(probe.wrapping_mul(7919)) % PORTS as u32) as u16
}

/// Whether an entry that was last seen like this is over (user space collects; the kernel only ever evicts the oldest).
#[must_use]
pub const fn is_over(protocol: u8, seen: u32, now: u32) -> bool {
    let idle = now.saturating_sub(seen & !CLOSING);
    let patience = if seen & CLOSING != 0 {
        30
    } else if protocol == TCP {
        // RFC 5382 asks of NATs for no less than 2 h 4 min.
        6 * 3600
    } else {
        180
    };
    idle > patience
}

/// Whether a connection has ended whose replies were seen last at `reply` and whose packets at `there` (none: forgotten).
/// Its client may use the port again, for another connection to the same pod, before user space has collected it.
#[must_use]
pub const fn has_closed(reply: u32, there: Option<u32>, now: u32) -> bool {
    let idle = now.saturating_sub(reply & !CLOSING);
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
    /// Not 0: ClusterIPs are answered for clients from outside.
    pub external_cluster_ip: u32,
    /// The cookie of the node's own network namespace (SO_NETNS_COOKIE).
    pub namespace: u64,
    /// The link by which pods of other nodes are reached, where those are not routed on the uplinks; 0: there is none.
    pub overlay: u32,
    /// The node's address there, network order.
    pub overlay_address: [u8; 4],
}

impl Settings {
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
/// | 0..4 | [`LOCAL_POD`] or [`NODE`] |
/// | 4..8 | the node's end of the pod's link; 0: it is reached by the routes alone |
/// | 8..14 | the hardware address of the pod's end |
/// | 14..20 | that of the node's end |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Pod, Zeroable)]
pub struct Owner {
    /// [`LOCAL_POD`] or [`NODE`].
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
        assert!(!is_over(TCP, 100, 281) && is_over(TCP, 100 | CLOSING, 131));
        assert!(!is_over(UDP, 100, 50), "a clock that was read before is no age");
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
        fn a_flow_reversed_twice_is_itself(a: [u8; 4], b: [u8; 4], p: u16, q: u16) {
            let flow = Flow::new((a, p), (b, q), UDP);
            prop_assert_eq!(flow.reversed().reversed(), flow);
        }
    }
}
