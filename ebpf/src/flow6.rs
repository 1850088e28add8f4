//! Flows of IPv6: as [`crate::flow`], with longer addresses and in tables of their own. Pure.

use bytemuck::{Pod, Zeroable};

use crate::flow::{Flow, MASQUERADED, Translation};

/// Who sends to whom.
///
/// | byte | field |
/// |---|---|
/// | 0..16, 16..32 | source and destination, network order |
/// | 32..34, 34..36 | their ports, network order |
/// | 36 | protocol |
/// | 37 | what else tells keys apart: [`crate::policy::judged6`]; of a packet zero |
/// | 38..40 | zero |
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Flow6 {
    /// Source address, network order.
    pub source: [u8; 16],
    /// Destination address, network order.
    pub destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    /// 6 TCP, 17 UDP.
    pub protocol: u8,
    mark: u8,
    reserved: [u8; 2],
}

impl Flow6 {
    /// None.
    pub const NONE: Self = Self::new(([0; 16], 0), ([0; 16], 0), 0);

    /// A flow from one address and port to another.
    #[must_use]
    pub const fn new(source: ([u8; 16], u16), destination: ([u8; 16], u16), protocol: u8) -> Self {
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

    /// Addresses and ports, as they lie in memory, and last what else it is.
    #[must_use]
    pub fn words(&self) -> &[u32; 10] {
        bytemuck::cast_ref(self)
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
    pub const fn to(&self, destination: [u8; 16], port: u16) -> Self {
        Self::new((self.source, self.source_port()), (destination, port), self.protocol)
    }

    /// Another sender to the same receiver.
    #[must_use]
    pub const fn from(&self, source: [u8; 16], port: u16) -> Self {
        Self::new((source, port), (self.destination, self.destination_port()), self.protocol)
    }
}

/// How packets of a flow leave, and what is known of the connection: as [`Translation`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Translation6 {
    /// The packet as it leaves.
    pub to: Flow6,
    /// The link by which it leaves; 0 leaves that to the routes.
    pub link: u32,
    /// As [`Translation::backend`].
    pub backend: u32,
    /// As [`Translation::generation`].
    pub generation: u32,
    /// As [`Translation::seen`].
    pub seen: u32,
}

impl Translation6 {
    /// Whether the flow goes to a backend of a Service.
    #[must_use]
    pub const fn has_backend(&self) -> bool {
        self.backend < MASQUERADED
    }

    /// What is known of it without its addresses.
    #[must_use]
    pub const fn whose(&self) -> Translation {
        let Self { link, backend, generation, seen, .. } = *self;
        Translation { to: Flow::NONE, link, backend, generation, seen }
    }
}

/// What a node's programs need to know of it for IPv6, beside [`crate::flow::Settings`]. Written by the agent.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct Settings6 {
    /// The node's address, network order; zero: it has none, and nothing is translated.
    pub node: [u8; 16],
    /// The pods' range of the whole cluster, network order.
    pub cluster: [u8; 16],
    /// The mask of that range, network order.
    pub mask: [u8; 16],
    /// The node's address at [`crate::flow::Settings::overlay`], network order.
    pub overlay_address: [u8; 16],
}

impl Settings6 {
    /// Whether an address is of a pod of the cluster.
    #[must_use]
    pub const fn in_cluster(&self, address: &[u8; 16]) -> bool {
        let mask = u128::from_ne_bytes(self.mask);
        let differs = u128::from_ne_bytes(*address) ^ u128::from_ne_bytes(self.cluster);
        mask != 0 && differs & mask == 0
    }
}

/// In [`crate::maps::PROGRAMS6`]: what comes in by an uplink.
pub const UPLINK_IN: u32 = 0;
/// What leaves by an uplink.
pub const UPLINK_OUT: u32 = 1;
/// What a pod sends.
pub const POD_OUT: u32 = 2;
/// What comes to an isolated pod by the node's stack.
pub const POD_IN: u32 = 3;

const _: () = assert!(core::mem::size_of::<Translation6>() == 56);
const _: () = assert!(core::mem::size_of::<Settings6>() == 64);
const _: () = assert!(core::mem::size_of::<Flow6>() == 40);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Flow6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Translation6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings6 {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{REPLY, TCP};
    use proptest::prelude::*;

    #[test]
    fn the_cluster_is_its_range() {
        let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let settings = Settings6 {
            node: ip("fd00::1"),
            cluster: ip("fd00:10:244::"),
            mask: ip("ffff:ffff:ffff:ff00::"),
            overlay_address: ip("fd00::1"),
        };
        assert!(settings.in_cluster(&ip("fd00:10:244:7::5")) && !settings.in_cluster(&ip("fd00:10:245::5")));
        assert!(!Settings6::default().in_cluster(&ip("fd00:10:244::5")), "nothing is known yet");
    }

    #[test]
    fn whose_a_flow_is_does_not_depend_on_its_family() {
        let entry = Translation6 { to: Flow6::NONE, link: 1, backend: REPLY, generation: 7, seen: 9 };
        let whose = entry.whose();
        assert_eq!((whose.link, whose.backend, whose.generation, whose.seen), (1, REPLY, 7, 9));
        assert!(!entry.has_backend());
    }

    proptest! {
        #[test]
        fn a_flow_reversed_twice_is_itself(a: [u8; 16], b: [u8; 16], p: u16, q: u16) {
            let flow = Flow6::new((a, p), (b, q), TCP);
            prop_assert_eq!(flow.reversed().reversed(), flow);
            prop_assert_eq!(flow.to(a, q).from(b, p), Flow6::new((b, p), (a, q), TCP));
        }
    }
}
