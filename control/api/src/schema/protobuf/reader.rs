//! Protobuf's wire primitives over a slice. In: bytes. Out: tags and values, borrowed. Every length is checked.

use super::DecodeError;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Fixed32,
}

/// Reads from the front of a slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next tag and how its value is written; `None` at the end.
    pub(crate) fn tag(&mut self) -> Result<Option<(u32, Wire)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.raw_varint()?).map_err(|_| DecodeError::Malformed)?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            5 => Wire::Fixed32,
            _ => return Err(DecodeError::Malformed), // groups: never used by Kubernetes
        };
        if key >> 3 == 0 {
            return Err(DecodeError::Malformed);
        }
        Ok(Some((key >> 3, wire)))
    }

    pub(crate) fn varint(&mut self, field: &str, wire: Wire) -> Result<u64, DecodeError> {
        expect(field, wire, Wire::Varint)?;
        self.raw_varint()
    }

    pub(crate) fn double(&mut self, field: &str, wire: Wire) -> Result<f64, DecodeError> {
        expect(field, wire, Wire::Fixed64)?;
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().map_err(|_| DecodeError::Truncated)?))
    }

    pub(crate) fn bytes(&mut self, field: &str, wire: Wire) -> Result<&'a [u8], DecodeError> {
        expect(field, wire, Wire::Bytes)?;
        let length = usize::try_from(self.raw_varint()?).map_err(|_| DecodeError::Truncated)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self, field: &str, wire: Wire) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(field, wire)?).map_err(|_| DecodeError::Utf8(field.to_owned()))
    }

    /// Passes over a value that nobody knows.
    pub(crate) fn skip(&mut self, wire: Wire) -> Result<(), DecodeError> {
        match wire {
            Wire::Varint => self.raw_varint().map(drop),
            Wire::Fixed64 => self.take(8).map(drop),
            Wire::Bytes => self.bytes("", wire).map(drop),
            Wire::Fixed32 => self.take(4).map(drop),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn raw_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed)
    }
}

fn expect(field: &str, wire: Wire, expected: Wire) -> Result<(), DecodeError> {
    if wire == expected { Ok(()) } else { Err(DecodeError::WireType(field.to_owned())) }
}
