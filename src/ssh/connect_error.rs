//! Why there is no connection: identities, networks, handshakes, host keys and
//! authentication.

use super::error::Peer;
use camino::Utf8PathBuf;
use std::fmt;
use std::time::Duration;

/// The part of connecting that was going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening the TCP connection.
    Connecting,
    /// Agreeing on keys and ciphers, learning the host key.
    Handshake,
    /// Proving who we are.
    Authenticating,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connecting => "opening a TCP connection",
            Self::Handshake => "shaking hands over SSH",
            Self::Authenticating => "authenticating",
        })
    }
}

/// Why a private key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can't be read or isn't a private key.
    #[error("reading the private key {path}: {problem}")]
    File {
        /// The key file.
        path: Utf8PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The key is encrypted and nobody gave a passphrase.
    #[error("reading the private key {path}: it is encrypted, and there is no passphrase for it")]
    Encrypted {
        /// The key file.
        path: Utf8PathBuf,
    },
    /// The key could not be decrypted.
    #[error("decrypting the private key {path}: the passphrase is wrong")]
    Passphrase {
        /// The key file.
        path: Utf8PathBuf,
    },
    /// The library can't read this key, though it is one.
    #[error(
        "reading the private key {path}: it is an ECDSA key whose number is short, as one in 512 \
         is, and cofferdam can't read those"
    )]
    Short {
        /// The key file.
        path: Utf8PathBuf,
    },
    /// The agent can't be reached or has no keys.
    #[error("asking the SSH agent for its keys: {problem}")]
    Agent {
        /// What the agent, or the lack of one, said.
        problem: String,
    },
}

impl IdentityError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::File { .. } => {
                "check `key` under `[ssh]` in the inventory; the path is relative \
                 to the inventory's directory"
                    .to_owned()
            }
            Self::Encrypted { path } | Self::Passphrase { path } => format!(
                "run it in a terminal and type the passphrase, or load the key with \
                 `ssh-add {path}` and leave `key` out of the inventory"
            ),
            Self::Short { path } => format!(
                "load the key with `ssh-add {path}` and leave `key` out of the inventory, or make \
                 another one: `ssh-keygen -t ed25519`"
            ),
            Self::Agent { .. } => {
                "start an agent and load a key (`eval $(ssh-agent); ssh-add`), or \
                 name a key file as `key` under `[ssh]` in the inventory"
                    .to_owned()
            }
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The identity can't be used.
    #[error("connecting to {peer}: {source}")]
    Identity {
        /// Where to.
        peer: Peer,
        /// The reason.
        source: IdentityError,
    },
    /// No TCP connection.
    #[error("connecting to {peer}: {source}")]
    Unreachable {
        /// Where to.
        peer: Peer,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("connecting to {peer}: {stage} took longer than {} s", limit.as_secs_f32())]
    Timeout {
        /// Where to.
        peer: Peer,
        /// What was going on.
        stage: Stage,
        /// How long was waited.
        limit: Duration,
    },
    /// The other side isn't an SSH server that we can speak with, or hung up.
    #[error("connecting to {peer}: {stage} failed: {problem}")]
    Handshake {
        /// Where to.
        peer: Peer,
        /// What was going on.
        stage: Stage,
        /// What went wrong.
        problem: String,
    },
    /// No key is pinned for the host.
    #[error("connecting to {peer}: its host key is not known ({key_type} {fingerprint})")]
    UnknownHostKey {
        /// Where to.
        peer: Peer,
        /// Type of the key that the host showed.
        key_type: String,
        /// The key that the host showed.
        fingerprint: String,
    },
    /// The host shows another key than the pinned one.
    #[error("connecting to {peer}: its host key has changed: expected {expected}, got {got}")]
    ChangedHostKey {
        /// Where to.
        peer: Peer,
        /// Type and fingerprint of the pinned key.
        expected: String,
        /// Type and fingerprint of the key that the host showed.
        got: String,
    },
    /// The host refuses us.
    #[error(
        "connecting to {peer}: authentication as `{user}` was refused; tried {}{}",
        tried.join(", "),
        note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default()
    )]
    Authentication {
        /// Where to.
        peer: Peer,
        /// The user on the host.
        user: String,
        /// Each key that was offered.
        tried: Vec<String>,
        /// What the server said besides, if anything.
        note: Option<String>,
    },
}

impl ConnectError {
    /// Whether nothing answers at the host's address, as when it is off.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout {
                    stage: Stage::Connecting,
                    ..
                }
        )
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Identity { source, .. } => source.hint(),
            Self::Unreachable { peer, .. }
            | Self::Timeout {
                peer,
                stage: Stage::Connecting,
                ..
            } => {
                format!(
                    "check that {} is up and runs sshd, and that firewalls let TCP {} through \
                     from here (`cofferdam ports` lists the rows)",
                    peer.host,
                    peer.address.port()
                )
            }
            Self::Timeout { peer, .. } | Self::Handshake { peer, .. } => format!(
                "check that an SSH server listens at {}, and its log (`journalctl -u ssh -u sshd` on {})",
                peer.address, peer.host
            ),
            Self::UnknownHostKey { .. } => "compare the fingerprint with the host's own \
                 (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its console), then run \
                 `cofferdam hosts trust -i inventory.toml`"
                .to_owned(),
            Self::ChangedHostKey { peer, .. } => format!(
                "if {} was installed anew, run `cofferdam hosts trust -i inventory.toml`; \
                 if not, somebody may be between you and the host",
                peer.host
            ),
            Self::Authentication { peer, user, .. } => format!(
                "put the public key into ~{user}/.ssh/authorized_keys on {}, or correct `user` \
                 and `key` under `[ssh]` in the inventory",
                peer.host
            ),
        }
    }

    /// Where the connection was to go.
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Identity { peer, .. }
            | Self::Unreachable { peer, .. }
            | Self::Timeout { peer, .. }
            | Self::Handshake { peer, .. }
            | Self::UnknownHostKey { peer, .. }
            | Self::ChangedHostKey { peer, .. }
            | Self::Authentication { peer, .. } => peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_host_and_what_was_tried() {
        let peer = || Peer {
            host: "m1".to_owned(),
            address: "10.77.1.11:22".parse().unwrap(),
        };
        let error = ConnectError::Authentication {
            peer: peer(),
            user: "root".to_owned(),
            tried: vec!["key a".to_owned(), "key b".to_owned()],
            note: Some("too many authentication failures".to_owned()),
        };
        insta::assert_snapshot!(
            format!("{error}\n{}", error.hint()),
            @r"
        connecting to m1 (10.77.1.11:22): authentication as `root` was refused; tried key a, key b (too many authentication failures)
        put the public key into ~root/.ssh/authorized_keys on m1, or correct `user` and `key` under `[ssh]` in the inventory
        "
        );
        insta::assert_snapshot!(
            ConnectError::Timeout { peer: peer(), stage: Stage::Handshake, limit: Duration::from_secs(20) },
            @"connecting to m1 (10.77.1.11:22): shaking hands over SSH took longer than 20 s"
        );
    }
}
