//! What can go wrong on a connection that stands. Every message names the host,
//! its address and what was tried; what to do next is a separate hint, which
//! the caller prints last.

use super::process::Exit;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longer commands are cut in messages.
const COMMAND_LIMIT: usize = 160;

/// The other side of a connection, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Inventory name.
    pub host: String,
    /// Where the connection goes.
    pub address: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.host, self.address)
    }
}

/// Why a command over a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection is gone.
    #[error("the connection to {peer} was lost: {reason}; the last byte came {} s ago", silent_for.as_secs())]
    Lost {
        /// The host.
        peer: Arc<Peer>,
        /// What ended it.
        reason: String,
        /// For how long nothing had come when the error was made.
        silent_for: Duration,
    },
    /// The server didn't start the command.
    #[error("running `{}` on {peer}: {problem}", shorten(command))]
    Refused {
        /// The host.
        peer: Arc<Peer>,
        /// The command.
        command: String,
        /// Why.
        problem: String,
    },
    /// The channel ended without a word on how the process did.
    #[error(
        "running `{}` on {peer}: it ended without an exit status{}",
        shorten(command),
        quoted(stderr)
    )]
    NoExitStatus {
        /// The host.
        peer: Arc<Peer>,
        /// The command.
        command: String,
        /// Last lines of standard error.
        stderr: Vec<String>,
    },
    /// The command failed.
    #[error("running `{}` on {peer}: {exit}{}", shorten(command), quoted(stderr))]
    Failed {
        /// The host.
        peer: Arc<Peer>,
        /// The command.
        command: String,
        /// How it ended.
        exit: Exit,
        /// Last lines of standard error.
        stderr: Vec<String>,
    },
    /// The command didn't end in time.
    #[error("running `{}` on {peer}: no end after {} s{}", shorten(command), limit.as_secs_f32(), quoted(stderr))]
    Timeout {
        /// The host.
        peer: Arc<Peer>,
        /// The command.
        command: String,
        /// How long was waited.
        limit: Duration,
        /// Last lines of standard error.
        stderr: Vec<String>,
    },
    /// The command wrote more than the caller can take.
    #[error(
        "running `{}` on {peer}: it wrote more than {limit} bytes",
        shorten(command)
    )]
    OutputTooLarge {
        /// The host.
        peer: Arc<Peer>,
        /// The command.
        command: String,
        /// The limit in bytes.
        limit: usize,
    },
}

impl Error {
    /// The host.
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Lost { peer, .. }
            | Self::Refused { peer, .. }
            | Self::NoExitStatus { peer, .. }
            | Self::Failed { peer, .. }
            | Self::Timeout { peer, .. }
            | Self::OutputTooLarge { peer, .. } => peer,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Lost { peer, .. } => format!(
                "check that {} is up and reachable, then run the same command again; \
                 it goes on where it stopped",
                peer.host
            ),
            Self::Refused { peer, .. } => format!(
                "check the log of sshd on {} (`journalctl -u ssh -u sshd`), and `MaxSessions` and \
                 `ForceCommand` in its configuration",
                peer.host
            ),
            Self::NoExitStatus { peer, .. }
            | Self::Failed { peer, .. }
            | Self::Timeout { peer, .. }
            | Self::OutputTooLarge { peer, .. } => {
                format!("run the command by hand on {} to see more", peer.host)
            }
        }
    }
}

/// A command as messages show it: one line, not too long.
pub(super) fn shorten(command: &str) -> String {
    let line = command.replace('\n', " ");
    match line.char_indices().nth(COMMAND_LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn quoted(stderr: &[String]) -> String {
    if stderr.is_empty() {
        return String::new();
    }
    format!("\n  {}", stderr.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            host: "m1".to_owned(),
            address: "10.77.1.11:22".parse().unwrap(),
        }
    }

    #[test]
    fn messages_name_host_and_what_was_tried() {
        insta::assert_snapshot!(
            Error::Failed {
                peer: Arc::new(peer()),
                command: "cat /nowhere".to_owned(),
                exit: Exit::Status(1),
                stderr: vec!["cat: /nowhere: No such file or directory".to_owned()],
            },
            @r"
        running `cat /nowhere` on m1 (10.77.1.11:22): exit status 1
          cat: /nowhere: No such file or directory
        "
        );
        insta::assert_snapshot!(
            Error::Lost {
                peer: Arc::new(peer()),
                reason: "nothing came for 30 s, though it was asked".to_owned(),
                silent_for: Duration::from_millis(30_400),
            },
            @"the connection to m1 (10.77.1.11:22) was lost: nothing came for 30 s, though it was asked; the last byte came 30 s ago"
        );
    }

    #[test]
    fn long_commands_are_cut() {
        let command = format!("echo {}\necho", "ä".repeat(400));
        let short = shorten(&command);
        assert_eq!(short.chars().count(), COMMAND_LIMIT + 1);
        assert!(short.ends_with('…') && !short.contains('\n'));
    }
}
