//! Large answers are packed for whoever takes that, as kube-apiserver does.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::respond::{self, Body};

/// Smaller answers are sent faster than they are packed.
const THRESHOLD: u64 = 128 * 1024;

/// The answer, packed if it is large, is there as a whole and the client takes it packed.
pub(super) async fn packed(asked: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let size = response.body().size_hint().exact().unwrap_or(0);
    let plain = !response.headers().contains_key(header::CONTENT_ENCODING);
    if size < THRESHOLD || !plain || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if !takes(asked) {
        return Response::from_parts(head, body);
    }
    let Ok(body) = body.collect().await;
    let whole = body.to_bytes();
    let bytes = whole.clone();
    // Not on the threads that answer others.
    let Ok(Ok(packed)) = tokio::task::spawn_blocking(move || pack(&bytes)).await else {
        return Response::from_parts(head, respond::whole(whole));
    };
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(head, respond::whole(packed))
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

/// Fast rather than small: what is saved beyond that is not worth the time.
fn pack(bytes: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

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
}
