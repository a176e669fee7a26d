//! Reading bundles: the signature first, then what the index reaches, in place.
//!
//! Nothing is unpacked and nothing is written, so a bundle can lie on read-only
//! media. The file stays open: blobs are read with positioned reads.

mod blob;
mod contents;
mod error;
mod front;
mod scan;
mod shelf;
mod source;
mod volume;
mod walk;

pub use blob::BlobReader;
pub use contents::{Contents, FileArtifact, Image, ImageArtifact, ManifestArtifact, PlatformImage};
pub use error::{BundleError, Damage};
pub use front::Trust;
pub use source::Source;

use super::oci::Index;
use super::platform::Platform;
use super::sbom::Document;
use super::sign::{KeyId, Signature, TrustedKey};
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use shelf::Shelf;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Deref;
use std::sync::Arc;
use walk::{Reached, Walk};

/// SBOMs larger than this are refused: that of Kubernetes has 1 MB.
const SBOM_LIMIT_BYTES: u64 = 256 << 20;

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
    shelf: Arc<Shelf>,
    index_digest: Digest,
    signatures: Vec<Signature>,
    signed_by: Option<KeyId>,
    reached: BTreeMap<Digest, Reached>,
    left_out: BTreeMap<Digest, Reached>,
    contents: Contents,
}

impl Bundle {
    /// Opens a bundle that one of the keys must have signed. The signature is
    /// checked before anything is parsed; then everything that the index reaches
    /// must be there with the right size, but for the content that a delta leaves
    /// out. Blobs' digests are checked when they are read.
    pub fn open(
        source: impl Into<Source>,
        trusted: &[TrustedKey],
    ) -> Result<Verified<Self>, BundleError> {
        let (bundle, damages) = Self::scan(&source.into(), Trust::Required(trusted))?;
        Ok(Verified(bundle.undamaged(damages)?))
    }

    /// Opens a bundle as [`Self::open`] does, with whatever is asked of its
    /// signatures.
    pub fn open_trusting(source: impl Into<Source>, trust: Trust<'_>) -> Result<Self, BundleError> {
        let (bundle, damages) = Self::scan(&source.into(), trust)?;
        bundle.undamaged(damages)
    }

    /// Opens a bundle without looking at its signatures: for inspection only.
    pub fn open_unverified(source: impl Into<Source>) -> Result<Self, BundleError> {
        let (bundle, damages) = Self::scan(&source.into(), Trust::Ignored)?;
        bundle.undamaged(damages)
    }

    /// Opens a bundle as far as that goes, and says what is damaged.
    pub(super) fn open_damaged(
        source: &Source,
        trust: Trust<'_>,
    ) -> Result<(Self, Vec<Damage>), BundleError> {
        Self::scan(source, trust)
    }

    fn undamaged(self, damages: Vec<Damage>) -> Result<Self, BundleError> {
        match damages.into_iter().next() {
            Some(damage) => Err(BundleError::Damaged {
                path: self.inner.path.clone(),
                damage: Box::new(damage),
            }),
            None => Ok(self),
        }
    }

    fn scan(source: &Source, trust: Trust<'_>) -> Result<(Self, Vec<Damage>), BundleError> {
        let path = source.path.as_path();
        let opened = source.open(trust)?;
        // The file that was named is the one whose signatures were checked.
        let named = opened.own.iter().find(|own| own.path == path);
        let (index_bytes, signatures, signed_by) = match named {
            Some(named) => (
                named.front.index.clone(),
                named.signatures.clone(),
                named.signed_by,
            ),
            None => return Err(front::not_a_bundle(path, "it was not opened")),
        };
        let index: Index = serde_json::from_slice(&index_bytes).map_err(|error| {
            let problem = format!("is not an OCI index: {error}");
            BundleError::Index {
                path: path.to_owned(),
                problem,
            }
        })?;
        let shelf = Arc::new(Shelf::new(opened));
        let mut walk = Walk::new(Arc::clone(&shelf));
        let contents = walk.run(&index);
        let Walk {
            reached,
            left_out,
            damages,
            ..
        } = walk;
        let inner = Inner {
            path: path.to_owned(),
            shelf,
            index_digest: Digest::of(&index_bytes),
            signatures,
            signed_by,
            reached,
            left_out,
            contents,
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, damages))
    }

    /// Where the bundle lies, or the part of it that was named.
    pub fn path(&self) -> &Utf8Path {
        &self.inner.path
    }

    /// Size of its files in bytes.
    pub fn length(&self) -> u64 {
        self.inner.shelf.own().iter().map(|own| own.length).sum()
    }

    /// Its files, and those of what a delta builds on.
    pub fn paths(&self) -> impl Iterator<Item = &Utf8Path> {
        self.inner.shelf.paths()
    }

    /// Sizes in bytes of its files.
    pub fn lengths(&self) -> Vec<u64> {
        self.inner
            .shelf
            .own()
            .iter()
            .map(|own| own.length)
            .collect()
    }

    /// Number of its files.
    pub fn parts(&self) -> usize {
        self.inner.shelf.own().len()
    }

    /// Whether it leaves out what a site has already.
    pub fn is_delta(&self) -> bool {
        self.inner.shelf.is_delta()
    }

    /// Blobs that the index reaches and a delta leaves out, with their sizes in
    /// bytes: those that are not in what it builds on either, if that is at hand.
    pub fn left_out(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        let left_out = self.inner.left_out.iter();
        left_out.map(|(digest, blob)| (*digest, blob.size))
    }

    /// The bytes of `index.json`.
    pub fn index(&self) -> &[u8] {
        let first = self.inner.shelf.own().first();
        first.map_or(&[], |first| &first.front.index)
    }

    /// Digest of `index.json`: the bundle's identity, since it covers all content.
    pub fn index_digest(&self) -> Digest {
        self.inner.index_digest
    }

    /// The signatures that it bears, whether they are right or not.
    pub fn signatures(&self) -> &[Signature] {
        &self.inner.signatures
    }

    /// The key whose signature was checked when it was opened.
    pub fn signed_by(&self) -> Option<KeyId> {
        self.inner.signed_by
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

    /// Whether a delta leaves a blob out that is not in what it builds on either.
    pub fn is_left_out(&self, digest: &Digest) -> bool {
        self.inner.left_out.contains_key(digest)
    }

    /// Size in bytes of a blob that the index reaches.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        self.inner.reached.get(digest).map(|reached| reached.size)
    }

    /// Reads a blob that the index reaches; the reader checks its digest.
    pub fn blob(&self, digest: &Digest) -> Result<BlobReader, BundleError> {
        let path = self.inner.path.clone();
        if let Some(left_out) = self.inner.left_out.get(digest) {
            return Err(BundleError::LeftOut {
                path,
                digest: *digest,
                belongs_to: left_out.owners.join(", "),
            });
        }
        let reached = self.inner.reached.get(digest);
        reached
            .and_then(|_| self.inner.shelf.reader(digest))
            .ok_or(BundleError::Unreachable {
                path,
                digest: *digest,
            })
    }

    /// Reads a blob of at most `limit` bytes as a whole, and checks its digest.
    pub fn blob_bytes(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BundleError> {
        let mut reader = self.blob(digest)?;
        let damaged = |problem: String| BundleError::Damaged {
            path: self.inner.path.clone(),
            damage: Box::new(Damage {
                digest: Some(*digest),
                belongs_to: self.owners(digest).join(", "),
                problem,
                part: self.part_of(digest),
            }),
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

    /// The SBOM; none in bundles of older builds.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn sbom(&self) -> Result<Option<Document>, BundleError> {
        let Some(sbom) = &self.inner.contents.sbom else {
            return Ok(None);
        };
        let bytes = self.blob_bytes(&sbom.digest, SBOM_LIMIT_BYTES)?;
        let document = serde_json::from_slice(&bytes).map_err(|error| BundleError::Damaged {
            path: self.inner.path.clone(),
            damage: Box::new(Damage {
                digest: Some(sbom.digest),
                belongs_to: "the SBOM".to_owned(),
                problem: error.to_string(),
                part: self.part_of(&sbom.digest),
            }),
        })?;
        Ok(Some(document))
    }

    /// What a blob belongs to, such as `image registry.k8s.io/pause:3.10.2`.
    pub fn owners(&self, digest: &Digest) -> Vec<String> {
        let reached = self.inner.reached.get(digest);
        reached
            .or_else(|| self.inner.left_out.get(digest))
            .map(|reached| reached.owners.clone())
            .unwrap_or_default()
    }

    /// The file that a blob lies in, where there are several.
    pub(super) fn part_of(&self, digest: &Digest) -> Option<Utf8PathBuf> {
        self.inner.shelf.part_of(digest).map(Utf8Path::to_owned)
    }

    /// All blobs that the index reaches and that are at hand, with their sizes in
    /// bytes, in the order in which they lie in the files.
    pub fn reachable_blobs(&self) -> Vec<(Digest, u64)> {
        let reached = self.inner.reached.iter();
        let mut blobs: Vec<(Digest, u64)> = reached
            .map(|(digest, reached)| (*digest, reached.size))
            .collect();
        blobs.sort_by_key(|(digest, _)| self.inner.shelf.blobs.get(digest));
        blobs
    }

    /// Blobs that lie in the file though nothing leads to them. They are never read.
    pub(super) fn unreachable_blobs(&self) -> Vec<Digest> {
        let blobs = self.inner.shelf.own_blobs();
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
