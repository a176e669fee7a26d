//! The bundle: one signed file that carries everything an air-gapped site needs.
//!
//! A bundle is an OCI image layout in an uncompressed tar. Its `index.json` is
//! the root of all digests, and the signature beside it covers them all, so
//! nothing that the index does not reach is ever read.
//!
//! [`reader`], [`verify`] and [`inspect`] read bundles and need no network;
//! [`write`] puts them together.

pub mod build;
pub mod cache;
pub mod compare;
pub mod definition;
pub mod fetch;
pub mod hash;
pub mod have;
pub mod inspect;
pub mod lock;
pub mod lock_check;
pub mod names;
pub mod oci;
pub mod part;
pub mod platform;
pub mod prepare;
pub mod progress;
pub mod push;
pub mod reader;
pub mod resolve;
pub mod sbom;
pub mod sign;
pub mod tar_format;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
pub mod write;

pub use platform::Platform;
pub use progress::{NoProgress, Progress};
pub use reader::{Bundle, BundleError, FileArtifact, ImageArtifact, Source, Verified};
pub use sign::{SigningKey, TrustedKey};
