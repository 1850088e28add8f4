//! A key that signs what this cluster says of itself: kept in the pki folder, its public half shown to whoever checks.
//!
//! In: bytes. Out: ES256 signatures (ECDSA over P-256 with SHA-256, both numbers one after the other), as JSON Web Signatures
//! have them.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData as _};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::files::{read_if_present, write_atomic};

/// A signing key. `Debug` shows its id alone.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// SHA-256 of the public key as DER: what its id is made of.
    id: [u8; 32],
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads `<folder>/<name>.key`, or makes it at the first start. What another key signed is not known afterwards: several
    /// control planes of one cluster are given the same file.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that holds no P-256 key.
    pub fn load_or_create(folder: &Path, name: &str) -> Result<Self, Error> {
        let path = folder.join(format!("{name}.key"));
        if let Some(pem) = read_if_present(&path)? {
            return Self::from_pem(&pem).map_err(|e| Error::certificate(path.display().to_string(), e));
        }
        let pair = KeyPair::generate().map_err(|e| Error::certificate("a signing key", e))?;
        let pem = pair.serialize_pem();
        write_atomic(&path, pem.as_bytes(), 0o600)?;
        Self::from_pem(&pem)
    }

    /// The key out of its PKCS#8 text.
    ///
    /// # Errors
    /// Text that does not parse, or a key that is not of P-256.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let bad = |e: &dyn std::fmt::Display| Error::certificate("a signing key", e);
        let key = KeyPair::from_pem(pem).map_err(|e| bad(&e))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
            .map_err(|e| bad(&e))?;
        Ok(Self { pair, random, id: Sha256::digest(key.subject_public_key_info()).into() })
    }

    /// What tells this key from others.
    #[must_use]
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// The coordinates of the public key, 32 bytes each.
    #[must_use]
    pub fn coordinates(&self) -> (&[u8], &[u8]) {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref().get(1..).unwrap_or_default();
        point.split_at(point.len() / 2)
    }

    /// The signature of a message.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(&self.random, message);
        signature.map(|s| s.as_ref().to_vec()).map_err(|e| Error::certificate("a signature", e))
    }

    /// Whether this key signed the message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_key_knows_what_it_signed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let made = Signer::load_or_create(folder.path(), "sa").unwrap();
        let signature = made.sign(b"message").unwrap();
        let read = Signer::load_or_create(folder.path(), "sa").unwrap();
        assert_eq!((made.id(), made.coordinates()), (read.id(), read.coordinates()));
        assert!(read.verifies(b"message", &signature));
        assert!(!read.verifies(b"massage", &signature));
        assert!(!read.verifies(b"message", &signature[1..]));
        let other = Signer::load_or_create(folder.path(), "other").unwrap();
        assert!(!other.verifies(b"message", &signature));
        assert_eq!(made.coordinates().0.len(), 32);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sa.key"), "nothing").unwrap();
        let error = Signer::load_or_create(folder.path(), "sa").unwrap_err().to_string();
        assert!(error.contains("sa.key"), "{error}");
    }
}
