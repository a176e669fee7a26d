//! The bundle as other people's tools see it.

use super::Context;
use crate::product::run_quietly;
use crate::shell;
use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Debian's skopeo inspects and copies an image from the bundle file, and
/// Debian's minisign verifies its index.
pub fn standard_tools(context: &Context) -> Result<()> {
    shell::debian_packages(&["minisign", "skopeo"])?;
    let directory = tempfile::tempdir()?;
    let layout = directory.path().join("layout");
    fs_err::create_dir(&layout)?;
    let bundle = &context.product.bundle;
    run_quietly(
        Command::new("tar")
            .arg("-xf")
            .arg(bundle)
            .arg("-C")
            .arg(&layout),
    )?;
    let index = layout.join("index.json");
    run_quietly(
        Command::new("minisign")
            .arg("-Vm")
            .arg(&index)
            .arg("-p")
            .arg(&context.product.public_key),
    )?;
    let mut altered = fs_err::read(&index)?;
    let last = altered.len() - 2;
    altered[last] ^= 1;
    fs_err::write(&index, &altered)?;
    let refused = run_quietly(
        Command::new("minisign")
            .arg("-Vm")
            .arg(&index)
            .arg("-p")
            .arg(&context.product.public_key),
    );
    ensure!(refused.is_err(), "minisign accepts an altered index");
    altered[last] ^= 1;
    fs_err::write(&index, &altered)?;

    let layout = layout
        .to_str()
        .context("a temporary directory with an odd name")?;
    let image = format!("oci:{layout}:registry.k8s.io/pause:3.10.2");
    let said = run_quietly(Command::new("skopeo").args(["inspect", &image]))?;
    let inspected: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(inspected["Os"] == "linux", "skopeo says {said}");
    let target = format!("oci:{}", directory.path().join("copy").display());
    run_quietly(Command::new("skopeo").args(["copy", &image, &target]))?;
    Ok(())
}
