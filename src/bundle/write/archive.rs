//! Writes the tar, hashing every blob on its way, so that nothing wrong that crept
//! into the cache gets into a bundle.

use super::assemble::{BlobSource, Layout};
use crate::bundle::hash::{COPY_BUFFER_BYTES, Hasher};
use crate::bundle::progress::Progress;
use crate::bundle::tar_format;
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;

/// Name of the stage that progress is reported under.
const STAGE: &str = "write";

/// Why a bundle could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("writing bundle {path}")]
    Write {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error(
        "cached blob {path} is damaged: it has digest {found} and {size} bytes; it must be \
         removed and fetched again"
    )]
    DamagedCache {
        path: Utf8PathBuf,
        expected: Digest,
        found: Digest,
        size: u64,
    },
    #[error("reading cached blob {path}")]
    Read {
        path: Utf8PathBuf,
        source: io::Error,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenArchive {
    /// Size of the file in bytes.
    pub size: u64,
}

/// Size in bytes that a bundle will have.
pub fn archive_bytes(layout: &Layout, signature: Option<&str>) -> u64 {
    let blobs = layout
        .blobs
        .values()
        .map(|(size, _)| tar_format::entry_bytes(*size));
    let signature = signature.map_or(0, |text| tar_format::entry_bytes(text.len() as u64));
    tar_format::entry_bytes(tar_format::OCI_LAYOUT_CONTENT.len() as u64)
        + tar_format::entry_bytes(layout.index.len() as u64)
        + signature
        + blobs.sum::<u64>()
        + tar_format::TRAILER_BYTES
}

/// Writes a bundle to a temporary file beside `path` and renames it, so that a file
/// under that name is always whole. It is not synced to disk: a bundle that lost
/// bytes in a power cut is found out by its digests.
pub fn write_archive(
    path: &Utf8Path,
    layout: &Layout,
    signature: Option<&str>,
    progress: &dyn Progress,
) -> Result<WrittenArchive, ArchiveError> {
    let failed = |source| ArchiveError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".cofferdam-bundle-")
        .tempfile_in(directory)
        .map_err(failed)?;
    let total = archive_bytes(layout, signature);
    let mut writer = Writer {
        output: temporary.as_file(),
        path,
        written: 0,
        total,
        buffer: vec![0; COPY_BUFFER_BYTES],
        progress,
    };
    let fixed = [
        (
            tar_format::OCI_LAYOUT_NAME,
            Some(tar_format::OCI_LAYOUT_CONTENT.as_bytes()),
        ),
        (tar_format::INDEX_NAME, Some(layout.index.as_slice())),
        (tar_format::SIGNATURE_NAME, signature.map(str::as_bytes)),
    ];
    for (name, content) in fixed {
        if let Some(content) = content {
            writer.memory(name, content).map_err(failed)?;
        }
    }
    for (digest, (size, source)) in &layout.blobs {
        match source {
            BlobSource::Memory(content) => {
                writer
                    .memory(&tar_format::blob_name(digest), content)
                    .map_err(failed)?;
            }
            BlobSource::File(path) => writer.file(digest, *size, path)?,
        }
    }
    writer
        .write(&[0; tar_format::TRAILER_BYTES as usize])
        .map_err(failed)?;
    let size = writer.written;
    progress.advance(STAGE, path.as_str(), size, Some(size));

    // Temporary files are private; a bundle is public, so it follows neither that
    // nor the umask.
    let permissions = std::fs::Permissions::from_mode(0o644);
    temporary
        .as_file()
        .set_permissions(permissions)
        .map_err(failed)?;
    temporary
        .persist(path)
        .map_err(|error| failed(error.error))?;
    Ok(WrittenArchive { size })
}

struct Writer<'a> {
    output: &'a std::fs::File,
    path: &'a Utf8Path,
    written: u64,
    total: u64,
    buffer: Vec<u8>,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let header = tar_format::header(name, size)?;
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        const ZEROS: [u8; tar_format::BLOCK_BYTES as usize] = [0; _];
        self.write(&ZEROS[..tar_format::padding(size) as usize])
    }

    fn memory(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.header(name, content.len() as u64)?;
        self.write(content)?;
        self.pad(content.len() as u64)
    }

    fn file(&mut self, digest: &Digest, size: u64, path: &Utf8Path) -> Result<(), ArchiveError> {
        let bundle = self.path;
        let failed = |source| ArchiveError::Write {
            path: bundle.to_owned(),
            source,
        };
        let unreadable = |source| ArchiveError::Read {
            path: path.to_owned(),
            source,
        };
        self.header(&tar_format::blob_name(digest), size)
            .map_err(failed)?;
        let mut file = File::open(path).map_err(unreadable)?;
        let mut hasher = Hasher::default();
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let read = file.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            self.write(&buffer[..read]).map_err(failed)?;
            self.progress
                .advance(STAGE, bundle.as_str(), self.written, Some(self.total));
        }
        self.buffer = buffer;
        let (found, length) = hasher.finish();
        if found != *digest || length != size {
            return Err(ArchiveError::DamagedCache {
                path: path.to_owned(),
                expected: *digest,
                found,
                size: length,
            });
        }
        self.pad(size).map_err(failed)
    }
}
