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
}

const _: () = assert!(core::mem::size_of::<Datagram>() == 12);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which it is, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Datagram {}
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
    }
}
