//! A snapshot of etcd in a file here: whether it is whole, and its bytes for
//! hosts.

use super::fault::{Exit, Fault};
use crate::digest::Digest;
use crate::execute::BlobSource;
use crate::host::Body;
use crate::host::frame::BODY_PIECE;
use bytes::{Bytes, BytesMut};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use std::sync::Arc;

/// bbolt's pages are multiples of this; what is left over is a hash.
const PAGE: u64 = 512;
/// The hash of all before it with which `etcdctl snapshot save` ends a file.
const HASH: u64 = 32;

/// A file that was read whole once.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFile {
    pub(super) path: Utf8PathBuf,
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
}

impl SnapshotFile {
    /// Reads all of it.
    ///
    /// # Errors
    /// If it can't be read, or does not end with its own hash.
    pub(super) fn read(path: &Utf8Path) -> Result<Self, Fault> {
        let refuse = |why: &str| {
            Fault::new(
                Exit::Input,
                format!("{path} is no whole snapshot of etcd: {why}"),
            )
            .file(path)
            .hint("take a copy that is whole; `cofferdam etcd snapshots` shows what hosts keep")
        };
        let mut file = fs::File::open(path).map_err(|error| Fault::input(error).file(path))?;
        let size = file.metadata().map_err(Fault::input)?.len();
        if size <= HASH || size % PAGE != HASH {
            return Err(refuse("it does not end with a hash"));
        }
        let (mut database, mut all) = (Sha256::new(), Sha256::new());
        let mut left = size - HASH;
        let mut piece = vec![0; BODY_PIECE];
        while left > 0 {
            let wanted = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            let length = file.read(&mut piece[..wanted]).map_err(Fault::input)?;
            if length == 0 {
                return Err(refuse("it became shorter while it was read"));
            }
            database.update(&piece[..length]);
            all.update(&piece[..length]);
            left -= length as u64;
        }
        let mut hash = Vec::new();
        file.read_to_end(&mut hash).map_err(Fault::input)?;
        if hash != database.finalize().as_slice() {
            return Err(refuse("its hash is not that of its bytes"));
        }
        all.update(&hash);
        let digest = Digest::from_bytes(all.finalize().into());
        Ok(Self {
            path: path.to_owned(),
            digest,
            size,
        })
    }
}

/// The bytes of a bundle and those of a snapshot.
pub(super) struct WithSnapshot {
    pub(super) bundle: Arc<dyn BlobSource>,
    pub(super) snapshot: SnapshotFile,
}

impl BlobSource for WithSnapshot {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Body>> {
        if *digest != self.snapshot.digest {
            return self.bundle.open(digest);
        }
        let file = fs::File::open(&self.snapshot.path)?;
        Ok(Box::new(FileBody {
            file,
            left: self.snapshot.size,
            hasher: Sha256::new(),
            digest: *digest,
        }))
    }
}

impl FileBody {
    fn changed(&self) -> io::Error {
        let path = self.file.path().display();
        let message = format!("{path} is not what it was a moment ago");
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

/// A file's bytes, which end with an error unless they are those that were read
/// before.
struct FileBody {
    file: fs::File,
    left: u64,
    hasher: Sha256,
    digest: Digest,
}

impl Body for FileBody {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).map_or(BODY_PIECE, |left| left.min(BODY_PIECE));
        let mut piece = BytesMut::zeroed(wanted);
        let length = self.file.read(&mut piece)?;
        piece.truncate(length);
        if length == 0 {
            return Err(self.changed());
        }
        self.left -= length as u64;
        self.hasher.update(&piece);
        let is_right = || Digest::from_bytes(self.hasher.clone().finalize().into()) == self.digest;
        if self.left == 0 && !is_right() {
            return Err(self.changed());
        }
        Ok(Some(piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl BlobSource for Nothing {
        fn open(&self, _: &Digest) -> io::Result<Box<dyn Body>> {
            Err(io::Error::other("nothing"))
        }
    }

    fn file(directory: &tempfile::TempDir, bytes: &[u8]) -> Utf8PathBuf {
        let path = Utf8PathBuf::try_from(directory.path().join("snapshot.db")).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn whole() -> Vec<u8> {
        let mut bytes = vec![7; 2048];
        let hash = Sha256::digest(&bytes);
        bytes.extend(hash);
        bytes
    }

    fn read_all(body: &mut dyn Body) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = body.next()? {
            all.extend(piece);
        }
        Ok(all)
    }

    #[test]
    fn only_a_whole_one_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let read = SnapshotFile::read(&file(&directory, &whole())).unwrap();
        assert_eq!((read.size, read.digest), (2080, Digest::of(whole())));
        let mut changed = whole();
        changed[5] = 8;
        for (bytes, why) in [
            (changed, "its hash is not that of its bytes"),
            (whole()[..2048].to_vec(), "it does not end with a hash"),
            (whole()[..1000].to_vec(), "it does not end with a hash"),
            (Vec::new(), "it does not end with a hash"),
        ] {
            let fault = SnapshotFile::read(&file(&directory, &bytes)).unwrap_err();
            assert!(fault.failures[0].message.ends_with(why), "{fault:?}");
            assert_eq!(fault.exit, Exit::Input);
        }
        let nowhere = Utf8Path::new("/nowhere/snapshot.db");
        assert_eq!(SnapshotFile::read(nowhere).unwrap_err().exit, Exit::Input);
    }

    #[test]
    fn what_is_sent_is_what_was_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, &whole());
        let snapshot = SnapshotFile::read(&path).unwrap();
        let digest = snapshot.digest;
        let source = WithSnapshot {
            bundle: Arc::new(Nothing),
            snapshot,
        };
        let mut body = source.open(&digest).unwrap();
        assert_eq!(read_all(body.as_mut()).unwrap(), whole());
        assert!(source.open(&Digest::of("other")).is_err());
        let mut changed = whole();
        changed[5] = 8;
        for bytes in [changed, whole()[..1000].to_vec()] {
            fs::write(&path, bytes).unwrap();
            let mut body = source.open(&digest).unwrap();
            let error = read_all(body.as_mut()).unwrap_err().to_string();
            assert!(error.contains("snapshot.db is not what it was"), "{error}");
        }
    }
}
