//! How an agent gets to a host over SSH.

use super::remote::RemoteError;
use crate::agent::host_lock;
use crate::agent::install::NEW_AGENT;
use crate::digest::Digest;
use crate::layout::AGENT;
use crate::ssh::{self, Session};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Agents on their way at once: all of them share the jump host's link, and
/// more than fill it only make each other stand still. Five fill a link also
/// where one host is slow, and twenty hosts are four rounds.
const AT_ONCE: usize = 5;
/// How long nothing may move. A piece is over in four seconds on a link of 0.5
/// Mbit/s; this leaves room for the others that share it.
const STANDSTILL: Duration = Duration::from_secs(60);
/// Seconds after which a first upload gives up on the host itself, where no
/// agent counts its silence: long enough for the slowest link that is any use.
const UPLOAD_LIMIT: u32 = 3600;
/// From the last piece to the end: what is still under way to five hosts (3 MiB
/// each, four minutes at 0.5 Mbit/s), a slow disk's sync, and another run's last
/// step, which may hold the host.
const END: Duration = Duration::from_secs(240 + 30).saturating_add(host_lock::LIMIT);
/// The agent is cut into pieces of this size, in bytes, on its way.
const PIECE: usize = 256 << 10;

/// What the uploads of one run share.
pub struct Uploads<'a> {
    at_once: Semaphore,
    standstill: Duration,
    /// Told of a host, how many bytes are on their way to it, and of how many.
    moved: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
}

impl<'a> Uploads<'a> {
    /// `moved` is told of every piece: host, bytes gone, bytes in all.
    pub fn new(moved: &'a (dyn Fn(&str, u64, u64) + Send + Sync)) -> Self {
        Self {
            at_once: Semaphore::new(AT_ONCE),
            standstill: STANDSTILL,
            moved,
        }
    }
}

/// An agent on its way to a host.
pub(super) struct Upload {
    pub(super) host: String,
    /// What makes a command run as root.
    pub(super) sudo: &'static str,
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    /// Whether an agent is in place that takes its successor itself.
    pub(super) replace: bool,
}

impl Upload {
    /// A command that shows whether the user may run what brings the agent.
    pub(super) fn probe(&self) -> String {
        let sudo = self.sudo;
        match self.replace {
            true => format!("{sudo}{AGENT} --version"),
            false => format!("{sudo}sh -c true"),
        }
    }

    /// The command that takes the agent on its standard input.
    ///
    /// The shell's number is part of the new agent's name, which is thus no
    /// other's, and which the new agent knows, since it takes the shell's
    /// place. It is run only if it is whole.
    fn command(&self) -> String {
        let Self { sudo, digest, .. } = self;
        if self.replace {
            return format!("{sudo}{AGENT} agent-replace {digest}");
        }
        let hex = digest.hex();
        let script = format!(
            "umask 022; new={NEW_AGENT}$$; trap 'rm -f $new' EXIT; \
             mkdir -p /opt/cofferdam || exit 1; umask 077; set -C; \
             timeout {UPLOAD_LIMIT} cat > $new || exit 1; \
             if [ \"$(sha256sum < $new)\" != '{hex}  -' ]; then \
             echo 'what arrived is not what the bundle holds; run the same command again' >&2; \
             exit 1; fi; \
             chmod 0700 $new && exec $new agent-install {digest}"
        );
        format!("{sudo}sh -c {}", ssh::sh_quote(&script))
    }

    /// Brings the agent to its path, when its turn has come.
    ///
    /// # Errors
    /// When the link is lost or nothing moves on it, the host refuses it, or
    /// another run holds the host.
    pub(super) async fn send(
        self,
        session: &Session,
        uploads: &Uploads<'_>,
    ) -> Result<(), RemoteError> {
        let command = self.command();
        let failed = |reason: String| RemoteError::Upload {
            host: self.host.clone(),
            reason,
        };
        // Kept to the end: what is still under way then is on the link too.
        let _turn = uploads.at_once.acquire().await;
        let mut process = session.exec(&command).await?;
        let total = self.bytes.len() as u64;
        let mut rest = self.bytes.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            match timeout(uploads.standstill, process.stdin.write_bytes(piece)).await {
                Ok(Ok(())) => {}
                // It has ended, and says why.
                Ok(Err(_)) => break,
                Err(_) => {
                    let gone = total - rest.len() as u64;
                    let seconds = uploads.standstill.as_secs_f32();
                    return Err(failed(format!(
                        "nothing of it moved for {seconds} s, after {gone} of {total} bytes"
                    )));
                }
            }
            (uploads.moved)(&self.host, total - rest.len() as u64, total);
        }
        let ssh::Process {
            stdin,
            stdout,
            mut exit,
            ..
        } = process;
        drop(stdin);
        drop(stdout);
        let Ok(ended) = timeout(END, exit.wait()).await else {
            let seconds = END.as_secs();
            return Err(failed(format!("it did not end within {seconds} s")));
        };
        let ended = ended?;
        if ended.is_success() {
            return Ok(());
        }
        let said = exit.last_stderr_lines().join("; ");
        Err(failed(format!("{ended}: {said}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Timeouts;
    use crate::ssh::tests::{World, within_limit};
    use crate::testing::ssh_server::{Ending, Exec, ServerOptions};
    use futures_util::future::join_all;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    /// More than any buffer between here and a server that reads slowly.
    const LENGTH: usize = 12 << 20;

    fn upload(sudo: &'static str, replace: bool) -> Upload {
        Upload {
            host: "m1".to_owned(),
            sudo,
            digest: Digest::of("agent"),
            bytes: Bytes::new(),
            replace,
        }
    }

    #[test]
    fn commands_are_exactly_these() {
        let digest = Digest::of("agent");
        let hex = digest.hex();
        assert_eq!(
            upload("sudo -n ", true).command(),
            format!("sudo -n /opt/cofferdam/agent agent-replace {digest}")
        );
        let script = format!(
            "umask 022; new=/opt/cofferdam/.agent.$$; trap 'rm -f $new' EXIT; mkdir -p /opt/cofferdam || exit 1; umask 077; set -C; timeout 3600 cat > $new || exit 1; if [ \"$(sha256sum < $new)\" != '{hex}  -' ]; then echo 'what arrived is not what the bundle holds; run the same command again' >&2; exit 1; fi; chmod 0700 $new && exec $new agent-install {digest}"
        );
        let quoted = script.replace('\'', r"'\''");
        assert_eq!(upload("", false).command(), format!("sh -c '{quoted}'"));
        assert_eq!(upload("", false).probe(), "sh -c true");
        assert_eq!(
            upload("sudo -n ", true).probe(),
            "sudo -n /opt/cofferdam/agent --version"
        );
    }

    /// The very command in a real shell, below another directory. A script
    /// stands in for the agent; only its name says what it is run as.
    fn bring(directory: &camino::Utf8Path, agent: &str, arrived: &str) -> (bool, String) {
        let mut upload = upload("", false);
        upload.digest = Digest::of(agent);
        let command = upload
            .command()
            .replace("/opt/cofferdam", directory.as_str());
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(arrived.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), said)
    }

    #[test]
    fn the_shell_runs_only_what_is_whole_and_leaves_nothing_else() {
        let guard = tempfile::tempdir().unwrap();
        // The parent isn't there either, as where nothing was ever put in /opt.
        let parent = camino::Utf8Path::from_path(guard.path())
            .unwrap()
            .join("opt");
        let directory = parent.join("new");
        let agent = "#!/bin/sh\n[ \"$1\" = agent-install ] && mv \"$0\" \"${0%/*}/agent.$$\" && [ \"$0\" = \"${0%/*}/.agent.$$\" ]\n";
        for arrived in ["", &agent[..40], &agent.replace("mv", "rm")] {
            let (is_done, said) = bring(&directory, agent, arrived);
            assert!(!is_done && said.contains("what arrived is not"), "{said}");
            assert_eq!(directory.read_dir_utf8().unwrap().count(), 0);
        }
        for made in [&parent, &directory] {
            let mode = fs_err::metadata(made).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{made}");
        }
        let (is_done, said) = bring(&directory, agent, agent);
        assert!(is_done, "{said}");
        let (is_done, said) = bring(&directory, agent, agent);
        assert!(is_done, "{said}");
        // Two names, since two processes brought them.
        assert_eq!(directory.read_dir_utf8().unwrap().count(), 2);
    }
    /// Sends a large agent to a server with these faults.
    async fn send_to(
        change: impl FnOnce(&mut ServerOptions),
        standstill: Duration,
    ) -> (Result<(), RemoteError>, u64) {
        let take = |mut exec: Exec| async move {
            let taken = exec.stdin.read_to_end().await.len();
            Ending::Status(u32::from(taken != LENGTH))
        };
        let world = World::with(take, change).await;
        let session = world.connect(Timeouts::default()).await;
        let gone = AtomicU64::new(0);
        let moved = |host: &str, done: u64, total: u64| {
            assert_eq!((host, total), ("m1", LENGTH as u64));
            assert!(gone.swap(done, Ordering::SeqCst) < done);
        };
        let uploads = Uploads {
            standstill,
            ..Uploads::new(&moved)
        };
        let upload = Upload {
            bytes: Bytes::from(vec![7; LENGTH]),
            ..upload("", false)
        };
        let result = within_limit(upload.send(&session, &uploads)).await;
        (result, gone.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_host_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (result, gone) = send_to(|_| {}, STANDSTILL).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(gone, LENGTH as u64, "all of it was seen to move");

        let stuck = |options: &mut ServerOptions| options.input_pause = Duration::MAX;
        let (result, gone) = send_to(stuck, Duration::from_millis(500)).await;
        let text = result.unwrap_err().to_string();
        let expected = format!("m1: bringing the agent to {AGENT}: nothing of it moved for 0.5 s");
        assert!(text.starts_with(&expected), "{text}");
        assert!(gone < LENGTH as u64);

        // In all it takes several times as long as it may stand still.
        let slow = |options: &mut ServerOptions| {
            options.window = 64 << 10;
            options.input_pause = Duration::from_millis(10);
        };
        let (result, gone) = send_to(slow, Duration::from_secs(1)).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(gone, LENGTH as u64);
    }

    #[tokio::test]
    async fn only_so_many_share_the_link() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (now, most.clone());
        let take = move |mut exec: Exec| {
            let (now, most) = counters.clone();
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                exec.stdin.read_to_end().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ending::Status(0)
            }
        };
        let world = World::with(take, |_| {}).await;
        let session = world.connect(Timeouts::default()).await;
        let uploads = Uploads::new(&|_, _, _| ());
        let all = (0..4 * AT_ONCE).map(|_| upload("", false).send(&session, &uploads));
        for result in within_limit(join_all(all)).await {
            assert!(result.is_ok(), "{result:?}");
        }
        let most = most.load(Ordering::SeqCst);
        assert!((2..=AT_ONCE).contains(&most), "{most} at once");
    }
}
