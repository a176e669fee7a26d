//! A systemd of one unit stands in for the real one.

use super::*;
use crate::agent::channel::notice_channel;
use crate::agent::failure::failure_of;
use crate::agent::test_host::TestHost;

/// A systemd of one unit, whose state is in files: `state` is what `show`
/// prints, and a (re)start puts `next` in its place and gives the process
/// the environment file.
const SYSTEMD: &str = r#"
here=$(dirname "$0"); root=$here/../..
echo "$@" >> "$here/calls"
case "$1" in
  show)
    while [ "$1" != -- ]; do shift; done; shift
    for unit; do cat "$here/state"; echo; done ;;
  start|restart|reload)
    cp "$here/next" "$here/state"
    mkdir -p "$root/proc/812"
    tr '\n' '\0' < "$root/var/lib/cofferdam/inputs/x.env" > "$root/proc/812/environ" ;;
esac"#;

fn state(active: &str, process: u32) -> String {
    format!(
        "Type=notify\nMainPID={process}\nLoadState=loaded\nActiveState={active}\nSubState=some\nResult=exit-code\nUnitFileState=disabled\n"
    )
}

fn host(now: &str, next: &str) -> TestHost {
    let host = TestHost::new();
    host.program("systemctl", SYSTEMD);
    host.program("journalctl", "echo 'bind: address already in use'");
    host.write("/usr/bin/state", now);
    host.write("/usr/bin/next", next);
    host
}

async fn apply(host: &TestHost, verb: UnitVerb, inputs: Digest) -> Result<()> {
    let changes = [UnitChange {
        name: "x.service".to_owned(),
        verb,
    }];
    let inputs = BTreeMap::from([("x.service".to_owned(), inputs)]);
    let (notices, _receiver) = notice_channel();
    start(&host.root, &changes, &inputs, Waiting::EachActive, &notices).await
}

#[tokio::test]
async fn a_unit_is_enabled_before_and_waited_for_after_its_start() {
    let host = host(&state("inactive", 0), &state("active", 812));
    apply(&host, UnitVerb::Start, Digest::of("one"))
        .await
        .unwrap();
    let calls = host.read("/usr/bin/calls");
    let verbs: Vec<&str> = calls
        .lines()
        .filter(|line| !line.starts_with("show"))
        .collect();
    assert_eq!(
        verbs,
        [
            "daemon-reload",
            "enable --quiet --no-reload x.service",
            "daemon-reload",
            "reset-failed x.service",
            "start --no-block x.service",
        ]
    );
    let expected = format!("COFFERDAM_INPUTS={}\n", Digest::of("one"));
    assert_eq!(host.read("/var/lib/cofferdam/inputs/x.env"), expected);
    // Done again, it finds everything as it should be.
    apply(&host, UnitVerb::Start, Digest::of("one"))
        .await
        .unwrap();
    let again = host.read("/usr/bin/calls");
    assert_eq!(again.matches("start --no-block").count(), 1);
    // A start of what runs with other inputs is a restart.
    apply(&host, UnitVerb::Start, Digest::of("two"))
        .await
        .unwrap();
    assert!(
        host.read("/usr/bin/calls")
            .contains("restart --no-block x.service")
    );
}

#[tokio::test]
async fn a_unit_that_fails_is_told_at_once_with_its_log() {
    let host = host(&state("inactive", 0), &state("failed", 0));
    let error = apply(&host, UnitVerb::Start, Digest::of("one"))
        .await
        .unwrap_err();
    let failure = failure_of(&error);
    assert_eq!(
        failure.message,
        "starting x.service: failed (some), result exit-code"
    );
    assert_eq!(failure.lines, ["bind: address already in use"]);
    assert!(failure.hint.unwrap().contains("journalctl -u x.service"));
}

#[tokio::test]
async fn units_that_are_not_there_or_masked_are_refused() {
    for load in ["not-found", "masked", "bad-setting"] {
        let text = state("inactive", 0).replace("loaded", load);
        let host = host(&text, &text);
        let error = apply(&host, UnitVerb::Start, Digest::of("one"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("x.service"), "{error}");
        assert!(!host.read("/usr/bin/calls").contains("enable"));
    }
}

#[tokio::test]
async fn a_oneshot_is_stopped_before_its_inputs_are_written() {
    let now = state("active", 0).replace("notify", "oneshot");
    let host = host(&now, &now);
    host.write("/var/lib/cofferdam/inputs/x.env", "COFFERDAM_INPUTS=\n");
    apply(&host, UnitVerb::Restart, Digest::of("two"))
        .await
        .unwrap();
    let calls = host.read("/usr/bin/calls");
    let stop = calls.find("stop x.service").unwrap();
    assert!(stop < calls.find("restart --no-block").unwrap());
}

#[tokio::test]
async fn a_socket_is_stopped_before_systemd_reads_its_change() {
    let host = host(&state("active", 812), &state("active", 812));
    let changes = [UnitChange {
        name: "x.socket".to_owned(),
        verb: UnitVerb::Restart,
    }];
    let (notices, _receiver) = notice_channel();
    host.write("/var/lib/cofferdam/inputs/x.env", "");
    let inputs = BTreeMap::new();
    start(&host.root, &changes, &inputs, Waiting::EachActive, &notices)
        .await
        .unwrap();
    let calls = host.read("/usr/bin/calls");
    let at = |call: &str| calls.find(call).unwrap();
    assert!(at("stop x.service") < at("stop x.socket"));
    assert!(at("stop x.socket") < at("daemon-reload"));
    assert!(at("daemon-reload") < at("start x.service"));
}

#[tokio::test]
async fn network_manager_is_reloaded_where_it_runs_and_never_started() {
    let systemd = r#"
here=$(dirname "$0")
echo "$@" >> "$here/calls"
case "$1" in show) cat "$here/state"; echo ;; esac"#;
    for active in ["active", "inactive"] {
        let host = host(&state(active, 0), "");
        host.program("systemctl", systemd);
        host.write(layout::NETWORK_MANAGER_FILE, "[keyfile]\n");
        let name = layout::NETWORK_MANAGER.to_owned();
        let changes = [UnitChange {
            name: name.clone(),
            verb: UnitVerb::Reload,
        }];
        let inputs = BTreeMap::from([(name, Digest::of("one"))]);
        let (notices, _receiver) = notice_channel();
        start(&host.root, &changes, &inputs, Waiting::EachActive, &notices)
            .await
            .unwrap();
        let calls = host.read("/usr/bin/calls");
        let verbs: Vec<&str> = calls
            .lines()
            .filter(|line| !line.starts_with("show"))
            .collect();
        let expected = match active {
            "active" => &["daemon-reload", "reload NetworkManager.service"][..],
            _ => &["daemon-reload"],
        };
        assert_eq!(verbs, expected);
        let is_recorded = taken_up::recorded(&host.root) == Some(Digest::of("one"));
        assert_eq!(is_recorded, active == "active");
    }
}
