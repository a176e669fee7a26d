//! The parts of the OCI image specification that bundles are made of.
//!
//! Structures of other makers (images from upstream) are only ever read through
//! these; their bytes travel as they are, since writing JSON anew would change its
//! digest.

use super::platform::Platform;
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types of indexes and manifests (OCI image specification, and Docker's
/// older ones with the same structure).
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST_MEDIA_TYPE: &str =
    "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const EMPTY_MEDIA_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Content of the empty descriptor's blob.
pub const EMPTY_CONTENT: &[u8] = b"{}";

/// Artifact and layer types of what cofferdam itself puts into a bundle.
pub const FILE_ARTIFACT_TYPE: &str = "application/vnd.cofferdam.file.v1";
pub const FILE_LAYER_TYPE: &str = "application/vnd.cofferdam.file.v1+zstd";
pub const FLAGS_LAYER_TYPE: &str = "application/vnd.cofferdam.flags.v1+json";
pub const FIELDS_LAYER_TYPE: &str = "application/vnd.cofferdam.fields.v1+json";
pub const MANIFEST_ARTIFACT_TYPE: &str = "application/vnd.cofferdam.manifest.v1";
pub const MANIFEST_LAYER_TYPE: &str = "application/vnd.cofferdam.manifest.v1+zstd";
pub const LOCK_ARTIFACT_TYPE: &str = "application/vnd.cofferdam.lock.v1";
pub const LOCK_LAYER_TYPE: &str = "application/toml";
pub const SBOM_ARTIFACT_TYPE: &str = "application/vnd.cofferdam.sbom.v1";
pub const SBOM_LAYER_TYPE: &str = "application/vnd.cyclonedx+json";

/// Annotation keys.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
pub const TITLE: &str = "org.opencontainers.image.title";
pub const VERSION: &str = "org.opencontainers.image.version";
pub const LICENSES: &str = "org.opencontainers.image.licenses";
pub const FILE_NAME: &str = "io.cofferdam.file.name";
pub const FILE_DIGEST: &str = "io.cofferdam.file.digest";
pub const FILE_SIZE: &str = "io.cofferdam.file.size";
pub const MANIFEST_NAME: &str = "io.cofferdam.manifest.name";
pub const BUNDLE_NAME: &str = "io.cofferdam.bundle.name";
pub const BUNDLE_PLATFORMS: &str = "io.cofferdam.bundle.platforms";

/// Indexes and manifests larger than this are refused: registries do the same
/// (distribution's limit is 4 MiB).
pub const MANIFEST_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// A reference to a blob: what it is, its digest, its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn plain(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: None,
        }
    }

    /// The descriptor of these very bytes.
    pub fn of(media_type: &str, content: &[u8]) -> Self {
        Self::plain(media_type, Digest::of(content), content.len() as u64)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// A platform as OCI writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl From<&Platform> for OciPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: None,
        }
    }
}

impl OciPlatform {
    /// Whether a host of this platform runs it. Variants are left out of account:
    /// the only one in use on known architectures is arm64's `v8`.
    pub fn is(&self, platform: &Platform) -> bool {
        self.os == platform.os && self.architecture == platform.architecture
    }
}

/// An image index or manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Index {
    /// The child for a platform: the first in the index's own order, as container
    /// runtimes choose.
    pub fn child(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|child| {
            child
                .platform
                .as_ref()
                .is_some_and(|offered| offered.is(platform))
        })
    }
}

/// An image manifest, or an artifact's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// What a media type stands for, as far as walking goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Index,
    Manifest,
    Blob,
}

/// Sorts a media type into what can be walked and what is opaque.
pub fn kind(media_type: &str) -> Kind {
    match media_type {
        INDEX_MEDIA_TYPE | DOCKER_LIST_MEDIA_TYPE => Kind::Index,
        MANIFEST_MEDIA_TYPE | DOCKER_MANIFEST_MEDIA_TYPE => Kind::Manifest,
        _ => Kind::Blob,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_upstream_index_with_unknown_fields_and_attestations() {
        let digest = Digest::of("child");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST_MEDIA_TYPE}","unknown":1,"manifests":[
              {{"mediaType":"{MANIFEST_MEDIA_TYPE}","digest":"{digest}","size":5,
                "platform":{{"architecture":"unknown","os":"unknown"}}}},
              {{"mediaType":"{MANIFEST_MEDIA_TYPE}","digest":"{digest}","size":7,
                "platform":{{"architecture":"arm64","os":"linux","variant":"v8","os.features":[]}}}}
            ]}}"#
        );
        let index: Index = serde_json::from_str(&text).unwrap();
        let child = index.child(&Platform::linux("arm64")).unwrap();
        assert_eq!(child.size, 7);
        assert!(index.child(&Platform::linux("amd64")).is_none());
    }
}
