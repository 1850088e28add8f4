//! The body of a list in any coding, written while it is read: what is in memory of it at any time is a piece, not the list.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use super::respond;
use crate::cache::Object;

/// How much is written at once.
const PIECE: usize = 64 << 10;

/// The items of a list between its head and its tail.
pub(super) struct Listing<W> {
    pub(super) head: Vec<u8>,
    pub(super) objects: Vec<Arc<Object>>,
    /// Writes one item.
    pub(super) write: W,
    /// What stands between two items.
    pub(super) between: &'static [u8],
    pub(super) tail: &'static [u8],
    /// How long the items are in all, where that is known before.
    pub(super) length: Option<u64>,
}

struct Written<W> {
    head: Option<Vec<u8>>,
    objects: std::vec::IntoIter<Arc<Object>>,
    write: W,
    between: &'static [u8],
    /// None once the end was written, or an item failed.
    tail: Option<&'static [u8]>,
    is_first: bool,
    left: Option<u64>,
}

impl<W: FnMut(&Object, &mut BytesMut) -> io::Result<()> + Send + Unpin + 'static> Listing<W> {
    /// The body.
    pub(super) fn body(self) -> respond::Body {
        let between = self.objects.len().saturating_sub(1) * self.between.len();
        let around = (self.head.len() + between + self.tail.len()) as u64;
        let written = Written {
            head: Some(self.head),
            objects: self.objects.into_iter(),
            write: self.write,
            between: self.between,
            tail: Some(self.tail),
            is_first: true,
            left: self.length.map(|length| length + around),
        };
        written.boxed_unsync()
    }
}

impl<W: FnMut(&Object, &mut BytesMut) -> io::Result<()>> Written<W> {
    fn piece(&mut self) -> Option<io::Result<Bytes>> {
        self.tail?;
        let mut piece = BytesMut::with_capacity(PIECE + (PIECE >> 2));
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(&head);
        }
        while piece.len() < PIECE {
            let Some(object) = self.objects.next() else {
                piece.extend_from_slice(self.tail.take().unwrap_or_default());
                break;
            };
            if !std::mem::take(&mut self.is_first) {
                piece.extend_from_slice(self.between);
            }
            if let Err(error) = (self.write)(&object, &mut piece) {
                self.tail = None;
                return Some(Err(error));
            }
        }
        Some(Ok(piece.freeze()))
    }
}

impl<W: FnMut(&Object, &mut BytesMut) -> io::Result<()> + Unpin> Body for Written<W> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.piece();
        if let (Some(left), Some(Ok(piece))) = (&mut self.left, &piece) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
