//! The bundle: building, verifying, and the memory that takes.

use super::{Figure, MINOR, figure, medians, memory_of};
use crate::product::{Product, run_quietly};
use crate::{paths, upstream};
use anyhow::Result;
use fs_err as fs;
use std::process::Command;

/// Building with a warm cache, beside reading and hashing the same bytes on
/// one core; and the memory that it takes.
pub(super) fn figures(product: &Product) -> Result<Vec<Figure>> {
    let lab = paths::lab()?;
    let served = upstream::ensure(MINOR)?.serve()?;
    let output = lab.join("bench.tar");
    let definition = paths::repository()?.join(format!("bundles/kubernetes-{MINOR}.toml"));
    let build = format!(
        "{} --quiet bundle build {definition} --lock {} {} --sign-key {} --output {output}",
        product.binary,
        lab.join(format!("kubernetes-{MINOR}.lock")),
        served.mirror_arguments().join(" "),
        lab.join("bundle.key"),
    );
    run_quietly(Command::new("sh").args(["-c", &build]))?;
    let floor = format!(
        "taskset -c 0 sh -c 'cat {output} > {output}.copy && sha256sum {output} > /dev/null'"
    );
    let seconds = medians(&[&build, &floor])?;
    let verify = format!(
        "{} --quiet bundle verify {output} --trusted-key {}",
        product.binary, product.public_key
    );
    let hash = format!("sha256sum {output}");
    let verifying = medians(&[&verify, &hash])?;
    let memory = memory_of(&build)?;
    fs::remove_file(&output)?;
    fs::remove_file(format!("{output}.copy"))?;
    Ok(vec![
        figure(
            "bundle build, warm cache",
            (seconds[0], "s"),
            Some(("cat + sha256sum on one core", seconds[1])),
            "",
        ),
        figure(
            "bundle verify",
            (verifying[0], "s"),
            Some(("sha256sum", verifying[1])),
            "",
        ),
        figure(
            "bundle build, resident memory",
            (memory, "MiB"),
            None,
            "at most 128",
        ),
    ])
}
