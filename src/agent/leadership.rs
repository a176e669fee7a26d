//! etcd's leadership, and API servers that stand still while it moves.

use super::command::Program;
use super::etcdctl;
use super::root::Root;
use anyhow::Result;
use std::time::Duration;

/// A member that is in step takes over within one of etcd's ticks, 100 ms.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// systemd does either within milliseconds.
const SYSTEMD_LIMIT: Duration = Duration::from_secs(10);

/// Has the unit's processes stand still; systemd itself lets them go on after
/// `limit`, also when nobody else does.
///
/// # Errors
/// If it does not run, or systemd does not do it.
pub(super) async fn suspend(root: &Root, unit: &str, limit: Duration) -> Result<()> {
    let limit = format!("--on-active={}s", limit.as_secs());
    // Before, so that there is no moment in which nothing would end it.
    Program::new(root.program("systemd-run")?)
        .limit(SYSTEMD_LIMIT)
        .arguments(["--quiet", "--collect", limit.as_str()])
        .argument("--timer-property=AccuracySec=100ms")
        .arguments(["systemctl", "kill", "--signal=SIGCONT", unit])
        .succeed()
        .await?;
    signal(root, unit, "SIGSTOP").await
}

/// Lets them go on.
///
/// # Errors
/// If systemd does not do it.
pub(super) async fn resume(root: &Root, unit: &str) -> Result<()> {
    signal(root, unit, "SIGCONT").await
}

async fn signal(root: &Root, unit: &str, signal: &str) -> Result<()> {
    let signal = format!("--signal={signal}");
    Program::new(root.program("systemctl")?)
        .limit(SYSTEMD_LIMIT)
        .arguments(["kill", signal.as_str(), unit])
        .succeed()
        .await?;
    Ok(())
}

/// Has the leading member at `endpoint` hand over to another, by its id.
///
/// # Errors
/// Why etcd does not.
pub(super) async fn hand_over(root: &Root, endpoint: &str, to: &str) -> Result<()> {
    etcdctl::program(root, &[endpoint.to_owned()], HAND_OVER_LIMIT)?
        .arguments(["move-leader", to])
        .succeed()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::test_host::TestHost;
    use super::*;

    /// Both write down how they were called.
    fn host(ending: &str) -> TestHost {
        let host = TestHost::new();
        let calls = host.root.path("/run/calls").to_string();
        host.write("/run/calls", "");
        let note = format!("echo \"$(basename \"$0\") $*\" >> {calls}; {ending}");
        host.program("systemd-run", &note);
        host.program("systemctl", &note);
        host.binary("etcdctl", &note);
        host
    }

    #[tokio::test]
    async fn what_stands_still_is_sure_to_go_on() {
        let host = host("exit 0");
        let limit = Duration::from_secs(6);
        suspend(&host.root, "x.service", limit).await.unwrap();
        resume(&host.root, "x.service").await.unwrap();
        let calls = host.read("/run/calls");
        let calls: Vec<&str> = calls.lines().collect();
        assert_eq!(
            calls,
            [
                "systemd-run --quiet --collect --on-active=6s --timer-property=AccuracySec=100ms systemctl kill --signal=SIGCONT x.service",
                "systemctl kill --signal=SIGSTOP x.service",
                "systemctl kill --signal=SIGCONT x.service",
            ]
        );
    }

    #[tokio::test]
    async fn nothing_stands_still_that_nothing_would_let_go_on() {
        let host = host("exit 1");
        let limit = Duration::from_secs(6);
        suspend(&host.root, "x.service", limit).await.unwrap_err();
        let calls = host.read("/run/calls");
        assert!(!calls.contains("SIGSTOP"), "{calls}");
    }

    #[tokio::test]
    async fn only_the_leader_itself_is_asked_to_hand_over() {
        let host = host("exit 0");
        let own = "https://10.0.0.1:2379";
        hand_over(&host.root, own, "1f").await.unwrap();
        assert_eq!(
            host.read("/run/calls"),
            format!("etcdctl --endpoints={own} --command-timeout=2s move-leader 1f\n")
        );
    }
}
