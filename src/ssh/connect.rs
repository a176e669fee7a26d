//! Opening connections: TCP, handshake with a look at the host key, and
//! authentication, each with its own limit and its own error.

use super::config::client_config;
use super::connect_error::{ConnectError, IdentityError, Stage};
use super::error::Peer;
use super::handler::{ClientHandler, plain};
use super::host_keys::{HostKey, HostKeys, PinnedKey};
use super::identity::{Identity, UnlockedKey};
use super::link::{Link, LinkStream};
use super::session::Session;
use super::{Target, Timeouts};
use camino::{Utf8Path, Utf8PathBuf};
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKey};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A host's key as `scan` found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedKey {
    /// Where it was found.
    pub peer: Peer,
    /// The key.
    pub key: HostKey,
}

impl ScannedKey {
    /// What to hand to [`HostKeys::record`] once a person has agreed.
    pub fn pin(&self) -> PinnedKey {
        PinnedKey {
            address: self.peer.address,
            key: self.key.clone(),
        }
    }
}

/// Learns a host's key without authenticating. Needs no identity, and trusts
/// nothing: a person has to compare the fingerprint.
pub async fn scan(target: &Target, timeouts: &Timeouts) -> Result<ScannedKey, ConnectError> {
    let attempt = Attempt::new(target, *timeouts, HostKeyPolicy::Learn);
    let _guard = attempt.link.cut_on_drop();
    match attempt.shake_hands().await {
        // Not reached: the handler refuses every key when it only learns.
        Ok(_) => Err(attempt.handshake_error("the server showed no host key".to_owned())),
        Err(error) => match attempt.seen_key() {
            Some(key) => Ok(ScannedKey {
                peer: attempt.peer,
                key,
            }),
            None => Err(error),
        },
    }
}

/// Connects and authenticates. The host must show the key that is pinned for
/// its name, or nothing of ours is sent to it.
pub async fn connect(
    target: &Target,
    host_keys: &HostKeys,
    timeouts: &Timeouts,
) -> Result<Session, ConnectError> {
    let attempt = Attempt::pinned(target, host_keys, *timeouts);
    let credentials = Credentials::of(&target.identity);
    let credentials = credentials.map_err(|source| attempt.identity_error(source))?;
    attempt.log_in(&target.user, &credentials).await
}

/// An identity, looked up: what is missing here fails before anything is sent.
pub(super) enum Credentials {
    Key(UnlockedKey),
    /// The agent's socket.
    Agent(Utf8PathBuf),
}

impl Credentials {
    fn of(identity: &Identity) -> Result<Self, IdentityError> {
        Ok(match identity {
            Identity::KeyFile(path) => Self::Key(UnlockedKey::load(path, None)?),
            Identity::Unlocked(key) => Self::Key(key.clone()),
            Identity::Agent => Self::Agent(agent_socket()?),
        })
    }
}

fn agent_socket() -> Result<Utf8PathBuf, IdentityError> {
    match std::env::var("SSH_AUTH_SOCK") {
        Ok(path) if !path.is_empty() => Ok(path.into()),
        _ => Err(IdentityError::Agent {
            problem: "the environment variable SSH_AUTH_SOCK is not set".to_owned(),
        }),
    }
}

/// What to do with the key that a server shows.
enum HostKeyPolicy {
    /// Accept this one only.
    Pinned(Option<HostKey>),
    /// Look at it, and go no further.
    Learn,
}

/// One connection in the making.
pub(super) struct Attempt {
    peer: Peer,
    timeouts: Timeouts,
    policy: HostKeyPolicy,
    link: Arc<Link>,
    seen: Arc<Mutex<Option<HostKey>>>,
}

impl Attempt {
    fn new(target: &Target, timeouts: Timeouts, policy: HostKeyPolicy) -> Self {
        Self {
            peer: target.peer(),
            timeouts,
            policy,
            link: Link::new(),
            seen: Arc::default(),
        }
    }

    pub(super) fn pinned(target: &Target, host_keys: &HostKeys, timeouts: Timeouts) -> Self {
        let pinned = host_keys.lookup(&target.host);
        let key = pinned.map(|pinned| pinned.key.clone());
        Self::new(target, timeouts, HostKeyPolicy::Pinned(key))
    }

    pub(super) async fn log_in(
        self,
        user: &str,
        credentials: &Credentials,
    ) -> Result<Session, ConnectError> {
        // The library goes on in a task of its own; it must end with us, be it
        // by an error or because the caller no longer waits.
        let guard = self.link.cut_on_drop();
        let mut handle = self.shake_hands().await?;
        let authenticate = async {
            match credentials {
                Credentials::Key(key) => self.authenticate_with_key(&mut handle, user, key).await,
                Credentials::Agent(socket) => {
                    self.authenticate_with_agent(&mut handle, user, socket)
                        .await
                }
            }
        };
        let limit = self.timeouts.authenticate;
        match timeout(limit, authenticate).await {
            Ok(Ok(())) => {
                guard.disarm();
                let peer = Arc::new(self.peer);
                Ok(Session::new(handle, self.link, peer, self.timeouts))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.timeout_error(Stage::Authenticating, limit)),
        }
    }

    /// TCP connection and SSH handshake, up to an accepted host key.
    async fn shake_hands(&self) -> Result<Handle<ClientHandler>, ConnectError> {
        let limit = self.timeouts.connect;
        let socket = match timeout(limit, TcpStream::connect(self.peer.address)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(source)) => {
                return Err(ConnectError::Unreachable {
                    peer: self.peer.clone(),
                    source,
                });
            }
            Err(_) => return Err(self.timeout_error(Stage::Connecting, limit)),
        };
        socket
            .set_nodelay(true)
            .map_err(|error| self.handshake_error(error.to_string()))?;

        let expected = match &self.policy {
            HostKeyPolicy::Pinned(key) => key.clone(),
            HostKeyPolicy::Learn => None,
        };
        let config = client_config(&self.timeouts, expected.as_ref());
        let stream = LinkStream::new(socket, self.link.clone(), self.timeouts.silence);
        let handler = ClientHandler {
            expected,
            seen: self.seen.clone(),
            link: self.link.clone(),
        };
        let limit = self.timeouts.handshake;
        let handshake = russh::client::connect_stream(config, stream, handler);
        match timeout(limit, handshake).await {
            Ok(Ok(handle)) => Ok(handle),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(self.timeout_error(Stage::Handshake, limit)),
        }
    }

    /// Why the handshake failed: mostly, because of the key that was shown.
    fn explain(&self, error: &russh::Error) -> ConnectError {
        let peer = self.peer.clone();
        let described = |key: &HostKey| format!("{} {}", key.key_type(), key.fingerprint());
        match (&self.policy, self.seen_key()) {
            (HostKeyPolicy::Pinned(None), Some(got)) => ConnectError::UnknownHostKey {
                peer,
                key_type: got.key_type(),
                fingerprint: got.fingerprint(),
            },
            (HostKeyPolicy::Pinned(Some(expected)), Some(got)) if got != *expected => {
                ConnectError::ChangedHostKey {
                    peer,
                    expected: described(expected),
                    got: described(&got),
                }
            }
            _ => self.handshake_error(plain(error)),
        }
    }

    async fn authenticate_with_key(
        &self,
        handle: &mut Handle<ClientHandler>,
        user: &str,
        key: &UnlockedKey,
    ) -> Result<(), ConnectError> {
        let hash = self.rsa_hash(handle, key.key.public_key()).await?;
        let offered = PrivateKeyWithHashAlg::new(key.key.clone(), hash);
        let result = handle.authenticate_publickey(user, offered).await;
        match result.map_err(|error| self.broken_off(&error))? {
            AuthResult::Success => Ok(()),
            // The library reports a connection that ended in the same way.
            AuthResult::Failure { .. } if self.link.has_ended() => {
                Err(self.broken_off(&russh::Error::Disconnect))
            }
            AuthResult::Failure { .. } => Err(self.refused(user, vec![key.to_string()])),
        }
    }

    async fn authenticate_with_agent(
        &self,
        handle: &mut Handle<ClientHandler>,
        user: &str,
        socket: &Utf8Path,
    ) -> Result<(), ConnectError> {
        let agent_error = |problem: String| self.identity_error(IdentityError::Agent { problem });
        let mut agent = AgentClient::connect_uds(socket)
            .await
            .map_err(|error| agent_error(format!("{socket}: {error}")))?;
        let identities = agent
            .request_identities()
            .await
            .map_err(|error| agent_error(error.to_string()))?;
        let mut tried = Vec::new();
        for identity in identities {
            // Certificates need their own way; the plain key beside them works.
            let AgentIdentity::PublicKey { key, comment } = identity else {
                continue;
            };
            let described = format!(
                "{comment} from the agent ({} {})",
                key.algorithm(),
                key.fingerprint(HashAlg::Sha256)
            );
            let hash = self.rsa_hash(handle, &key).await?;
            match handle
                .authenticate_publickey_with(user, key, hash, &mut agent)
                .await
            {
                Ok(AuthResult::Success) => return Ok(()),
                Ok(AuthResult::Failure { .. }) => tried.push(described),
                Err(error) => tried.push(format!("{described}: {error}")),
            }
            if handle.is_closed() {
                break;
            }
        }
        if tried.is_empty() {
            return Err(agent_error("it holds no keys".to_owned()));
        }
        Err(self.refused(user, tried))
    }

    /// The hash for signatures with an RSA key; none for other keys. SHA-1 is
    /// never used, also where a server knows nothing else.
    async fn rsa_hash(
        &self,
        handle: &Handle<ClientHandler>,
        key: &PublicKey,
    ) -> Result<Option<HashAlg>, ConnectError> {
        if !key.algorithm().is_rsa() {
            return Ok(None);
        }
        let best = handle.best_supported_rsa_hash().await;
        let best = best.map_err(|error| self.broken_off(&error))?;
        Ok(Some(best.flatten().unwrap_or(HashAlg::Sha512)))
    }

    fn seen_key(&self) -> Option<HostKey> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn refused(&self, user: &str, tried: Vec<String>) -> ConnectError {
        ConnectError::Authentication {
            peer: self.peer.clone(),
            user: user.to_owned(),
            tried,
            note: self.link.failure(),
        }
    }

    fn broken_off(&self, error: &russh::Error) -> ConnectError {
        ConnectError::Handshake {
            peer: self.peer.clone(),
            stage: Stage::Authenticating,
            problem: self.link.failure().unwrap_or_else(|| plain(error)),
        }
    }

    fn identity_error(&self, source: IdentityError) -> ConnectError {
        ConnectError::Identity {
            peer: self.peer.clone(),
            source,
        }
    }

    fn handshake_error(&self, problem: String) -> ConnectError {
        ConnectError::Handshake {
            peer: self.peer.clone(),
            stage: Stage::Handshake,
            problem,
        }
    }

    fn timeout_error(&self, stage: Stage, limit: Duration) -> ConnectError {
        ConnectError::Timeout {
            peer: self.peer.clone(),
            stage,
            limit,
        }
    }
}
