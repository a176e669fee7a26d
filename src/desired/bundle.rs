//! What the desired state needs to know of a bundle, as plain data.

use super::types::{Binary, BlobReference, RegistryArtifact};
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A bundle's content without its bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BundleView {
    pub name: String,
    pub version: String,
    /// Platform, `linux/amd64`, to name to binary.
    pub files: BTreeMap<String, BTreeMap<String, Binary>>,
    /// Component to the flags that it knows, without dashes, by platform.
    pub flags: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Component to the names that its binary has of configuration fields, by
    /// platform.
    pub fields: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    pub images: Vec<BundleImage>,
    /// Files as the registries hold them.
    pub file_artifacts: Vec<RegistryArtifact>,
    /// Name to minijinja template.
    pub manifests: BTreeMap<String, String>,
}

/// An image of the bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BundleImage {
    /// `registry.k8s.io/pause:3.10.2`.
    pub reference: String,
    /// As the registries hold it; its last manifest is what the tag names.
    pub artifact: RegistryArtifact,
    /// Platform to the sum of its blobs in bytes.
    pub sizes: BTreeMap<String, u64>,
}

impl BundleImage {
    /// Digest of the index or manifest that the tag names.
    pub fn digest(&self) -> Option<Digest> {
        self.artifact
            .manifests
            .last()
            .map(|manifest| manifest.digest)
    }

    /// `registry.k8s.io/pause:3.10.2@sha256:…`, as manifests refer to it.
    pub fn pinned_reference(&self) -> Option<String> {
        self.digest()
            .map(|digest| format!("{}@{digest}", self.reference))
    }

    /// `registry.k8s.io` of `registry.k8s.io/coredns/coredns:v1.14.7`.
    pub fn upstream_registry(&self) -> &str {
        self.artifact
            .repository
            .split('/')
            .next()
            .unwrap_or_default()
    }
}

impl BundleView {
    /// `kubernetes-1.36 1.36.0`
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Everything that a zone's registry is to hold.
    pub fn artifacts(&self) -> impl Iterator<Item = &RegistryArtifact> {
        self.images
            .iter()
            .map(|image| &image.artifact)
            .chain(&self.file_artifacts)
    }

    /// The image of a repository, `registry.k8s.io/pause`.
    pub fn image(&self, repository: &str) -> Option<&BundleImage> {
        self.images
            .iter()
            .find(|image| image.artifact.repository == repository)
    }

    /// Sum of all blobs that a zone's registry holds, in bytes.
    pub fn registry_bytes(&self) -> u64 {
        let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
        for BlobReference { digest, size, .. } in self
            .artifacts()
            .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests))
        {
            blobs.insert(*digest, *size);
        }
        blobs.values().sum()
    }
}
