//! SPDY/3.1, the server's side, as far as Kubernetes' clients speak it: streams that the client opens, data both ways.
//!
//! In: the bytes of an upgraded connection. Out: events of its streams, frames of ours. Windows are let be, as clients do that use
//! moby/spdystream: they never grant any, so that only the connection itself holds back. Every input is bounded; none panics.

mod dictionary;
mod frame;
mod headers;

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use frame::{Decoder, Frame};
use headers::{Deflate, Inflate};

/// Frames on their way into the connection.
const IN_FLIGHT: usize = 8;
/// The largest piece of data in one frame.
const MAX_PIECE: usize = 32 * 1024;
/// How much is read at once.
const READ: usize = 16 * 1024;
/// How often the peer is asked whether it is still there: a dead one is noticed by writing only.
const PING: Duration = Duration::from_secs(10);

/// What the peer did wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// These are no frames.
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
    /// This is no block of headers.
    #[error("{0}")]
    Headers(#[from] headers::HeadersError),
    /// Nobody writes any more.
    #[error("the connection is closed")]
    Closed,
}

/// What the peer does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Opens a stream.
    Opened {
        /// Its number.
        id: u32,
        /// Names in lower case.
        headers: Vec<(String, String)>,
        /// It will send nothing on it.
        last: bool,
    },
    /// Sends on a stream.
    Data {
        /// Its number.
        id: u32,
        /// The bytes, a part of what the peer sent as one.
        bytes: Bytes,
        /// Nothing follows.
        last: bool,
    },
    /// Gives a stream up.
    Reset(u32),
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    decoder: Decoder,
    inflate: Inflate,
    deflate: Deflate,
    writer: Writer,
}

/// The writing half. Clones write to the same connection.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    frames: mpsc::Sender<Bytes>,
}

/// Both halves, and what writes: to be polled until it ends, which it does when all writers are dropped.
pub(super) fn split<I>(
    io: I,
) -> (Reader<tokio::io::ReadHalf<I>>, Writer, impl Future<Output = io::Result<()>>)
where
    I: AsyncRead + AsyncWrite,
{
    let (read, write) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(IN_FLIGHT);
    let writer = Writer { frames };
    let reader = Reader {
        io: read,
        buffer: BytesMut::new(),
        decoder: Decoder::default(),
        inflate: Inflate::default(),
        deflate: Deflate::default(),
        writer: writer.clone(),
    };
    (reader, writer, write_all(write, queue))
}

async fn write_all(mut io: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    // Pings of a server have even numbers.
    let mut ping = 0_u32;
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            _ = beat.tick() => {
                ping = ping.wrapping_add(2);
                Some(frame::ping(ping))
            }
        };
        let Some(frame) = frame else { break };
        io.write_all(&frame).await?;
        if queue.is_empty() {
            io.flush().await?;
        }
    }
    io.shutdown().await
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// What the peer does next; none at its end. Streams are accepted and pings answered here.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, SpdyError> {
        loop {
            let Some(frame) = self.decoder.next(&mut self.buffer)? else {
                self.buffer.reserve(READ);
                if self.io.read_buf(&mut self.buffer).await? == 0 {
                    return Ok(None);
                }
                continue;
            };
            match frame {
                Frame::Open { id, block, last } => {
                    let headers = self.inflate.read(&block)?;
                    let reply = frame::reply(id, &self.deflate.none()?);
                    self.writer.frame(reply).await.ok_or(SpdyError::Closed)?;
                    return Ok(Some(Event::Opened { id, headers, last }));
                }
                Frame::Data { id, bytes, last } => return Ok(Some(Event::Data { id, bytes, last })),
                Frame::Reset(id) => return Ok(Some(Event::Reset(id))),
                // Blocks are compressed as one: each must be read.
                Frame::Headers(block) => drop(self.inflate.read(&block)?),
                Frame::Ping(id) if id % 2 == 1 => {
                    self.writer.frame(frame::ping(id)).await.ok_or(SpdyError::Closed)?;
                }
                Frame::Ping(_) | Frame::Other => {}
            }
        }
    }
}

impl<R> Reader<R> {
    /// Gives a stream up that the peer opened.
    pub(super) async fn refuse(&mut self, id: u32) -> Result<(), SpdyError> {
        self.writer.frame(frame::reset(id)).await.ok_or(SpdyError::Closed)
    }
}

impl Writer {
    /// Sends bytes on a stream; none when the connection is gone.
    pub(super) async fn data(&self, id: u32, mut bytes: Bytes, last: bool) -> Option<()> {
        loop {
            let part = bytes.split_to(bytes.len().min(MAX_PIECE));
            let end = bytes.is_empty();
            self.frame(frame::data(id, &part, last && end)).await?;
            if end {
                return Some(());
            }
        }
    }

    async fn frame(&self, frame: Bytes) -> Option<()> {
        self.frames.send(frame).await.ok()
    }
}

#[cfg(test)]
pub(super) mod client;
#[cfg(test)]
mod tests;
