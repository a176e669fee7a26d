//! Signatures in minisign's format: keys, signing, verifying.
//!
//! The secret keys are read by the `minisign` crate, but signatures are made here:
//! the crate mixes random bytes into each, and the same bundle must always get the
//! same bytes. Signatures made here are plain RFC 8032 Ed25519, as the standard
//! tool makes them.

mod secret;
mod signature;
mod trusted;

pub use secret::{KeyPairPaths, Password, SigningKey, generate_key_pair};
pub use signature::{Signature, SignatureProblem};
pub use trusted::TrustedKey;

/// A minisign key's 8-byte number. Displays as the tool shows it: 16 upper-case hex
/// digits of the number read as little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl serde::Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What minisign signs in place of the content: its BLAKE2b-512 hash.
fn prehash(content: &[u8]) -> [u8; 64] {
    use blake2::Digest as _;
    blake2::Blake2b512::digest(content).into()
}

#[cfg(test)]
mod tests;
