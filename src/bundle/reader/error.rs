//! What can be wrong with a bundle file.

use crate::bundle::platform::Platform;
use crate::bundle::sign::SignatureProblem;
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use std::fmt;

/// Why a bundle could not be opened or read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("reading bundle {path}")]
    Io {
        path: Utf8PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} is not a cofferdam bundle: {found}; bundles are made by `cofferdam bundle build`"
    )]
    NotABundle { path: Utf8PathBuf, found: String },
    #[error(
        "bundle {path} is truncated: {what} ends at byte {needed}, but the file has {length} \
         bytes; copy it again"
    )]
    Truncated {
        path: Utf8PathBuf,
        what: String,
        needed: u64,
        length: u64,
    },
    #[error(
        "bundle {path} is not signed; build it with `--sign-key`, or get the signed one from \
         who built it"
    )]
    Unsigned { path: Utf8PathBuf },
    #[error("checking the signature of bundle {path}: {problem}")]
    Signature {
        path: Utf8PathBuf,
        problem: SignatureProblem,
    },
    #[error("bundle {path}: entry `{entry}` at byte {offset}: {problem}")]
    Entry {
        path: Utf8PathBuf,
        entry: String,
        offset: u64,
        problem: String,
    },
    #[error("bundle {path}: index.json {problem}")]
    Index { path: Utf8PathBuf, problem: String },
    #[error("bundle {path} is damaged: {damage}; copy it again")]
    Damaged { path: Utf8PathBuf, damage: Damage },
    #[error("bundle {path} has nothing for {platform}; it carries {carried}")]
    LacksPlatform {
        path: Utf8PathBuf,
        platform: Platform,
        carried: String,
    },
    #[error("bundle {path}: nothing in its index leads to blob {digest}, so it is not read")]
    Unreachable { path: Utf8PathBuf, digest: Digest },
}

impl BundleError {
    /// The bundle.
    pub fn path(&self) -> &Utf8Path {
        match self {
            Self::Io { path, .. }
            | Self::NotABundle { path, .. }
            | Self::Truncated { path, .. }
            | Self::Unsigned { path }
            | Self::Signature { path, .. }
            | Self::Entry { path, .. }
            | Self::Index { path, .. }
            | Self::Damaged { path, .. }
            | Self::LacksPlatform { path, .. }
            | Self::Unreachable { path, .. } => path,
        }
    }

    /// What to do about it, where the message itself does not say so.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => {
                Some("name the bundle's file; is it readable, and its medium mounted?")
            }
            Self::Signature { .. } => Some(
                "carry the bundle over again; if another key signed it, get that key's public \
                 file from who built it and pass it with --trusted-key",
            ),
            Self::Entry { .. } | Self::Index { .. } => {
                Some("carry the bundle over again, as the one file that was built")
            }
            Self::LacksPlatform { .. } => {
                Some("build a bundle that lists the platform in `platforms`")
            }
            Self::NotABundle { .. }
            | Self::Truncated { .. }
            | Self::Unsigned { .. }
            | Self::Damaged { .. }
            | Self::Unreachable { .. } => None,
        }
    }
}

/// One thing that is wrong with a bundle's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The blob, if it is one.
    pub digest: Option<Digest>,
    /// What it belongs to, such as `image registry.k8s.io/pause:3.10.2`.
    pub belongs_to: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => {
                write!(
                    formatter,
                    "{}: blob {digest}: {}",
                    self.belongs_to, self.problem
                )
            }
            None => write!(formatter, "{}: {}", self.belongs_to, self.problem),
        }
    }
}
