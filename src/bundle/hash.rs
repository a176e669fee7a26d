//! Hashing while reading or writing, so that no byte is read twice.

use crate::digest::Digest;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};

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

/// A writer that hashes what passes through it.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
        }
    }

    /// The wrapped writer, and the digest and number of the bytes written to it.
    pub fn finish(self) -> (W, Digest, u64) {
        let (digest, length) = self.hasher.finish();
        (self.inner, digest, length)
    }

    /// Number of bytes written so far.
    pub fn length(&self) -> u64 {
        self.hasher.length()
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_hashes_exactly_what_was_written() {
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"coffer").unwrap();
        writer.write_all(b"dam").unwrap();
        let (inner, digest, length) = writer.finish();
        assert_eq!((inner.as_slice(), length), (b"cofferdam".as_slice(), 9));
        assert_eq!(digest, Digest::of("cofferdam"));
    }
}
