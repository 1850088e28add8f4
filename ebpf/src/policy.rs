//! NetworkPolicies: who may talk to a pod of this node, and to whom it may. Layouts and pure rules.
//!
//! Addresses are few identities (all members of the same peers of policies are one), and a policy is what it allows to each of
//! them. What was allowed is remembered by connection, so that answers pass and only first packets are judged.

use bytemuck::{Pod, Zeroable};

use crate::flow::Flow;
use crate::flow6::Flow6;

/// What holds for a pod's link. Written by the agent.
///
/// | byte | field |
/// |---|---|
/// | 0..4 | the pod's address, network order |
/// | 4..8 | the number of what may come in; 0: everything |
/// | 8..12 | the number of what may go out; 0: everything |
/// | 12..28 | the pod's IPv6 address, network order; zero: it has none |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Isolation {
    /// The pod's address, network order.
    pub address: [u8; 4],
    /// The number of what may come in; 0: everything.
    pub ingress: u32,
    /// The number of what may go out; 0: everything.
    pub egress: u32,
    /// The pod's IPv6 address, network order; zero: it has none.
    pub address6: [u8; 16],
}

impl Isolation {
    /// The number of what holds in a direction, [`INGRESS`] or [`EGRESS`].
    #[must_use]
    pub const fn number(&self, direction: u8) -> u32 {
        if direction == INGRESS { self.ingress } else { self.egress }
    }
}

/// To a pod.
pub const INGRESS: u8 = 1;
/// From a pod.
pub const EGRESS: u8 = 2;

/// The identity of addresses that no peer of a policy names.
pub const NOBODY: u32 = 0;
/// In a rule: whatever the identity.
pub const ANYBODY: u32 = u32::MAX;

/// The data of a longest-prefix-match key, which is one thing that is allowed: the number of the policy, the peer's identity
/// (both in native order), the protocol, the destination port in network order.
pub type Rule = [u8; 11];

/// The data of a rule.
#[must_use]
pub const fn rule(number: u32, identity: u32, protocol: u8, port: u16) -> Rule {
    let (n, i, p) = (number.to_ne_bytes(), identity.to_ne_bytes(), port.to_be_bytes());
    [n[0], n[1], n[2], n[3], i[0], i[1], i[2], i[3], protocol, p[0], p[1]]
}

/// The bits of a [`Rule`] that allows every protocol.
pub const EVERY_PROTOCOL: u32 = 64;
/// The bits of a [`Rule`] that allows every port of a protocol; more compare as many bits of the port.
pub const EVERY_PORT: u32 = 72;
/// All bits of a [`Rule`].
pub const ONE_PORT: u32 = 88;

/// A connection that a policy has allowed, in the direction in which it began.
///
/// | byte | field |
/// |---|---|
/// | 0..4 | [`revision`](Self::revision) |
/// | 4..8 | the number of what has allowed it |
/// | 8..12 | when a packet was seen last, as in [`crate::flow::Translation::seen`] |
/// | 12..16 | zero |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Allowed {
    /// The revision of all policies by which it was judged; another one asks for another judgement.
    pub revision: u32,
    /// The number of what has allowed it.
    pub number: u32,
    /// When a packet was seen last.
    pub seen: u32,
    reserved: u32,
}

impl Allowed {
    /// Allowed now.
    #[must_use]
    pub const fn new(revision: u32, number: u32, seen: u32) -> Self {
        Self { revision, number, seen, reserved: 0 }
    }
}

/// The key of a connection that was judged in this direction at a pod of this node.
#[must_use]
pub const fn judged(flow: Flow, direction: u8) -> Flow {
    flow.marked(direction)
}

/// The same of IPv6.
#[must_use]
pub const fn judged6(flow: Flow6, direction: u8) -> Flow6 {
    flow.marked(direction)
}

/// Whether nobody but the node at the other end of a pod's link hears what is sent to this address: link-local (RFC 4291 2.5.6), or
/// multicast of that scope (2.7).
#[must_use]
pub const fn stays_on_link(address: &[u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80 || address[0] == 0xff && address[1] & 0xf == 2
}

/// The prefixes that cover a range of ports, both ends included: (first port, how many bits compare).
///
/// At most 30 of them.
pub fn prefixes(first: u16, last: u16) -> impl Iterator<Item = (u16, u8)> {
    let mut next = Some(u32::from(first));
    let last = u32::from(last);
    core::iter::from_fn(move || {
        let start = next.filter(|start| *start <= last)?;
        let aligned = if start == 0 { 16 } else { start.trailing_zeros().min(16) };
        let fits = (last - start + 1).ilog2();
        let size = aligned.min(fits);
        next = start.checked_add(1 << size);
        // Both are below 2^16 and at most 16.
        Some((start as u16, 16 - size as u8))
    })
}

const _: () = assert!(core::mem::size_of::<Isolation>() == 28);
const _: () = assert!(core::mem::size_of::<Allowed>() == 16);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Isolation {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Allowed {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_compares_policy_and_peer_before_protocol_and_port() {
        let rule = rule(1, 2, 6, 0x1234);
        assert_eq!(rule[..4], 1_u32.to_ne_bytes());
        assert_eq!(rule[4..8], 2_u32.to_ne_bytes());
        assert_eq!(rule[8..], [6, 0x12, 0x34]);
    }

    #[test]
    fn what_stays_on_a_link_is_told_by_its_first_bits() {
        let stays = |text: &str| stays_on_link(&text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert!(stays("fe80::1") && stays("febf::1") && stays("ff02::1:ff00:1") && stays("ff12::1"));
        for further in ["fec0::1", "fd00::1", "ff05::1", "ff0e::1", "::1", "2001:db8::1"] {
            assert!(!stays(further), "{further}");
        }
    }

    #[test]
    fn one_port_is_one_prefix_and_all_are_one() {
        assert_eq!(prefixes(80, 80).collect::<Vec<_>>(), [(80, 16)]);
        assert_eq!(prefixes(0, u16::MAX).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(prefixes(1, u16::MAX).count(), 16);
        assert_eq!(prefixes(2, 1).count(), 0);
    }

    proptest! {
        #[test]
        fn prefixes_cover_exactly_their_range(first: u16, last: u16, port: u16) {
            let covers = |(start, bits): (u16, u8)| {
                let mask = u16::MAX.checked_shl(16 - u32::from(bits)).unwrap_or(0);
                port & mask == start
            };
            let found = prefixes(first, last).filter(|prefix| covers(*prefix)).count();
            prop_assert_eq!(found, usize::from((first..=last).contains(&port)));
            prop_assert!(prefixes(first, last).count() <= 30);
        }
    }
}
