//! Asks a daemon on this host over plain HTTP: one request, one answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The body of the answer.
pub(super) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let asked = tokio::time::timeout(PATIENCE, exchange(address, path)).await;
    let answer = asked.with_context(|| format!("{address} does not answer"))?.with_context(|| {
        format!("cannot ask the agent at {address}: is it running, and in this network namespace (--agent)?")
    })?;
    body(&answer).map_err(|why| anyhow::anyhow!("the agent at {address} refuses to answer {path}: {why}"))
}

async fn exchange(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // With 1.0 the connection ends after the answer, which comes in one piece.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// What comes after the head of an answer that says 200; else why it does not.
fn body(answer: &str) -> Result<String, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it hung up")?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("{} ({status})", body.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_is_whole_and_well_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap(), "{}");
        let refused = body("HTTP/1.0 503 Service Unavailable\r\n\r\nnot yet\n").unwrap_err();
        assert_eq!(refused, "not yet (HTTP/1.0 503 Service Unavailable)");
        assert!(body("").is_err() && body("HTTP/1.0 200 OK\r\n").is_err());
    }
}
