//! Which protocol client and server both speak, and the answer that says so. Pure.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use oarlock_api::status::Status;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::super::respond::{self, Body};

/// What SPDY's streams are used for.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Of commands and containers: the one whose errors are Status objects.
const REMOTE: &str = "v4.channel.k8s.io";
/// Of ports.
const FORWARD: &str = "portforward.k8s.io";
/// Of ports, in messages of a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How channels are put into messages of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coding {
    /// Messages are text, bytes are in Base64.
    pub(super) base64: bool,
    /// How it ended is a Status object; before version 4 it was a sentence.
    pub(super) status: bool,
}

/// What is spoken on an upgraded connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// WebSocket messages that begin with the number of their channel.
    Channels(Coding),
    /// SPDY/3.1.
    Spdy,
    /// SPDY/3.1 in messages of a WebSocket.
    Tunnel,
}

/// What the streams are to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The channels of a command or container.
    Remote,
    /// Connections to ports.
    Forward,
}

type Upgrade = (Response<Body>, Protocol);
type Agreed = Result<Upgrade, Response<Body>>;

/// The answer that upgrades, or one that says what could be spoken instead.
pub(super) fn negotiate(headers: &HeaderMap, purpose: Purpose) -> Result<Agreed, Status> {
    let forward = purpose == Purpose::Forward;
    if has(headers, &header::UPGRADE, "websocket") {
        let agreed = if forward { tunnel(headers)? } else { web_socket(headers, &CODINGS)? };
        return Ok(agreed.map_err(|offered| {
            let names = |codings: &[(&'static str, Coding)]| codings.iter().map(|(name, _)| *name).collect();
            let spoken: Vec<&str> =
                if forward { [vec![TUNNEL], names(&PORT_CODINGS)].concat() } else { names(&CODINGS) };
            unspoken(StatusCode::BAD_REQUEST, &offered, &spoken)
        }));
    }
    if !has(headers, &header::UPGRADE, "spdy/3.1") {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let offered = offered(headers, &STREAM_PROTOCOL);
    let spoken = if forward { FORWARD } else { REMOTE };
    if !offered.iter().any(|name| name == spoken) {
        return Ok(Err(unspoken(StatusCode::FORBIDDEN, &offered, &[spoken])));
    }
    Ok(Ok((spdy(spoken), Protocol::Spdy)))
}

/// The protocols of WebSockets, best first.
const CODINGS: [(&str, Coding); 5] = [
    ("v5.channel.k8s.io", Coding { base64: false, status: true }),
    ("v4.channel.k8s.io", Coding { base64: false, status: true }),
    ("v4.base64.channel.k8s.io", Coding { base64: true, status: true }),
    ("channel.k8s.io", Coding { base64: false, status: false }),
    ("base64.channel.k8s.io", Coding { base64: true, status: false }),
];

/// Those of ports.
const PORT_CODINGS: [(&str, Coding); 2] = [
    ("v4.channel.k8s.io", Coding { base64: false, status: true }),
    ("v4.base64.channel.k8s.io", Coding { base64: true, status: true }),
];

/// Or what was offered, where nothing of it is spoken here.
fn web_socket(
    headers: &HeaderMap,
    codings: &[(&'static str, Coding)],
) -> Result<Result<Upgrade, Vec<String>>, Status> {
    let offered = offered(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    // A client that names none gets the oldest that is plain, as upstream has it.
    let found = if offered.is_empty() {
        codings.iter().rfind(|(_, coding)| !coding.base64).map(|(_, coding)| (None, *coding))
    } else {
        codings.iter().find(|(name, _)| offered.iter().any(|o| o == name)).map(|(n, c)| (Some(*n), *c))
    };
    let Some((name, coding)) = found else { return Ok(Err(offered)) };
    Ok(Ok((accept(headers, name)?, Protocol::Channels(coding))))
}

fn tunnel(headers: &HeaderMap) -> Result<Result<Upgrade, Vec<String>>, Status> {
    let offered = offered(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    if offered.iter().any(|name| name == TUNNEL) {
        return Ok(Ok((accept(headers, Some(TUNNEL))?, Protocol::Tunnel)));
    }
    web_socket(headers, &PORT_CODINGS)
}

/// The answer that makes a connection a WebSocket (RFC 6455, section 4.2.2).
fn accept(headers: &HeaderMap, protocol: Option<&'static str>) -> Result<Response<Body>, Status> {
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Status::bad_request("WebSocket version 13 is spoken here (Sec-WebSocket-Version)"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Status::bad_request("a WebSocket needs a Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::from_str(&accept).map_err(Status::internal)?;
    let mut response = switching("websocket");
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        let protocol = HeaderValue::from_static(protocol);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

fn spdy(protocol: &'static str) -> Response<Body> {
    let mut response = switching("SPDY/3.1");
    response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = Response::new(respond::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(to));
    response
}

fn unspoken(code: StatusCode, offered: &[String], spoken: &[&'static str]) -> Response<Body> {
    let message =
        format!("unable to negotiate protocol: client supports {offered:?}, server supports {spoken:?}");
    let mut response = respond::text(code, message);
    for name in spoken {
        response.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
    }
    response
}

/// The values of a header that lists, each by itself.
fn offered(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn has(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    offered(headers, name).iter().any(|value| value.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn socket(protocols: &'static str) -> HeaderMap {
        headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ])
    }

    #[test]
    fn the_best_protocol_that_both_speak_is_taken() {
        let (answer, protocol) =
            negotiate(&socket("channel.k8s.io, v5.channel.k8s.io"), Purpose::Remote).unwrap().unwrap();
        assert_eq!(answer.status(), 101);
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert_eq!(protocol, Protocol::Channels(Coding { base64: false, status: true }));
        let (answer, protocol) = negotiate(&socket(""), Purpose::Remote).unwrap().unwrap();
        assert!(!answer.headers().contains_key("sec-websocket-protocol"));
        assert_eq!(protocol, Protocol::Channels(Coding { base64: false, status: false }));

        let mut offer =
            headers(&[("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v5.channel.k8s.io")]);
        let refusal = negotiate(&offer, Purpose::Remote).unwrap().unwrap_err();
        assert_eq!(
            (refusal.status().as_u16(), &refusal.headers()[&ACCEPTED]),
            (403, &HeaderValue::from_static(REMOTE))
        );
        offer.append(STREAM_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
        let (answer, protocol) = negotiate(&offer, Purpose::Remote).unwrap().unwrap();
        assert_eq!(
            (answer.headers()[&STREAM_PROTOCOL].as_bytes(), protocol),
            (REMOTE.as_bytes(), Protocol::Spdy)
        );
    }

    #[test]
    fn what_is_no_upgrade_or_none_that_is_spoken_is_said() {
        let refused = |headers: &HeaderMap| negotiate(headers, Purpose::Remote).unwrap_err().message;
        assert_eq!(refused(&HeaderMap::new()), "Upgrade request required");
        assert_eq!(refused(&headers(&[("upgrade", "h2c")])), "Upgrade request required");
        assert!(refused(&headers(&[("upgrade", "websocket")])).contains("version 13"));
        let refusal = negotiate(&socket("chat"), Purpose::Remote).unwrap().unwrap_err();
        assert_eq!(refusal.status().as_u16(), 400);
    }

    #[test]
    fn ports_are_forwarded_by_spdy_alone_or_in_a_web_socket() {
        let (answer, protocol) = negotiate(&socket(TUNNEL), Purpose::Forward).unwrap().unwrap();
        assert_eq!(
            (answer.headers()["sec-websocket-protocol"].as_bytes(), protocol),
            (TUNNEL.as_bytes(), Protocol::Tunnel)
        );
        let plain = headers(&[("upgrade", "spdy/3.1"), ("x-stream-protocol-version", FORWARD)]);
        assert_eq!(negotiate(&plain, Purpose::Forward).unwrap().unwrap().1, Protocol::Spdy);
        let (answer, protocol) =
            negotiate(&socket("v5.channel.k8s.io, v4.channel.k8s.io"), Purpose::Forward).unwrap().unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v4.channel.k8s.io");
        assert_eq!(protocol, Protocol::Channels(Coding { base64: false, status: true }));
        let refusal = negotiate(&socket("v5.channel.k8s.io"), Purpose::Forward).unwrap().unwrap_err();
        assert_eq!(refusal.status().as_u16(), 400);
    }
}
