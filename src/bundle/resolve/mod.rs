//! `cofferdam bundle lock`: resolves a definition to digests.

mod images;

use super::cache::Cache;
use super::compare::{self, Comparison};
use super::definition::{DefinedFile, Definition, Placeholders};
use super::fetch::{
    Download, Downloader, FetchOptions, PARALLEL_DOWNLOADS, Registries, published_digest,
};
use super::lock::{Lock, LockedDefinition, LockedFile, LockedManifest, SCHEMA};
use super::platform::Platform;
use super::prepare;
use super::progress::Progress;
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use images::lock_images;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;

/// Name of the stage that downloads are reported under.
pub(super) const DOWNLOAD_STAGE: &str = "download";
/// Name of the stage that images' resolution is reported under.
const RESOLVE_STAGE: &str = "resolve";

/// What to lock, and how to fetch.
#[derive(Debug, Clone)]
pub struct LockOptions {
    pub definition: Utf8PathBuf,
    /// Where to write the lock; beside the definition unless given.
    pub lock: Option<Utf8PathBuf>,
    /// The cache's directory.
    pub cache: Utf8PathBuf,
    pub fetch: FetchOptions,
}

/// What locking did.
#[derive(Debug, Clone)]
pub struct LockOutcome {
    pub lock: Lock,
    pub path: Utf8PathBuf,
    /// Whether the file's content is another than before.
    pub changed: bool,
    /// What is another than in the lock before; none if there was none that could
    /// be read.
    pub comparison: Option<Comparison>,
}

/// Resolves a definition and writes its lock. Files are downloaded (into the cache)
/// and compared with what upstream publishes; of images only manifests are fetched.
pub async fn lock(options: &LockOptions, progress: Arc<dyn Progress>) -> Result<LockOutcome> {
    let definition = Definition::load(&options.definition)?;
    let cache = Cache::open(&options.cache)?;
    let downloader = Downloader::new(&options.fetch)?;
    let registries = Registries::new(&options.fetch)?;
    let manifests = lock_manifests(&definition)?;
    let images = lock_images(&definition, &registries, &cache, progress.as_ref()).await?;
    let files = lock_files(&definition, &downloader, &cache, &progress).await?;
    let lock = Lock {
        schema: SCHEMA,
        definition: LockedDefinition {
            name: definition.name.clone(),
            version: definition.version.clone(),
            platforms: definition.platforms.clone(),
            digest: definition.digest,
        },
        files,
        images,
        manifests,
    };
    let path = options
        .lock
        .clone()
        .unwrap_or_else(|| Definition::lock_path(&definition.path));
    let before = fs::read_to_string(&path).ok();
    let before = before.and_then(|text| Lock::parse(&text).ok());
    let changed = write_if_changed(&path, &lock.render())?;
    Ok(LockOutcome {
        comparison: before.map(|before| compare::locks(&before, &lock)),
        lock,
        path,
        changed,
    })
}

fn lock_manifests(definition: &Definition) -> Result<Vec<LockedManifest>> {
    let lock = |manifest: &super::definition::DefinedManifest| {
        let content = fs::read(definition.manifest_path(manifest))?;
        Ok(LockedManifest {
            name: manifest.name.clone(),
            path: manifest.path.clone(),
            digest: Digest::of(&content),
            size: content.len() as u64,
        })
    };
    definition.manifests.iter().map(lock).collect()
}

/// Files that come out of one download.
struct Group<'a> {
    url: String,
    wanted: Vec<(&'a DefinedFile, &'a Platform)>,
}

async fn lock_files(
    definition: &Definition,
    downloader: &Downloader,
    cache: &Cache,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<LockedFile>> {
    let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for file in &definition.files {
        for platform in &definition.platforms {
            let url = placeholders(file, platform, None).expand(&file.url);
            groups
                .entry(url.clone())
                .or_insert_with(|| Group {
                    url,
                    wanted: Vec::new(),
                })
                .wanted
                .push((file, platform));
        }
    }
    let futures = groups
        .values()
        .map(|group| lock_group(group, downloader, cache, progress));
    let locked: Vec<Vec<LockedFile>> = stream::iter(futures)
        .buffer_unordered(PARALLEL_DOWNLOADS)
        .try_collect()
        .await?;
    let mut files: Vec<LockedFile> = locked.into_iter().flatten().collect();
    files.sort_by(|a, b| (&a.name, &a.platform).cmp(&(&b.name, &b.platform)));
    Ok(files)
}

async fn lock_group(
    group: &Group<'_>,
    downloader: &Downloader,
    cache: &Cache,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<LockedFile>> {
    let file_name = file_name(&group.url);
    let mut expected = None;
    for (file, platform) in &group.wanted {
        let Some(template) = &file.checksum else {
            continue;
        };
        let checksum_url = placeholders(file, platform, Some(&group.url)).expand(template);
        let text = downloader.text(&checksum_url).await?;
        let published = published_digest(&text, file_name)
            .with_context(|| format!("reading the sum of {} from {checksum_url}", group.url))?;
        match expected {
            Some(other) if other != published => {
                bail!(
                    "upstream publishes two sums for {}: {other} and {published}",
                    group.url
                )
            }
            _ => expected = Some(published),
        }
    }
    let download = Download {
        url: &group.url,
        stage: DOWNLOAD_STAGE,
        item: file_name,
        expected,
    };
    let (download, download_size) = downloader
        .fetch(download, cache, progress.as_ref())
        .await
        .with_context(|| match expected {
            Some(_) => format!(
                "comparing {} with the sum that upstream publishes",
                group.url
            ),
            None => format!("downloading {}", group.url),
        })?;
    let members = group
        .wanted
        .iter()
        .filter_map(|(file, platform)| member(file, platform));
    let extracted = extract_in_background(cache, &download, members.collect())
        .await
        .with_context(|| format!("unpacking {}", group.url))?;
    let mut locked = Vec::new();
    for (file, platform) in &group.wanted {
        let member = member(file, platform);
        let (digest, size) = match &member {
            Some(member) => *extracted
                .get(member)
                .with_context(|| format!("unpacking `{member}`"))?,
            None => (download, download_size),
        };
        prepare::check_blob_architecture(cache, &digest, &file.name, platform)?;
        locked.push(LockedFile {
            name: file.name.clone(),
            version: file.version.clone(),
            platform: (*platform).clone(),
            licence: file.licence.clone(),
            url: group.url.clone(),
            download,
            download_size,
            member,
            digest,
            size,
        });
    }
    Ok(locked)
}

/// Unpacks members of a cached archive on a thread for blocking work.
pub(super) async fn extract_in_background(
    cache: &Cache,
    archive: &Digest,
    members: BTreeSet<String>,
) -> Result<BTreeMap<String, (Digest, u64)>> {
    if members.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (cache, path) = (cache.clone(), cache.blob_path(archive));
    let extract = move || prepare::extract(&path, &members, &cache);
    tokio::task::spawn_blocking(extract)
        .await
        .map_err(|error| anyhow!("unpacking: {error}"))?
}

/// What an address or path of a file may name.
pub(super) fn placeholders<'a>(
    file: &'a DefinedFile,
    platform: &'a Platform,
    url: Option<&'a str>,
) -> Placeholders<'a> {
    Placeholders {
        name: &file.name,
        version: &file.version,
        platform,
        url,
    }
}

/// The path of a file within its download, if that is an archive.
pub(super) fn member(file: &DefinedFile, platform: &Platform) -> Option<String> {
    Some(placeholders(file, platform, None).expand(file.member.as_ref()?))
}

/// The last part of an address.
pub(super) fn file_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn write_if_changed(path: &Utf8Path, text: &str) -> Result<bool> {
    if path.exists() && fs::read_to_string(path)? == text {
        return Ok(false);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    };
    let mut temporary = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("writing lock {path}"))?;
    temporary.write_all(text.as_bytes())?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temporary.as_file().set_permissions(permissions)?;
    temporary
        .persist(path)
        .with_context(|| format!("writing lock {path}"))?;
    Ok(true)
}
