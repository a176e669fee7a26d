//! etcd's leadership, and API servers that stand still while it moves.

use super::command::Program;
use super::etcdctl;
use super::root::Root;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A member that is in step takes over within one of etcd's ticks, 100 ms.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// systemd does either within milliseconds.
const SYSTEMD_LIMIT: Duration = Duration::from_secs(2);
/// One after the other, whichever way requests overtake each other.
static IN_TURN: Mutex<()> = Mutex::const_new(());

/// Has the unit's processes stand still; systemd itself lets them go on after
/// `limit`, also when nobody else does.
///
/// # Errors
/// If it does not run, or systemd does not do it at once. Then they go on.
pub(super) async fn suspend(root: &Root, unit: &str, limit: Duration) -> Result<()> {
    let _turn = IN_TURN.lock().await;
    forget_timer(root, unit).await;
    let begun = Instant::now();
    let after = format!("--on-active={}s", limit.as_secs());
    // Before, so that there is no moment in which nothing would end it.
    Program::new(root.program("systemd-run")?)
        .limit(SYSTEMD_LIMIT)
        .arguments(["--quiet", "--collect", after.as_str()])
        .argument(format!("--unit={}", timer(unit)))
        .argument("--timer-property=AccuracySec=100ms")
        .arguments(["systemctl", "kill", "--signal=SIGCONT", unit])
        .succeed()
        .await?;
    let stopped = signal(root, unit, "SIGSTOP").await;
    // A signal that came after the timer's would be the last one.
    if stopped.is_err() || begun.elapsed() > limit / 2 {
        signal(root, unit, "SIGCONT").await?;
        stopped?;
        bail!("suspending {unit} took too long");
    }
    Ok(())
}

/// Lets them go on.
///
/// # Errors
/// If systemd does not do it.
pub(super) async fn resume(root: &Root, unit: &str) -> Result<()> {
    let _turn = IN_TURN.lock().await;
    signal(root, unit, "SIGCONT").await?;
    forget_timer(root, unit).await;
    Ok(())
}

/// `cofferdam-resume-kube-apiserver`
fn timer(unit: &str) -> String {
    let name = unit.strip_suffix(".service").unwrap_or(unit);
    format!("cofferdam-resume-{name}")
}

/// One that is gone already is as good.
async fn forget_timer(root: &Root, unit: &str) {
    let Ok(systemctl) = root.program("systemctl") else {
        return;
    };
    let stop = Program::new(systemctl).limit(SYSTEMD_LIMIT);
    let timer = format!("{}.timer", timer(unit));
    let _ = stop.arguments(["stop", timer.as_str()]).succeed().await;
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
                "systemctl stop cofferdam-resume-x.timer",
                "systemd-run --quiet --collect --on-active=6s --unit=cofferdam-resume-x --timer-property=AccuracySec=100ms systemctl kill --signal=SIGCONT x.service",
                "systemctl kill --signal=SIGSTOP x.service",
                "systemctl kill --signal=SIGCONT x.service",
                "systemctl stop cofferdam-resume-x.timer",
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
    async fn what_took_too_long_goes_on() {
        let host = host("exit 0");
        let limit = Duration::ZERO;
        let error = suspend(&host.root, "x.service", limit).await.unwrap_err();
        assert!(error.to_string().contains("took too long"), "{error}");
        let calls = host.read("/run/calls");
        let last = calls.lines().last();
        assert_eq!(last, Some("systemctl kill --signal=SIGCONT x.service"));
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
