//! The release binary: static, stripped, as it goes into a bundle.

use crate::upstream::cross::COMPILER;
use crate::{paths, shell};
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;

/// The product refuses to grow beyond this, in bytes: hosts get it over a slow
/// link, and a bundle carries one per platform.
const LARGEST: u64 = 25_000_000;

/// Builds the static release binary for this machine's architecture, if it is
/// not up to date, and returns its path.
///
/// `COFFERDAM_BINARY` names one that was built elsewhere.
pub fn binary() -> Result<Utf8PathBuf> {
    if let Ok(path) = std::env::var("COFFERDAM_BINARY") {
        return Ok(path.into());
    }
    let repository = paths::repository()?;
    let triple = host_triple()?;
    // Within `cargo run`, cargo names itself, which need not be on PATH.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    shell::run(
        Command::new(cargo)
            .args([
                "build",
                "--release",
                "--package",
                "cofferdam",
                "--target",
                &triple,
            ])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .current_dir(&repository),
    )?;
    let path = paths::cargo_target()?
        .join(triple)
        .join("release/cofferdam");
    check_size(&path)?;
    Ok(path)
}

/// The same for arm64, from whatever machine; the cross compiler is there.
pub fn arm64_binary() -> Result<Utf8PathBuf> {
    const TRIPLE: &str = "aarch64-unknown-linux-gnu";
    shell::run(Command::new("rustup").args(["target", "add", TRIPLE]))?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    shell::run(
        Command::new(cargo)
            .args(["build", "--release", "--package", "cofferdam"])
            .args(["--target", TRIPLE])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
            .env("CC_aarch64_unknown_linux_gnu", COMPILER)
            .current_dir(paths::repository()?),
    )?;
    let path = paths::cargo_target()?.join(TRIPLE);
    let path = path.join("release/cofferdam");
    check_size(&path)?;
    Ok(path)
}

/// `cargo xtask dist`: builds the binary and says where it is and how large.
pub fn run() -> Result<()> {
    let path = binary()?;
    let size = fs_err::metadata(&path)?.len();
    shell::say(&format!("{path} ({:.1} MB)", size as f64 / 1e6));
    Ok(())
}

fn check_size(path: &Utf8Path) -> Result<()> {
    let size = fs_err::metadata(path)?.len();
    if size > LARGEST {
        anyhow::bail!(
            "{path} has {size} bytes, more than {} MB",
            LARGEST / 1_000_000
        );
    }
    Ok(())
}

fn host_triple() -> Result<String> {
    let version = shell::read(Command::new("rustc").arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}
