//! `cofferdam bundle build`: from a lock to one signed file.

mod fetch_missing;
mod files;

use super::cache::Cache;
use super::definition::Definition;
use super::fetch::{Downloader, FetchOptions, Registries};
use super::lock::Locked;
use super::names;
use super::platform::Platform;
use super::prepare::closure::Closure;
use super::prepare::{self, Need};
use super::progress::Progress;
use super::sign::{KeyId, SigningKey};
use super::tar_format;
use super::write::{ArchiveError, Layout, LayoutBuilder, write_archive};
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use files::{Agent, Prepared};
use fs_err as fs;
use std::collections::BTreeMap;
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
    /// Values for variables of manifests that the closure check's stand-ins can't
    /// serve.
    pub samples: BTreeMap<String, serde_json::Value>,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct BuildOutcome {
    pub path: Utf8PathBuf,
    pub name: String,
    pub version: String,
    pub platforms: Vec<Platform>,
    /// Size of the file in bytes.
    pub size: u64,
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
    };
    let manifests = build.manifests(options)?;
    let agents = build.agents(&options.agents)?;
    build.check_space(&agents, &options.output)?;
    build.fetch_images().await?;
    let files = build.prepare_files().await?;
    let agents = build.prepare_agents(agents).await?;
    let layout = build.assemble(&manifests, files.into_iter().chain(agents).collect())?;
    let signature = build.sign(&layout, key)?;
    let size = build.write(&options.output, &layout, signature).await?;
    let definition = build.locked.definition();
    Ok(BuildOutcome {
        path: options.output.clone(),
        name: definition.name.clone(),
        version: definition.version.clone(),
        platforms: definition.platforms.clone(),
        size,
        index_digest: Digest::of(&layout.0.index),
        signed_by: key.map(SigningKey::id),
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
            samples: options.samples.clone(),
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
            .map(|blob| tar_format::entry_bytes(blob.size));
        // What a file compresses to is not known yet; it is never much larger.
        let files = self.locked.lock().files.iter().map(|file| {
            let compressed = prepare::compressed_before(&self.cache, &file.digest);
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
        output: &Utf8Path,
        layout: &SharedLayout,
        signature: Option<String>,
    ) -> Result<u64> {
        let (layout, progress) = (Arc::clone(&layout.0), Arc::clone(&self.progress));
        let path = output.to_owned();
        let write = move || write_archive(&path, &layout, signature.as_deref(), progress.as_ref());
        let written = tokio::task::spawn_blocking(write)
            .await
            .context("writing the bundle")?;
        match written {
            Ok(written) => Ok(written.size),
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
