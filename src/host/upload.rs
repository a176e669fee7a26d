//! How an agent gets to a host over SSH.

use super::remote::RemoteError;
use crate::agent::install::NEW_AGENT;
use crate::digest::Digest;
use crate::layout::AGENT;
use crate::ssh::{self, Session};
use bytes::Bytes;
use std::time::Duration;

/// An agent of 25 MB over a link of 1 Mbit/s, and as long as another run's
/// last step may hold the host.
const LIMIT: Duration = Duration::from_secs(300 + 165);
/// The agent is cut into pieces of this size, in bytes, on its way.
const PIECE: usize = 256 << 10;

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
            "umask 077; new={NEW_AGENT}$$; trap 'rm -f $new' EXIT; \
             mkdir -p -m 0755 /opt/cofferdam && cat > $new || exit 1; \
             if [ \"$(sha256sum < $new)\" != '{hex}  -' ]; then \
             echo 'what arrived is not what the bundle holds; run the same command again' >&2; \
             exit 1; fi; \
             chmod 0700 $new && exec $new agent-install {digest}"
        );
        format!("{sudo}sh -c {}", ssh::sh_quote(&script))
    }

    /// Brings the agent to its path.
    ///
    /// # Errors
    /// When the link is lost, the host refuses it, or another run holds the
    /// host.
    pub(super) async fn send(self, session: &Session) -> Result<(), RemoteError> {
        let command = self.command();
        let failed = |reason: String| RemoteError::Upload {
            host: self.host.clone(),
            reason,
        };
        let work = async {
            let mut process = session.exec(&command).await?;
            let mut rest = self.bytes.clone();
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(PIECE));
                if process.stdin.write_bytes(piece).await.is_err() {
                    break;
                }
            }
            let ssh::Process {
                stdin,
                stdout,
                mut exit,
                ..
            } = process;
            drop(stdin);
            drop(stdout);
            let ended = exit.wait().await?;
            if ended.is_success() {
                return Ok(());
            }
            let said = exit.last_stderr_lines().join("; ");
            Err(failed(format!("{ended}: {said}")))
        };
        match tokio::time::timeout(LIMIT, work).await {
            Ok(result) => result,
            Err(_) => Err(failed(format!("it took longer than {} s", LIMIT.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

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
            "umask 077; new=/opt/cofferdam/.agent.$$; trap 'rm -f $new' EXIT; mkdir -p -m 0755 /opt/cofferdam && cat > $new || exit 1; if [ \"$(sha256sum < $new)\" != '{hex}  -' ]; then echo 'what arrived is not what the bundle holds; run the same command again' >&2; exit 1; fi; chmod 0700 $new && exec $new agent-install {digest}"
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
        let directory = camino::Utf8Path::from_path(guard.path())
            .unwrap()
            .join("new");
        let agent = "#!/bin/sh\n[ \"$1\" = agent-install ] && mv \"$0\" \"${0%/*}/agent.$$\" && [ \"$0\" = \"${0%/*}/.agent.$$\" ]\n";
        for arrived in ["", &agent[..40], &agent.replace("mv", "rm")] {
            let (is_done, said) = bring(&directory, agent, arrived);
            assert!(!is_done && said.contains("what arrived is not"), "{said}");
            assert_eq!(directory.read_dir_utf8().unwrap().count(), 0);
        }
        let (is_done, said) = bring(&directory, agent, agent);
        assert!(is_done, "{said}");
        let (is_done, said) = bring(&directory, agent, agent);
        assert!(is_done, "{said}");
        // Two names, since two processes brought them.
        assert_eq!(directory.read_dir_utf8().unwrap().count(), 2);
    }
}
