//! Frames of SPDY/3.1 as bytes (SPDY protocol draft 3.1, section 2.2 and 2.6). Pure.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The largest frame that is no data: a block of headers of a stream has a few hundred bytes.
const MAX_CONTROL: usize = 64 * 1024;
/// Every frame begins with as many bytes.
const HEAD: usize = 8;
/// Nothing follows on the stream.
const LAST: u8 = 1;
/// The highest bit and the version.
const CONTROL: u16 = 0x8000 | 3;

/// Why bytes are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::http) enum FrameError {
    /// Another version.
    #[error("SPDY version {0} is not spoken here, 3 is")]
    Version(u16),
    /// More than anybody needs.
    #[error("a SPDY frame of type {kind} has {length} bytes, more than {MAX_CONTROL}")]
    TooLarge {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// Less than its fields.
    #[error("a SPDY frame of type {0} is too short")]
    TooShort(u16),
}

/// A frame, as far as a server needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// SYN_STREAM.
    Open { id: u32, block: Bytes, last: bool },
    /// A part of a frame of data.
    Data { id: u32, bytes: Bytes, last: bool },
    /// RST_STREAM.
    Reset(u32),
    /// HEADERS and SYN_REPLY.
    Headers(Bytes),
    /// PING.
    Ping(u32),
    /// SETTINGS, GOAWAY, WINDOW_UPDATE and what is unknown.
    Other,
}

/// Cuts bytes into frames. Data is handed on as it arrives, however long its frame is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    data: Option<Data>,
}

#[derive(Debug)]
struct Data {
    id: u32,
    left: usize,
    last: bool,
}

impl Decoder {
    /// The next frame out of the buffer; none when it takes more bytes.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(data) = &mut self.data {
            let part = buffer.len().min(data.left);
            if part == 0 && data.left > 0 {
                return Ok(None);
            }
            data.left -= part;
            let (id, whole) = (data.id, data.left == 0);
            let last = whole && data.last;
            if whole {
                self.data = None;
            }
            return Ok(Some(Frame::Data { id, bytes: buffer.split_to(part).freeze(), last }));
        }
        let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let mut head = head.as_slice();
        let first = head.get_u32();
        let flags_and_length = head.get_u32();
        let (last, length) = (flags_and_length >> 24 & u32::from(LAST) != 0, flags_and_length & 0x00ff_ffff);
        let length = length as usize;
        if first >> 31 == 0 {
            buffer.advance(HEAD);
            self.data = Some(Data { id: first, left: length, last });
            return self.next(buffer);
        }
        let bytes = first.to_be_bytes();
        let (version, kind) =
            (u16::from_be_bytes([bytes[0], bytes[1]]) & 0x7fff, u16::from_be_bytes([bytes[2], bytes[3]]));
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLarge { kind, length });
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        control(kind, last, buffer.split_to(length).freeze()).map(Some)
    }
}

fn control(kind: u16, last: bool, mut payload: Bytes) -> Result<Frame, FrameError> {
    let needed = match kind {
        1 => 10,
        2 | 3 | 6 | 8 => 4,
        _ => return Ok(Frame::Other),
    };
    if payload.len() < needed {
        return Err(FrameError::TooShort(kind));
    }
    let id = payload.get_u32();
    payload.advance(needed - 4);
    Ok(match kind {
        1 => Frame::Open { id: id & 0x7fff_ffff, block: payload, last },
        3 => Frame::Reset(id & 0x7fff_ffff),
        6 => Frame::Ping(id),
        _ => Frame::Headers(payload),
    })
}

fn head(kind: u16, length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    frame.put_u8(0);
    frame.put_uint(length as u64, 3);
    frame
}

/// SYN_REPLY.
pub(super) fn reply(id: u32, block: &[u8]) -> Bytes {
    let mut frame = head(2, 4 + block.len());
    frame.put_u32(id);
    frame.put_slice(block);
    frame.freeze()
}

/// RST_STREAM: CANCEL.
pub(super) fn reset(id: u32) -> Bytes {
    let mut frame = head(3, 8);
    frame.put_u32(id);
    frame.put_u32(5);
    frame.freeze()
}

/// PING.
pub(super) fn ping(id: u32) -> Bytes {
    let mut frame = head(6, 4);
    frame.put_u32(id);
    frame.freeze()
}

/// Data of less than 16 MiB.
pub(super) fn data(id: u32, bytes: &[u8], last: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
    frame.put_u32(id & 0x7fff_ffff);
    frame.put_u8(u8::from(last) * LAST);
    frame.put_uint(bytes.len() as u64, 3);
    frame.put_slice(bytes);
    frame.freeze()
}

/// SYN_STREAM, as clients send it.
#[cfg(test)]
pub(super) fn open(id: u32, block: &[u8]) -> Bytes {
    let mut frame = head(1, 10 + block.len());
    frame.put_u32(id);
    frame.put_bytes(0, 6);
    frame.put_slice(block);
    frame.freeze()
}
