//! Changes units that run to other software: stopped, everything in place,
//! started. Whatever fails in between, what was stopped is started again.

use super::files::{self, WriteFiles};
use super::{binaries, units};
use crate::agent::channel::NoticeSender;
use crate::agent::root::Root;
use crate::desired::{Binary, FileKind};
use crate::digest::Digest;
use crate::host::{FileBody, Notice};
use crate::plan::{FileChange, UnitChange};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// systemd takes a job within moments.
const QUEUE_LIMIT: Duration = Duration::from_secs(30);

/// What [`crate::plan::Action::SwitchUnits`] says, with the bytes.
pub(super) struct Switch {
    pub(super) stop: Vec<String>,
    pub(super) changes: Vec<FileChange>,
    pub(super) bodies: BTreeMap<String, FileBody>,
    pub(super) binaries: BTreeMap<String, Binary>,
    pub(super) units: Vec<UnitChange>,
    pub(super) inputs: BTreeMap<String, Digest>,
    pub(super) waiting: units::Waiting,
}

impl Switch {
    pub(super) async fn run(self, root: &Root, notices: &NoticeSender) -> Result<()> {
        // While all still runs.
        binaries::prove(root, &self.binaries).await?;
        let stopped = self.stop.clone();
        let result = self.change(root, notices).await;
        if result.is_err() {
            for unit in stopped.iter().rev() {
                if let Err(error) = units::queue_start(root, unit, QUEUE_LIMIT).await {
                    let line = format!("{unit} was stopped and can't be started again: {error:#}");
                    notices.send_lossy(Notice::Log { line });
                }
            }
        }
        result
    }

    async fn change(self, root: &Root, notices: &NoticeSender) -> Result<()> {
        units::halt(root, &self.stop, notices).await?;
        if !self.changes.is_empty() {
            let request = WriteFiles {
                changes: self.changes,
                remove: Vec::new(),
                kind: FileKind::Software,
                bodies: self.bodies,
            };
            files::write(root, request).await?;
        }
        binaries::link(root, &self.binaries).await?;
        units::start(root, &self.units, &self.inputs, self.waiting, notices).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::observe::read_pending;
    use crate::agent::test_host::TestHost;
    use crate::layout;
    use crate::plan::{FileChangeKind, UnitVerb};
    use std::os::unix::fs::PermissionsExt;

    /// Every unit is active, and what was asked for is written down together
    /// with what lay there then.
    const SYSTEMD: &str = r#"
root=$(dirname "$0")/../..
case "$1" in
  show)
    while [ "$1" != -- ]; do shift; done; shift
    for unit; do
      printf 'Type=notify\nMainPID=812\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\n'
    done ;;
  *)
    link=$(readlink "$root/opt/cofferdam/bin/etcd" | tail -c 5)
    echo "$@: $(cat "$root/etc/x.conf") $link" >> "$(dirname "$0")/calls" ;;
esac"#;

    fn host(stored: &str) -> TestHost {
        let host = TestHost::new();
        host.program("systemctl", SYSTEMD);
        host.program("journalctl", "true");
        host.write("/etc/x.conf", "old");
        let place = format!("{}/{}", layout::STORE, Digest::of("etcd 2").hex());
        host.write(&place, stored);
        let place = host.root.path(&place);
        fs_err::set_permissions(place, PermissionsExt::from_mode(0o755)).unwrap();
        host
    }

    fn switch(user: &str) -> Switch {
        let body = FileBody {
            bytes: Some(b"new".to_vec()),
            mode: 0o644,
            user: user.to_owned(),
            group: "tester".to_owned(),
            kind: FileKind::Software,
            secret: false,
        };
        let binary = Binary {
            digest: Digest::of("etcd 2"),
            size: 6,
            blob: Digest::of("blob"),
            blob_size: 4,
            repository: "cofferdam/file/etcd".to_owned(),
            version: "2".to_owned(),
        };
        Switch {
            stop: ["scheduler.service", "apiserver.service"]
                .map(str::to_owned)
                .into(),
            changes: vec![FileChange {
                path: "/etc/x.conf".to_owned(),
                change: FileChangeKind::Update,
            }],
            bodies: [("/etc/x.conf".to_owned(), body)].into(),
            binaries: [("etcd".to_owned(), binary)].into(),
            units: vec![UnitChange {
                name: "etcd.service".to_owned(),
                verb: UnitVerb::Restart,
            }],
            inputs: BTreeMap::new(),
            waiting: units::Waiting::Queued,
        }
    }

    async fn run(host: &TestHost, switch: Switch) -> (Result<()>, Vec<String>) {
        let (notices, _receiver) = notice_channel();
        let result = switch.run(&host.root, &notices).await;
        let calls = host.root.path("/usr/bin/calls");
        let calls = fs_err::read_to_string(calls).unwrap_or_default();
        (result, calls.lines().map(str::to_owned).collect())
    }

    #[tokio::test]
    async fn stops_first_then_puts_in_place_then_starts() {
        let host = host("etcd 2");
        let (result, calls) = run(&host, switch("tester")).await;
        result.unwrap();
        let hex = Digest::of("etcd 2").hex().to_string();
        let new = format!("new {}", &hex[hex.len() - 4..]);
        let said = |call: &str, after: &str| format!("{call}: {after}").trim_end().to_owned();
        let calls: Vec<String> = calls
            .iter()
            .map(|call| call.trim_end().to_owned())
            .collect();
        assert_eq!(calls[0], said("stop scheduler.service", "old"));
        assert_eq!(calls[1], said("stop apiserver.service", "old"));
        assert_eq!(calls[2], said("daemon-reload", &new));
        assert_eq!(
            calls.last().unwrap(),
            &said("restart --no-block etcd.service", &new)
        );
        // No generation has it yet.
        assert!(read_pending(&host.root).binaries.contains("etcd"));
    }

    #[tokio::test]
    async fn nothing_is_stopped_for_a_binary_that_is_not_whole() {
        let host = host("etcd X");
        let (result, calls) = run(&host, switch("tester")).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("putting etcd in place"), "{error}");
        assert_eq!(calls, [""; 0]);
        assert_eq!(host.read("/etc/x.conf"), "old");
    }

    #[tokio::test]
    async fn what_was_stopped_comes_back_if_the_rest_fails() {
        let host = host("etcd 2");
        let (result, calls) = run(&host, switch("nobody-here")).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("no user `nobody-here`"), "{error}");
        let verbs: Vec<&str> = calls
            .iter()
            .filter_map(|call| call.split(':').next())
            .collect();
        assert_eq!(
            verbs,
            [
                "stop scheduler.service",
                "stop apiserver.service",
                "start --no-block apiserver.service",
                "start --no-block scheduler.service",
            ]
        );
    }
}
