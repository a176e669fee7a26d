//! A host over SSH: brings the agent to its path if it isn't there, starts
//! it, and speaks to it.

use super::link::{HelloError, Link, Pipes};
use super::upload::{Upload, Uploads};
use super::{Call, Host, HostError, Response, RunInHand, Transferred};
use crate::digest::Digest;
use crate::layout::AGENT;
use crate::ssh::{self, ConnectError, HostKeys, Session, Target, Timeouts};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Small commands before there is an agent.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A host whose agent runs at the other end of an SSH session.
pub struct RemoteHost {
    link: Link,
    session: Arc<Session>,
    /// `linux/amd64`.
    pub platform: String,
    /// Whether the agent was brought by this run.
    pub brought: bool,
    /// Another run that had the host in hand when it was reached.
    pub run: Option<RunInHand>,
}

/// Where agents for hosts come from: the verified bundle.
pub trait AgentSource: Send + Sync {
    /// Digest of the agent for a platform; none if the bundle has none.
    fn agent_digest(&self, platform: &str) -> Option<Digest>;

    /// Its bytes, for a host that has not got it.
    ///
    /// # Errors
    /// When the bundle can't be read, or is a delta that leaves it out.
    fn agent(&self, platform: &str) -> std::io::Result<Bytes>;
}

/// Why a host could not be made to listen.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Ssh(#[from] ssh::Error),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("{host}: `{said}` is no platform that cofferdam knows")]
    Platform { host: String, said: String },
    #[error("{host}: the bundle has no cofferdam for {platform}")]
    NoAgent { host: String, platform: String },
    #[error("{host}: user {user} can't become root: {reason}")]
    NotRoot {
        host: String,
        user: String,
        reason: String,
    },
    #[error("{host}: bringing the agent to {AGENT}: {reason}")]
    Upload { host: String, reason: String },
    #[error("{host}: another agent ({found}) was brought to {AGENT} meanwhile")]
    Replaced { host: String, found: Digest },
    #[error("{host}: {run} is going on, with another agent than the bundle's")]
    Busy { host: String, run: RunInHand },
    #[error("{host}: reading the agent from the bundle: {source}")]
    Bundle {
        host: String,
        source: std::io::Error,
    },
}

impl RemoteError {
    /// The host.
    pub fn host(&self) -> &str {
        match self {
            Self::Connect(error) => &error.peer().host,
            Self::Ssh(error) => &error.peer().host,
            Self::Hello(error) => error.host(),
            Self::Platform { host, .. }
            | Self::NoAgent { host, .. }
            | Self::NotRoot { host, .. }
            | Self::Upload { host, .. }
            | Self::Replaced { host, .. }
            | Self::Busy { host, .. }
            | Self::Bundle { host, .. } => host,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Connect(error) => error.hint(),
            Self::Hello(HelloError::NoAgent { .. }) => {
                format!(
                    "is {AGENT} there, and its file system mounted with exec? `install` brings it"
                )
            }
            Self::Hello(HelloError::Protocol { .. }) => {
                "run `install` or `upgrade` with a bundle of this cofferdam's version".to_owned()
            }
            Self::NotRoot { user, .. } => format!(
                "allow {user} to run /opt/cofferdam/agent and sh as root without a password (sudoers: NOPASSWD), or set ssh.user = \"root\""
            ),
            Self::NoAgent { .. } => {
                "build a bundle that lists the platform in `platforms`".to_owned()
            }
            Self::Bundle { .. } => {
                "if the bundle is a delta, name the one that it builds on with --base".to_owned()
            }
            Self::Upload { .. } => {
                "is there space below /opt, and is it mounted with exec?".to_owned()
            }
            Self::Replaced { .. } => {
                "somebody uses another bundle on the same hosts; let that end, then run the same command again".to_owned()
            }
            Self::Busy { .. } => {
                "run the same command again when it has ended, or use that run's bundle".to_owned()
            }
            _ => return None,
        })
    }
}

/// A host that answers and whose user can become root. Nothing was written to
/// it yet.
pub struct Reached {
    target: Target,
    session: Arc<Session>,
    platform: String,
    agent: AgentState,
    run: Option<RunInHand>,
}

enum AgentState {
    /// It runs and is the one that is wanted.
    Running(Box<Link>),
    /// It is to be brought first.
    Wanted(Upload),
}

/// Connects to a host and starts the agent that is there.
///
/// # Errors
/// When the host can't be reached or trusted, or has no agent that speaks this
/// program's protocol.
pub async fn connect(target: &Target, host_keys: &HostKeys) -> Result<RemoteHost, RemoteError> {
    let uploads = Uploads::new(&|_, _, _| ());
    reach(target, host_keys, None).await?.start(&uploads).await
}

/// Connects to a host and finds out whether its agent is the one that is
/// wanted; without a source, whatever is there is. Writes nothing: a run reaches
/// all its hosts before it brings anything to any of them.
///
/// # Errors
/// When the host can't be reached or trusted, its user can't become root, or
/// the bundle lacks its platform.
pub async fn reach(
    target: &Target,
    host_keys: &HostKeys,
    source: Option<&dyn AgentSource>,
) -> Result<Reached, RemoteError> {
    let session = Arc::new(ssh::connect(target, host_keys, &Timeouts::default()).await?);
    let host = target.host.clone();
    let said = session
        .run("uname -sm", Bytes::new(), COMMAND_LIMIT)
        .await?;
    let platform =
        platform(&String::from_utf8_lossy(&said)).map_err(|said| RemoteError::Platform {
            host: host.clone(),
            said,
        })?;
    let sudo = prefix(&target.user);
    let mut run = None;
    let agent = match source {
        None => AgentState::Running(Box::new(start(&session, &host, sudo).await?)),
        Some(source) => {
            let Some(digest) = source.agent_digest(&platform) else {
                return Err(RemoteError::NoAgent { host, platform });
            };
            let wanted = |replace| -> std::io::Result<AgentState> {
                Ok(AgentState::Wanted(Upload {
                    host: host.clone(),
                    sudo,
                    digest,
                    bytes: source.agent(&platform)?,
                    replace,
                }))
            };
            let started = start(&session, &host, sudo).await;
            run = match &started {
                Ok(link) => link.hello().run.clone(),
                Err(RemoteError::Hello(HelloError::Protocol { run, .. })) => run.clone(),
                Err(_) => None,
            };
            let state = match started {
                Ok(link) if link.hello().digest == digest => {
                    Ok(AgentState::Running(Box::new(link)))
                }
                Ok(_) | Err(RemoteError::Hello(HelloError::Protocol { .. })) => wanted(true),
                Err(RemoteError::Hello(HelloError::NoAgent { .. })) => wanted(false),
                Err(error) => return Err(error),
            };
            state.map_err(|source| RemoteError::Bundle {
                host: host.clone(),
                source,
            })?
        }
    };
    if let AgentState::Wanted(upload) = &agent {
        prove_root(&session, target, upload).await?;
    }
    Ok(Reached {
        target: target.clone(),
        session,
        platform,
        agent,
        run,
    })
}

impl Reached {
    /// The run that has the host in hand with another agent than the wanted
    /// one, if there is one. Whoever takes no lock must leave that agent alone.
    pub fn would_disturb(&self) -> Option<&RunInHand> {
        match &self.agent {
            AgentState::Wanted(_) => self.run.as_ref(),
            AgentState::Running(_) => None,
        }
    }

    /// Brings the agent if it must be, and starts it.
    ///
    /// # Errors
    /// When it can't be brought, or another one runs there after all.
    pub async fn start(self, uploads: &Uploads<'_>) -> Result<RemoteHost, RemoteError> {
        let Self {
            target,
            session,
            platform,
            agent,
            run,
        } = self;
        let upload = match agent {
            AgentState::Running(link) => {
                return Ok(RemoteHost {
                    link: *link,
                    session,
                    platform,
                    brought: false,
                    run,
                });
            }
            AgentState::Wanted(upload) => upload,
        };
        let digest = upload.digest;
        upload.send(&session, uploads).await?;
        let link = start(&session, &target.host, prefix(&target.user)).await?;
        if link.hello().digest != digest {
            return Err(RemoteError::Replaced {
                host: target.host,
                found: link.hello().digest,
            });
        }
        Ok(RemoteHost {
            link,
            session,
            platform,
            brought: true,
            run,
        })
    }
}

/// Whether the user may run what brings the agent as root.
async fn prove_root(
    session: &Session,
    target: &Target,
    upload: &Upload,
) -> Result<(), RemoteError> {
    let probe = upload.probe();
    let output = session.output(&probe, Bytes::new(), COMMAND_LIMIT).await?;
    if output.exit.is_success() {
        return Ok(());
    }
    Err(RemoteError::NotRoot {
        host: target.host.clone(),
        user: target.user.clone(),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

async fn start(session: &Session, host: &str, sudo: &str) -> Result<Link, RemoteError> {
    let process = session.exec(&format!("{sudo}{AGENT} agent")).await?;
    let ssh::Process {
        stdin,
        stdout,
        stderr,
        exit,
    } = process;
    let explain = move || stderr.last_lines().join("; ");
    let pipes = Pipes {
        output: stdout,
        input: stdin,
        explain: Box::new(explain),
        carrier: Box::new(exit),
    };
    Ok(Link::open(host, pipes).await?)
}

/// What goes before a command that must run as root.
fn prefix(user: &str) -> &'static str {
    if user == "root" { "" } else { "sudo -n " }
}

/// The OCI platform of `uname -sm`.
fn platform(said: &str) -> Result<String, String> {
    match said.trim() {
        "Linux x86_64" => Ok("linux/amd64".to_owned()),
        "Linux aarch64" => Ok("linux/arm64".to_owned()),
        other => Err(other.to_owned()),
    }
}

impl Host for RemoteHost {
    fn name(&self) -> &str {
        self.link.name()
    }

    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Response, HostError>> {
        self.link.call(call)
    }

    fn transferred(&self) -> Transferred {
        let ssh::Transferred { sent, received } = self.session.transferred();
        Transferred { sent, received }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_two_platforms_and_names_others() {
        assert_eq!(platform("Linux x86_64\n").unwrap(), "linux/amd64");
        assert_eq!(platform("Linux aarch64\n").unwrap(), "linux/arm64");
        assert_eq!(platform("Linux riscv64\n").unwrap_err(), "Linux riscv64");
    }
}
