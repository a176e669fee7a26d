//! Reading one blob: positioned reads, so that many can go on at once, and the
//! digest checked before the last bytes are handed out.

use crate::bundle::hash::Hasher;
use crate::digest::Digest;
use fs_err::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Reads a blob front to back. The read that would hand out its last bytes checks
/// the digest first, and fails with [`io::ErrorKind::InvalidData`] if it is wrong:
/// who has read everything has read the right bytes.
pub struct BlobReader {
    file: Arc<File>,
    offset: u64,
    remaining: u64,
    expected: Digest,
    hasher: Option<Hasher>,
}

impl BlobReader {
    pub(super) fn new(file: Arc<File>, offset: u64, size: u64, expected: Digest) -> Self {
        Self {
            file,
            offset,
            remaining: size,
            expected,
            hasher: Some(Hasher::default()),
        }
    }

    /// Bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.remaining.min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..wanted];
        if wanted > 0 {
            let read = self.file.file().read_at(buffer, self.offset)?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!(
                        "the bundle became shorter while blob {} was read",
                        self.expected
                    ),
                ));
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..read]);
            }
            self.offset += read as u64;
            self.remaining -= read as u64;
            if self.remaining > 0 {
                return Ok(read);
            }
            self.check()?;
            return Ok(read);
        }
        if self.remaining == 0 {
            self.check()?;
        }
        Ok(0)
    }
}

impl BlobReader {
    fn check(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let (found, _) = hasher.finish();
        if found == self.expected {
            return Ok(());
        }
        // A caller that reads on after the error must not take the end for success.
        self.hasher = Some(Hasher::default());
        let message = format!("its content has digest {found}, not {}", self.expected);
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}
