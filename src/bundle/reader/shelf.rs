//! All blobs at hand, and the files that they lie in.

use super::blob::BlobReader;
use super::source::Opened;
use super::volume::Volume;
use crate::digest::Digest;
use camino::Utf8Path;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a blob lies: in which file, from which byte, how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub volume: usize,
    pub offset: u64,
    pub size: u64,
}

/// The files of a bundle, and of what a delta builds on, with their blobs.
pub(super) struct Shelf {
    /// The bundle's own come first, in the order of its parts.
    volumes: Vec<Volume>,
    own: usize,
    pub blobs: BTreeMap<Digest, Location>,
}

impl Shelf {
    pub(super) fn new(opened: Opened) -> Self {
        let own = opened.own.len();
        let volumes: Vec<Volume> = opened.own.into_iter().chain(opened.base).collect();
        let mut blobs = BTreeMap::new();
        for (volume, scanned) in volumes.iter().enumerate() {
            for (digest, extent) in &scanned.blobs {
                blobs.entry(*digest).or_insert(Location {
                    volume,
                    offset: extent.offset,
                    size: extent.size,
                });
            }
        }
        Self {
            volumes,
            own,
            blobs,
        }
    }

    /// The bundle's own files.
    pub(super) fn own(&self) -> &[Volume] {
        &self.volumes[..self.own]
    }

    /// All files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Utf8Path> {
        self.volumes.iter().map(|volume| volume.path.as_path())
    }

    /// The first part; they have the same front.
    pub(super) fn first(&self) -> Option<&Volume> {
        self.volumes.first()
    }

    /// Whether content may be left out, since a site has it.
    pub(super) fn is_delta(&self) -> bool {
        let label = self.first().and_then(|first| first.label.as_ref());
        label.is_some_and(|label| label.delta)
    }

    pub(super) fn reader(&self, digest: &Digest) -> Option<BlobReader> {
        let location = self.blobs.get(digest)?;
        let volume = self.volumes.get(location.volume)?;
        let file = Arc::clone(&volume.file);
        Some(BlobReader::new(
            file,
            location.offset,
            location.size,
            *digest,
        ))
    }

    /// The file that a blob lies in, where that is one of several.
    pub(super) fn part_of(&self, digest: &Digest) -> Option<&Utf8Path> {
        let location = self.blobs.get(digest).filter(|_| self.volumes.len() > 1)?;
        let volume = self.volumes.get(location.volume)?;
        Some(volume.path.as_path())
    }

    /// The blobs of the bundle's own files.
    pub(super) fn own_blobs(&self) -> impl Iterator<Item = &Digest> {
        let own = self.own;
        let blobs = self.blobs.iter();
        blobs
            .filter(move |(_, location)| location.volume < own)
            .map(|(digest, _)| digest)
    }
}
