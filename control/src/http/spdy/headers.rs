//! Blocks of headers: names and values behind their lengths, compressed as one over the life of a connection (SPDY protocol draft
//! 3, section 2.6.10).

use bytes::Buf as _;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;

/// The longest block, unpacked.
const MAX_BLOCK: usize = 64 * 1024;
/// How much is unpacked at once.
const STEP: usize = 4096;

/// Why bytes are no block of headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::http) enum HeadersError {
    /// It cannot be unpacked.
    #[error("SPDY headers cannot be unpacked: {0}")]
    Packing(String),
    /// It is longer than anybody needs.
    #[error("SPDY headers have more than {MAX_BLOCK} bytes")]
    TooLong,
    /// Its lengths are wrong.
    #[error("SPDY headers break off")]
    TooShort,
}

/// Unpacks the peer's blocks, in their order.
#[derive(Debug)]
pub(super) struct Inflate(Decompress);

impl Default for Inflate {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflate {
    /// Names in lower case, and values.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, HeadersError> {
        parse(&self.unpack(block)?)
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Vec<u8>, HeadersError> {
        let packing = |e: &dyn std::fmt::Display| HeadersError::Packing(e.to_string());
        let (mut unpacked, mut step, mut rest) = (Vec::new(), [0; STEP], block);
        loop {
            let (taken, made) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress(rest, &mut step, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - taken).unwrap_or(usize::MAX);
            let made = usize::try_from(self.0.total_out() - made).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            unpacked.extend_from_slice(step.get(..made).unwrap_or_default());
            if unpacked.len() > MAX_BLOCK {
                return Err(HeadersError::TooLong);
            }
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|e| packing(&e))?;
                }
                Err(error) => return Err(packing(&error)),
                Ok(_) if made == STEP => {}
                Ok(_) if rest.is_empty() => return Ok(unpacked),
                Ok(_) if taken == 0 && made == 0 => return Err(packing(&"bytes are left over")),
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Vec<(String, String)>, HeadersError> {
    fn number(block: &mut &[u8]) -> Result<usize, HeadersError> {
        block.try_get_u32().map(|n| n as usize).map_err(|_| HeadersError::TooShort)
    }
    fn text(block: &mut &[u8]) -> Result<String, HeadersError> {
        let length = number(block)?;
        let (text, rest) = block.split_at_checked(length).ok_or(HeadersError::TooShort)?;
        *block = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
    let count = number(&mut block)?;
    let mut headers = Vec::new();
    // Each takes at least its lengths, so that a wrong count ends by itself.
    for _ in 0..count {
        let (name, value) = (text(&mut block)?, text(&mut block)?);
        headers.push((name.to_lowercase(), value));
    }
    Ok(headers)
}

/// Packs our blocks, in their order.
#[derive(Debug)]
pub(super) struct Deflate {
    pack: Compress,
    knows: bool,
}

impl Default for Deflate {
    fn default() -> Self {
        Self { pack: Compress::new(Compression::fast(), true), knows: false }
    }
}

impl Deflate {
    /// A block without headers.
    pub(super) fn none(&mut self) -> Result<Vec<u8>, HeadersError> {
        self.pack(&0_u32.to_be_bytes())
    }

    /// Packs a block that has its lengths.
    pub(super) fn pack(&mut self, block: &[u8]) -> Result<Vec<u8>, HeadersError> {
        let packing = |e: &dyn std::fmt::Display| HeadersError::Packing(e.to_string());
        if !self.knows {
            self.pack.set_dictionary(DICTIONARY).map_err(|e| packing(&e))?;
            self.knows = true;
        }
        // Room for what does not get smaller, and for the marks around it.
        let mut packed = Vec::with_capacity(block.len() + block.len() / 8 + 64);
        let before = self.pack.total_in();
        self.pack.compress_vec(block, &mut packed, FlushCompress::Sync).map_err(|e| packing(&e))?;
        if self.pack.total_in() - before == block.len() as u64 {
            Ok(packed)
        } else {
            Err(packing(&"no room"))
        }
    }
}

/// A block as clients send it, before it is packed.
#[cfg(test)]
pub(super) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        block.extend(text.as_bytes());
    }
    block
}
