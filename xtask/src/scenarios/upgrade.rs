//! To the next minor, under load.

use super::Context;
use super::zones::all_well;
use crate::load::{Load, Rates};
use crate::product::{Product, outcome};
use crate::shell;
use anyhow::{Result, ensure};

/// The minor after the one that scenarios install.
const NEXT: &str = "1.37";
/// Together 50 requests a second on the API: two cores carry five hosts here.
const RATES: Rates = Rates { api: 5, service: 5 };

/// From the installed minor to the next one: nothing fails, nothing is lost.
pub fn to_the_next_minor(context: &Context) -> Result<()> {
    let next = Product::for_lab(NEXT)?;
    let refused = outcome(&mut next.verb("install", &["--yes"]))?;
    ensure!(
        refused.status == 3
            && refused
                .stderr
                .contains("`cofferdam upgrade` changes versions"),
        "install with another minor: exit {}\n{}",
        refused.status,
        refused.stderr
    );
    under_load(context, || {
        shell::run(&mut next.verb("upgrade", &["--yes"]))?;
        soaks(&next)?;
        shell::run(&mut next.verb("upgrade", &["--finish", "--yes"]))
    })?;
    let versions = next.kubectl(&KUBELETS)?;
    ensure!(
        versions
            .split(' ')
            .all(|version| version.starts_with(&format!("v{NEXT}."))),
        "kubelets are of {versions}"
    );
    ensure!(next.plan()?.is_empty(), "something is left to do");
    back_is_refused(&context.product)?;
    all_well(&next).map(drop)
}

/// Does something that no request may fail for, and nothing be lost.
fn under_load(context: &Context, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let lab = context.lab()?;
    let load = Load::start(&context.product, &lab, RATES)?;
    let done = work();
    let loaded = load.end();
    done?;
    let loaded = loaded?;
    loaded.tell();
    loaded.nothing_is_lost()?;
    let (api, service) = loaded.failed();
    ensure!(
        api == 0 && service == 0,
        "{api} requests of the API failed, {service} of the Service"
    );
    Ok(())
}

/// The control plane is new and behaves as before; nodes and etcd are as they
/// were; and install keeps that.
fn soaks(next: &Product) -> Result<()> {
    let version: serde_json::Value =
        serde_json::from_str(&next.kubectl(&["get", "--raw", "/version"])?)?;
    ensure!(
        version["minor"] == "37" && version["emulationMinor"] == "36",
        "the API server is {version}"
    );
    let kubelets = next.kubectl(&KUBELETS)?;
    ensure!(!kubelets.contains(NEXT), "kubelets are of {kubelets}");
    ensure!(
        next.plan()?.is_empty(),
        "something is left to do while it soaks"
    );
    Ok(())
}

/// The versions of all kubelets.
const KUBELETS: [&str; 4] = [
    "get",
    "nodes",
    "-o",
    "jsonpath={.items[*].status.nodeInfo.kubeletVersion}",
];

fn back_is_refused(old: &Product) -> Result<()> {
    let refused = outcome(&mut old.verb("upgrade", &["--yes"]))?;
    ensure!(
        refused.status == 3 && refused.stderr.contains("an upgrade never goes back"),
        "an upgrade to an older minor: exit {}\n{}",
        refused.status,
        refused.stderr
    );
    Ok(())
}
