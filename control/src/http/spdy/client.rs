//! A client of SPDY for tests, as simple as can be: everything that it hears, in order.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::{self, Decoder, Frame};
use super::headers::{Deflate, Inflate, block};

/// A connection, as a client sees it.
pub(in crate::http) struct Client<I> {
    io: I,
    buffer: BytesMut,
    decoder: Decoder,
    deflate: Deflate,
    inflate: Inflate,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    pub(in crate::http) fn new(io: I) -> Self {
        let (buffer, decoder) = (BytesMut::new(), Decoder::default());
        Self { io, buffer, decoder, deflate: Deflate::default(), inflate: Inflate::default() }
    }

    pub(in crate::http) async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let packed = self.deflate.pack(&block(headers)).unwrap();
        self.io.write_all(&frame::open(id, &packed)).await.unwrap();
    }

    pub(in crate::http) async fn data(&mut self, id: u32, bytes: &[u8], last: bool) {
        self.io.write_all(&frame::data(id, bytes, last)).await.unwrap();
    }

    /// What comes next on a stream: bytes and whether nothing follows. None at the end of the connection.
    pub(in crate::http) async fn next(&mut self) -> Option<(u32, Bytes, bool)> {
        loop {
            match self.decoder.next(&mut self.buffer).unwrap() {
                Some(Frame::Data { id, bytes, last }) => return Some((id, bytes, last)),
                Some(Frame::Headers(packed)) => assert_eq!(self.inflate.read(&packed).unwrap(), []),
                Some(_) => {}
                None if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 => return None,
                None => {}
            }
        }
    }
}
