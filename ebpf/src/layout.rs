//! Keys and values of the maps. Addresses and ports are byte arrays in network order; getters give numbers.
//!
//! `#[repr(C)]`, no padding (bytemuck refuses it at compile time), no enums, no bools: any bit pattern is a value.

use bytemuck::{Pod, Zeroable};

/// Declares that a layout may cross the border to the kernel.
macro_rules! crosses {
    ($($name:ident: $size:literal),* $(,)?) => {
        $(
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
            #[cfg(feature = "user")]
            #[expect(unsafe_code, reason = "bytemuck::Pod, required here, is the same promise")]
            // SAFETY: the type is `bytemuck::Pod`: repr(C), no padding, every bit pattern is valid.
            unsafe impl aya::Pod for $name where $name: Pod {}
        )*
    };
}

/// Where clients knock: an address, a port, a protocol. Written by the agent, read by every hook.
///
/// | byte | field |
/// |---|---|
/// | 0..4 | address, network order |
/// | 4..6 | port, network order |
/// | 6 | protocol: 6 TCP, 17 UDP |
/// | 7 | scope: 0 everywhere |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FrontendKey {
    address: [u8; 4],
    port: [u8; 2],
    protocol: u8,
    scope: u8,
}

impl FrontendKey {
    /// A frontend of an IPv4 address.
    #[must_use]
    pub const fn new(address: [u8; 4], port: u16, protocol: u8) -> Self {
        Self { address, port: port.to_be_bytes(), protocol, scope: 0 }
    }

    /// The address, in network order.
    #[must_use]
    pub const fn address(&self) -> [u8; 4] {
        self.address
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// 6 TCP, 17 UDP.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// The same for IPv6, in a map of its own: of the other family the shorter keys cost less.
///
/// | byte | field |
/// |---|---|
/// | 0..16 | address, network order |
/// | 16..18 | port, network order |
/// | 18 | protocol: 6 TCP, 17 UDP |
/// | 19 | scope: 0 everywhere |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FrontendKey6 {
    address: [u8; 16],
    port: [u8; 2],
    protocol: u8,
    scope: u8,
}

impl FrontendKey6 {
    /// A frontend of an IPv6 address.
    #[must_use]
    pub const fn new(address: [u8; 16], port: u16, protocol: u8) -> Self {
        Self { address, port: port.to_be_bytes(), protocol, scope: 0 }
    }

    /// The address, in network order.
    #[must_use]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// 6 TCP, 17 UDP.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// The backends of a frontend as one word that is published with one aligned store: readers see the old set or the new
/// one, never a mixture and never a hole.
///
/// Bits 32..64 the first slot, 16..32 how many, 0..16 a generation that grows with each publication.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct SlotRange(u64);

impl SlotRange {
    /// `count` slots from `base`.
    #[must_use]
    pub const fn new(base: u32, count: u16, generation: u16) -> Self {
        Self(((base as u64) << 32) | ((count as u64) << 16) | generation as u64)
    }

    /// The first slot.
    #[must_use]
    pub const fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How many slots; none means that nobody answers and the client is refused.
    #[must_use]
    pub const fn count(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Grows with each publication.
    #[must_use]
    pub const fn generation(self) -> u16 {
        self.0 as u16
    }
}

/// A frontend's line in the service table: one cache line. Written by the agent, read by every hook.
///
/// | byte | field |
/// |---|---|
/// | 0..8 | the backends for clients on this node: its pods and its processes |
/// | 8..16 | the backends for clients outside (`externalTrafficPolicy`) |
/// | 16..24 | a number of the Service's port that its frontends share |
/// | 24..28 | session affinity: its timeout in seconds; 0 none |
/// | 28..32 | [`EXTERNAL`], [`SOURCE_RANGES`], [`RANDOM`], [`MAGLEV`] |
/// | 32..36 | the number under which the Service's port is counted; 0: it is not |
/// | 36..64 | zero |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct ServiceLine {
    /// The published backends for clients on this node.
    pub inside: SlotRange,
    /// The published backends for clients outside.
    pub outside: SlotRange,
    /// A number of the Service's port.
    pub service: u64,
    /// Seconds; 0 without affinity.
    pub affinity: u32,
    /// [`EXTERNAL`], [`SOURCE_RANGES`], [`RANDOM`], [`MAGLEV`].
    pub flags: u32,
    /// The number under which the Service's port is counted; 0: it is not.
    pub counted: u32,
    reserved: [u32; 7],
}

/// In [`ServiceLine::flags`]: clients outside are answered.
pub const EXTERNAL: u32 = 1;
/// In [`ServiceLine::flags`]: of clients outside only those in the Service's source ranges.
pub const SOURCE_RANGES: u32 = 2;
/// In [`ServiceLine::flags`]: any backend instead of the next one.
pub const RANDOM: u32 = 4;
/// In [`ServiceLine::flags`]: the slots of clients outside are a table that is looked up by [`crate::select::of_client`].
pub const MAGLEV: u32 = 8;

impl ServiceLine {
    /// A line.
    #[must_use]
    pub const fn new(inside: SlotRange, outside: SlotRange, service: u64, affinity: u32, flags: u32) -> Self {
        Self { inside, outside, service, affinity, flags, counted: 0, reserved: [0; 7] }
    }

    /// The same, counted under this number.
    #[must_use]
    pub const fn counted_as(self, counted: u32) -> Self {
        Self { counted, ..self }
    }
}

/// Who answers: an address and a port. Written by the agent, read by every hook. Half a cache line.
///
/// | byte | field |
/// |---|---|
/// | 0..16 | IPv6 address, or IPv4 address as `::ffff:a.b.c.d` (RFC 4291 2.5.5.2), network order |
/// | 16..18 | port, network order |
/// | 18..20 | zero |
/// | 20..24 | generation, native order |
/// | 24..32 | zero |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Pod, Zeroable)]
pub struct Backend {
    prefix: [u8; 12],
    address: [u8; 4],
    port: [u8; 2],
    reserved: [u8; 2],
    generation: u32,
    reserved2: [u32; 2],
}

/// What stands before an IPv4 address in an IPv6 one.
const IPV4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Backend {
    /// A backend with an IPv4 address. The generation differs from that of whoever had its index before.
    #[must_use]
    pub const fn new(address: [u8; 4], port: u16, generation: u32) -> Self {
        Self {
            prefix: IPV4_MAPPED,
            address,
            port: port.to_be_bytes(),
            reserved: [0; 2],
            generation,
            reserved2: [0; 2],
        }
    }

    /// A backend with an IPv6 address.
    #[must_use]
    pub const fn new6(address: [u8; 16], port: u16, generation: u32) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, rest @ ..] = address;
        Self {
            prefix: [a, b, c, d, e, f, g, h, i, j, k, l],
            address: rest,
            ..Self::new(rest, port, generation)
        }
    }

    /// The IPv4 address, in network order; of an IPv6 address the end.
    #[must_use]
    pub const fn address(&self) -> [u8; 4] {
        self.address
    }

    /// The IPv6 address, in network order; an IPv4 address in its form there.
    #[must_use]
    pub const fn address6(&self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h, i, j, k, l], [m, n, o, p]) = (self.prefix, self.address);
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Which user of its index this is; 0: none any more.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }
}

/// A socket and the backend that it talks to. Written and read by the socket hooks.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct SocketKey {
    cookie: u64,
    address: [u8; 4],
    port: [u8; 2],
    reserved: [u8; 2],
}

impl SocketKey {
    /// A socket (by its cookie) that talks to a backend.
    #[must_use]
    pub const fn new(cookie: u64, address: [u8; 4], port: u16) -> Self {
        Self { cookie, address, port: port.to_be_bytes(), reserved: [0; 2] }
    }
}

/// The same of IPv6.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct SocketKey6 {
    cookie: u64,
    address: [u8; 16],
    port: [u8; 2],
    reserved: [u8; 6],
}

impl SocketKey6 {
    /// A socket (by its cookie) that talks to a backend.
    #[must_use]
    pub const fn new(cookie: u64, address: [u8; 16], port: u16) -> Self {
        Self { cookie, address, port: port.to_be_bytes(), reserved: [0; 6] }
    }
}

/// The frontend that the socket's user believes to talk to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Believed {
    address: [u8; 4],
    port: [u8; 2],
    reserved: [u8; 2],
}

impl Believed {
    /// An address and a port.
    #[must_use]
    pub const fn new(address: [u8; 4], port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), reserved: [0; 2] }
    }

    /// The address, in network order.
    #[must_use]
    pub const fn address(&self) -> [u8; 4] {
        self.address
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// The same of IPv6.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Believed6 {
    address: [u8; 16],
    port: [u8; 2],
    reserved: [u8; 2],
}

impl Believed6 {
    /// An address and a port.
    #[must_use]
    pub const fn new(address: [u8; 16], port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), reserved: [0; 2] }
    }

    /// The address, in network order.
    #[must_use]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

crosses!(FrontendKey: 8, SlotRange: 8, ServiceLine: 64, Backend: 32, SocketKey: 16, Believed: 8);
crosses!(FrontendKey6: 20, SocketKey6: 32, Believed6: 20);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_slot_range_keeps_its_parts(base: u32, count: u16, generation: u16) {
            let range = SlotRange::new(base, count, generation);
            prop_assert_eq!((range.base(), range.count(), range.generation()), (base, count, generation));
        }

        #[test]
        fn addresses_and_ports_are_in_network_order(address: [u8; 4], port: u16, generation: u32) {
            let key = FrontendKey::new(address, port, 6);
            let bytes = bytemuck::bytes_of(&key);
            prop_assert_eq!(&bytes[..4], &address);
            prop_assert_eq!(&bytes[4..6], &port.to_be_bytes());
            prop_assert_eq!((key.address(), key.port(), key.protocol()), (address, port, 6));
            let backend = Backend::new(address, port, generation);
            prop_assert_eq!((backend.address(), backend.port(), backend.generation()), (address, port, generation));
            let v6: [u8; 16] = bytemuck::bytes_of(&backend)[..16].try_into().unwrap();
            let mapped = std::net::Ipv6Addr::from(v6).to_ipv4_mapped();
            prop_assert_eq!(mapped, Some(std::net::Ipv4Addr::from(address)));
            let believed = Believed::new(address, port);
            prop_assert_eq!((believed.address(), believed.port()), (address, port));
        }

        #[test]
        fn addresses_of_ipv6_keep_their_bytes(address: [u8; 16], port: u16, generation: u32) {
            let key = FrontendKey6::new(address, port, 17);
            let bytes = bytemuck::bytes_of(&key);
            prop_assert_eq!((&bytes[..16], &bytes[16..18], bytes[18]), (&address[..], &port.to_be_bytes()[..], 17));
            prop_assert_eq!((key.address(), key.port(), key.protocol()), (address, port, 17));
            let backend = Backend::new6(address, port, generation);
            prop_assert_eq!((backend.address6(), backend.port(), backend.generation()), (address, port, generation));
            prop_assert_eq!(&bytemuck::bytes_of(&backend)[..16], &address[..]);
            let believed = Believed6::new(address, port);
            prop_assert_eq!((believed.address(), believed.port()), (address, port));
        }
    }
}
