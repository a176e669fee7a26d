//! Resolves images' tags to digests.

use super::RESOLVE_STAGE;
use crate::bundle::cache::Cache;
use crate::bundle::definition::{DefinedImage, Definition};
use crate::bundle::fetch::{PARALLEL_DOWNLOADS, Registries, RemoteBlob};
use crate::bundle::lock::{LockedBlob, LockedImage, LockedPlatformImage};
use crate::bundle::oci::{self, Index, Kind, Manifest};
use crate::bundle::platform::Platform;
use crate::bundle::progress::{NoProgress, Progress};
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

/// Resolves all images: of each, the index or manifest that its tag names, and of the
/// platforms carried, the manifests.
pub(super) async fn lock_images(
    definition: &Definition,
    registries: &Registries,
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Vec<LockedImage>> {
    let lock = |image| lock_image(image, &definition.platforms, registries, cache, progress);
    let mut images: Vec<LockedImage> = stream::iter(definition.images.iter().map(lock))
        .buffer_unordered(PARALLEL_DOWNLOADS)
        .try_collect()
        .await?;
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(images)
}

/// What of an index or manifest says which of both it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde_json::Value>,
}

async fn lock_image(
    image: &DefinedImage,
    platforms: &[Platform],
    registries: &Registries,
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<LockedImage> {
    let reference = image.reference();
    let context = || format!("resolving image {reference}");
    progress.advance(RESOLVE_STAGE, &reference, 0, None);
    let bytes = registries.resolve(&image.name, &image.tag).await?;
    let digest = cache.put(&bytes)?;
    let root: Root = serde_json::from_slice(&bytes).with_context(context)?;
    let default_type = if root.manifests.is_some() {
        oci::INDEX_MEDIA_TYPE
    } else {
        oci::MANIFEST_MEDIA_TYPE
    };
    let media_type = root.media_type.unwrap_or_else(|| default_type.to_owned());
    let remote = |digest, size| RemoteBlob {
        image: &image.name,
        digest,
        size,
        stage: RESOLVE_STAGE,
        item: &reference,
    };
    let mut halves = Vec::new();
    match oci::kind(&media_type) {
        Kind::Index => {
            let index: Index = serde_json::from_slice(&bytes).with_context(context)?;
            for platform in platforms {
                let child = index.child(platform).with_context(|| {
                    format!("resolving image {reference}: its index has nothing for {platform}")
                })?;
                if oci::kind(&child.media_type) != Kind::Manifest {
                    bail!(
                        "resolving image {reference}: its child for {platform} is a {}, not an \
                           image manifest",
                        child.media_type
                    );
                }
                let manifest = registries
                    .manifest(remote(child.digest, child.size), cache)
                    .await?;
                halves.push(LockedPlatformImage {
                    platform: platform.clone(),
                    digest: child.digest,
                    size: child.size,
                    media_type: child.media_type.clone(),
                    blobs: blobs_of(&manifest).with_context(context)?,
                });
            }
        }
        Kind::Manifest => {
            let blobs = blobs_of(&bytes).with_context(context)?;
            let platform = platform_of(&blobs, remote, registries, cache)
                .await
                .with_context(context)?;
            if let Some(missing) = platforms.iter().find(|wanted| **wanted != platform) {
                bail!(
                    "resolving image {reference}: upstream has it for {platform} only, not for \
                     {missing}"
                );
            }
            halves.push(LockedPlatformImage {
                platform,
                digest,
                size: bytes.len() as u64,
                media_type: media_type.clone(),
                blobs,
            });
        }
        Kind::Blob => bail!("resolving image {reference}: it is a {media_type}, not an image"),
    }
    progress.advance(RESOLVE_STAGE, &reference, 1, Some(1));
    Ok(LockedImage {
        reference,
        licence: image.licence.clone(),
        digest,
        size: bytes.len() as u64,
        media_type,
        platforms: halves,
    })
}

fn blobs_of(manifest: &[u8]) -> Result<Vec<LockedBlob>> {
    let manifest: Manifest = serde_json::from_slice(manifest)?;
    let blobs = std::iter::once(&manifest.config).chain(&manifest.layers);
    Ok(blobs
        .map(|blob| LockedBlob {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
        })
        .collect())
}

/// The platform of an image without an index, from its configuration.
async fn platform_of<'a>(
    blobs: &[LockedBlob],
    remote: impl Fn(Digest, u64) -> RemoteBlob<'a>,
    registries: &Registries,
    cache: &Cache,
) -> Result<Platform> {
    #[derive(Deserialize)]
    struct Configuration {
        os: String,
        architecture: String,
    }
    let config = blobs.first().context("its manifest has no configuration")?;
    if config.size > oci::MANIFEST_LIMIT_BYTES {
        bail!("its configuration has {} bytes", config.size);
    }
    registries
        .blob(remote(config.digest, config.size), cache, &NoProgress)
        .await?;
    let config: Configuration = serde_json::from_slice(&cache.read(&config.digest)?)?;
    Ok(format!("{}/{}", config.os, config.architecture).parse()?)
}
