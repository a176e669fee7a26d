//! Writes the tar, hashing every blob on its way, so that nothing wrong that crept
//! into the cache gets into a bundle.

use super::assemble::{BlobSource, Layout};
use super::shape::PlannedFile;
use crate::bundle::hash::{COPY_BUFFER_BYTES, Hasher};
use crate::bundle::part::{PART_NAME, Part};
use crate::bundle::progress::Progress;
use crate::bundle::reader::BundleError;
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
    #[error("reading {path}")]
    Read {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Bundle(BundleError),
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    pub path: Utf8PathBuf,
    /// In bytes.
    pub size: u64,
    /// Digest of the file as a whole, where it is one of several.
    pub digest: Option<Digest>,
}

/// Writes a bundle's files to temporary ones beside them and renames those, so that
/// what lies under a name is always whole. They are not synced to disk: a bundle
/// that lost bytes in a power cut is found out by its digests.
///
/// # Errors
/// When a file can't be written, or a cached blob is not what its name says; then
/// nothing is left of them.
pub fn write_files(
    files: &[PlannedFile],
    layout: &Layout,
    signatures: &[String],
    progress: &dyn Progress,
) -> Result<Vec<WrittenFile>, ArchiveError> {
    let mut written = Vec::new();
    let hashes = files.len() > 1;
    for file in files {
        written.push(write_file(file, layout, signatures, (hashes, progress))?);
    }
    let renamed = written.into_iter().map(|(temporary, written)| {
        temporary
            .persist(&written.path)
            .map_err(|error| ArchiveError::Write {
                path: written.path.clone(),
                source: error.error,
            })?;
        Ok(written)
    });
    renamed.collect()
}

fn write_file(
    file: &PlannedFile,
    layout: &Layout,
    signatures: &[String],
    (hashes, progress): (bool, &dyn Progress),
) -> Result<(tempfile::NamedTempFile, WrittenFile), ArchiveError> {
    let path = file.path.as_path();
    let failed = |source| ArchiveError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    };
    fs_err::create_dir_all(directory).map_err(failed)?;
    let temporary = tempfile::Builder::new()
        .prefix(".cofferdam-bundle-")
        .tempfile_in(directory)
        .map_err(failed)?;
    let mut writer = Writer {
        output: temporary.as_file(),
        path,
        written: 0,
        total: file.size,
        hasher: hashes.then(Hasher::default),
        buffer: vec![0; COPY_BUFFER_BYTES],
        progress,
    };
    let label = file.label.as_ref().map(Part::render);
    let fixed = [
        (
            tar_format::OCI_LAYOUT_NAME,
            tar_format::OCI_LAYOUT_CONTENT.as_bytes(),
        ),
        (tar_format::INDEX_NAME, layout.index.as_slice()),
    ];
    for (name, content) in fixed {
        writer.memory(name, content).map_err(failed)?;
    }
    for (signature, number) in signatures.iter().zip(1..) {
        let name = tar_format::signature_name(number);
        writer.memory(&name, signature.as_bytes()).map_err(failed)?;
    }
    if let Some(label) = label {
        writer.memory(PART_NAME, &label).map_err(failed)?;
    }
    for digest in &file.blobs {
        // The plan names blobs of the layout alone.
        let Some((size, source)) = layout.blobs.get(digest) else {
            continue;
        };
        match source {
            BlobSource::Memory(content) => {
                writer
                    .memory(&tar_format::blob_name(digest), content)
                    .map_err(failed)?;
            }
            BlobSource::File(path) => {
                let read = |source| ArchiveError::Read {
                    path: path.clone(),
                    source,
                };
                let file = File::open(path).map_err(read)?;
                writer.stream(digest, *size, path, file)?;
            }
            BlobSource::Bundle(bundle) => {
                let reader = bundle.blob(digest).map_err(ArchiveError::Bundle)?;
                let part = bundle.part_of(digest);
                let path = part.as_deref().unwrap_or(bundle.path());
                writer.stream(digest, *size, path, reader)?;
            }
        }
    }
    writer
        .write(&[0; tar_format::TRAILER_BYTES as usize])
        .map_err(failed)?;
    let size = writer.written;
    let digest = writer.hasher.map(|hasher| hasher.finish().0);
    progress.advance(STAGE, path.as_str(), size, Some(size));

    // Temporary files are private; a bundle is public, so it follows neither that
    // nor the umask.
    let permissions = std::fs::Permissions::from_mode(0o644);
    temporary
        .as_file()
        .set_permissions(permissions)
        .map_err(failed)?;
    let path = path.to_owned();
    Ok((temporary, WrittenFile { path, size, digest }))
}

struct Writer<'a> {
    output: &'a std::fs::File,
    path: &'a Utf8Path,
    written: u64,
    total: u64,
    hasher: Option<Hasher>,
    buffer: Vec<u8>,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
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

    fn stream(
        &mut self,
        digest: &Digest,
        size: u64,
        path: &Utf8Path,
        mut file: impl Read,
    ) -> Result<(), ArchiveError> {
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
