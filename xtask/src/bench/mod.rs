//! `cargo xtask bench`: figures, each beside its floor in the same run.

mod bundle;
mod carry;
mod hosts;
mod install;
mod kubeadm;
mod large;
mod links;
mod memory;
mod outages;
mod upgrade;

use crate::lab::{Kind, Wanted};
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
    /// Only these parts, each beside what it needs [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Masters of the cluster, one per zone in turn.
    #[arg(long, default_value_t = 3)]
    masters: u8,
    /// Workers of the cluster, one per zone in turn.
    #[arg(long, default_value_t = 2)]
    workers: u8,
}

/// What is measured together.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A bundle is built and verified; needs no hosts.
    Bundle,
    /// Bundles built from nothing, deltas, and large ones; needs no hosts, 20 GB of
    /// disk.
    Carry,
    /// The same cluster by kubeadm.
    Kubeadm,
    /// An install from bare hosts, and a second one.
    Install,
    /// Memory of an idle master.
    Memory,
    /// Zones cut off and masters switched off.
    Outages,
    /// An upgrade to the next minor under load, and kubeadm's.
    Upgrade,
    /// An install over slow links.
    Links,
}

impl Part {
    /// What is measured on one and the same cluster.
    const ON_A_CLUSTER: [Self; 4] = [Self::Install, Self::Memory, Self::Outages, Self::Upgrade];
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
    shell::debian_packages(&["curl", "hyperfine", "openssl", "skopeo", "time", "zstd"])?;
    let product = Product::for_lab(MINOR)?;
    let is_asked = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let wanted = Wanted {
        masters: args.masters,
        workers: args.workers,
        ..Wanted::default()
    };
    let mut all = Table::default();
    if is_asked(Part::Bundle) {
        all.add(bundle::figures(&product)?);
    }
    if is_asked(Part::Carry) {
        all.add(carry::figures(&product)?);
    }
    let peer = match is_asked(Part::Kubeadm) {
        true => {
            let next = is_asked(Part::Upgrade).then_some(upgrade::NEXT);
            Some(kubeadm::measure(MINOR, next, wanted.clone())?)
        }
        false => None,
    };
    if let Some(peer) = &peer {
        all.add(kubeadm::figures(peer));
    }
    if is_asked(Part::Upgrade) {
        let lab = install::bare_hosts(&product, wanted.clone(), None)?;
        all.add(upgrade::without_load(&product, peer.as_ref())?);
        lab.down()?;
    }
    if Part::ON_A_CLUSTER.iter().any(|part| is_asked(*part)) {
        let lab = install::bare_hosts(&product, wanted.clone(), None)?;
        match is_asked(Part::Install) {
            true => all.add(install::figures(&product, &lab, peer.as_ref())?),
            false => product.install()?,
        }
        if is_asked(Part::Memory) {
            let masters = lab.hosts().iter();
            let mut masters = masters.filter(|host| host.kind == Kind::Master);
            let first = masters.next().context("no master")?;
            let own = memory::idle(&lab, &first.name)?;
            all.add(memory::figures(
                &own,
                peer.as_ref().map(|peer| &peer.memory),
            ));
        }
        if is_asked(Part::Outages) {
            all.add(outages::figures(&product, &lab)?);
        }
        // Last: there is no way back.
        if is_asked(Part::Upgrade) {
            all.add(upgrade::figures(&product, &lab, peer.as_ref())?);
        }
        lab.down()?;
    }
    if is_asked(Part::Links) {
        all.add(links::figures(&product, wanted)?);
    }
    // Figures of clusters of other sizes are others, and stay.
    let (masters, workers) = (args.masters, args.workers);
    let name = format!("target/bench-{masters}-masters-{workers}-workers.json");
    let path = paths::repository()?.join(name);
    fs::write(&path, serde_json::to_vec_pretty(&all.0)?)?;
    shell::say(&format!("written to {path}"));
    Ok(())
}

/// All figures so far. What has been measured is shown at once: later parts
/// take minutes, and can fail.
#[derive(Default)]
struct Table(Vec<Figure>);

impl Table {
    fn add(&mut self, figures: Vec<Figure>) {
        for figure in &figures {
            shell::say(&figure.line());
        }
        self.0.extend(figures);
    }
}

impl Figure {
    fn line(&self) -> String {
        let beside = self.beside.as_ref();
        let beside = beside.map_or(String::new(), |(name, value)| {
            format!("{name} {value:.2} {}", self.unit)
        });
        let ratio = self
            .ratio
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let line = format!(
            "{:<52} {:>9.2} {:<4} {beside:<58} {ratio:>6}  {}",
            self.name, self.value, self.unit, self.target
        );
        line.trim_end().to_owned()
    }
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
    medians_after("true", commands)
}

/// The same, where something is to be done before each run.
fn medians_after(prepare: &str, commands: &[&str]) -> Result<Vec<f64>> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("an odd temporary path")?;
    let mut command = Command::new("hyperfine");
    command.args([
        "--warmup",
        "1",
        "--runs",
        RUNS,
        "--prepare",
        prepare,
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
