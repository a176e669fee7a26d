//! The bundle as other people's tools see it.

use super::Context;
use super::MINOR;
use crate::product::{outcome, run_quietly};
use crate::{shell, upstream};
use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;
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
    // The file as it is, too.
    let archive = format!("oci-archive:{bundle}:registry.k8s.io/pause:3.10.2");
    let said = run_quietly(Command::new("skopeo").args(["inspect", &archive]))?;
    ensure!(said.contains("\"linux\""), "skopeo says {said}");
    let oras = upstream::ensure(MINOR)?.binary("oras")?;
    let pull = Command::new(oras)
        .args(["pull", "--oci-layout-path", bundle.as_str()])
        .arg("cofferdam/sbom:1.36.0")
        .current_dir(directory.path())
        .output()?;
    let said = String::from_utf8_lossy(&pull.stderr);
    ensure!(pull.status.success(), "oras says {said}");
    let sbom = fs_err::read_to_string(directory.path().join("sbom.cdx.json"))?;
    let sbom: serde_json::Value = serde_json::from_str(&sbom)?;
    ensure!(sbom["bomFormat"] == "CycloneDX", "the SBOM is none");
    Ok(())
}

/// containerd's own tool takes images out of the file.
pub fn imported_by_containerd(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let bundle = &context.product.bundle;
    let import = "cat > /root/bundle.tar && /opt/cofferdam/bin/ctr -n lent images import \
        --no-unpack /root/bundle.tar && /opt/cofferdam/bin/ctr -n lent images ls -q; \
        rm -f /root/bundle.tar";
    let output = lab
        .ssh_command("w1")?
        .arg(import)
        .stdin(fs_err::File::open(bundle)?.into_parts().0)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "ctr says {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for image in [
        "registry.k8s.io/pause:3.10.2",
        "docker.io/library/busybox:1.36.1",
    ] {
        ensure!(said.contains(image), "ctr has {said}");
    }
    Ok(())
}

/// Another registry gets all of a bundle, and only what it lacks; skopeo finds an
/// image there under its own name.
pub fn pushed_to_another_registry(context: &Context) -> Result<()> {
    let store = tempfile::tempdir()?;
    let store = Utf8Path::from_path(store.path()).context("an odd temporary directory")?;
    let registry = upstream::ensure(MINOR)?.registry_at(store)?;
    let to = format!("http://{}/k8s", registry.address);
    let product = &context.product;
    let push = || {
        let words = ["registry", "push", "--bundle", product.bundle.as_str()];
        let mut command = product.command(&words);
        command.args(["--trusted-key", product.public_key.as_str(), "--to", &to]);
        outcome(&mut command)
    };
    let first = push()?;
    ensure!(
        first.status == 0 && first.stderr.contains(", sent, 0 were there"),
        "exit {}\n{}",
        first.status,
        first.stderr
    );
    let place = format!("{}/k8s/registry.k8s.io/pause:3.10.2", registry.address);
    let image = format!("docker://{place}");
    let mut inspect = Command::new("skopeo");
    let said = run_quietly(inspect.args(["inspect", "--tls-verify=false", &image]))?;
    ensure!(said.contains("\"linux\""), "skopeo says {said}");
    let second = push()?;
    ensure!(
        second.status == 0 && second.stderr.contains(": 0 blobs, 0 B, sent"),
        "exit {}\n{}",
        second.status,
        second.stderr
    );
    Ok(())
}
