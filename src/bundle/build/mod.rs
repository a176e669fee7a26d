//! `cofferdam bundle build`: from a lock to one signed file.

mod fetch_missing;
mod files;
mod sbom;

use super::cache::Cache;
use super::definition::Definition;
use super::fetch::{Downloader, FetchOptions, Registries};
use super::lock::Locked;
use super::names;
use super::platform::Platform;
use super::prepare::closure::Closure;
use super::prepare::{self, Need};
use super::progress::Progress;
use super::sbom::Document;
use super::sign::{KeyId, SigningKey};
use super::tar_format;
use super::write::{self, ArchiveError, Layout, LayoutBuilder, PlannedFile, Shape, WrittenFile};
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use files::{Agent, Prepared};
use fs_err as fs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What to build, and from what.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    pub definition: Utf8PathBuf,
    /// Where the lock lies; beside the definition unless given.
    pub lock: Option<Utf8PathBuf>,
    /// The bundle to write.
    pub output: Utf8PathBuf,
    /// The cache's directory.
    pub cache: Utf8PathBuf,
    pub fetch: FetchOptions,
    /// cofferdam's own binary by platform. The running one serves its own platform
    /// unless another is given.
    pub agents: BTreeMap<Platform, Utf8PathBuf>,
    /// What manifests may name, for each choice that an inventory can make; see
    /// [`Closure`].
    pub contexts: Vec<BTreeMap<String, serde_json::Value>>,
    /// In parts, or less what a site has.
    pub shape: Shape,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct BuildOutcome {
    pub name: String,
    pub version: String,
    pub platforms: Vec<Platform>,
    /// The bundle, or its parts in their order.
    pub files: Vec<WrittenFile>,
    /// Number of the blobs that a delta leaves out, and their bytes; none for a full
    /// bundle.
    pub left_out: Option<(usize, u64)>,
    /// Digest of `index.json`, which covers everything.
    pub index_digest: Digest,
    /// The key that signed it; `None` without a key.
    pub signed_by: Option<KeyId>,
}

/// Everything that the steps of a build share.
struct Build {
    locked: Locked,
    cache: Cache,
    downloader: Downloader,
    registries: Registries,
    progress: Arc<dyn Progress>,
    /// What the site has already, of which nothing is carried that only it needs.
    had: BTreeSet<Digest>,
}

/// Builds a bundle. The same lock, binaries of cofferdam and key give the same bytes.
pub async fn build(
    options: &BuildOptions,
    key: Option<&SigningKey>,
    progress: Arc<dyn Progress>,
) -> Result<BuildOutcome> {
    let definition = Definition::load(&options.definition)?;
    let lock_path = options
        .lock
        .clone()
        .unwrap_or_else(|| Definition::lock_path(&definition.path));
    let build = Build {
        locked: Locked::load(definition, &lock_path)?,
        cache: Cache::open(&options.cache)?,
        downloader: Downloader::new(&options.fetch)?,
        registries: Registries::new(&options.fetch)?,
        progress,
        had: options.shape.had.clone().unwrap_or_default(),
    };
    let manifests = build.manifests(options)?;
    let agents = build.agents(&options.agents)?;
    build.check_space(&agents, &options.output)?;
    build.fetch_images().await?;
    let files = build.prepare_files().await?;
    let agents = build.prepare_agents(agents).await?;
    let files: Vec<Prepared> = files.into_iter().chain(agents).collect();
    let sbom = build.sbom(&files).await?;
    let layout = build.assemble(&manifests, files, &sbom)?;
    let signature = build.sign(&layout, key)?;
    let planned = write::plan(
        &options.output,
        &layout,
        signature.as_slice(),
        &options.shape,
    )?;
    let left_out = options
        .shape
        .had
        .is_some()
        .then(|| left_out(&layout, &planned));
    let files = build.write(planned, &layout, signature).await?;
    let definition = build.locked.definition();
    Ok(BuildOutcome {
        name: definition.name.clone(),
        version: definition.version.clone(),
        platforms: definition.platforms.clone(),
        files,
        left_out,
        index_digest: Digest::of(&layout.0.index),
        signed_by: key.map(SigningKey::id),
    })
}

fn left_out(layout: &Layout, planned: &[PlannedFile]) -> (usize, u64) {
    let carried: BTreeSet<&Digest> = planned.iter().flat_map(|file| &file.blobs).collect();
    let blobs = layout.blobs.iter();
    let left_out = blobs.filter(|(digest, _)| !carried.contains(digest));
    left_out.fold((0, 0), |(count, bytes), (_, (size, _))| {
        (count + 1, bytes + size)
    })
}

/// A layout behind a pointer, so that it can be handed to a thread without a copy.
struct SharedLayout(Arc<Layout>);

impl std::ops::Deref for SharedLayout {
    type Target = Arc<Layout>;

    fn deref(&self) -> &Arc<Layout> {
        &self.0
    }
}

impl Build {
    /// Reads the manifest templates, which must be those that were locked, and proves
    /// that they use nothing but the bundle's images.
    fn manifests(&self, options: &BuildOptions) -> Result<BTreeMap<String, String>> {
        let definition = self.locked.definition();
        let images = self.locked.lock().images.iter().filter_map(|image| {
            let (name, _) = names::split_reference(&image.reference)?;
            Some((
                name.to_owned(),
                format!("{}@{}", image.reference, image.digest),
            ))
        });
        let closure = Closure {
            images: images.collect(),
            contexts: options.contexts.clone(),
        };
        let mut manifests = BTreeMap::new();
        for (defined, locked) in definition
            .manifests
            .iter()
            .zip(&self.locked.lock().manifests)
        {
            let path = definition.manifest_path(defined);
            let text = fs::read_to_string(&path)?;
            if Digest::of(&text) != locked.digest {
                bail!(
                    "{path} has changed since the lock was made; run `cofferdam bundle lock {}`",
                    definition.path
                );
            }
            closure.check(path.as_str(), &text)?;
            manifests.insert(defined.name.clone(), text);
        }
        Ok(manifests)
    }

    fn check_space(&self, agents: &[Agent], output: &Utf8Path) -> Result<()> {
        let directory = match output.parent() {
            Some(parent) if !parent.as_str().is_empty() => parent,
            _ => Utf8Path::new("."),
        };
        fs::create_dir_all(directory)?;
        let images = self
            .image_blobs()
            .filter(|blob| self.is_carried(blob))
            .map(|blob| tar_format::entry_bytes(blob.size));
        // What a file compresses to is not known yet; it is never much larger.
        let files = self.locked.lock().files.iter().map(|file| {
            let compressed = prepare::compressed_before(&self.cache, &file.digest);
            if compressed.is_some_and(|compressed| self.had.contains(&compressed.digest)) {
                return 0;
            }
            tar_format::entry_bytes(compressed.map_or(file.size, |compressed| compressed.size))
        });
        let agents: u64 = agents.iter().map(|agent| agent.size).sum();
        let bundle = images.chain(files).sum::<u64>() + agents;
        prepare::check_space(&[
            Need {
                directory: self.cache.root(),
                bytes: self.missing_bytes() + agents,
            },
            Need {
                directory,
                bytes: bundle,
            },
        ])
    }

    fn assemble(
        &self,
        manifests: &BTreeMap<String, String>,
        files: Vec<Prepared>,
        sbom: &Document,
    ) -> Result<SharedLayout> {
        let definition = self.locked.definition();
        let mut builder =
            LayoutBuilder::new(&definition.name, &definition.version, &definition.platforms);
        for file in files {
            builder.add_file(file.entry(&self.cache))?;
        }
        for image in &self.locked.lock().images {
            builder.add_image(self.image_entry(image));
        }
        for (name, text) in manifests {
            builder.add_manifest(name, text)?;
        }
        builder.add_lock(self.locked.text())?;
        builder.add_sbom(&serde_json::to_vec(sbom)?)?;
        Ok(SharedLayout(Arc::new(builder.finish()?)))
    }

    fn sign(&self, layout: &Layout, key: Option<&SigningKey>) -> Result<Option<String>> {
        let Some(key) = key else { return Ok(None) };
        let definition = self.locked.definition();
        let comment = format!(
            "cofferdam bundle {} {}",
            definition.name, definition.version
        );
        let signature = key.sign(&layout.index, &comment)?;
        Ok(Some(signature.render()))
    }

    async fn write(
        &self,
        planned: Vec<PlannedFile>,
        layout: &SharedLayout,
        signature: Option<String>,
    ) -> Result<Vec<WrittenFile>> {
        let (layout, progress) = (Arc::clone(&layout.0), Arc::clone(&self.progress));
        let write =
            move || write::write_files(&planned, &layout, signature.as_slice(), progress.as_ref());
        let written = tokio::task::spawn_blocking(write)
            .await
            .context("writing the bundle")?;
        match written {
            Ok(written) => Ok(written),
            Err(error @ ArchiveError::DamagedCache { expected, .. }) => {
                self.cache.remove(&expected)?;
                let remedy = "it is removed now; run the same command again to fetch it anew";
                Err(anyhow::Error::from(error).context(remedy))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
