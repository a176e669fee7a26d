//! SSH transport: byte streams to and from commands on hosts, over connections
//! whose host keys are pinned in the site.
//!
//! This module knows nothing of what runs at the other end. `connect` gives a
//! `Session`, a session runs any number of `Process`es at once, and a process
//! is three streams and an exit. Nothing here waits without a limit, but for
//! the end of a process, which lives as long as it likes on a link that is
//! watched.

mod config;
mod connect;
mod connect_error;
mod error;
mod handler;
mod host_keys;
mod identity;
mod link;
mod process;
mod pump;
mod quote;
mod session;
mod transcript;

#[cfg(test)]
pub(crate) mod tests;

pub use connect::{ScannedKey, connect, scan};
pub use connect_error::{ConnectError, IdentityError, Stage};
pub use error::{Error, Peer};
pub use host_keys::{HostKey, HostKeys, HostKeysError, PinnedKey, Recorded};
pub use identity::{Identity, UnlockedKey};
pub use link::Transferred;
pub use process::{Exit, Process, ProcessErrors, ProcessExit, ProcessInput, ProcessOutput};
pub use quote::sh_quote;
pub use session::{Output, Session};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A host to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Inventory name: key of the pinned host keys, and named in all messages.
    pub host: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Usually 22.
    pub port: u16,
    /// User on the host.
    pub user: String,
    /// Our side's key.
    pub identity: Identity,
}

impl Target {
    /// The host as messages name it.
    pub fn peer(&self) -> Peer {
        Peer {
            host: self.host.clone(),
            address: SocketAddr::new(self.address, self.port),
        }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP connection. A packet or two may get lost on the way.
    pub connect: Duration,
    /// From the TCP connection to agreed keys. An sshd under attack or load
    /// (`MaxStartups`) takes its time.
    pub handshake: Duration,
    /// Authentication. PAM and slow name services on the host need seconds.
    pub authenticate: Duration,
    /// From asking for a command to its start, waiting for a free session
    /// included.
    pub start: Duration,
    /// A link from which nothing came for this long, though it was asked, is
    /// dead. The same as the time after which an agent without a heartbeat
    /// ends, so that both sides come to the same opinion.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(20),
            authenticate: Duration::from_secs(30),
            start: Duration::from_secs(30),
            silence: Duration::from_secs(30),
        }
    }
}
