//! etcd from a snapshot, once most of its members are gone.

use super::Context;
use super::growth::Writer;
use super::random::Random;
use super::zones::{all_well, bring_kubectl};
use crate::product::{Product, killed_after, outcome, run_quietly};
use crate::{paths, shell};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

/// Two of three masters are destroyed, and new machines stand in their places:
/// all comes back that was acknowledged before the snapshot, and nothing that
/// was not in it.
pub fn two_masters_destroyed(context: &Context) -> Result<()> {
    const WRITTEN: Duration = Duration::from_secs(5);
    let (product, lab) = (&context.product, context.lab()?);
    bring_kubectl(&lab, &["w1"])?;
    let writer = Writer::start(&lab, "w1")?;
    std::thread::sleep(WRITTEN);
    let writes = writer.end()?;
    let from = saved(product)?;
    product.kubectl(&["create", "configmap", "after", "-n", "default"])?;

    let destroyed = ["m2", "m3"];
    lab.replace(&destroyed)?;
    let mut trust = product.command(&["hosts", "trust", "-i", product.inventory.as_str()]);
    let fingerprints = paths::lab()?.join("fingerprints");
    trust.args(["--replace", "--fingerprints", fingerprints.as_str()]);
    run_quietly(&mut trust)?;

    let begun = Instant::now();
    let restore = ["--from", from.as_str(), "--yes"];
    let verb = || product.words(&["etcd", "restore"], &restore);
    let moment = Duration::from_millis(8_000 + Random::of(7).below(20_000));
    ensure!(killed_after(&mut verb(), moment)?, "it was done before");
    let refused = outcome(&mut product.verb("install", &["--yes"]))?;
    // As far as it came.
    let is_refused = match refused.status {
        2 => refused.stderr.contains(&format!("--from {from}")),
        3 => refused
            .stderr
            .contains("m2: it is a member of etcd, and its data is gone"),
        _ => false,
    };
    ensure!(
        is_refused,
        "install while a restore is not done: exit {}\n{}",
        refused.status,
        refused.stderr
    );
    shell::run(&mut verb())?;
    let seconds = begun.elapsed().as_secs_f64();
    all_well(product)?;
    writes.are_all_there(product)?;
    let after = [
        "get",
        "configmap",
        "-n",
        "default",
        "after",
        "--ignore-not-found",
        "-o",
        "name",
    ];
    let after = product.kubectl(&after)?;
    ensure!(after.is_empty(), "{after} is from after the snapshot");
    ensure!(product.plan()?.is_empty(), "steps are left");
    shell::say(&format!(
        "        {} writes were acknowledged before the snapshot, none is lost; restored in {seconds:.1} s",
        writes.acknowledged.len()
    ));
    Ok(())
}

/// Saves a snapshot; where the first one lies, as a restore takes it.
fn saved(product: &Product) -> Result<String> {
    let inventory = product.inventory.as_str();
    let mut command = product.command(&["etcd", "snapshot", "-i", inventory, "--json"]);
    let told: serde_json::Value = serde_json::from_str(&run_quietly(&mut command)?)?;
    let from = told["snapshots"][0]["from"].as_str();
    let from = from.context("no snapshot was saved")?;
    ensure!(from.starts_with("m1:"), "the first one is {from}");
    Ok(from.to_owned())
}
