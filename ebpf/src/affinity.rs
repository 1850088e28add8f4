//! Who of a Service's backends a client had last (`sessionAffinity: ClientIP`), and who may be a client
//! (`loadBalancerSourceRanges`). Layouts and pure rules.

use bytemuck::{Pod, Zeroable};

/// A client of a Service's port. Written and read by the hooks.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct AffinityKey {
    /// Of who is outside an IPv6 address, or an IPv4 address in its form there; else what no address of a client begins with, and
    /// a number.
    client: [u64; 2],
    service: u64,
}

impl AffinityKey {
    /// A client outside: its IPv4 address.
    #[must_use]
    pub const fn outside(address: [u8; 4], service: u64) -> Self {
        Self::outside6(mapped(address), service)
    }

    /// A client outside: its IPv6 address.
    #[must_use]
    pub const fn outside6(address: [u8; 16], service: u64) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        let words = ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]);
        Self { client: [u64::from_ne_bytes(words.0), u64::from_ne_bytes(words.1)], service }
    }

    /// A client on this node: the cookie of its network namespace, which is its pod's.
    #[must_use]
    pub const fn inside(cookie: u64, service: u64) -> Self {
        // No address begins so: ff00::/8 is multicast (RFC 4291 2.7).
        Self { client: [u64::MAX, cookie], service }
    }
}

/// The backend that a client had last. Written and read by the hooks.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Affinity {
    /// The backend's index.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// When the client last began a connection, in seconds since boot.
    pub seen: u32,
    /// Zero.
    pub reserved: u32,
}

impl Affinity {
    /// Whether it still binds, with this timeout in seconds.
    #[must_use]
    pub const fn holds(&self, now: u32, timeout: u32) -> bool {
        now.saturating_sub(self.seen) < timeout
    }
}

/// That a backend is one of a Service's port with affinity: a backend that others still use may have left this one. Written by the
/// agent.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Member {
    service: u64,
    backend: u32,
    generation: u32,
}

impl Member {
    /// A backend of a Service's port.
    #[must_use]
    pub const fn new(service: u64, backend: u32, generation: u32) -> Self {
        Self { service, backend, generation }
    }

    /// The number of the Service's port.
    #[must_use]
    pub const fn service(&self) -> u64 {
        self.service
    }

    /// The backend's index.
    #[must_use]
    pub const fn backend(&self) -> u32 {
        self.backend
    }

    /// The backend's generation.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }
}

/// An IPv4 address as one of IPv6 (RFC 4291 2.5.5.2).
const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The data of a longest-prefix-match key: the Service's number in network order, then an IPv6 address, or an IPv4 address in its
/// form there.
pub type SourceRange = [u8; 24];

/// The data of a client's IPv4 address at a Service.
#[must_use]
pub const fn source_range(service: u64, address: [u8; 4]) -> SourceRange {
    source_range6(service, mapped(address))
}

/// The data of a client's IPv6 address at a Service.
#[must_use]
pub const fn source_range6(service: u64, a: [u8; 16]) -> SourceRange {
    let s = service.to_be_bytes();
    [
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8],
        a[9], a[10], a[11], a[12], a[13], a[14], a[15],
    ]
}

/// How many bits of [`SourceRange`] a range with this IPv4 prefix length compares.
#[must_use]
pub const fn source_range_bits(prefix_length: u8) -> u32 {
    source_range6_bits(96) + prefix_length as u32
}

/// How many bits of [`SourceRange`] a range with this IPv6 prefix length compares.
#[must_use]
pub const fn source_range6_bits(prefix_length: u8) -> u32 {
    64 + prefix_length as u32
}

const _: () = assert!(core::mem::size_of::<AffinityKey>() == 24);
const _: () = assert!(core::mem::size_of::<Affinity>() == 16);
const _: () = assert!(core::mem::size_of::<Member>() == 16);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::AffinityKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Affinity {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Member {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_inside_and_outside_are_never_the_same() {
        let address = [0x12, 0x34, 0x56, 0x78];
        let outside = AffinityKey::outside(address, 7);
        assert_ne!(outside, AffinityKey::inside(u64::from(u32::from_ne_bytes(address)), 7));
        assert_eq!(outside, AffinityKey::outside6(mapped(address), 7), "one client, one form");
        assert_ne!(outside, AffinityKey::outside(address, 8));
        assert_ne!(outside, AffinityKey::outside([0x12, 0x34, 0x56, 0x79], 7));
    }

    #[test]
    fn affinity_ends_after_its_timeout_without_a_connection() {
        let held = Affinity { backend: 1, generation: 1, seen: 100, reserved: 0 };
        assert!(held.holds(100, 1) && held.holds(109, 10));
        assert!(!held.holds(110, 10) && !held.holds(100, 0));
        assert!(held.holds(50, 10), "a clock that was read before is no age");
    }

    #[test]
    fn ranges_compare_the_service_first() {
        let range = source_range(1, [10, 0, 0, 9]);
        assert_eq!(
            (&range[..8], &range[18..]),
            (&[0, 0, 0, 0, 0, 0, 0, 1][..], &[0xff, 0xff, 10, 0, 0, 9][..])
        );
        assert_eq!((source_range_bits(0), source_range_bits(32)), (160, 192));
        assert_eq!((source_range6_bits(0), source_range6_bits(128)), (64, 192));
    }
}
