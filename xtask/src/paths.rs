//! Where things lie: the repository, its target directory, and the cache of
//! heavy upstream builds, which outlives any one clone.

use anyhow::{Context, Result};
use camino::Utf8PathBuf;

/// The root of the repository.
pub fn repository() -> Result<Utf8PathBuf> {
    let manifest = Utf8PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest
        .parent()
        .context("xtask lies in the repository")?
        .to_owned())
}

/// Where cargo puts what it builds.
pub fn cargo_target() -> Result<Utf8PathBuf> {
    let own = repository()?.join("target");
    Ok(std::env::var("CARGO_TARGET_DIR").map_or(own, Utf8PathBuf::from))
}

/// `target/lab`: inventory, key, fingerprints, bundles and the site.
pub fn lab() -> Result<Utf8PathBuf> {
    Ok(repository()?.join("target/lab"))
}

/// The cache of upstream builds, root file systems and images, keyed by
/// content: `COFFERDAM_CACHE`, or `cofferdam` in the user's cache directory.
pub fn cache() -> Result<Utf8PathBuf> {
    if let Ok(path) = std::env::var("COFFERDAM_CACHE") {
        return Ok(path.into());
    }
    if let Ok(path) = std::env::var("XDG_CACHE_HOME") {
        return Ok(Utf8PathBuf::from(path).join("cofferdam"));
    }
    let home = std::env::var("HOME").context("neither COFFERDAM_CACHE nor HOME is set")?;
    Ok(Utf8PathBuf::from(home).join(".cache/cofferdam"))
}
