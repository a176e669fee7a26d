//! Gives a node's pods new addresses: containerd renders the CNI configuration
//! only once, so that a node whose range changed keeps the old one.

use super::units;
use crate::agent::atomic;
use crate::agent::channel::NoticeSender;
use crate::agent::netlink;
use crate::agent::observe::ctr;
use crate::agent::root::Root;
use crate::agent::serve::FINISH_LIMIT;
use crate::host::Notice;
use crate::layout;
use anyhow::{Context, Result, anyhow, bail};
use std::time::Duration;
use tokio::time::timeout;

const KUBELET: &str = "kubelet.service";
/// The bridge that the rendered configuration names.
const BRIDGE: &str = "cni0";
const SANDBOXES: &str = "labels.\"io.cri-containerd.kind\"==sandbox";
/// Stopping the kubelet takes a second, and each of at most a few hundred
/// sandboxes some tens of milliseconds.
const RESET_LIMIT: Duration = Duration::from_secs(75);
/// systemd only takes a job into its queue.
const QUEUE_LIMIT: Duration = Duration::from_secs(15);
/// An agent whose jump host is gone comes to the step's end before it exits,
/// with time to spare for whatever else it ends with.
const _: () = assert!(RESET_LIMIT.as_secs() + QUEUE_LIMIT.as_secs() < FINISH_LIMIT.as_secs());

/// Stops the kubelet, kills the pods' sandboxes with their network, and has
/// the kubelet started again, which starts the same pods with new addresses.
/// No eviction: the pods have lost their network already, or are about to.
///
/// Whatever goes wrong on the way, the kubelet's start is queued at the end:
/// a node must not be left without one.
pub(super) async fn reset(root: &Root, node: &str, notices: &NoticeSender) -> Result<()> {
    reset_within(RESET_LIMIT, root, node, notices).await
}

async fn reset_within(
    limit: Duration,
    root: &Root,
    node: &str,
    notices: &NoticeSender,
) -> Result<()> {
    let ended = match timeout(limit, end_pods(root, node, notices)).await {
        Ok(ended) => ended,
        Err(_) => Err(anyhow!(
            "ending the pods of {node}: they did not end within {} s; look at containerd's log on the host: `journalctl -u containerd`",
            limit.as_secs()
        )),
    };
    let queued = units::queue_start(root, KUBELET, QUEUE_LIMIT).await;
    match (ended, queued) {
        (Ok(()), queued) => queued,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(other)) => bail!("{error:#}; and then {other:#}"),
    }
}

/// The rendered file goes last: while it is there, the step is found to be
/// due.
async fn end_pods(root: &Root, node: &str, notices: &NoticeSender) -> Result<()> {
    units::run_verb(root, KUBELET, "stop").await?;
    notices.send_lossy(Notice::Waiting {
        reason: format!("{node}: ending pods"),
    });
    end_sandboxes(root).await?;
    delete_bridge().context("deleting the pod network's bridge")?;
    let rendered = root.path(layout::CNI_RENDERED);
    atomic::remove_if_there(&rendered)?;
    atomic::sync_directories(rendered.parent())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::failure::failure_of;
    use crate::agent::test_host::TestHost;

    /// A host whose systemctl and ctr write down how they are called.
    fn host(ctr: &str) -> TestHost {
        let host = TestHost::new();
        let log = host.root.path("/log");
        host.program("systemctl", &format!("echo \"systemctl $*\" >> {log}"));
        host.binary("ctr", &format!("shift 2; echo \"ctr $*\" >> {log}\n{ctr}"));
        host.write(layout::CNI_RENDERED, "{}");
        host
    }

    async fn reset_on(host: &TestHost) -> Result<()> {
        let (notices, _receiver) = notice_channel();
        reset(&host.root, "w1", &notices).await
    }

    #[tokio::test]
    async fn pods_end_between_a_stop_and_a_start_of_the_kubelet() {
        let host = host("case $2 in list) echo a b;; esac");
        reset_on(&host).await.unwrap();
        assert!(!host.root.path(layout::CNI_RENDERED).exists());
        let log = host.read("/log");
        let calls: Vec<&str> = log.lines().collect();
        assert_eq!(calls.first(), Some(&"systemctl stop kubelet.service"));
        let killed = |line: &&str| line.contains("tasks kill --signal SIGKILL");
        assert_eq!(calls.iter().copied().filter(killed).count(), 2, "{log}");
        let start = "systemctl start --no-block kubelet.service";
        assert_eq!(calls.last(), Some(&start), "{log}");
    }

    #[tokio::test]
    async fn a_failure_leaves_the_kubelet_started_and_the_step_due() {
        let host = host("echo no containerd >&2; exit 1");
        let error = reset_on(&host).await.unwrap_err();
        let message = failure_of(&error).message;
        assert!(message.contains("listing the pods' sandboxes"), "{message}");
        assert!(message.contains("no containerd"), "{message}");
        assert!(host.root.path(layout::CNI_RENDERED).exists());
        let log = host.read("/log");
        assert!(
            log.ends_with("systemctl start --no-block kubelet.service\n"),
            "{log}"
        );
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_and_the_kubelet_started() {
        let host = host("exec sleep 600");
        let (notices, _receiver) = notice_channel();
        let limit = Duration::from_millis(500);
        let error = reset_within(limit, &host.root, "w1", &notices)
            .await
            .unwrap_err();
        let message = failure_of(&error).message;
        assert!(message.contains("ending the pods of w1"), "{message}");
        let log = host.read("/log");
        assert!(
            log.ends_with("systemctl start --no-block kubelet.service\n"),
            "{log}"
        );
    }
}
