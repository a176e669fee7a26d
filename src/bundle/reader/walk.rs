//! Follows the index to everything that it reaches.
//!
//! The walk goes on after a damage, so that `bundle verify` can name everything
//! that is wrong; who opens a bundle to use it stops at the first.

use super::contents::{Contents, FileArtifact, Image, ManifestArtifact, PlatformImage};
use super::error::Damage;
use super::shelf::{Location, Shelf};
use crate::bundle::names;
use crate::bundle::oci::{self, Descriptor, Index, Kind, Manifest};
use crate::bundle::platform::Platform;
use crate::digest::Digest;
use camino::Utf8Path;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

/// Lists of flags and fields larger than this are refused; real ones have some 10 kB.
const NAMES_LIMIT_BYTES: u64 = 1024 * 1024;
/// Manifests larger than this after decompression are refused: Kubernetes' own
/// limit for a request is 3 MB.
const TEMPLATE_LIMIT_BYTES: u64 = 8 * 1024 * 1024;

/// A blob that the index reaches.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub size: u64,
    /// What it belongs to; a blob may be shared.
    pub owners: Vec<String>,
}

/// The outcome of a walk.
pub(super) struct Walk {
    shelf: Arc<Shelf>,
    pub reached: BTreeMap<Digest, Reached>,
    /// What a delta leaves out, since a site has it.
    pub left_out: BTreeMap<Digest, Reached>,
    pub damages: Vec<Damage>,
}

impl Walk {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Self {
            shelf,
            reached: BTreeMap::new(),
            left_out: BTreeMap::new(),
            damages: Vec::new(),
        }
    }

    /// Walks from the parsed `index.json`. What is damaged is missing in the result.
    pub(super) fn run(&mut self, index: &Index) -> Contents {
        let annotations = index.annotations.clone().unwrap_or_default();
        let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
        let mut platforms = Vec::new();
        for name in text(oci::BUNDLE_PLATFORMS)
            .split(',')
            .filter(|name| !name.is_empty())
        {
            match name.parse::<Platform>() {
                Ok(platform) => platforms.push(platform),
                Err(error) => self.damage(None, "index.json", error.to_string()),
            }
        }
        platforms.sort();
        let (name, version) = (text(oci::BUNDLE_NAME), text(oci::VERSION));
        if name.is_empty() || platforms.is_empty() {
            self.damage(
                None,
                "index.json",
                "it names neither bundle nor platforms".to_owned(),
            );
        }
        let mut contents = Contents {
            name,
            version,
            platforms,
            files: Vec::new(),
            images: Vec::new(),
            manifests: BTreeMap::new(),
            lock: None,
            sbom: None,
        };
        for descriptor in &index.manifests {
            // Damages were noted where they were met.
            let _ = self.artifact(descriptor, &mut contents);
        }
        contents
            .files
            .sort_by(|a, b| (&a.name, &a.platform).cmp(&(&b.name, &b.platform)));
        contents
            .images
            .sort_by(|a, b| a.reference.cmp(&b.reference));
        self.check_complete(&contents);
        contents
    }

    fn artifact(&mut self, descriptor: &Descriptor, contents: &mut Contents) -> Option<()> {
        let owner = descriptor
            .annotation(oci::REF_NAME)
            .unwrap_or("an artifact without name");
        let owner = owner.to_owned();
        match descriptor.artifact_type.as_deref() {
            Some(oci::FILE_ARTIFACT_TYPE) => {
                let file = self.file_artifact(descriptor, &format!("file {owner}"))?;
                contents.files.push(file);
            }
            Some(oci::MANIFEST_ARTIFACT_TYPE) => {
                let manifest = self.manifest_artifact(descriptor, &format!("manifest {owner}"))?;
                contents.manifests.insert(manifest.name.clone(), manifest);
            }
            Some(oci::LOCK_ARTIFACT_TYPE) => {
                let manifest: Manifest = self.manifest(descriptor, &owner)?;
                contents.lock = Some(self.layer(&manifest, oci::LOCK_LAYER_TYPE, &owner)?);
            }
            Some(oci::SBOM_ARTIFACT_TYPE) => {
                let manifest: Manifest = self.manifest(descriptor, &owner)?;
                contents.sbom = Some(self.layer(&manifest, oci::SBOM_LAYER_TYPE, &owner)?);
            }
            None if oci::kind(&descriptor.media_type) != Kind::Blob => {
                let platforms = contents.platforms.clone();
                let image = self.image(descriptor, &format!("image {owner}"), &platforms)?;
                contents.images.push(image);
            }
            other => {
                let kind = other.unwrap_or(&descriptor.media_type);
                let problem =
                    format!("this version does not know what `{kind}` is; use a newer cofferdam");
                self.damage(Some(descriptor.digest), &owner, problem);
            }
        }
        Some(())
    }

    fn file_artifact(&mut self, descriptor: &Descriptor, owner: &str) -> Option<FileArtifact> {
        let manifest = self.manifest(descriptor, owner)?;
        let blob = self.layer(&manifest, oci::FILE_LAYER_TYPE, owner)?;
        let (flags_blob, flags) = self.names(&manifest, oci::FLAGS_LAYER_TYPE, owner)?;
        let (fields_blob, fields) = self.names(&manifest, oci::FIELDS_LAYER_TYPE, owner)?;
        let name = manifest
            .annotation(oci::FILE_NAME)
            .filter(|name| names::is_name(name));
        let platform = descriptor.platform.as_ref().and_then(|platform| {
            format!("{}/{}", platform.os, platform.architecture)
                .parse::<Platform>()
                .ok()
        });
        let version = manifest
            .annotation(oci::VERSION)
            .filter(|text| names::is_version(text));
        let digest = blob
            .annotation(oci::FILE_DIGEST)
            .and_then(|text| text.parse().ok());
        let size = blob
            .annotation(oci::FILE_SIZE)
            .and_then(|text| text.parse().ok());
        let (Some(name), Some(platform), Some(version), Some(digest), Some(size)) =
            (name, platform, version, digest, size)
        else {
            let problem = "its name, version, platform, digest or size is missing or not valid";
            self.damage(Some(descriptor.digest), owner, problem.to_owned());
            return None;
        };
        Some(FileArtifact {
            repository: names::file_repository(name),
            tag: names::file_tag(version, &platform),
            name: name.to_owned(),
            version: version.to_owned(),
            platform,
            licence: manifest.annotation(oci::LICENSES).map(str::to_owned),
            manifest: undecorated(descriptor),
            config: manifest.config.clone(),
            blob,
            digest,
            size,
            flags_blob,
            flags,
            fields_blob,
            fields,
        })
    }

    /// A list of names, if the artifact has one; none at all if that is damaged.
    fn names(
        &mut self,
        manifest: &Manifest,
        media_type: &str,
        owner: &str,
    ) -> Option<(Option<Descriptor>, Option<Vec<String>>)> {
        let mut layers = manifest.layers.iter();
        let Some(blob) = layers.find(|layer| layer.media_type == media_type) else {
            return Some((None, None));
        };
        let names = self.json(blob, owner, NAMES_LIMIT_BYTES)?;
        Some((Some(blob.clone()), Some(names)))
    }

    fn manifest_artifact(
        &mut self,
        descriptor: &Descriptor,
        owner: &str,
    ) -> Option<ManifestArtifact> {
        let manifest = self.manifest(descriptor, owner)?;
        let blob = self.layer(&manifest, oci::MANIFEST_LAYER_TYPE, owner)?;
        let compressed = self.bytes(&blob, owner, oci::MANIFEST_LIMIT_BYTES)?;
        let name = manifest
            .annotation(oci::MANIFEST_NAME)
            .filter(|name| names::is_name(name));
        let text = decompress_text(&compressed, TEMPLATE_LIMIT_BYTES);
        match (name, text) {
            (Some(name), Ok(text)) => Some(ManifestArtifact {
                name: name.to_owned(),
                manifest: undecorated(descriptor),
                blob,
                text,
            }),
            (_, Err(error)) => {
                self.damage(
                    Some(blob.digest),
                    owner,
                    format!("decompressing it: {error}"),
                );
                None
            }
            (None, _) => {
                let problem = "its name is missing or not valid".to_owned();
                self.damage(Some(descriptor.digest), owner, problem);
                None
            }
        }
    }

    fn image(
        &mut self,
        descriptor: &Descriptor,
        owner: &str,
        platforms: &[Platform],
    ) -> Option<Image> {
        let reference = descriptor
            .annotation(oci::REF_NAME)
            .unwrap_or_default()
            .to_owned();
        let Some((repository, tag)) = names::split_reference(&reference) else {
            let problem = format!("`{reference}` is not a full image name with a tag");
            self.damage(Some(descriptor.digest), owner, problem);
            return None;
        };
        let mut found = BTreeMap::new();
        if oci::kind(&descriptor.media_type) == Kind::Index {
            let index: Index = self.json(descriptor, owner, oci::MANIFEST_LIMIT_BYTES)?;
            for platform in platforms {
                let Some(child) = index.child(platform) else {
                    continue;
                };
                // An index below an index is as deep as nothing of ours goes.
                if oci::kind(&child.media_type) != Kind::Manifest {
                    let problem = format!("its child for {platform} is not an image manifest");
                    self.damage(Some(child.digest), owner, problem);
                    continue;
                }
                if let Some(half) = self.platform_image(child, owner) {
                    found.insert(platform.clone(), half);
                }
            }
        } else {
            let half = self.platform_image(descriptor, owner)?;
            let own = descriptor.platform.as_ref();
            for platform in platforms
                .iter()
                .filter(|platform| own.is_some_and(|p| p.is(platform)))
            {
                found.insert(platform.clone(), half.clone());
            }
        }
        Some(Image {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            root: undecorated(descriptor),
            reference: reference.clone(),
            platforms: found,
        })
    }

    fn platform_image(&mut self, descriptor: &Descriptor, owner: &str) -> Option<PlatformImage> {
        let manifest = self.manifest(descriptor, owner)?;
        let mut blobs = vec![undecorated(&manifest.config)];
        blobs.extend(manifest.layers.iter().map(undecorated));
        Some(PlatformImage {
            manifest: undecorated(descriptor),
            blobs,
        })
    }

    /// Reads a manifest and reaches its configuration and layers.
    fn manifest(&mut self, descriptor: &Descriptor, owner: &str) -> Option<Manifest> {
        let manifest: Manifest = self.json(descriptor, owner, oci::MANIFEST_LIMIT_BYTES)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            self.reach_content(blob, owner);
        }
        Some(manifest)
    }

    fn layer(&mut self, manifest: &Manifest, kind: &str, owner: &str) -> Option<Descriptor> {
        let layer = manifest
            .layers
            .iter()
            .find(|layer| layer.media_type == kind);
        if layer.is_none() {
            self.damage(None, owner, format!("it has no layer of type {kind}"));
        }
        layer.cloned()
    }

    fn json<T: DeserializeOwned>(
        &mut self,
        descriptor: &Descriptor,
        owner: &str,
        limit: u64,
    ) -> Option<T> {
        let bytes = self.bytes(descriptor, owner, limit)?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.damage(
                    Some(descriptor.digest),
                    owner,
                    format!("parsing it: {error}"),
                );
                None
            }
        }
    }

    /// Reads a small blob and checks its digest.
    fn bytes(&mut self, descriptor: &Descriptor, owner: &str, limit: u64) -> Option<Vec<u8>> {
        let location = self.reach(descriptor, owner)?;
        if location.size > limit {
            let problem = format!("it has {} bytes; at most {limit} are read", location.size);
            self.damage(Some(descriptor.digest), owner, problem);
            return None;
        }
        let mut reader = self.shelf.reader(&descriptor.digest)?;
        let mut bytes = Vec::with_capacity(location.size as usize);
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Some(bytes),
            Err(error) => {
                self.damage(Some(descriptor.digest), owner, error.to_string());
                None
            }
        }
    }

    /// Notes that the index reaches content, which a delta may leave out.
    fn reach_content(&mut self, descriptor: &Descriptor, owner: &str) {
        let digest = descriptor.digest;
        if self.shelf.is_delta() && !self.shelf.blobs.contains_key(&digest) {
            note(&mut self.left_out, digest, descriptor.size, owner);
        } else {
            self.reach(descriptor, owner);
        }
    }

    /// Notes that the index reaches a blob. `None` if it is missing or of another
    /// size, which is noted as damage.
    fn reach(&mut self, descriptor: &Descriptor, owner: &str) -> Option<Location> {
        let digest = descriptor.digest;
        let Some(location) = self.shelf.blobs.get(&digest).copied() else {
            self.damage(Some(digest), owner, "it is missing".to_owned());
            return None;
        };
        if location.size != descriptor.size {
            let problem = format!(
                "it has {} bytes in place of {}",
                location.size, descriptor.size
            );
            self.damage(Some(digest), owner, problem);
            return None;
        }
        note(&mut self.reached, digest, location.size, owner);
        Some(location)
    }

    fn check_complete(&mut self, contents: &Contents) {
        for pair in contents.files.windows(2) {
            if (&pair[0].name, &pair[0].platform) == (&pair[1].name, &pair[1].platform) {
                let owner = format!("file {} for {}", pair[0].name, pair[0].platform);
                self.damage(None, &owner, "it is in the index twice".to_owned());
            }
        }
        for pair in contents.images.windows(2) {
            if pair[0].reference == pair[1].reference {
                let owner = format!("image {}", pair[0].reference);
                self.damage(None, &owner, "it is in the index twice".to_owned());
            }
        }
        for image in &contents.images {
            for platform in &contents.platforms {
                if !image.platforms.contains_key(platform) {
                    let owner = format!("image {}", image.reference);
                    self.damage(None, &owner, format!("nothing is there for {platform}"));
                }
            }
        }
    }

    fn damage(&mut self, digest: Option<Digest>, owner: &str, problem: String) {
        let part = digest.and_then(|digest| self.shelf.part_of(&digest));
        let damage = Damage {
            digest,
            belongs_to: owner.to_owned(),
            problem,
            part: part.map(Utf8Path::to_owned),
        };
        if !self.damages.contains(&damage) {
            self.damages.push(damage);
        }
    }
}

fn note(blobs: &mut BTreeMap<Digest, Reached>, digest: Digest, size: u64, owner: &str) {
    let noted = blobs.entry(digest).or_insert_with(|| Reached {
        size,
        owners: Vec::new(),
    });
    if !noted.owners.iter().any(|known| known == owner) {
        noted.owners.push(owner.to_owned());
    }
}

/// A descriptor as registries and runtimes need it: without what only our index
/// says about it.
fn undecorated(descriptor: &Descriptor) -> Descriptor {
    Descriptor::plain(&descriptor.media_type, descriptor.digest, descriptor.size)
}

fn decompress_text(compressed: &[u8], limit: u64) -> std::io::Result<String> {
    let mut text = String::new();
    let decoder = zstd::stream::read::Decoder::new(compressed)?;
    decoder.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!(
            "it is larger than {limit} bytes"
        )));
    }
    Ok(text)
}
