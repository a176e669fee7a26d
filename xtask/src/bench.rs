//! `cargo xtask bench`: figures, each beside its floor in the same run.

use crate::lab::{self, Lab};
use crate::product::{Product, run_quietly};
use crate::{demo, paths, shell, upstream};
use anyhow::{Context, Result};
use fs_err as fs;
use serde::Serialize;
use std::process::{Command, Stdio};
use std::time::Instant;

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
    let mut figures = build(&product)?;
    if !args.no_lab {
        figures.extend(install(&product)?);
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

/// Building with a warm cache, beside reading and hashing the same bytes on
/// one core.
fn build(product: &Product) -> Result<Vec<Figure>> {
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

/// An install from bare hosts by stage, its bytes, and a second one.
fn install(product: &Product) -> Result<Vec<Figure>> {
    if let Ok(lab) = Lab::open() {
        lab.down()?;
    }
    demo::clear_site()?;
    lab::up(&lab::Options {
        wanted: lab::Wanted {
            masters: 1,
            workers: 2,
            zones: Vec::new(),
        },
        default_route: lab::DefaultRoute::Absent,
        rules: lab::Rules::Binary(product.binary.clone()),
    })?;
    product.trust_hosts()?;
    let begun = Instant::now();
    let events = run_quietly(&mut product.verb("install", &["--yes", "--json"]))?;
    let mut figures = vec![figure(
        "install, bare to Ready",
        (begun.elapsed().as_secs_f64(), "s"),
        None,
        "",
    )];
    let mut sent = 0.0;
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let seconds = event["seconds"].as_f64().unwrap_or_default();
        match event["event"].as_str() {
            Some("stage-done") => {
                let name = format!("  stage {}", event["stage"].as_str().unwrap_or_default());
                figures.push(figure(name, (seconds, "s"), None, ""));
            }
            Some("phase-done") => {
                let name = format!("  {}", event["phase"].as_str().unwrap_or_default());
                figures.push(figure(name, (seconds, "s"), None, ""));
            }
            Some("run-done") => sent = event["sent_bytes"].as_f64().unwrap_or_default(),
            _ => {}
        }
    }
    let mebibytes = |bytes: f64| bytes / 1_048_576.0;
    let bundle = fs::metadata(&product.bundle)?.len() as f64;
    let agents = 3.0 * fs::metadata(&product.binary)?.len() as f64;
    figures.push(figure(
        "bytes over the jump host's link",
        (mebibytes(sent), "MiB"),
        Some(("bundle and three agents", mebibytes(bundle + agents))),
        "1.0",
    ));
    let begun = Instant::now();
    run_quietly(&mut product.verb("install", &["--yes"]))?;
    let seconds = begun.elapsed().as_secs_f64();
    figures.push(figure("second install", (seconds, "s"), None, "5 s"));
    Lab::open()?.down()?;
    Ok(figures)
}
