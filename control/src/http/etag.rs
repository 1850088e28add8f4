//! Documents that clients keep: sent again only when they have changed.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use oarlock_api::status::Status;
use sha2::{Digest as _, Sha256};

use super::respond::{self, Body};

/// The document with its tag, or 304 without it when the client has that one.
pub(super) async fn tagged(asked: &HeaderMap, document: Response<Body>) -> Response<Body> {
    if document.status() != StatusCode::OK {
        return document;
    }
    let (mut head, body) = document.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return respond::failure(&Status::internal(format!("the document breaks off: {error}")));
        }
    };
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{digest}\"");
    head.headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let known = known.flat_map(|tags| tags.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    });
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        head.headers.insert(header::ETAG, tag);
    }
    if known {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(header::CONTENT_TYPE);
    }
    Response::from_parts(head, respond::whole(if known { bytes::Bytes::new() } else { body }))
}
