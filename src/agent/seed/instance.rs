//! The process of the writable instance.

use crate::agent::accounts::Accounts;
use crate::agent::atomic::{self, Ownership};
use crate::agent::command::status_text;
use crate::agent::failure::last_lines;
use crate::agent::http;
use crate::agent::root::Root;
use crate::host::Failure;
use crate::layout;
use anyhow::{Context, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Owner of the registry's store.
const USER: &str = "cofferdam-registry";
/// The server starts in well under a second.
const START_LIMIT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// It holds nothing that is not on disk.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What an ended process wrote is read at once.
const LOG_LIMIT: Duration = Duration::from_secs(1);
/// Log text kept for the case that it fails.
const LOG_BYTES: usize = 16 << 10;

/// Runs the server in this shell's place, with a watcher beside it that ends
/// it once standard input ends: the agent holds the other end, so that the
/// server goes when the agent does, also if that was killed. The paths are
/// arguments, never part of the text.
const LIFELINE: &str =
    r#"exec 3<&0; ( read -r line <&3; kill $$ ) & exec "$1" serve "$2" </dev/null 3<&-"#;

/// A running writable instance.
#[derive(Debug)]
pub(super) struct Instance {
    child: Child,
    socket: Utf8PathBuf,
}

impl Instance {
    pub(super) async fn start(root: &Root) -> Result<Self> {
        let program = root.binary("registry")?;
        let socket = root.path(layout::SEED_SOCKET);
        let directory = socket
            .parent()
            .ok_or_else(|| anyhow!("starting the registry to fill: {socket} has no directory"))?;
        let owner = owner(root)?;
        prepare(directory, owner)?;
        let config = directory.join("config.json");
        let text = configuration(&socket, &root.path(layout::REGISTRY), &random_secret());
        atomic::write_file(
            &config,
            text.as_bytes(),
            Ownership {
                mode: 0o400,
                ..owner
            },
        )?;
        atomic::remove_if_there(&socket)?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LIFELINE, "sh", program.as_str(), config.as_str()])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("OTEL_TRACES_EXPORTER", "none")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            command.uid(owner.user).gid(owner.group);
        }
        let mut child = command.spawn().context("starting the registry to fill")?;
        let mut log = Log::default();
        log.collect(child.stdout.take());
        log.collect(child.stderr.take());
        let mut instance = Self { child, socket };
        match instance.wait_until_it_answers().await {
            Ok(()) => Ok(instance),
            Err(reason) => {
                // The first error is the one to tell.
                let _ = instance.stop().await;
                Err(Failure {
                    message: format!("starting the registry to fill: {reason}"),
                    lines: last_lines(&log.end().await),
                    hint: Some(format!(
                        "check that {} belongs to {USER} and has room",
                        layout::REGISTRY
                    )),
                }
                .into())
            }
        }
    }

    pub(super) fn socket(&self) -> &Utf8Path {
        &self.socket
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        // The watcher ends the server when this closes.
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await;
        if ended.is_err() {
            self.child
                .kill()
                .await
                .context("stopping the registry that was filled")?;
        }
        let directory = self.socket.parent().unwrap_or(&self.socket).to_owned();
        match fs_err::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Why it does not answer, in the end.
    async fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let client = http::plain(Duration::from_secs(2))
            .unix_socket(self.socket.as_std_path())
            .build()
            .map_err(|error| http::reason(&error))?;
        let begin = Instant::now();
        loop {
            let answer = client.get("http://registry/v2/").send().await;
            let reason = match answer {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => format!("status {}", response.status().as_u16()),
                Err(error) => http::reason(&error),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(status_text(status));
            }
            if begin.elapsed() >= START_LIMIT {
                let seconds = START_LIMIT.as_secs();
                return Err(format!("no answer within {seconds} s; last: {reason}"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The server must write as the user that the serving instance reads as.
fn owner(root: &Root) -> Result<Ownership> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Ownership::own(0o700));
    }
    let accounts = Accounts::load(root);
    let found = accounts.user(USER).zip(accounts.group(USER));
    let (user, group) =
        found.ok_or_else(|| anyhow!("starting the registry to fill: there is no user `{USER}`"))?;
    Ok(Ownership {
        user,
        group,
        mode: 0o700,
    })
}

/// Makes the socket's directory, which nobody else may enter. The one above
/// must let the server's user through, whatever mask the session had.
fn prepare(directory: &Utf8Path, owner: Ownership) -> Result<()> {
    if let Some(above) = directory.parent() {
        atomic::make_directory(above, Ownership::own(0o755))?;
    }
    atomic::make_directory(directory, owner)
        .context("making the directory of the registry's socket")
}

/// The server reads JSON as the YAML that it is.
fn configuration(socket: &Utf8Path, store: &Utf8Path, secret: &str) -> String {
    json!({
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": true}},
        "storage": {
            "filesystem": {"rootdirectory": store},
            "delete": {"enabled": false},
            // The serving instance must not see half-done purges, and nobody
            // else uploads.
            "maintenance": {"uploadpurging": {"enabled": false}},
        },
        "http": {"net": "unix", "addr": socket, "secret": secret},
        // An index keeps its bytes when a bundle leaves platforms out.
        "validation": {"manifests": {"indexes": {"platforms": "none"}}},
    })
    .to_string()
}

fn random_secret() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The last part of what the server wrote, read while it runs so that it is
/// never stuck in a write.
#[derive(Debug, Default)]
struct Log {
    text: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Log {
    fn collect(&mut self, stream: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let Some(stream) = stream else { return };
        let text = self.text.clone();
        self.readers.push(tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(mut text) = text.lock() {
                    if text.len() > LOG_BYTES {
                        text.clear();
                    }
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        }));
    }

    /// The text of a server that has ended.
    async fn end(self) -> String {
        for reader in self.readers {
            let _ = tokio::time::timeout(LOG_LIMIT, reader).await;
        }
        self.text
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::failure::failure_of;
    use crate::agent::test_host::TestHost;

    #[tokio::test]
    async fn a_registry_that_does_not_start_is_told_with_its_lines() {
        let host = TestHost::new();
        let user = rustix::process::geteuid().as_raw();
        host.write(
            "/etc/passwd",
            &format!("{USER}:x:{user}:{user}::/:/bin/sh\n"),
        );
        host.write("/etc/group", &format!("{USER}:x:{user}:\n"));
        host.binary("registry", "echo \"cannot read $2\" >&2; exit 3");
        let error = Instance::start(&host.root).await.unwrap_err();
        let failure = failure_of(&error);
        assert!(failure.message.contains("exit status 3"), "{failure:?}");
        assert!(failure.lines[0].starts_with("cannot read"), "{failure:?}");
    }

    #[test]
    fn the_store_is_never_purged_and_any_index_taken() {
        let text = configuration(Utf8Path::new("/run/s"), Utf8Path::new("/var/r"), "00");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let at = |pointer: &str| value.pointer(pointer).unwrap().clone();
        assert_eq!(
            at("/storage/maintenance/uploadpurging/enabled"),
            json!(false)
        );
        assert_eq!(at("/validation/manifests/indexes/platforms"), json!("none"));
        assert_eq!(at("/http/net"), json!("unix"));
    }
}
