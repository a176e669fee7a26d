//! What files and layers consist of, read once for each digest and kept in the cache.

use super::Build;
use super::files::Prepared;
use crate::bundle::cache::{Cache, RecordKind};
use crate::bundle::hash::Hasher;
use crate::bundle::lock::{LockedBlob, LockedFile, LockedImage, LockedPlatformImage};
use crate::bundle::sbom::{
    Document, GoProgram, ImageMaterial, Layer, Materials, document, merge, read_layer, read_program,
};
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use fs_err::File;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::io::{BufReader, Read};
use std::sync::Arc;

/// Name of the stage that progress is reported under.
const STAGE: &str = "list";
/// Layers unpacked at once.
const PARALLEL_LAYERS: usize = 4;
const BUFFER_BYTES: usize = 256 << 10;

fn go_record() -> RecordKind {
    RecordKind("go-1".to_owned())
}

fn layer_record() -> RecordKind {
    RecordKind("layer-1".to_owned())
}

/// Layers are tars; an artifact's may be anything.
fn is_tar(layer: &LockedBlob) -> bool {
    layer.media_type.contains("tar")
}

impl Build {
    /// What a file was built from, if it is a program in Go.
    pub(super) async fn go_program(&self, file: &LockedFile) -> Result<Option<GoProgram>> {
        if let Some(known) = self.cache.record(&go_record(), &file.digest) {
            return Ok(known);
        }
        self.ensure_files(&[file]).await?;
        let (cache, digest) = (self.cache.clone(), file.digest);
        let read = move || -> Result<Option<GoProgram>> {
            let tell = |_| ();
            let program = read_whole(&cache, &digest, &tell, |blob| Ok(read_program(blob)?))?;
            cache.put_record(&go_record(), &digest, &program)?;
            Ok(program)
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| anyhow!("reading modules: {error}"))?
            .with_context(|| format!("reading the modules of {}", file.name))
    }

    /// Whether a blob is a layer that has yet to be looked into.
    pub(super) fn is_to_be_read(&self, digest: &Digest) -> bool {
        self.cache
            .record::<Layer>(&layer_record(), digest)
            .is_none()
    }

    /// The bundle's SBOM.
    pub(super) async fn sbom(&self, files: &[Prepared]) -> Result<Document> {
        let halves = self.locked.lock().images.iter().flat_map(|image| {
            let halves = image.platforms.iter();
            halves.map(move |half| (image, half))
        });
        let halves: Vec<_> = halves.collect();
        let images = halves
            .iter()
            .map(|(image, half)| self.look_into(image, half));
        let images = stream::iter(images).buffered(PARALLEL_LAYERS).try_collect();
        let definition = self.locked.definition();
        Ok(document(&Materials {
            name: definition.name.clone(),
            version: definition.version.clone(),
            lock: Digest::of(self.locked.text()),
            files: files.iter().map(Prepared::material).collect(),
            images: images.await?,
        }))
    }

    async fn look_into(
        &self,
        image: &LockedImage,
        half: &LockedPlatformImage,
    ) -> Result<ImageMaterial> {
        let mut layers = Vec::new();
        // The first is the configuration.
        for layer in half.blobs.iter().skip(1).filter(|layer| is_tar(layer)) {
            let read = self.layer(image, layer).await;
            layers.push(read.with_context(|| {
                format!("reading layer {} of {}", layer.digest, image.reference)
            })?);
        }
        Ok(ImageMaterial {
            reference: image.reference.clone(),
            platform: half.platform.clone(),
            licence: image.licence.clone(),
            manifest: half.digest,
            found: merge(layers),
        })
    }

    async fn layer(&self, image: &LockedImage, layer: &LockedBlob) -> Result<Layer> {
        let digest = layer.digest;
        if let Some(known) = self.cache.record(&layer_record(), &digest) {
            return Ok(known);
        }
        let (cache, total) = (self.cache.clone(), layer.size);
        let progress = Arc::clone(&self.progress);
        let item = format!("{} {}", image.reference, digest.short());
        let read = move || -> Result<Layer> {
            let tell = |done: u64| progress.advance(STAGE, &item, done.min(total), Some(total));
            let layer = read_whole(&cache, &digest, &tell, |blob| read_layer(blob))?;
            progress.advance(STAGE, &item, total, Some(total));
            cache.put_record(&layer_record(), &digest, &layer)?;
            Ok(layer)
        };
        tokio::task::spawn_blocking(read).await?
    }
}

/// Reads a cached blob to its end. What is made of it counts only if it has its digest;
/// else it is removed, so that the next run fetches it anew.
fn read_whole<T>(
    cache: &Cache,
    digest: &Digest,
    tell: &dyn Fn(u64),
    read: impl FnOnce(&mut Hashed<'_>) -> Result<T>,
) -> Result<T> {
    let file = File::open(cache.blob_path(digest))?;
    let mut blob = Hashed {
        inner: BufReader::with_capacity(BUFFER_BYTES, file),
        hasher: Hasher::default(),
        tell,
    };
    let made = read(&mut blob);
    std::io::copy(&mut blob, &mut std::io::sink())?;
    let (found, _) = blob.hasher.finish();
    if found != *digest {
        cache.remove(digest)?;
        bail!("cached blob {digest} was damaged and is removed now; run the same command again");
    }
    made
}

/// Hashes what is read, and tells how much that was.
struct Hashed<'a> {
    inner: BufReader<File>,
    hasher: Hasher,
    tell: &'a dyn Fn(u64),
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        (self.tell)(self.hasher.length());
        Ok(read)
    }
}
