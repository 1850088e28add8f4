//! Large answers are packed for whoever takes that, as kube-apiserver does.

use std::collections::VecDeque;
use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame};

use super::respond::Body;

/// Smaller answers are sent faster than they are packed.
const THRESHOLD: u64 = 128 * 1024;
/// How much is packed at once.
const PIECE: usize = 64 << 10;
/// More than this is not packed on the threads that answer others.
const LARGE: usize = 16 << 10;
/// What is packed is sent on when there is this much of it.
const ENOUGH: usize = 16 << 10;

/// In an answer's extensions: its body may be held back until it is known to be large, though its size is not. Watches, logs
/// and what other servers answer are never marked: what they say is to be heard at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packable;

/// The answer, packed while it is sent if it is large and the client takes it packed.
pub(super) async fn packed(asked: &HeaderMap, mut response: Response<Body>) -> Response<Body> {
    let marked = response.extensions_mut().remove::<Packable>().is_some();
    let size = response.body().size_hint().exact();
    let plain = !response.headers().contains_key(header::CONTENT_ENCODING);
    let is_candidate = size.map_or(marked, |size| size >= THRESHOLD);
    if !is_candidate || !plain || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if !takes(asked) {
        return Response::from_parts(head, body);
    }
    let mut source = Source { read: VecDeque::new(), body: Some(body) };
    if size.is_none() && !source.is_large().await {
        return Response::from_parts(head, source.plain());
    }
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, source.packed())
}

/// A body, and what was read of it to see whether it is large.
struct Source {
    read: VecDeque<io::Result<Bytes>>,
    /// None once it has ended or failed.
    body: Option<Body>,
}

impl Source {
    /// Reads until it is known.
    async fn is_large(&mut self) -> bool {
        let mut size = 0;
        while size < THRESHOLD {
            let Some(piece) = self.draw().await else { return false };
            size += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            self.read.push_back(piece);
        }
        true
    }

    async fn draw(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.body.as_mut()?.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Some(Err(error)) => {
                    self.body = None;
                    return Some(Err(error));
                }
                None => self.body = None,
            }
        }
    }

    /// What comes next, at most a piece.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let next = match self.read.pop_front() {
            Some(read) => Some(read),
            None => self.draw().await,
        };
        let Some(mut piece) = next.transpose()? else { return Ok(None) };
        if piece.len() > PIECE {
            self.read.push_front(Ok(piece.split_off(PIECE)));
        }
        Ok(Some(piece))
    }

    fn plain(self) -> Body {
        let frames = stream::try_unfold(self, |mut source| async move {
            Ok(source.next().await?.map(|piece| (Frame::data(piece), source)))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    fn packed(self) -> Body {
        // Fast rather than small: what is saved beyond that is not worth the time.
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let frames = stream::try_unfold(Packing { source: self, encoder }, |mut packing| async move {
            Ok(packing.next().await?.map(|piece| (Frame::data(piece), packing)))
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

/// Packs when it is asked for more, so that a slow client holds back who writes.
struct Packing {
    source: Source,
    /// None once the end was written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Packing {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(None) };
        while encoder.get_ref().len() < ENOUGH {
            let Some(piece) = self.source.next().await? else {
                return encoder.finish().map(|end| Some(Bytes::from(end)));
            };
            encoder = write(encoder, piece).await?;
        }
        let enough = std::mem::take(encoder.get_mut());
        self.encoder = Some(encoder);
        Ok(Some(Bytes::from(enough)))
    }
}

async fn write(mut encoder: GzEncoder<Vec<u8>>, piece: Bytes) -> io::Result<GzEncoder<Vec<u8>>> {
    let is_large = piece.len() >= LARGE;
    let write = move || encoder.write_all(&piece).map(|()| encoder);
    if is_large {
        return tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?;
    }
    write()
}

/// Whether a client takes gzip.
fn takes(asked: &HeaderMap) -> bool {
    let accepted = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::http::respond;

    async fn answer(encoding: &str, size: usize) -> (Option<String>, Vec<u8>) {
        let mut asked = HeaderMap::new();
        asked.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        let response = respond::bytes(StatusCode::OK, "application/json", vec![b'x'; size]);
        let (head, body) = packed(&asked, response).await.into_parts();
        let encoding = head.headers.get(header::CONTENT_ENCODING).map(|e| e.to_str().unwrap().to_owned());
        (encoding, body.collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn large_answers_are_packed_for_who_takes_that() {
        let large = usize::try_from(THRESHOLD).unwrap();
        for (encoding, size, is_packed) in [
            ("gzip", large, true),
            ("br, GZIP;q=0.5", large, true),
            ("gzip", large - 1, false),
            ("gzip;q=0", large, false),
            ("br", large, false),
            ("", large, false),
        ] {
            let (coding, body) = answer(encoding, size).await;
            assert_eq!(coding.is_some(), is_packed, "{encoding} {size}");
            let mut plain = Vec::new();
            if is_packed {
                assert!(body.len() < size / 10);
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            } else {
                plain = body;
            }
            assert_eq!(plain.len(), size, "{encoding} {size}");
        }
    }

    /// Pieces that do not pack well, how many were drawn so far, and an error after them if there is one.
    fn drawn(pieces: usize, error: bool) -> (Response<Body>, Arc<AtomicUsize>) {
        let drawn = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&drawn);
        let pieces = (0..pieces).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            let noise: Vec<u8> = std::iter::repeat_with(rand::random).take(PIECE).collect();
            Ok(Frame::data(Bytes::from(noise)))
        });
        let end = error.then(|| Err(io::Error::other("broken off")));
        let body = StreamBody::new(stream::iter(pieces.chain(end))).boxed_unsync();
        let mut response = respond::made("application/json", body);
        response.extensions_mut().insert(Packable);
        (response, drawn)
    }

    fn gzip() -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))])
    }

    #[tokio::test]
    async fn no_more_is_drawn_than_is_sent() {
        let (response, drawn) = drawn(64, false);
        let mut response = packed(&gzip(), response).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[header::VARY], "Accept-Encoding");
        assert_eq!(response.body().size_hint().exact(), None);
        assert_eq!(drawn.load(Ordering::Relaxed), 2, "what it takes to decide");
        let mut sent = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() < 3 * PIECE, "{} at once", data.len());
            sent.extend_from_slice(&data);
            let held = (drawn.load(Ordering::Relaxed) * PIECE).saturating_sub(sent.len());
            assert!(held <= 3 * PIECE, "{held} held");
        }
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&sent[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain.len(), 64 * PIECE);
    }

    #[tokio::test]
    async fn an_error_is_no_end_packed_or_plain() {
        for (pieces, is_packed) in [(0, false), (1, false), (2, true), (9, true)] {
            let (response, drawn) = drawn(pieces, true);
            let response = packed(&gzip(), response).await;
            assert_eq!(response.headers().contains_key(header::CONTENT_ENCODING), is_packed, "{pieces}");
            let mut body = response.into_body();
            let mut last = None;
            while let Some(frame) = body.frame().await {
                assert!(
                    last.replace(frame).is_none_or(|earlier| earlier.is_ok()),
                    "nothing follows an error"
                );
            }
            assert_eq!(last.unwrap().unwrap_err().to_string(), "broken off", "{pieces}");
            assert_eq!(drawn.load(Ordering::Relaxed), pieces);
        }
    }

    #[tokio::test]
    async fn what_is_not_known_to_be_large_is_plain_and_what_is_not_marked_is_not_read() {
        let (response, _) = drawn(1, false);
        let response = packed(&gzip(), response).await;
        assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), PIECE);
        let (mut response, drawn) = drawn(9, false);
        response.extensions_mut().remove::<Packable>();
        let response = packed(&gzip(), response).await;
        assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(drawn.load(Ordering::Relaxed), 0);
    }
}
