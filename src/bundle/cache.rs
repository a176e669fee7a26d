//! The cache of downloads and of what was computed from them.
//!
//! `blobs/sha256/<hex>` holds content under its digest: a file is complete if it is
//! there at all, since it gets its name after its digest was checked. `partial/`
//! holds what came of downloads that were cut off, under the digest they are to have.
//! `records/` holds small facts about content that are expensive to find out again.

use super::hash::{COPY_BUFFER_BYTES, Hasher};
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// A directory of blobs and records. Several processes may use one at once.
#[derive(Debug, Clone)]
pub struct Cache {
    root: Arc<Utf8Path>,
}

/// A kind of records. The name changes with whatever their values depend on beside
/// the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordKind(pub String);

impl Cache {
    /// Opens the cache in a directory and makes that if it is missing.
    pub fn open(root: &Utf8Path) -> Result<Self> {
        // Programs are run out of it, in another directory.
        let root = camino::absolute_utf8(root).context("finding the cache")?;
        for directory in ["blobs/sha256", "partial", "records", "temporary"] {
            fs::create_dir_all(root.join(directory)).context("making the cache")?;
        }
        Ok(Self {
            root: Arc::from(root.as_path()),
        })
    }

    /// Where the user's cache is: `$XDG_CACHE_HOME/cofferdam/bundle`, or
    /// `~/.cache/cofferdam/bundle`.
    pub fn default_directory() -> Result<Utf8PathBuf> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let base = variable("XDG_CACHE_HOME").map(Utf8PathBuf::from);
        let home = || variable("HOME").map(|home| Utf8PathBuf::from(home).join(".cache"));
        let base = base.or_else(home);
        let base = base.context("finding the cache: HOME is not set; pass --cache")?;
        Ok(base.join("cofferdam/bundle"))
    }

    /// The directory.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Where a blob lies, or would.
    pub fn blob_path(&self, digest: &Digest) -> Utf8PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Size in bytes of a blob, if it is there.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest))
            .ok()
            .map(|metadata| metadata.len())
    }

    /// Whether a blob is there with this size.
    pub fn holds(&self, digest: &Digest, size: u64) -> bool {
        self.blob_size(digest) == Some(size)
    }

    /// Reads a small blob and checks its digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let content = fs::read(&path)?;
        if Digest::of(&content) != *digest {
            self.remove(digest)?;
            bail!("cached blob {path} was damaged and is removed now; run the same command again");
        }
        Ok(content)
    }

    /// Forgets a blob.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        Ok(fs::remove_file(self.blob_path(digest))?)
    }

    /// Starts a new blob.
    pub fn writer(&self) -> Result<BlobWriter> {
        let temporary = tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(self.root.join("temporary"))
            .with_context(|| format!("making a temporary file in cache {}", self.root))?;
        Ok(BlobWriter {
            cache: self.clone(),
            target: Target::Temporary(temporary),
            hasher: Hasher::default(),
        })
    }

    /// Goes on with a blob of this digest where an earlier attempt was cut off, or
    /// begins it; what is written stays if this one is cut off too. While another
    /// process writes the same, it is begun for itself.
    pub fn resume(&self, digest: &Digest) -> Result<BlobWriter> {
        let path = self.root.join("partial").join(digest.hex());
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if file.file().try_lock().is_err() {
            return self.writer();
        }
        // It may have been finished between the opening and the lock, and begun anew.
        let (mine, named) = (file.metadata()?, fs::metadata(&path).ok());
        let inode = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
        if named.as_ref().map(inode) != Some(inode(&mine)) {
            return self.writer();
        }
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        Ok(BlobWriter {
            cache: self.clone(),
            target: Target::Partial { file, path },
            hasher,
        })
    }

    /// Stores content from memory.
    pub fn put(&self, content: &[u8]) -> Result<Digest> {
        let mut writer = self.writer()?;
        writer.write_all(content)?;
        Ok(writer.commit()?.0)
    }

    /// A directory below the cache for files that must not have a name elsewhere. It
    /// is removed when the value goes.
    pub fn temporary_directory(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(self.root.join("temporary"))
            .with_context(|| format!("making a temporary directory in cache {}", self.root))
    }

    /// A recorded fact about content. A record that can't be read counts as missing.
    pub fn record<T: DeserializeOwned>(&self, kind: &RecordKind, digest: &Digest) -> Option<T> {
        let text = fs::read(self.record_path(kind, digest)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Records a fact about content.
    pub fn put_record<T: Serialize>(
        &self,
        kind: &RecordKind,
        digest: &Digest,
        value: &T,
    ) -> Result<()> {
        let mut temporary = NamedTempFile::new_in(self.root.join("temporary"))?;
        serde_json::to_writer(&mut temporary, value)?;
        temporary
            .persist(self.record_path(kind, digest))
            .with_context(|| format!("writing a record to cache {}", self.root))?;
        Ok(())
    }

    fn record_path(&self, kind: &RecordKind, digest: &Digest) -> Utf8PathBuf {
        self.root
            .join("records")
            .join(format!("{}-{}.json", kind.0, digest.hex()))
    }
}

/// A blob that is being written. Dropping it leaves nothing behind, but for one that
/// [`Cache::resume`] gave.
pub struct BlobWriter {
    cache: Cache,
    target: Target,
    hasher: Hasher,
}

enum Target {
    Temporary(NamedTempFile),
    Partial { file: fs::File, path: Utf8PathBuf },
}

impl BlobWriter {
    /// Bytes written so far, by earlier attempts too.
    pub fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// Begins anew.
    pub fn restart(&mut self) -> io::Result<()> {
        self.hasher = Hasher::default();
        let file = match &mut self.target {
            Target::Temporary(temporary) => temporary.as_file_mut(),
            Target::Partial { file, .. } => file.file_mut(),
        };
        file.set_len(0)?;
        file.rewind()
    }

    /// Finishes the blob under whatever digest it has.
    pub fn commit(self) -> Result<(Digest, u64)> {
        let (digest, length) = self.hasher.finish();
        let path = self.cache.blob_path(&digest);
        self.target
            .persist(&path)
            .with_context(|| format!("storing {path}"))?;
        Ok((digest, length))
    }

    /// Finishes the blob if it has the expected digest. Of another one nothing stays.
    pub fn commit_as(self, expected: &Digest) -> Result<u64, WrongDigest> {
        let (digest, length) = self.hasher.finish();
        if digest != *expected {
            if let Target::Partial { path, .. } = &self.target {
                fs::remove_file(path).map_err(WrongDigest::Store)?;
            }
            return Err(WrongDigest::Differs {
                expected: *expected,
                found: digest,
                length,
            });
        }
        let path = self.cache.blob_path(&digest);
        self.target.persist(&path).map_err(WrongDigest::Store)?;
        Ok(length)
    }
}

impl Target {
    fn persist(self, to: &Utf8Path) -> io::Result<()> {
        match self {
            Self::Temporary(temporary) => {
                temporary.persist(to).map_err(|error| error.error)?;
                Ok(())
            }
            // The lock is held until it has its name.
            Self::Partial { file: _file, path } => fs::rename(path, to),
        }
    }
}

/// Why a blob did not get into the cache.
#[derive(Debug, thiserror::Error)]
pub enum WrongDigest {
    #[error("its content ({length} bytes) has digest {found}, but {expected} is expected")]
    Differs {
        expected: Digest,
        found: Digest,
        length: u64,
    },
    #[error("storing it in the cache")]
    Store(#[source] io::Error),
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.target {
            Target::Temporary(temporary) => temporary.write(bytes)?,
            Target::Partial { file, .. } => file.write(bytes)?,
        };
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Temporary(temporary) => temporary.flush(),
            Target::Partial { file, .. } => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::TestDirectory;

    #[test]
    fn blobs_appear_only_when_committed_and_right() {
        let directory = TestDirectory::new();
        let cache = Cache::open(&directory.path).unwrap();
        let digest = Digest::of("content");
        let mut writer = cache.writer().unwrap();
        writer.write_all(b"content").unwrap();
        assert!(!cache.holds(&digest, 7));
        drop(writer);
        let mut writer = cache.writer().unwrap();
        writer.write_all(b"Content").unwrap();
        assert!(matches!(
            writer.commit_as(&digest),
            Err(WrongDigest::Differs { .. })
        ));
        assert!(!cache.holds(&digest, 7));
        cache.put(b"content").unwrap();
        assert!(cache.holds(&digest, 7));
        assert_eq!(cache.read(&digest).unwrap(), b"content");
        let left = directory
            .path
            .join("temporary")
            .read_dir_utf8()
            .unwrap()
            .count();
        assert_eq!(left, 0);
    }

    #[test]
    fn what_was_cut_off_is_gone_on_with() {
        let directory = TestDirectory::new();
        let cache = Cache::open(&directory.path).unwrap();
        let digest = Digest::of("content");
        let mut writer = cache.resume(&digest).unwrap();
        writer.write_all(b"con").unwrap();
        // Another that writes the same begins for itself, and leaves nothing.
        assert_eq!(cache.resume(&digest).unwrap().length(), 0);
        drop(writer);
        let mut writer = cache.resume(&digest).unwrap();
        assert_eq!(writer.length(), 3);
        writer.write_all(b"tent").unwrap();
        assert_eq!(writer.commit_as(&digest).unwrap(), 7);
        assert_eq!(cache.read(&digest).unwrap(), b"content");
        // What turned out wrong is not gone on with.
        let other = Digest::of("other");
        let mut writer = cache.resume(&other).unwrap();
        writer.write_all(b"wrong").unwrap();
        assert!(writer.commit_as(&other).is_err());
        let mut writer = cache.resume(&other).unwrap();
        assert_eq!(writer.length(), 0);
        writer.write_all(b"wrong").unwrap();
        writer.restart().unwrap();
        writer.write_all(b"other").unwrap();
        assert_eq!(writer.commit_as(&other).unwrap(), 5);
        assert_eq!(
            directory
                .path
                .join("partial")
                .read_dir_utf8()
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn a_damaged_blob_is_removed() {
        let directory = TestDirectory::new();
        let cache = Cache::open(&directory.path).unwrap();
        let digest = cache.put(b"content").unwrap();
        fs::write(cache.blob_path(&digest), "damaged").unwrap();
        assert!(
            cache
                .read(&digest)
                .unwrap_err()
                .to_string()
                .contains("run the same command")
        );
        assert_eq!(cache.blob_size(&digest), None);
    }

    #[test]
    fn records_round_trip_and_damage_counts_as_missing() {
        let directory = TestDirectory::new();
        let cache = Cache::open(&directory.path).unwrap();
        let (kind, digest) = (&RecordKind("flags".to_owned()), Digest::of("x"));
        assert_eq!(cache.record::<Vec<u32>>(kind, &digest), None);
        cache.put_record(kind, &digest, &vec![1, 2]).unwrap();
        assert_eq!(cache.record::<Vec<u32>>(kind, &digest), Some(vec![1, 2]));
        assert_eq!(cache.record::<Vec<String>>(kind, &digest), None);
    }
}
