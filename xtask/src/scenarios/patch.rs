//! A later release of the same minor, there and back, and with the next minor in
//! one call.

use super::Context;
use super::upgrade::{KUBELETS, NEXT, under_load};
use super::zones::all_well;
use crate::product::{Product, outcome};
use crate::shell;
use anyhow::{Context as _, Result, ensure};

/// Of the same minor as what is installed.
const LATER: &str = "1.36.3";
const PODS: [&str; 4] = [
    "get",
    "pods",
    "-A",
    "-o=jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}",
];

/// Kubelets are restarted and pods stay where they are; all goes back to the
/// generations that hosts keep, which an install leaves alone; and two bundles in
/// one call are two hops.
pub fn there_back_and_two_hops(context: &Context) -> Result<()> {
    let later = Product::for_lab(LATER)?;
    let next = Product::for_lab(NEXT)?;
    let inventory = later.inventory.as_str();
    under_load(context, || {
        let pods = later.kubectl(&PODS)?;
        for name in ["load/pair-", "kube-system/coredns-"] {
            ensure!(pods.contains(name), "no {name} in {pods}");
        }
        shell::run(&mut later.verb("upgrade", &["--yes"]))?;
        all_of(&later, LATER)?;
        ensure!(later.kubectl(&PODS)? == pods, "pods were touched");

        let back = ["rollback", "-i", inventory, "--on", "all", "--yes"];
        shell::run(&mut later.command(&back))?;
        all_of(&later, "1.36.0")?;
        ensure!(later.kubectl(&PODS)? == pods, "pods were touched");
        let kept = outcome(&mut context.product.verb("install", &["--yes"]))?;
        ensure!(
            kept.status == 0 && kept.stderr.contains("nothing to do"),
            "exit {}\n{}",
            kept.status,
            kept.stderr
        );

        let second = next.bundle.as_str();
        shell::run(&mut later.verb("upgrade", &["--bundle", second, "--no-soak", "--yes"]))?;
        all_of(&next, &format!("{NEXT}.0"))
    })?;
    let again = ["--bundle", next.bundle.as_str(), "--no-soak", "--yes"];
    let again = outcome(&mut later.verb("upgrade", &again))?;
    ensure!(
        again.status == 0 && again.stderr.contains("nothing to do"),
        "exit {}\n{}",
        again.status,
        again.stderr
    );
    all_well(&next).map(drop)
}

/// Whether kubelets and API servers are of that version.
fn all_of(product: &Product, version: &str) -> Result<()> {
    let kubelets = product.kubectl(&KUBELETS)?;
    let servers = product.kubectl(&["get", "--raw", "/version"])?;
    let server: serde_json::Value = serde_json::from_str(&servers).context("reading /version")?;
    let wanted = format!("v{version}");
    ensure!(
        kubelets.split(' ').all(|kubelet| kubelet == wanted) && server["gitVersion"] == wanted,
        "kubelets are of {kubelets}, an API server says {servers}"
    );
    Ok(())
}
