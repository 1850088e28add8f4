//! Internet checksums, changed along with what they cover (RFC 1624). Pure.
//!
//! One's complement sums do not depend on the byte order in which they are added, so words are taken as they lie in memory.

use crate::flow::{Flow, UDP};
use crate::flow6::Flow6;

/// What a checksum has to take in when words under it change: a sum of them, folded at the end. Two words may be added as one of
/// twice the size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference(u64);

impl Difference {
    /// Nothing has changed.
    pub const NONE: Self = Self(0);

    /// A word that is replaced.
    #[must_use]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + !u16::from_ne_bytes(old) as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// Two words that are replaced. Millions of them fit.
    #[must_use]
    pub const fn two(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// An IPv4 address that is replaced.
    #[must_use]
    pub const fn address(self, old: [u8; 4], new: [u8; 4]) -> Self {
        self.two(u32::from_ne_bytes(old), u32::from_ne_bytes(new))
    }

    /// The addresses of a flow that becomes another one.
    #[must_use]
    pub const fn addresses(self, from: &Flow, to: &Flow) -> Self {
        self.address(from.source, to.source).address(from.destination, to.destination)
    }

    /// The ports of a flow that becomes another one.
    #[must_use]
    pub const fn ports(self, from: &Flow, to: &Flow) -> Self {
        self.two(from.ports(), to.ports())
    }

    /// Addresses and ports of a flow that becomes another one.
    #[must_use]
    pub fn ends6(self, from: &Flow6, to: &Flow6) -> Self {
        let pairs = from.words().iter().zip(to.words()).take(ENDS6);
        pairs.fold(self, |sum, (old, new)| sum.two(*old, *new))
    }

    /// The checksum after the change.
    #[must_use]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = !u16::from_ne_bytes(checksum) as u64 + self.0;
        (!fold(sum)).to_ne_bytes()
    }

    /// The checksum of a TCP segment or UDP datagram after the change. For UDP zero means that there is none, which stays
    /// so, and a sum of zero is written as its other form (RFC 768).
    #[must_use]
    pub const fn apply_transport(self, protocol: u8, checksum: [u8; 2]) -> [u8; 2] {
        if protocol == UDP && matches!(checksum, [0, 0]) {
            return checksum;
        }
        match self.apply(checksum) {
            [0, 0] if protocol == UDP => [0xff, 0xff],
            applied => applied,
        }
    }
}

/// Words of addresses, and of them and ports, in a flow of IPv6.
const ADDRESSES6: usize = 8;
const ENDS6: usize = 9;

/// Whether a transport checksum covers only the pseudo header (RFC 9293 3.1) so far: its sender left the rest to the network
/// card, and between virtual links there is none that would do it. One complete checksum in 65,536 looks the same.
#[must_use]
pub const fn is_partial(checksum: [u8; 2], flow: &Flow, length: u16) -> bool {
    let addresses = u32::from_ne_bytes(flow.source) as u64 + u32::from_ne_bytes(flow.destination) as u64;
    let protocol = u16::from_ne_bytes([0, flow.protocol]) as u64;
    fold(addresses + protocol + length.to_be() as u64) == u16::from_ne_bytes(checksum)
}

/// The same of IPv6 (RFC 8200 8.1).
#[must_use]
pub fn is_partial6(checksum: [u8; 2], flow: &Flow6, length: u16) -> bool {
    let addresses: u64 = flow.words().iter().take(ADDRESSES6).map(|word| u64::from(*word)).sum();
    let protocol = u64::from(u16::from_ne_bytes([0, flow.protocol]));
    fold(addresses + protocol + u64::from(length.to_be())) == u16::from_ne_bytes(checksum)
}

/// A transport's checksum after a change by which a sum over what it covers becomes this much more, as the kernel's
/// `bpf_csum_diff` says it.
#[must_use]
pub const fn changed(protocol: u8, checksum: [u8; 2], difference: u32) -> [u8; 2] {
    if protocol == UDP && matches!(checksum, [0, 0]) {
        return checksum;
    }
    let sum = !u16::from_ne_bytes(checksum) as u64 + difference as u64;
    match (!fold(sum)).to_ne_bytes() {
        [0, 0] if protocol == UDP => [0xff, 0xff],
        changed => changed,
    }
}

/// The one's complement sum of a number's words.
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TCP;
    use proptest::prelude::*;

    /// The checksum of RFC 1071, byte by byte.
    fn computed(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    fn pseudo(flow: &Flow, length: u16) -> Vec<u8> {
        let mut bytes = [flow.source, flow.destination].concat();
        bytes.extend([0, flow.protocol]);
        bytes.extend(length.to_be_bytes());
        bytes
    }

    /// Pseudo header, ports and payload of a flow's packet.
    fn covered(flow: &Flow, payload: &[u8]) -> Vec<u8> {
        let mut bytes = pseudo(flow, 4 + u16::try_from(payload.len()).unwrap());
        bytes.extend(flow.source_port().to_be_bytes());
        bytes.extend(flow.destination_port().to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn pseudo6(flow: &Flow6, length: u16) -> Vec<u8> {
        let mut bytes = [flow.source, flow.destination].concat();
        bytes.extend([0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, flow.protocol]);
        bytes
    }

    fn covered6(flow: &Flow6, payload: &[u8]) -> Vec<u8> {
        let mut bytes = pseudo6(flow, 4 + u16::try_from(payload.len()).unwrap());
        bytes.extend(flow.source_port().to_be_bytes());
        bytes.extend(flow.destination_port().to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    proptest! {
        #[test]
        fn the_same_holds_for_ipv6(
            a: ([u8; 16], u16), b: ([u8; 16], u16), c: ([u8; 16], u16), d: ([u8; 16], u16), length: u16,
            payload in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let (from, to) = (Flow6::new(a, b, TCP), Flow6::new(c, d, TCP));
            let before = computed(&covered6(&from, &payload)).to_be_bytes();
            let after = Difference::NONE.ends6(&from, &to).apply(before);
            prop_assert_eq!(u16::from_be_bytes(after), computed(&covered6(&to, &payload)));
            let partial = !computed(&pseudo6(&from, length));
            prop_assert!(is_partial6(partial.to_be_bytes(), &from, length));
            prop_assert!(!is_partial6((partial ^ 0x0101).to_be_bytes(), &from, length));
        }

        #[test]
        fn a_changed_checksum_is_the_one_computed_anew(
            a: ([u8; 4], u16), b: ([u8; 4], u16), c: ([u8; 4], u16), d: ([u8; 4], u16),
            payload in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let (from, to) = (Flow::new(a, b, TCP), Flow::new(c, d, TCP));
            let before = computed(&covered(&from, &payload)).to_be_bytes();
            let after = Difference::NONE.addresses(&from, &to).ports(&from, &to).apply(before);
            prop_assert_eq!(u16::from_be_bytes(after), computed(&covered(&to, &payload)));
        }

        #[test]
        fn a_sum_over_the_pseudo_header_alone_is_seen(a: ([u8; 4], u16), b: ([u8; 4], u16), length: u16) {
            let flow = Flow::new(a, b, UDP);
            let partial = !computed(&pseudo(&flow, length));
            prop_assert!(is_partial(partial.to_be_bytes(), &flow, length));
            prop_assert!(!is_partial((partial ^ 0x0101).to_be_bytes(), &flow, length));
        }
    }

    #[test]
    fn udp_has_a_form_for_none_and_one_for_zero() {
        let changed = Difference::NONE.word([0, 1], [0, 2]);
        assert_eq!(changed.apply_transport(UDP, [0, 0]), [0, 0], "none stays none");
        // 0x0001 becomes 0x0000 when a word grows by one.
        assert_eq!(changed.apply_transport(UDP, [0, 1]), [0xff, 0xff]);
        assert_eq!(changed.apply_transport(TCP, [0, 1]), [0, 0]);
    }
}
