//! Gets what the cache lacks.

use super::Build;
use crate::bundle::fetch::{Download, PARALLEL_DOWNLOADS, RemoteBlob};
use crate::bundle::lock::{LockedFile, LockedImage};
use crate::bundle::names;
use crate::bundle::oci::{self, Kind};
use crate::bundle::prepare;
use crate::bundle::resolve::{DOWNLOAD_STAGE, extract_in_background, file_name};
use crate::bundle::write::{ImageEntry, StoredBlob};
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};

/// A blob of an image, as the lock has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ImageBlob<'a> {
    pub(super) digest: Digest,
    pub(super) size: u64,
    is_manifest: bool,
    reference: &'a str,
}

impl Build {
    /// All blobs of all images, each once.
    pub(super) fn image_blobs(&self) -> impl Iterator<Item = ImageBlob<'_>> {
        let mut blobs: BTreeMap<Digest, ImageBlob<'_>> = BTreeMap::new();
        for image in &self.locked.lock().images {
            for blob in blobs_of(image) {
                blobs.entry(blob.digest).or_insert(blob);
            }
        }
        blobs.into_values()
    }

    /// Whether a blob goes into the bundle.
    pub(super) fn is_carried(&self, blob: &ImageBlob<'_>) -> bool {
        blob.is_manifest || !self.had.contains(&blob.digest)
    }

    /// Whether a blob is needed to make the bundle, if only to be looked into.
    fn is_needed(&self, blob: &ImageBlob<'_>) -> bool {
        self.is_carried(blob) || self.is_to_be_read(&blob.digest)
    }

    /// Bytes that fetching and preparing will add to the cache, at most.
    pub(super) fn missing_bytes(&self) -> u64 {
        let lacks = |digest: &Digest, size: u64| !self.cache.holds(digest, size);
        let images: u64 = self
            .image_blobs()
            .filter(|blob| self.is_needed(blob) && lacks(&blob.digest, blob.size))
            .map(|blob| blob.size)
            .sum();
        let mut downloads = BTreeSet::new();
        let mut files = 0;
        for file in &self.locked.lock().files {
            if prepare::compressed_before(&self.cache, &file.digest).is_some() {
                continue;
            }
            files += file.size;
            if lacks(&file.digest, file.size) {
                files += file.member.as_ref().map_or(0, |_| file.size);
                if lacks(&file.download, file.download_size) {
                    downloads.insert((file.download, file.download_size));
                }
            }
        }
        images + files + downloads.iter().map(|(_, size)| size).sum::<u64>()
    }

    /// Fetches the images' missing blobs.
    pub(super) async fn fetch_images(&self) -> Result<()> {
        let missing = self
            .image_blobs()
            .filter(|blob| self.is_needed(blob) && !self.cache.holds(&blob.digest, blob.size));
        let missing: Vec<ImageBlob<'_>> = missing.collect();
        let fetches = missing.iter().map(|blob| self.fetch_image_blob(blob));
        stream::iter(fetches)
            .buffer_unordered(PARALLEL_DOWNLOADS)
            .try_collect::<()>()
            .await
    }

    async fn fetch_image_blob(&self, blob: &ImageBlob<'_>) -> Result<()> {
        let (image, _) = names::split_reference(blob.reference)
            .with_context(|| format!("reading `{}` in the lock", blob.reference))?;
        let item = format!("{} {}", blob.reference, blob.digest.short());
        let remote = RemoteBlob {
            image,
            digest: blob.digest,
            size: blob.size,
            stage: DOWNLOAD_STAGE,
            item: &item,
        };
        if blob.is_manifest {
            self.registries.manifest(remote, &self.cache).await?;
        } else {
            self.registries
                .blob(remote, &self.cache, self.progress.as_ref())
                .await?;
        }
        Ok(())
    }

    /// Makes sure that the cache holds locked files themselves, not just their
    /// compressed forms. The files come out of one download, in one pass.
    pub(super) async fn ensure_files(&self, files: &[&LockedFile]) -> Result<()> {
        let missing: Vec<&LockedFile> = files
            .iter()
            .filter(|file| !self.cache.holds(&file.digest, file.size))
            .copied()
            .collect();
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let context = || {
            let names: Vec<&str> = missing.iter().map(|file| file.name.as_str()).collect();
            format!(
                "getting {} {} for {} as locked (if upstream replaced it, find out why, then \
                 lock again)",
                names.join(", "),
                first.version,
                first.platform
            )
        };
        let download = Download {
            url: &first.url,
            stage: DOWNLOAD_STAGE,
            item: file_name(&first.url),
            expected: Some(first.download),
        };
        self.downloader
            .fetch(download, &self.cache, self.progress.as_ref())
            .await
            .with_context(context)?;
        let members = missing
            .iter()
            .filter_map(|file| file.member.clone())
            .collect();
        let extracted = extract_in_background(&self.cache, &first.download, members)
            .await
            .with_context(context)?;
        for file in &missing {
            let Some(member) = &file.member else { continue };
            if extracted.get(member) != Some(&(file.digest, file.size)) {
                bail!("`{member}` of {} is not what the lock says", file.url);
            }
        }
        Ok(())
    }

    /// An image as the layout takes it, from the cache.
    pub(super) fn image_entry(&self, image: &LockedImage) -> ImageEntry {
        let stored = |digest: &Digest, size: u64| StoredBlob {
            digest: *digest,
            size,
            path: self.cache.blob_path(digest),
        };
        let stored_blob = |blob: ImageBlob<'_>| stored(&blob.digest, blob.size);
        let is_index = oci::kind(&image.media_type) == Kind::Index;
        let first = image.platforms.first();
        let (manifests, blobs): (Vec<_>, Vec<_>) =
            blobs_of(image).partition(|blob| blob.is_manifest);
        ImageEntry {
            reference: image.reference.clone(),
            root: stored(&image.digest, image.size),
            root_media_type: image.media_type.clone(),
            root_platform: first
                .filter(|_| !is_index)
                .map(|half| half.platform.clone()),
            manifests: manifests.into_iter().map(stored_blob).collect(),
            blobs: blobs.into_iter().map(stored_blob).collect(),
        }
    }
}

/// All blobs of an image: its index, manifests, configurations and layers.
fn blobs_of(image: &LockedImage) -> impl Iterator<Item = ImageBlob<'_>> {
    let reference = image.reference.as_str();
    let blob = move |digest: Digest, size: u64, is_manifest: bool| ImageBlob {
        digest,
        size,
        is_manifest,
        reference,
    };
    let halves = image.platforms.iter().flat_map(move |half| {
        let layers = half
            .blobs
            .iter()
            .map(move |layer| blob(layer.digest, layer.size, false));
        std::iter::once(blob(half.digest, half.size, true)).chain(layers)
    });
    std::iter::once(blob(image.digest, image.size, true)).chain(halves)
}
