//! Settings with which a component can't run.

use super::Context;
use super::zones::all_well;
use crate::product::outcome;
use crate::shell;
use anyhow::{Result, ensure};

/// A value that only kubelet itself finds wrong: the run stops at the first node,
/// points to the key, and leaves the others and all pods as they are. A rollback
/// brings that node back, and no install undoes it; put right, an upgrade takes the
/// node along again.
pub fn a_kubelet_that_can_not_start(context: &Context) -> Result<()> {
    let (product, lab) = (&context.product, context.lab()?);
    let running = "systemctl show kubelet --property MainPID --value";
    let before: Vec<String> = lab
        .hosts()
        .iter()
        .map(|host| lab.ssh_output(&host.name, running))
        .collect::<Result<_>>()?;
    let pods = [
        "get",
        "pods",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}",
    ];
    let pods_before = product.kubectl(&pods)?;

    let mut broken = product.clone();
    broken.inventory = product.inventory.with_file_name("broken.toml");
    let text = fs_err::read_to_string(&product.inventory)?;
    let setting = "\"memory.available\" = \"2%\"";
    ensure!(
        text.contains(setting),
        "the lab's inventory has no {setting}"
    );
    let text = text.replace(setting, "\"memory.available\" = \"much\"");
    fs_err::write(&broken.inventory, &text)?;
    let table = "[overrides.kubelet.config.evictionHard]";
    let line = text.lines().position(|line| line == table);
    let line = line.map_or(0, |line| line + 1);
    let stopped = outcome(&mut broken.verb("install", &["--yes"]))?;
    let expected = [
        "overrides.kubelet.config.evictionHard".to_owned(),
        format!("broken.toml:{line}"),
        "next: cofferdam install".to_owned(),
        "not begun".to_owned(),
    ];
    ensure!(
        stopped.status == 1 && expected.iter().all(|text| stopped.stderr.contains(text)),
        "exit {}\n{}",
        stopped.status,
        stopped.stderr
    );
    let mut changed = Vec::new();
    for (host, before) in lab.hosts().iter().zip(before) {
        if lab.ssh_output(&host.name, running)? != before {
            changed.push(host.name.as_str());
        }
    }
    ensure!(changed.len() == 1, "kubelets of {changed:?} were touched");
    let pods_after = product.kubectl(&pods)?;
    ensure!(pods_after == pods_before, "{pods_before}\n{pods_after}");
    for line in stopped
        .stderr
        .lines()
        .filter(|line| line.contains("overrides.kubelet"))
    {
        shell::say(&format!("        {line}"));
    }

    // Also with the value still in the inventory, and without a bundle.
    let inventory = broken.inventory.as_str();
    let back = ["rollback", "-i", inventory, "--on", "all", "--yes"];
    let told = outcome(&mut broken.command(&back))?;
    let is_told = [
        "went back",
        changed[0],
        "stays: the change has not reached it",
    ]
    .iter()
    .all(|text| told.stderr.contains(text));
    ensure!(
        told.status == 0 && is_told,
        "exit {}\n{}",
        told.status,
        told.stderr
    );
    all_well(product)?;
    let pods_after = product.kubectl(&pods)?;
    ensure!(pods_after == pods_before, "{pods_before}\n{pods_after}");
    let left = outcome(&mut product.verb("install", &["--yes"]))?;
    ensure!(
        left.status == 0
            && left.stderr.contains("nothing to do")
            && left.stderr.contains(changed[0])
            && left.stderr.contains("a rollback took it to generation"),
        "exit {}\n{}",
        left.status,
        left.stderr
    );

    shell::run(&mut product.verb("upgrade", &["--yes"]))?;
    ensure!(product.plan()?.is_empty(), "steps are left");
    all_well(product).map(drop)
}
