//! From downloads to what a bundle holds: taking files out of archives, compressing
//! them, reading their flags, proving manifests closed.

pub mod closure;
mod compress;
mod extract;
mod fields;
mod flags;
mod space;

pub use compress::{Compressed, compress, compressed_before};
pub use extract::extract;
pub use fields::{fields_before, read_fields};
pub use flags::{flags_before, parse_flags, read_flags};
pub use space::{Need, check_space};

use super::cache::Cache;
use super::platform::Platform;
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use fs_err::File;
use std::io::Read as _;

/// Fails if a file is a program for another architecture than its platform's. Files
/// that are no ELF programs pass.
pub fn check_architecture(path: &Utf8Path, name: &str, platform: &Platform) -> Result<()> {
    let mut start = Vec::with_capacity(20);
    File::open(path)?
        .take(20)
        .read_to_end(&mut start)
        .with_context(|| format!("reading {path}"))?;
    match Platform::elf_architecture(&start) {
        Some(found) if found != platform.architecture => {
            bail!("checking {name} for {platform}: it is a program for {found}")
        }
        _ => Ok(()),
    }
}

/// The same for a blob in the cache.
pub fn check_blob_architecture(
    cache: &Cache,
    digest: &Digest,
    name: &str,
    platform: &Platform,
) -> Result<()> {
    check_architecture(&cache.blob_path(digest), name, platform)
}
