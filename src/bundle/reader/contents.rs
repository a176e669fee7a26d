//! What a bundle holds, as plain data: no file behind it, so that pure code can be
//! tested without one.

use crate::bundle::oci::Descriptor;
use crate::bundle::platform::Platform;
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that a bundle's index leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub name: String,
    pub version: String,
    /// Platforms carried, sorted.
    pub platforms: Vec<Platform>,
    /// Sorted by name and platform.
    pub files: Vec<FileArtifact>,
    /// Sorted by reference.
    pub images: Vec<Image>,
    pub manifests: BTreeMap<String, ManifestArtifact>,
    /// The lock that the bundle was built from (TOML).
    pub lock: Option<Descriptor>,
    /// What it all consists of (CycloneDX, JSON); none in bundles of older builds.
    #[serde(default)]
    pub sbom: Option<Descriptor>,
}

/// A binary or other file, for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileArtifact {
    /// File name on the host.
    pub name: String,
    pub version: String,
    pub platform: Platform,
    /// SPDX expression, where the definition gives one.
    pub licence: Option<String>,
    /// Repository and tag under which registries keep the artifact.
    pub repository: String,
    pub tag: String,
    /// The artifact's manifest.
    pub manifest: Descriptor,
    /// The artifact's (empty) configuration.
    pub config: Descriptor,
    /// The file's bytes, compressed with zstd.
    pub blob: Descriptor,
    /// Digest of the file itself.
    pub digest: Digest,
    /// Size of the file itself in bytes.
    pub size: u64,
    /// The blob with the list of flags.
    pub flags_blob: Option<Descriptor>,
    /// Names of the flags that the binary knows, without dashes, sorted.
    pub flags: Option<Vec<String>>,
    /// The blob with the list of fields.
    pub fields_blob: Option<Descriptor>,
    /// Names that stand in the binary as configuration fields, sorted. A key that is not
    /// among them means nothing to it.
    pub fields: Option<Vec<String>>,
}

impl FileArtifact {
    /// All blobs in the order that a registry wants them: blobs, then the manifest.
    pub fn content(&self) -> Vec<Descriptor> {
        let mut content = vec![self.config.clone(), self.blob.clone()];
        content.extend(self.flags_blob.clone());
        content.extend(self.fields_blob.clone());
        content.push(self.manifest.clone());
        content
    }
}

/// An image with all platforms that the bundle carries of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Full name with tag, such as `registry.k8s.io/pause:3.10.2`.
    pub reference: String,
    pub repository: String,
    pub tag: String,
    /// Upstream's index; or its manifest, where upstream has no index.
    pub root: Descriptor,
    pub platforms: BTreeMap<Platform, PlatformImage>,
}

/// One platform's half of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    pub manifest: Descriptor,
    /// Configuration first, then the layers in order.
    pub blobs: Vec<Descriptor>,
}

/// An image as one platform needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageArtifact {
    pub reference: String,
    pub repository: String,
    pub tag: String,
    /// What the tag points to: upstream's index or manifest.
    pub root: Descriptor,
    /// Digest of the manifest that a runtime of the platform ends up with.
    pub manifest_for_platform: Digest,
    /// All blobs in the order that a registry wants them: blobs, manifest, index.
    pub content: Vec<Descriptor>,
}

impl ImageArtifact {
    /// The image by digest, as manifests pin it: `registry.k8s.io/pause@sha256:…`.
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.repository, self.root.digest)
    }
}

/// A Kubernetes manifest: a minijinja template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestArtifact {
    pub name: String,
    pub manifest: Descriptor,
    pub blob: Descriptor,
    /// The template's text.
    pub text: String,
}

impl Contents {
    /// Files for a platform by name.
    pub fn files(&self, platform: &Platform) -> BTreeMap<String, FileArtifact> {
        let of_platform = self.files.iter().filter(|file| file.platform == *platform);
        of_platform
            .map(|file| (file.name.clone(), file.clone()))
            .collect()
    }

    /// Images for a platform, sorted by reference.
    pub fn images(&self, platform: &Platform) -> Vec<ImageArtifact> {
        let images = self.images.iter();
        images
            .filter_map(|image| image.for_platforms(std::slice::from_ref(platform)))
            .collect()
    }

    /// Images with all platforms that the bundle carries: what a registry that
    /// serves hosts of several platforms holds. `manifest_for_platform` is that of
    /// the first platform.
    pub fn images_of_all_platforms(&self) -> Vec<ImageArtifact> {
        self.images
            .iter()
            .filter_map(|image| image.for_platforms(&self.platforms))
            .collect()
    }

    /// Manifest templates by name.
    pub fn manifests(&self) -> BTreeMap<String, String> {
        let manifests = self.manifests.iter();
        manifests
            .map(|(name, manifest)| (name.clone(), manifest.text.clone()))
            .collect()
    }
}

impl Image {
    fn for_platforms(&self, platforms: &[Platform]) -> Option<ImageArtifact> {
        let halves: Vec<&PlatformImage> = platforms
            .iter()
            .filter_map(|platform| self.platforms.get(platform))
            .collect();
        let first = halves.first()?;
        let blobs = halves.iter().flat_map(|half| half.blobs.iter());
        let manifests = halves.iter().map(|half| &half.manifest);
        let mut content: Vec<Descriptor> = Vec::new();
        for descriptor in blobs.chain(manifests).chain([&self.root]) {
            if !content
                .iter()
                .any(|known| known.digest == descriptor.digest)
            {
                content.push(descriptor.clone());
            }
        }
        Some(ImageArtifact {
            reference: self.reference.clone(),
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            root: self.root.clone(),
            manifest_for_platform: first.manifest.digest,
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::oci::{INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};

    #[test]
    fn content_comes_in_push_order_without_repetition() {
        let blob = |name: &str| Descriptor::of("application/octet-stream", name.as_bytes());
        let half = |name: &str| PlatformImage {
            manifest: Descriptor::of(MANIFEST_MEDIA_TYPE, name.as_bytes()),
            blobs: vec![
                blob(&format!("config of {name}")),
                blob("shared"),
                blob("shared"),
            ],
        };
        let platforms = [Platform::linux("amd64"), Platform::linux("arm64")];
        let image = Image {
            reference: "registry.k8s.io/pause:3".to_owned(),
            repository: "registry.k8s.io/pause".to_owned(),
            tag: "3".to_owned(),
            root: Descriptor::of(INDEX_MEDIA_TYPE, b"index"),
            platforms: platforms
                .iter()
                .cloned()
                .zip([half("a"), half("b")])
                .collect(),
        };
        let artifact = image.for_platforms(&platforms).unwrap();
        let kinds: Vec<&str> = artifact
            .content
            .iter()
            .map(|descriptor| descriptor.media_type.as_str())
            .collect();
        let blob_type = "application/octet-stream";
        assert_eq!(
            kinds,
            [
                blob_type,
                blob_type,
                blob_type,
                MANIFEST_MEDIA_TYPE,
                MANIFEST_MEDIA_TYPE,
                INDEX_MEDIA_TYPE
            ]
        );
        let one = image.for_platforms(&platforms[1..]).unwrap();
        assert_eq!(one.content.len(), 4);
        assert_eq!(one.manifest_for_platform, Digest::of("b"));
        assert!(image.for_platforms(&[Platform::linux("s390x")]).is_none());
    }
}
