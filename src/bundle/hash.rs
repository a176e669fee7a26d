//! Hashing while reading or writing, so that no byte is read twice.

use crate::digest::Digest;
use sha2::{Digest as _, Sha256};

/// Size of the buffers that blobs are moved with: large enough that system calls
/// do not count beside hashing, small enough for a second-level cache.
pub const COPY_BUFFER_BYTES: usize = 256 * 1024;

/// A sha256 in progress, which also counts.
#[derive(Clone, Default)]
pub struct Hasher {
    sha256: Sha256,
    length: u64,
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Number of bytes taken so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all bytes taken, and their number.
    pub fn finish(self) -> (Digest, u64) {
        (
            Digest::from_bytes(self.sha256.finalize().into()),
            self.length,
        )
    }
}
