//! The compact form of a JSON Web Signature (RFC 7515), ES256 alone: three parts in base64url, dots between them.
//!
//! The signature is checked before anything of the payload is looked at, and the header chooses nothing: it must name our
//! algorithm and our key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oarlock_daemon::pki::Signer;
use serde::Deserialize;
use serde_json::json;

pub(super) const ALGORITHM: &str = "ES256";

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// Extensions that a reader must understand: we understand none.
    crit: Option<serde_json::Value>,
}

/// A payload, signed.
pub(super) fn sign(signer: &Signer, key_id: &str, payload: &[u8]) -> Result<String, String> {
    let header = json!({"alg": ALGORITHM, "kid": key_id}).to_string();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = signer.sign(message.as_bytes()).map_err(|e| e.to_string())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The payload of what this key signed.
pub(super) fn verified(signer: &Signer, key_id: &str, token: &str) -> Option<Vec<u8>> {
    let (message, signature) = token.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    if header.alg != ALGORITHM || header.kid != key_id || header.crit.is_some() {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !signer.verifies(message.as_bytes(), &signature) {
        return None;
    }
    URL_SAFE_NO_PAD.decode(payload).ok()
}
