//! The body of a list, written while it is read: what is in memory of it at any time is a piece, not the list.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use super::respond;
use crate::cache::Object;

/// How much is written at once.
const PIECE: usize = 64 << 10;
/// What stands between two items.
const BETWEEN: u8 = b',';

/// The items of a list between its head and its tail.
pub(super) struct Listing<W> {
    pub(super) head: String,
    pub(super) objects: Vec<Arc<Object>>,
    /// Writes one item.
    pub(super) write: W,
    pub(super) tail: &'static str,
    /// Whether what is written of an object are its encoded bytes, so that the length is known before.
    pub(super) is_verbatim: bool,
}

struct Written<W> {
    head: Option<String>,
    objects: std::vec::IntoIter<Arc<Object>>,
    write: W,
    tail: Option<&'static str>,
    is_first: bool,
    left: Option<u64>,
}

impl<W: FnMut(&Object, &mut BytesMut) + Send + Unpin + 'static> Listing<W> {
    /// The body.
    pub(super) fn body(self) -> respond::Body {
        let items = || self.objects.iter().map(|object| object.encoded_len() as u64);
        let commas = (self.objects.len() as u64).saturating_sub(1);
        let around = (self.head.len() + self.tail.len()) as u64;
        let left = self.is_verbatim.then(|| items().sum::<u64>() + commas + around);
        let objects = self.objects.into_iter();
        let (head, tail) = (Some(self.head), Some(self.tail));
        Written { head, objects, write: self.write, tail, is_first: true, left }.boxed_unsync()
    }
}

impl<W: FnMut(&Object, &mut BytesMut)> Written<W> {
    fn piece(&mut self) -> Option<Bytes> {
        self.tail?;
        let mut piece = BytesMut::with_capacity(PIECE + (PIECE >> 2));
        if let Some(head) = self.head.take() {
            piece.put_slice(head.as_bytes());
        }
        while piece.len() < PIECE {
            let Some(object) = self.objects.next() else {
                piece.put_slice(self.tail.take().unwrap_or_default().as_bytes());
                break;
            };
            if !std::mem::take(&mut self.is_first) {
                piece.put_u8(BETWEEN);
            }
            (self.write)(&object, &mut piece);
        }
        Some(piece.freeze())
    }
}

impl<W: FnMut(&Object, &mut BytesMut) + Unpin> Body for Written<W> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.piece();
        if let (Some(left), Some(piece)) = (&mut self.left, &piece) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
