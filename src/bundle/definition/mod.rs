//! Definitions: what goes into a bundle, as people write it (`bundles/*.toml`).

mod include;
mod placeholders;
mod raw;

pub use placeholders::Placeholders;

use super::platform::Platform;
use crate::digest::Digest;
use crate::inventory::Problems;
use camino::{Utf8Path, Utf8PathBuf};

/// A valid definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Where it was read from; manifests' paths are relative to its directory.
    pub path: Utf8PathBuf,
    /// Digest of the definition's text, and of those that it includes: the lock
    /// records it, so that a lock never serves another definition.
    pub digest: Digest,
    pub name: String,
    pub version: String,
    /// Platforms to carry, sorted.
    pub platforms: Vec<Platform>,
    /// Sorted by name.
    pub files: Vec<DefinedFile>,
    /// Sorted by name and tag.
    pub images: Vec<DefinedImage>,
    /// Sorted by name.
    pub manifests: Vec<DefinedManifest>,
}

/// One binary or plain file, for every platform. Addresses are templates: see
/// [`Placeholders`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinedFile {
    /// File name on the host.
    pub name: String,
    pub version: String,
    pub url: String,
    /// Where upstream publishes the sha256. Without it the lock records what was
    /// downloaded first.
    pub checksum: Option<String>,
    /// The file inside of the downloaded archive.
    pub member: Option<String>,
    /// SPDX expression.
    pub licence: Option<String>,
    /// Whether the list of flags is read off the binary.
    pub flags: bool,
    /// The kind of tags by which names of configuration fields are read off the binary.
    pub fields: Option<FieldTag>,
}

/// How a Go program's structs name the fields of its configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldTag {
    /// YAML too, where it is read by way of JSON.
    Json,
    Toml,
    Yaml,
}

impl FieldTag {
    const ALL: [Self; 3] = [Self::Json, Self::Toml, Self::Yaml];

    /// As it stands in definitions and in programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Toml => "toml",
            Self::Yaml => "yaml",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| tag.name() == name)
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinedImage {
    /// Full name with the registry's host.
    pub name: String,
    pub tag: String,
    /// SPDX expression.
    pub licence: Option<String>,
}

impl DefinedImage {
    /// `registry.k8s.io/pause:3.10.2`.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

/// One Kubernetes manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinedManifest {
    pub name: String,
    /// Relative to the definition.
    pub path: Utf8PathBuf,
}

/// Why a definition could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The file can't be read; the cause names it.
    #[error("reading the bundle definition")]
    Read(#[source] std::io::Error),
    #[error(transparent)]
    Invalid(#[from] Problems),
    /// What a definition includes can't be read; the cause names it.
    #[error("reading what {by} includes")]
    Include {
        by: Utf8PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("{path} includes itself, by way of others or not")]
    Circle { path: Utf8PathBuf },
    #[error("{kind} `{name}` is in {} and in {}; list it once", files[0], files[1])]
    Twice {
        kind: &'static str,
        name: String,
        files: [Utf8PathBuf; 2],
    },
}

impl Definition {
    /// Reads and checks a definition, and those that it includes.
    pub fn load(path: &Utf8Path) -> Result<Self, DefinitionError> {
        include::load(path)
    }

    /// Checks a definition's text by itself; `path` is where it came from. An unknown
    /// key or a wrong type is the only problem then; everything else is found at
    /// once.
    pub fn parse(text: &str, path: &Utf8Path) -> Result<Self, Problems> {
        raw::parse(text, path).map(|(definition, _)| definition)
    }

    /// Where the definition's lock lies: beside it, ending in `.lock`.
    pub fn lock_path(path: &Utf8Path) -> Utf8PathBuf {
        path.with_extension("lock")
    }

    /// Where a manifest template lies.
    pub fn manifest_path(&self, manifest: &DefinedManifest) -> Utf8PathBuf {
        self.beside(&manifest.path)
    }

    /// Where a path that is relative to the definition leads.
    fn beside(&self, path: &Utf8Path) -> Utf8PathBuf {
        let directory = self.path.parent().unwrap_or(Utf8Path::new(""));
        directory.join(path)
    }
}

#[cfg(test)]
mod tests;
