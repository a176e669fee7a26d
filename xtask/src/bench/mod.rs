//! `cargo xtask bench`: figures, each beside its floor in the same run.

mod bundle;
mod install;

use crate::product::{Product, run_quietly};
use crate::{paths, shell};
use anyhow::{Context, Result};
use fs_err as fs;
use serde::Serialize;
use std::process::{Command, Stdio};

const MINOR: &str = "1.36";
/// Runs of each command; the median is reported.
const RUNS: &str = "5";

#[derive(clap::Args)]
pub struct Args {
    /// Only the figures that need no hosts.
    #[arg(long)]
    no_lab: bool,
}

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it is held against, in the same unit.
    beside: Option<(String, f64)>,
    /// `value / beside`.
    ratio: Option<f64>,
    /// What we are out for.
    target: &'static str,
}

pub fn run(args: &Args) -> Result<()> {
    shell::debian_packages(&["hyperfine", "time"])?;
    let product = Product::for_lab(MINOR)?;
    let mut figures = bundle::figures(&product)?;
    if !args.no_lab {
        figures.extend(install::figures(&product)?);
    }
    for figure in &figures {
        let beside = figure
            .beside
            .as_ref()
            .map_or(String::new(), |(name, value)| {
                format!("{name} {value:.2} {}", figure.unit)
            });
        let ratio = figure
            .ratio
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        shell::say(&format!(
            "{:<44} {:>9.2} {:<5} {:<44} {:>6}  {}",
            figure.name, figure.value, figure.unit, beside, ratio, figure.target
        ));
    }
    let path = paths::repository()?.join("target/bench.json");
    fs::write(&path, serde_json::to_vec_pretty(&figures)?)?;
    shell::say(&format!("written to {path}"));
    Ok(())
}

fn figure(
    name: impl Into<String>,
    (value, unit): (f64, &'static str),
    beside: Option<(&str, f64)>,
    target: &'static str,
) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
        ratio: beside.map(|(_, other)| value / other),
        beside: beside.map(|(name, other)| (name.to_owned(), other)),
        target,
    }
}

/// Medians of commands run in turn by hyperfine, in seconds.
fn medians(commands: &[&str]) -> Result<Vec<f64>> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("an odd temporary path")?;
    let mut command = Command::new("hyperfine");
    command.args([
        "--warmup",
        "1",
        "--runs",
        RUNS,
        "--style",
        "none",
        "--export-json",
        path,
    ]);
    run_quietly(command.args(commands))?;
    let value: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    let results = value["results"]
        .as_array()
        .context("hyperfine wrote no results")?;
    results
        .iter()
        .map(|result| result["median"].as_f64().context("no median"))
        .collect()
}

/// Largest resident memory of a command in MiB, by GNU time.
fn memory_of(command: &str) -> Result<f64> {
    let mut timed = Command::new("/usr/bin/time");
    let output = timed
        .args(["-f", "%M", "sh", "-c", command])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let kibibytes: f64 = said.trim().lines().last().unwrap_or_default().parse()?;
    Ok(kibibytes / 1024.0)
}
