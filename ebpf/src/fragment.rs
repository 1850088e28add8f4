//! Fragments of IPv4 datagrams: only the first one carries ports, so what it said is remembered for the others.

use bytemuck::{Pod, Zeroable};

/// What the fragments of one datagram have in common (RFC 791 3.2).
///
/// | byte | field |
/// |---|---|
/// | 0..4, 4..8 | source and destination, network order |
/// | 8..10 | identification, network order |
/// | 10 | protocol |
/// | 11 | zero |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Datagram {
    source: [u8; 4],
    destination: [u8; 4],
    identification: [u8; 2],
    protocol: u8,
    reserved: u8,
}

impl Datagram {
    /// The datagram that an IPv4 header without options is of.
    #[must_use]
    pub const fn of(header: &[u8; 20]) -> Self {
        Self {
            source: [header[12], header[13], header[14], header[15]],
            destination: [header[16], header[17], header[18], header[19]],
            identification: [header[4], header[5]],
            protocol: header[9],
            reserved: 0,
        }
    }
}

/// What the fragments of one datagram of IPv6 have in common (RFC 8200 4.5).
///
/// | byte | field |
/// |---|---|
/// | 0..16, 16..32 | source and destination, network order |
/// | 32..36 | identification, network order |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Datagram6 {
    source: [u8; 16],
    destination: [u8; 16],
    identification: [u8; 4],
}

impl Datagram6 {
    /// The datagram between two addresses that a Fragment header is of.
    #[must_use]
    pub const fn of(source: [u8; 16], destination: [u8; 16], header: &[u8; 8]) -> Self {
        Self { source, destination, identification: [header[4], header[5], header[6], header[7]] }
    }
}

/// Which part of its datagram an IPv4 packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The beginning, with the ports.
    First,
    /// Another one, without ports and checksum.
    Later,
}

impl Part {
    /// What the flags and the offset of an IPv4 header say.
    #[must_use]
    pub const fn of(header: &[u8; 20]) -> Self {
        let (more, offset) = (header[6] & 0x20 != 0, header[6] & 0x1f != 0 || header[7] != 0);
        match (more, offset) {
            (_, true) => Self::Later,
            (true, false) => Self::First,
            (false, false) => Self::Whole,
        }
    }

    /// What a Fragment header of IPv6 says.
    #[must_use]
    pub const fn of_ipv6(header: &[u8; 8]) -> Self {
        let (more, offset) = (header[3] & 1 != 0, header[2] != 0 || header[3] & 0xf8 != 0);
        match (more, offset) {
            (_, true) => Self::Later,
            (true, false) => Self::First,
            (false, false) => Self::Whole,
        }
    }
}

const _: () = assert!(core::mem::size_of::<Datagram>() == 12);
const _: () = assert!(core::mem::size_of::<Datagram6>() == 36);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Datagram {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Datagram6 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_flags_and_offset() {
        let part = |flags, offset| {
            let mut header = [0; 20];
            (header[6], header[7]) = (flags, offset);
            Part::of(&header)
        };
        assert_eq!(part(0x40, 0), Part::Whole, "may not be cut up");
        assert_eq!(part(0x20, 0), Part::First);
        assert_eq!((part(0x20, 185), part(0, 185), part(1, 0)), (Part::Later, Part::Later, Part::Later));
        let part6 = |high, low| Part::of_ipv6(&[6, 0, high, low, 0, 0, 0, 1]);
        assert_eq!((part6(0, 0), part6(0, 6), part6(0, 1)), (Part::Whole, Part::Whole, Part::First));
        assert_eq!((part6(0, 8), part6(1, 1), part6(5, 0xa9)), (Part::Later, Part::Later, Part::Later));
    }
}
