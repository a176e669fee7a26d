//! Files: compressed, with their lists of flags and fields; and cofferdam's own binary.

use super::Build;
use crate::bundle::cache::Cache;
use crate::bundle::hash::{COPY_BUFFER_BYTES, Hasher};
use crate::bundle::lock::LockedFile;
use crate::bundle::platform::Platform;
use crate::bundle::prepare::{self, Compressed};
use crate::bundle::sbom::{FileMaterial, GoProgram};
use crate::bundle::write::{FileEntry, StoredBlob};
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

/// Files prepared at once: each compressor takes some 25 MB, and a build must stay
/// small whatever the machine.
const PARALLEL_FILES_LIMIT: usize = 3;
/// Name of the file that holds cofferdam itself.
const AGENT_NAME: &str = "cofferdam";
/// cofferdam's own licence.
const AGENT_LICENCE: &str = "Apache-2.0";

/// cofferdam's binary for a platform.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) platform: Platform,
    pub(super) path: Utf8PathBuf,
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
}

/// A file that is ready for the layout.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    name: String,
    version: String,
    platform: Platform,
    licence: Option<String>,
    digest: Digest,
    size: u64,
    compressed: Compressed,
    flags: Option<Vec<String>>,
    fields: Option<Vec<String>>,
    /// What it was built from, if it is a program in Go.
    go: Option<GoProgram>,
}

impl Prepared {
    pub(super) fn material(&self) -> FileMaterial {
        FileMaterial {
            name: self.name.clone(),
            version: self.version.clone(),
            platform: self.platform.clone(),
            licence: self.licence.clone(),
            digest: self.digest,
            go: self.go.clone(),
        }
    }

    pub(super) fn entry(self, cache: &Cache) -> FileEntry {
        FileEntry {
            name: self.name,
            version: self.version,
            platform: self.platform,
            licence: self.licence,
            digest: self.digest,
            size: self.size,
            compressed: StoredBlob {
                digest: self.compressed.digest,
                size: self.compressed.size,
                path: cache.blob_path(&self.compressed.digest),
            },
            flags: self.flags,
            fields: self.fields,
        }
    }
}

impl Build {
    /// Finds cofferdam's binaries, one for each platform of the bundle.
    pub(super) fn agents(&self, given: &BTreeMap<Platform, Utf8PathBuf>) -> Result<Vec<Agent>> {
        let platforms = &self.locked.definition().platforms;
        if let Some(unused) = given.keys().find(|platform| !platforms.contains(platform)) {
            bail!("there is an agent for {unused}, which the bundle does not carry");
        }
        let mut agents = Vec::new();
        for platform in platforms {
            let path = match given.get(platform) {
                Some(path) => path.clone(),
                None if *platform == Platform::native() => running_binary()?,
                None => bail!(
                    "the bundle is for {platform} too; pass cofferdam's binary for it with \
                     `--agent {platform}=PATH`"
                ),
            };
            prepare::check_architecture(&path, AGENT_NAME, platform)?;
            let (digest, size) = hash_file(&path)?;
            agents.push(Agent {
                platform: platform.clone(),
                path,
                digest,
                size,
            });
        }
        Ok(agents)
    }

    /// Compresses cofferdam's binaries.
    pub(super) async fn prepare_agents(&self, agents: Vec<Agent>) -> Result<Vec<Prepared>> {
        let mut prepared = Vec::new();
        for agent in agents {
            if prepare::compressed_before(&self.cache, &agent.digest).is_none() {
                store_file(&self.cache, &agent)?;
            }
            let item = format!("{AGENT_NAME} {}", agent.platform);
            prepared.push(Prepared {
                name: AGENT_NAME.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                licence: Some(AGENT_LICENCE.to_owned()),
                compressed: self.compress(&agent.digest, item).await?,
                platform: agent.platform,
                digest: agent.digest,
                size: agent.size,
                flags: None,
                fields: None,
                go: None,
            });
        }
        Ok(prepared)
    }

    /// Fetches, unpacks and compresses all locked files, and reads the flags and fields
    /// of those that the definition says so of.
    pub(super) async fn prepare_files(&self) -> Result<Vec<Prepared>> {
        let with_flags: BTreeSet<&str> = self
            .locked
            .definition()
            .files
            .iter()
            .filter(|file| file.flags)
            .map(|file| file.name.as_str())
            .collect();
        // Files of one archive follow each other, so that it is fetched once.
        let mut by_download: BTreeMap<Digest, Vec<&LockedFile>> = BTreeMap::new();
        for file in &self.locked.lock().files {
            by_download.entry(file.download).or_default().push(file);
        }
        let parallel = std::thread::available_parallelism().map_or(1, usize::from);
        let groups = by_download
            .values()
            .map(|files| self.prepare_group(files, &with_flags));
        let groups: Vec<Vec<Prepared>> = stream::iter(groups)
            .buffer_unordered(parallel.min(PARALLEL_FILES_LIMIT))
            .try_collect()
            .await?;
        let mut prepared: Vec<Prepared> = groups.into_iter().flatten().collect();
        share_flags(&mut prepared, &with_flags)?;
        Ok(prepared)
    }

    async fn prepare_group(
        &self,
        files: &[&LockedFile],
        with_flags: &BTreeSet<&str>,
    ) -> Result<Vec<Prepared>> {
        let uncompressed: Vec<&LockedFile> = files
            .iter()
            .filter(|file| prepare::compressed_before(&self.cache, &file.digest).is_none())
            .copied()
            .collect();
        self.ensure_files(&uncompressed).await?;
        let mut prepared = Vec::new();
        for file in files {
            let compressed = self
                .compress(&file.digest, format!("{} {}", file.name, file.platform))
                .await?;
            let own_flags =
                with_flags.contains(file.name.as_str()) && file.platform == Platform::native();
            let flags = if own_flags {
                Some(self.flags(file).await?)
            } else {
                None
            };
            prepared.push(Prepared {
                name: file.name.clone(),
                version: file.version.clone(),
                platform: file.platform.clone(),
                licence: file.licence.clone(),
                digest: file.digest,
                size: file.size,
                compressed,
                flags,
                fields: self.fields(file).await?,
                go: self.go_program(file).await?,
            });
        }
        Ok(prepared)
    }

    /// The list of fields, where the definition asks for one. Programs aren't run for it.
    async fn fields(&self, file: &LockedFile) -> Result<Option<Vec<String>>> {
        let mut defined = self.locked.definition().files.iter();
        let defined = defined.find(|defined| defined.name == file.name);
        let Some(tag) = defined.and_then(|defined| defined.fields) else {
            return Ok(None);
        };
        if let Some(fields) = prepare::fields_before(&self.cache, &file.digest, tag) {
            return Ok(Some(fields));
        }
        self.ensure_files(&[file]).await?;
        let (cache, digest, name) = (self.cache.clone(), file.digest, file.name.clone());
        let read = move || prepare::read_fields(&cache, &digest, &name, tag);
        let fields = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| anyhow!("reading fields: {error}"))??;
        Ok(Some(fields))
    }

    async fn flags(&self, file: &LockedFile) -> Result<Vec<String>> {
        if let Some(flags) = prepare::flags_before(&self.cache, &file.digest) {
            return Ok(flags);
        }
        self.ensure_files(&[file]).await?;
        prepare::read_flags(&self.cache, &file.digest, &file.name).await
    }

    async fn compress(&self, digest: &Digest, item: String) -> Result<Compressed> {
        if let Some(compressed) = prepare::compressed_before(&self.cache, digest) {
            return Ok(compressed);
        }
        let (cache, digest, progress) = (self.cache.clone(), *digest, Arc::clone(&self.progress));
        let compress = move || prepare::compress(&cache, &digest, &item, progress.as_ref());
        tokio::task::spawn_blocking(compress)
            .await
            .map_err(|error| anyhow!("compressing: {error}"))?
    }
}

/// Gives files for other platforms the list of the same file for this machine's:
/// Go programs have the same flags everywhere, and foreign ones can't be run here.
fn share_flags(files: &mut [Prepared], with_flags: &BTreeSet<&str>) -> Result<()> {
    let native: BTreeMap<String, Vec<String>> = files
        .iter()
        .filter_map(|file| Some((file.name.clone(), file.flags.clone()?)))
        .collect();
    for file in files
        .iter_mut()
        .filter(|file| with_flags.contains(file.name.as_str()))
    {
        let flags = native.get(&file.name).with_context(|| {
            format!(
                "reading flags of {} for {}: it can't be run on this machine, and the bundle \
                 does not carry it for {}; add that platform, or build on such a machine",
                file.name,
                file.platform,
                Platform::native()
            )
        })?;
        file.flags = Some(flags.clone());
    }
    Ok(())
}

fn running_binary() -> Result<Utf8PathBuf> {
    let path = std::env::current_exe().context("finding the running binary")?;
    Utf8PathBuf::from_path_buf(path)
        .map_err(|path| anyhow!("the running binary's path is not UTF-8: {}", path.display()))
}

fn hash_file(path: &Utf8Path) -> Result<(Digest, u64)> {
    let mut hasher = Hasher::default();
    copy_chunks(path, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    Ok(hasher.finish())
}

fn store_file(cache: &Cache, agent: &Agent) -> Result<()> {
    let mut writer = cache.writer()?;
    copy_chunks(&agent.path, |chunk| Ok(writer.write_all(chunk)?))?;
    writer
        .commit_as(&agent.digest)
        .with_context(|| format!("reading {} again: it changed meanwhile", agent.path))?;
    Ok(())
}

fn copy_chunks(path: &Utf8Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        take(&buffer[..read])?;
    }
}
