//! Gives a node's pods new addresses: containerd renders the CNI configuration
//! only once, so that a node whose range changed keeps the old one.

use super::units;
use crate::agent::atomic;
use crate::agent::channel::NoticeSender;
use crate::agent::netlink;
use crate::agent::observe::ctr;
use crate::agent::root::Root;
use crate::host::Notice;
use crate::layout;
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

const KUBELET: &str = "kubelet.service";
/// The bridge that the rendered configuration names.
const BRIDGE: &str = "cni0";
const SANDBOXES: &str = "labels.\"io.cri-containerd.kind\"==sandbox";
/// kubelet tells containerd the node's range once it has reached an API
/// server.
const RENDER_LIMIT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Stops the kubelet, ends the pods' sandboxes with their network, and starts
/// the kubelet again, which starts the same pods with new addresses. The
/// rendered file goes last: while it is there, the step is found to be due.
pub(super) async fn reset(root: &Root, node: &str, notices: &NoticeSender) -> Result<()> {
    units::run_verb(root, KUBELET, "stop").await?;
    notices.send_lossy(Notice::Waiting {
        reason: format!("{node}: ending pods"),
    });
    end_sandboxes(root).await?;
    delete_bridge().context("deleting the pod network's bridge")?;
    let rendered = root.path(layout::CNI_RENDERED);
    atomic::remove_if_there(&rendered)?;
    atomic::sync_directories(rendered.parent())?;
    units::run_verb(root, KUBELET, "start").await?;
    let begin = Instant::now();
    while !rendered.exists() {
        if begin.elapsed() >= RENDER_LIMIT {
            bail!(
                "waiting for {}: containerd has not rendered it within {} s; look at kubelet's log on the host: `journalctl -u kubelet`",
                layout::CNI_RENDERED,
                RENDER_LIMIT.as_secs()
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn end_sandboxes(root: &Root) -> Result<()> {
    let listed = ctr(root)?
        .arguments(["containers", "list", "--quiet", SANDBOXES])
        .succeed()
        .await
        .context("listing the pods' sandboxes")?;
    for sandbox in listed.split_whitespace() {
        // One that has ended meanwhile is no obstacle.
        ctr(root)?
            .arguments(["tasks", "kill", "--signal", "SIGKILL", sandbox])
            .finish()
            .await?;
    }
    Ok(())
}

fn delete_bridge() -> Result<()> {
    match netlink::links()?.iter().find(|link| link.name == BRIDGE) {
        Some(link) => netlink::delete_link(link.index),
        None => Ok(()),
    }
}
