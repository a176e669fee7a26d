//! Bundles on their way: built from nothing, verified, as deltas; their sizes, and
//! the memory that large ones take.

use super::large::Large;
use super::{Figure, MINOR, figure, medians, medians_after, memory_of};
use crate::product::{Product, run_quietly};
use crate::{paths, upstream};
use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;
use fs_err as fs;
use std::fmt::Write as _;
use std::process::Command;

/// The minor after [`MINOR`].
const NEXT: &str = "1.37";

pub(super) fn figures(product: &Product) -> Result<Vec<Figure>> {
    let directory = paths::lab()?.join("carry");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let mut figures = from_nothing(product, &directory)?;
    figures.extend(verified(product)?);
    figures.extend(sizes(product, &directory)?);
    figures.extend(large(product, &directory)?);
    fs::remove_dir_all(&directory)?;
    Ok(figures)
}

/// A build with nothing in the cache, beside what an operator has without one:
/// `skopeo copy` of the images and `curl` of the files, from the same mirror.
fn from_nothing(product: &Product, directory: &Utf8Path) -> Result<Vec<Figure>> {
    let lab = paths::lab()?;
    let served = upstream::ensure(MINOR)?.serve()?;
    let lock = lab.join(format!("kubernetes-{MINOR}.lock"));
    let definition = paths::repository()?.join(format!("bundles/kubernetes-{MINOR}.toml"));
    let (cache, output) = (directory.join("cache"), directory.join("bundle.tar"));
    let build = format!(
        "{} --quiet bundle build {definition} --lock {lock} {} --cache {cache} --sign-key {} \
         --output {output}",
        product.binary,
        served.mirror_arguments().join(" "),
        lab.join("bundle.key"),
    );
    let fetched = directory.join("fetched");
    let script = directory.join("fetch.sh");
    fs::write(&script, fetch_script(&lock, &served, &fetched)?)?;
    let fetch = format!("sh -e {script}");
    let pack = format!("{fetch}; zstd -q -9 -T0 {fetched}/file-*");
    let prepare = format!("rm -rf {cache} {fetched} {output}; mkdir {fetched}");
    let seconds = medians_after(&prepare, &[&build, &pack, &fetch])?;
    let name = "bundle build, nothing in the cache";
    Ok(vec![
        figure(
            name,
            (seconds[0], "s"),
            Some(("skopeo copy of its images, curl of its files", seconds[2])),
            "0.7",
        ),
        figure(
            name,
            (seconds[0], "s"),
            Some((
                "the same, and zstd -9 of the files on all cores",
                seconds[1],
            )),
            "",
        ),
    ])
}

/// One line for each image and each download of a lock.
fn fetch_script(lock: &Utf8Path, served: &upstream::Served, to: &Utf8Path) -> Result<String> {
    let lock: toml::Table = toml::from_str(&fs::read_to_string(lock)?)?;
    let texts = |list: &str, key: &str| -> Result<Vec<String>> {
        let entries = lock.get(list).and_then(toml::Value::as_array);
        let entries = entries.with_context(|| format!("the lock has no {list}"))?;
        let mut texts: Vec<String> = entries
            .iter()
            .filter_map(|entry| Some(entry.get(key)?.as_str()?.to_owned()))
            .collect();
        texts.dedup();
        Ok(texts)
    };
    let mut script = String::new();
    for (number, reference) in texts("images", "reference")?.iter().enumerate() {
        let from = served.image_address(reference);
        writeln!(
            script,
            "skopeo copy --quiet --src-tls-verify=false docker://{from} \
             oci:{to}/image-{number}:x"
        )?;
    }
    for (number, url) in texts("files", "url")?.iter().enumerate() {
        let from = served.file_address(url);
        writeln!(script, "curl -sSfo {to}/file-{number} {from}")?;
    }
    Ok(script)
}

/// Every digest checked, beside what one core hashes times the cores.
fn verified(product: &Product) -> Result<Vec<Figure>> {
    let bundle = &product.bundle;
    let verify = format!(
        "{} --quiet bundle verify {bundle} --trusted-key {}",
        product.binary, product.public_key
    );
    let hash = format!("openssl dgst -sha256 {bundle}");
    let seconds = medians(&[&verify, &hash])?;
    let cores = std::thread::available_parallelism()?.get();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let (bytes, cores) = (fs::metadata(bundle)?.len() as f64 / 1e6, cores as f64);
    Ok(vec![figure(
        "bundle verify, all cores",
        (bytes / seconds[0], "MB/s"),
        Some((
            "openssl dgst -sha256, times the cores",
            bytes / seconds[1] * cores,
        )),
        "0.8 or more",
    )])
}

/// A bundle beside other archives of the same, and deltas.
fn sizes(product: &Product, directory: &Utf8Path) -> Result<Vec<Figure>> {
    let fetched = directory.join("fetched");
    let size = |path: &Utf8Path| -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a number of MB")]
        let bytes = fs::metadata(path)?.len() as f64;
        Ok(bytes / 1e6)
    };
    // Files as they lie on hosts, and images as `docker save` writes them.
    let plain = directory.join("plain");
    fs::create_dir_all(&plain)?;
    let bundle = size(&product.bundle)?;
    let unpacked = unpack(product, &plain, &fetched)?;
    let archive = directory.join("plain.tar.gz");
    let tar = format!("tar -czf {archive} -C {plain} .");
    run_quietly(Command::new("sh").args(["-ec", &tar]))?;
    let mut figures = vec![
        figure(
            "bundle",
            (bundle, "MB"),
            Some(("its binaries and layers as one tar.gz", size(&archive)?)),
            "",
        ),
        figure(
            "bundle",
            (bundle, "MB"),
            Some((
                "its binaries, and images as `docker save` has them",
                unpacked,
            )),
            "",
        ),
    ];
    for release in [format!("{MINOR}.3"), NEXT.to_owned()] {
        figures.extend(delta(product, &release, directory)?);
    }
    Ok(figures)
}

/// Puts all files and images of a bundle into a directory, unpacked, and gives their
/// size in MB.
fn unpack(product: &Product, plain: &Utf8Path, fetched: &Utf8Path) -> Result<f64> {
    let bundle = &product.bundle;
    let script = format!(
        "cd {plain}; mkdir layout files images; tar -xf {bundle} -C layout; \
         for image in {fetched}/image-*; do \
         skopeo copy --quiet oci:$image:x docker-archive:images/$(basename $image).tar; done; \
         for blob in layout/blobs/sha256/*; do \
         zstd -dqo files/$(basename $blob) $blob 2>/dev/null || rm -f files/$(basename $blob); \
         done; rm -rf layout; du -sb --apparent-size . | cut -f1"
    );
    let said = run_quietly(Command::new("sh").args(["-ec", &script]))?;
    let bytes: f64 = said.trim().parse().context("du prints a number")?;
    Ok(bytes / 1e6)
}

/// What of a later release has to be carried to who has this one.
fn delta(product: &Product, release: &str, directory: &Utf8Path) -> Result<Vec<Figure>> {
    let lab = paths::lab()?;
    let later = Product::for_lab(release)?;
    let served = upstream::ensure(release)?.serve()?;
    let output = directory.join("delta.tar");
    let mut build = later.build_command(release)?;
    build.args(served.mirror_arguments());
    build.args(["--sign-key", lab.join("bundle.key").as_str()]);
    build.args([
        "--base",
        product.bundle.as_str(),
        "--output",
        output.as_str(),
    ]);
    run_quietly(&mut build)?;
    let mut diff = product.command(&["bundle", "diff", "--json"]);
    let found = run_quietly(diff.args([&product.bundle, &later.bundle]))?;
    let found: serde_json::Value = serde_json::from_str(&found)?;
    let changed = found["new_bytes"].as_f64().context("bytes of new blobs")? / 1e6;
    #[expect(clippy::cast_precision_loss, reason = "a number of MB")]
    let megabytes = |path: &Utf8Path| -> Result<f64> { Ok(fs::metadata(path)?.len() as f64 / 1e6) };
    let (carried, full) = (megabytes(&output)?, megabytes(&later.bundle)?);
    Ok(vec![
        figure(
            format!("delta to {release}"),
            (carried, "MB"),
            Some(("its changed blobs", changed)),
            "1.02",
        ),
        figure(
            format!("delta to {release}"),
            (carried, "MB"),
            Some(("the full bundle", full)),
            "",
        ),
    ])
}

/// Memory does not grow with the bundle.
fn large(product: &Product, directory: &Utf8Path) -> Result<Vec<Figure>> {
    let mut built = Vec::new();
    let mut verified = Vec::new();
    for gibibytes in [1, 8] {
        let large = Large::make(&directory.join("large"), gibibytes)?;
        let output = directory.join("large.tar");
        let key = paths::lab()?.join("bundle.key");
        let build = format!(
            "{} --quiet bundle build {} --lock {} --cache {} --sign-key {key} --output {output}",
            product.binary, large.definition, large.lock, large.cache
        );
        built.push(memory_of(&build)?);
        let size = fs::metadata(&output)?.len();
        ensure!(size > gibibytes << 30, "{output} has {size} bytes only");
        let verify = format!(
            "{} --quiet bundle verify {output} --trusted-key {}",
            product.binary, product.public_key
        );
        verified.push(memory_of(&verify)?);
        fs::remove_file(&output)?;
        fs::remove_dir_all(directory.join("large"))?;
    }
    let of = |name: &str, memory: &[f64]| {
        figure(
            format!("{name} of 8 GiB, resident memory"),
            (memory[1], "MiB"),
            Some(("of 1 GiB", memory[0])),
            "equal within 16 MiB",
        )
    };
    Ok(vec![
        of("bundle build", &built),
        of("bundle verify", &verified),
    ])
}
