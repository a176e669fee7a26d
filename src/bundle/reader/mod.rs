//! Reading bundles: the signature first, then what the index reaches, in place.
//!
//! Nothing is unpacked and nothing is written, so a bundle can lie on read-only
//! media. The file stays open: blobs are read with positioned reads.

mod blob;
mod contents;
mod error;
mod front;
mod scan;
mod walk;

pub use blob::BlobReader;
pub use contents::{Contents, FileArtifact, Image, ImageArtifact, ManifestArtifact, PlatformImage};
pub use error::{BundleError, Damage};

use super::oci::Index;
use super::platform::Platform;
use super::sign::{Signature, TrustedKey};
use super::tar_format;
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use front::{Trust, check_signature, check_start, fixed_entry, not_a_bundle};
use fs_err::File;
use scan::{Location, Scanner};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Deref;
use std::sync::Arc;
use walk::{Reached, Walk};

/// `index.json` larger than this is refused: it has about 500 bytes per artifact.
const INDEX_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// A signature has some 300 bytes.
const SIGNATURE_LIMIT_BYTES: u64 = 16 * 1024;

/// Something whose signature was checked. Only [`Bundle::open`] makes one, so a
/// function that takes it cannot be handed anything unchecked.
#[derive(Debug, Clone)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// An open bundle. Cloning is cheap.
#[derive(Clone)]
pub struct Bundle {
    inner: Arc<Inner>,
}

struct Inner {
    path: Utf8PathBuf,
    file: Arc<File>,
    length: u64,
    index_digest: Digest,
    signature: Option<Signature>,
    blobs: BTreeMap<Digest, Location>,
    reached: BTreeMap<Digest, Reached>,
    contents: Contents,
}

impl Bundle {
    /// Opens a bundle that one of the keys must have signed. The signature is
    /// checked before anything is parsed; then everything that the index reaches
    /// must be there with the right size. Blobs' digests are checked when they are
    /// read.
    pub fn open(path: &Utf8Path, trusted: &[TrustedKey]) -> Result<Verified<Self>, BundleError> {
        let (bundle, damages) = Self::scan(path, &Trust::Required(trusted))?;
        Ok(Verified(bundle.undamaged(damages)?))
    }

    /// Opens a bundle without looking at its signature: for inspection only.
    pub fn open_unverified(path: &Utf8Path) -> Result<Self, BundleError> {
        let (bundle, damages) = Self::scan(path, &Trust::Ignored)?;
        bundle.undamaged(damages)
    }

    /// Opens a bundle as far as that goes, and says what is damaged. With keys, one
    /// of them must have signed it.
    pub(super) fn open_damaged(
        path: &Utf8Path,
        trusted: Option<&[TrustedKey]>,
    ) -> Result<(Self, Vec<Damage>), BundleError> {
        Self::scan(path, &trusted.map_or(Trust::Ignored, Trust::Required))
    }

    fn undamaged(self, damages: Vec<Damage>) -> Result<Self, BundleError> {
        match damages.into_iter().next() {
            Some(damage) => Err(BundleError::Damaged {
                path: self.inner.path.clone(),
                damage,
            }),
            None => Ok(self),
        }
    }

    fn scan(path: &Utf8Path, trust: &Trust<'_>) -> Result<(Self, Vec<Damage>), BundleError> {
        let io = |source| BundleError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(not_a_bundle(path, "it is not a regular file"));
        }
        let length = metadata.len();
        check_start(&file, path, length)?;
        let file = Arc::new(file);
        let mut scanner = Scanner::new(&file, path, length);

        let layout = fixed_entry(&mut scanner, &file, path, tar_format::OCI_LAYOUT_NAME, 4096)?;
        if layout.as_deref() != Some(tar_format::OCI_LAYOUT_CONTENT.as_bytes()) {
            let problem = "its content is not that of an OCI layout 1.0.0";
            return Err(scanner.entry_error(tar_format::OCI_LAYOUT_NAME, 0, problem));
        }
        let index_bytes = fixed_entry(
            &mut scanner,
            &file,
            path,
            tar_format::INDEX_NAME,
            INDEX_LIMIT_BYTES,
        )?
        .ok_or_else(|| not_a_bundle(path, "it has no index.json after oci-layout"))?;
        let signature = fixed_entry(
            &mut scanner,
            &file,
            path,
            tar_format::SIGNATURE_NAME,
            SIGNATURE_LIMIT_BYTES,
        )?;
        let signature = check_signature(path, &index_bytes, signature, trust)?;

        let index: Index = serde_json::from_slice(&index_bytes).map_err(|error| {
            let problem = format!("is not an OCI index: {error}");
            BundleError::Index {
                path: path.to_owned(),
                problem,
            }
        })?;
        let blobs = scanner.blobs()?;
        let mut walk = Walk::new(Arc::clone(&file), blobs.clone());
        let contents = walk.run(&index);
        let Walk {
            reached, damages, ..
        } = walk;
        let inner = Inner {
            path: path.to_owned(),
            file,
            length,
            index_digest: Digest::of(&index_bytes),
            signature,
            blobs,
            reached,
            contents,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            damages,
        ))
    }

    /// Where the bundle lies.
    pub fn path(&self) -> &Utf8Path {
        &self.inner.path
    }

    /// Size of the file in bytes.
    pub fn length(&self) -> u64 {
        self.inner.length
    }

    /// Digest of `index.json`: the bundle's identity, since it covers all content.
    pub fn index_digest(&self) -> Digest {
        self.inner.index_digest
    }

    /// The signature, if there is one. Of a [`Verified`] bundle it is good.
    pub fn signature(&self) -> Option<&Signature> {
        self.inner.signature.as_ref()
    }

    /// What is inside, as plain data.
    pub fn contents(&self) -> &Contents {
        &self.inner.contents
    }

    /// The bundle's name, such as `kubernetes-1.36`.
    pub fn name(&self) -> &str {
        &self.inner.contents.name
    }

    /// The bundle's version, such as `1.36.0`.
    pub fn version(&self) -> &str {
        &self.inner.contents.version
    }

    /// Platforms carried, sorted.
    pub fn platforms(&self) -> &[Platform] {
        &self.inner.contents.platforms
    }

    /// Fails, naming what is carried, unless the bundle serves a platform.
    pub fn require_platform(&self, platform: &Platform) -> Result<(), BundleError> {
        if self.platforms().contains(platform) {
            return Ok(());
        }
        let carried: Vec<String> = self.platforms().iter().map(Platform::to_string).collect();
        Err(BundleError::LacksPlatform {
            path: self.inner.path.clone(),
            platform: platform.clone(),
            carried: carried.join(", "),
        })
    }

    /// Files for a platform by name.
    pub fn files(&self, platform: &Platform) -> BTreeMap<String, FileArtifact> {
        self.inner.contents.files(platform)
    }

    /// Images for a platform, sorted by reference.
    pub fn images(&self, platform: &Platform) -> Vec<ImageArtifact> {
        self.inner.contents.images(platform)
    }

    /// Manifest templates by name.
    pub fn manifests(&self) -> BTreeMap<String, String> {
        self.inner.contents.manifests()
    }

    /// Size in bytes of a blob that the index reaches.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        self.inner.reached.get(digest).map(|reached| reached.size)
    }

    /// Reads a blob that the index reaches; the reader checks its digest.
    pub fn blob(&self, digest: &Digest) -> Result<BlobReader, BundleError> {
        let location = self
            .inner
            .reached
            .get(digest)
            .and_then(|_| self.inner.blobs.get(digest))
            .ok_or_else(|| BundleError::Unreachable {
                path: self.inner.path.clone(),
                digest: *digest,
            })?;
        let file = Arc::clone(&self.inner.file);
        Ok(BlobReader::new(
            file,
            location.offset,
            location.size,
            *digest,
        ))
    }

    /// Reads a blob of at most `limit` bytes as a whole, and checks its digest.
    pub fn blob_bytes(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BundleError> {
        let mut reader = self.blob(digest)?;
        let damaged = |problem: String| BundleError::Damaged {
            path: self.inner.path.clone(),
            damage: Damage {
                digest: Some(*digest),
                belongs_to: self.owners(digest).join(", "),
                problem,
            },
        };
        if reader.remaining() > limit {
            let problem = format!("it has {} bytes; at most {limit} fit", reader.remaining());
            return Err(damaged(problem));
        }
        let mut bytes = Vec::with_capacity(reader.remaining() as usize);
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(error.to_string()))?;
        Ok(bytes)
    }

    /// What a blob belongs to, such as `image registry.k8s.io/pause:3.10.2`.
    pub fn owners(&self, digest: &Digest) -> Vec<String> {
        self.inner
            .reached
            .get(digest)
            .map(|reached| reached.owners.clone())
            .unwrap_or_default()
    }

    /// All blobs that the index reaches, with their sizes in bytes, in the order in
    /// which they lie in the file.
    pub fn reachable_blobs(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        self.inner
            .reached
            .iter()
            .map(|(digest, reached)| (*digest, reached.size))
    }

    /// Blobs that lie in the file though nothing leads to them. They are never read.
    pub(super) fn unreachable_blobs(&self) -> Vec<Digest> {
        let blobs = self.inner.blobs.keys();
        blobs
            .filter(|digest| !self.inner.reached.contains_key(digest))
            .copied()
            .collect()
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Bundle({}, {})",
            self.inner.path, self.inner.index_digest
        )
    }
}

#[cfg(test)]
mod tests;
