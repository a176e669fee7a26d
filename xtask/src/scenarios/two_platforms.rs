//! A bundle for amd64 and arm64 on hosts of one of them.

use super::{Context, MINOR, pods};
use crate::product::{Product, run_quietly};
use crate::upstream::{self, Platform};
use crate::{dist, paths, shell};
use anyhow::{Context as _, Result, ensure};
use camino::Utf8PathBuf;
use std::collections::{BTreeMap, BTreeSet};

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// It installs here; and its other half has every file and image that this one has.
pub fn installs(context: &Context) -> Result<()> {
    let product = build(context)?;
    let mut verify = product.command(&["bundle", "verify", product.bundle.as_str()]);
    run_quietly(verify.args(["--trusted-key", product.public_key.as_str()]))?;
    is_whole(&product)?;
    product.install()?;
    pods::nodes_ready(&product)?;
    ensure!(product.plan()?.is_empty(), "steps are left");
    Ok(())
}

/// Locked and built of components for both.
fn build(context: &Context) -> Result<Product> {
    let platforms = PLATFORMS.map(|name| Platform::try_from(name.to_owned()));
    let platforms: Result<Vec<Platform>, String> = platforms.into_iter().collect();
    let platforms = platforms.map_err(anyhow::Error::msg)?;
    let served = upstream::ensure_for(MINOR, &platforms)?.serve()?;
    let arm64 = dist::arm64_binary()?;
    let definition = definition()?;
    let lab = paths::lab()?;
    let product = Product {
        bundle: lab.join("two-platforms.tar"),
        ..context.product.clone()
    };
    let lock = lab.join("two-platforms.lock");
    let mirrors = served.mirror_arguments();
    let mut command = product.command(&["bundle", "lock", definition.as_str()]);
    command.args(["--lock", lock.as_str()]).args(&mirrors);
    run_quietly(&mut command)?;
    let mut command = product.command(&["bundle", "build", definition.as_str()]);
    command.args(["--lock", lock.as_str()]).args(&mirrors);
    command.args(["--agent", &format!("linux/arm64={arm64}")]);
    command.args(["--sign-key", lab.join("bundle.key").as_str()]);
    command.args(["--output", product.bundle.as_str()]);
    shell::run(&mut command)?;
    Ok(product)
}

/// The minor's own for both platforms, without the image that only tests use.
fn definition() -> Result<Utf8PathBuf> {
    let bundles = paths::repository()?.join("bundles");
    let text = fs_err::read_to_string(bundles.join(format!("kubernetes-{MINOR}.toml")))?;
    let platforms = PLATFORMS.map(|name| format!("\"{name}\"")).join(", ");
    let text = text.replace(
        "platforms = [\"linux/amd64\"]",
        &format!("platforms = [{platforms}]"),
    );
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    blocks.retain(|block| !block.contains("library/busybox"));
    let place = paths::lab()?.join("two-platforms");
    fs_err::create_dir_all(place.join("manifests"))?;
    for manifest in bundles.join("manifests").read_dir_utf8()? {
        let manifest = manifest?;
        let copy = place.join("manifests").join(manifest.file_name());
        fs_err::copy(manifest.path(), copy)?;
    }
    let place = place.join("two-platforms.toml");
    fs_err::write(&place, blocks.join("\n\n"))?;
    Ok(place)
}

fn is_whole(product: &Product) -> Result<()> {
    let mut inspect = product.command(&["bundle", "inspect", product.bundle.as_str(), "--json"]);
    let told: serde_json::Value = serde_json::from_str(&run_quietly(&mut inspect)?)?;
    let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in told["files"].as_array().context("no files")? {
        let text = |key: &str| file[key].as_str().context("an odd file");
        files
            .entry(text("platform")?)
            .or_default()
            .insert(text("name")?);
    }
    let [amd64, arm64] = PLATFORMS.map(|name| files.get(name));
    ensure!(
        amd64.is_some() && amd64 == arm64,
        "halves differ: {files:?}"
    );
    let images = told["images"].as_array().context("no images")?;
    ensure!(!images.is_empty(), "no images");
    for image in images {
        let text = image.to_string();
        ensure!(PLATFORMS.iter().all(|name| text.contains(name)), "{text}");
    }
    shell::say(&format!(
        "        {} files and {} images for each of {}",
        arm64.map_or(0, BTreeSet::len),
        images.len(),
        PLATFORMS.join(" and ")
    ));
    Ok(())
}
