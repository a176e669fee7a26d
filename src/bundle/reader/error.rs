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
    Damaged {
        path: Utf8PathBuf,
        damage: Box<Damage>,
    },
    #[error(
        "bundle {path} is part {} of {}; missing: {} (looked in {}){}",
        .missing.part, .missing.parts, .missing.numbers, .missing.places,
        unusable(&.missing.damaged)
    )]
    MissingParts {
        path: Utf8PathBuf,
        missing: Box<Missing>,
    },
    #[error("bundle {path} has nothing for {platform}; it carries {carried}")]
    LacksPlatform {
        path: Utf8PathBuf,
        platform: Platform,
        carried: String,
    },
    #[error(
        "bundle {path} is a delta, and leaves out blob {digest} (of {belongs_to}), which the \
         site was to have"
    )]
    LeftOut {
        path: Utf8PathBuf,
        digest: Digest,
        belongs_to: String,
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
            | Self::MissingParts { path, .. }
            | Self::LacksPlatform { path, .. }
            | Self::LeftOut { path, .. }
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
            Self::MissingParts { .. } => Some(
                "put all parts into one directory, or name the others' directories with --parts",
            ),
            Self::LacksPlatform { .. } => {
                Some("build a bundle that lists the platform in `platforms`")
            }
            Self::LeftOut { .. } => {
                Some("name the bundle that it builds on with --base, or take the full bundle")
            }
            Self::NotABundle { .. }
            | Self::Truncated { .. }
            | Self::Unsigned { .. }
            | Self::Damaged { .. }
            | Self::Unreachable { .. } => None,
        }
    }
}

/// Parts that were not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Number of the part that was named, of how many.
    pub part: u32,
    pub parts: u32,
    /// Numbers of the parts that were not found, for people.
    pub numbers: String,
    /// Where they were looked for, for people.
    pub places: String,
    /// Files that bear the name of a missing part.
    pub damaged: Vec<Utf8PathBuf>,
}

fn unusable(damaged: &[Utf8PathBuf]) -> String {
    let paths: Vec<&str> = damaged.iter().map(|path| path.as_str()).collect();
    match paths.is_empty() {
        true => String::new(),
        false => format!(
            "; its front is damaged, or it is of another bundle: {}",
            paths.join(", ")
        ),
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
    /// The file that it lies in, where the bundle has several.
    pub part: Option<Utf8PathBuf>,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.belongs_to)?;
        if let Some(digest) = &self.digest {
            write!(formatter, "blob {digest}: ")?;
        }
        write!(formatter, "{}", self.problem)?;
        match &self.part {
            Some(part) => write!(formatter, " (in {part})"),
            None => Ok(()),
        }
    }
}
