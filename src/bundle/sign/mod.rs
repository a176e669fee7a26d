//! Signatures in minisign's format: keys, signing, verifying.
//!
//! The secret keys are read by the `minisign` crate, but signatures are made here:
//! the crate mixes random bytes into each, and the same bundle must always get the
//! same bytes. Signatures made here are plain RFC 8032 Ed25519, as the standard
//! tool makes them.

mod secret;
mod signature;

pub use crate::trusted_key::{KeyId, TrustedKey};
pub use secret::{KeyPairPaths, Password, SigningKey, generate_key_pair};
pub use signature::{Signature, SignatureProblem};

/// What minisign signs in place of the content: its BLAKE2b-512 hash.
fn prehash(content: &[u8]) -> [u8; 64] {
    use blake2::Digest as _;
    blake2::Blake2b512::digest(content).into()
}

#[cfg(test)]
mod tests;
