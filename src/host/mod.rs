//! A host as the rest of the program sees it: typed requests in, notices and
//! one response out. Implemented by the agent over SSH, by the agent's code in
//! this process, and by the simulated host.

pub mod frame;
pub mod link;
pub mod remote;
pub mod request;
pub mod upload;

pub use request::*;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::time::Duration;

/// A machine in reach.
pub trait Host: Send + Sync {
    /// The inventory name.
    fn name(&self) -> &str;

    /// Does one request. Several may run at once. Dropping the future does
    /// not stop what the host has begun: an action in hand is brought to its
    /// end there.
    ///
    /// # Errors
    /// What the host answers, or that it can't be reached any more.
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Response, HostError>>;

    /// Bytes that went to the host and came back over the jump host's link.
    fn transferred(&self) -> Transferred;
}

/// A request with its body and somewhere for notices to go.
pub struct Call<'a> {
    pub request: Request,
    pub body: Option<Box<dyn Body + 'a>>,
    pub notices: &'a (dyn Fn(Notice) + Send + Sync),
    /// How long the host may take in all, or from the last piece of a body that
    /// it took, or from the last progress that it told.
    pub limit: Duration,
}

/// Bytes that follow a request, read piece by piece. Bodies come from files,
/// so reading blocks only for as long as a disk does.
pub trait Body: Send {
    /// The next piece, at most 1 MiB, or none at the end.
    ///
    /// # Errors
    /// When the source can't be read or does not match its digest.
    fn next(&mut self) -> std::io::Result<Option<Bytes>>;

    /// The same for bodies whose next piece may be long in coming, such as a
    /// person's input: a call must go on to hear what the host says meanwhile.
    /// Dropping the future before its end loses nothing.
    ///
    /// # Errors
    /// As [`Body::next`].
    fn wait_for_next(&mut self) -> BoxFuture<'_, std::io::Result<Option<Bytes>>> {
        let piece = self.next();
        Box::pin(std::future::ready(piece))
    }
}

/// Bytes over a link, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Transferred {
    pub sent: u64,
    pub received: u64,
}

/// Why a call did not succeed. Every variant names the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host did the request and it failed there.
    #[error("{host}: {failure}")]
    Failed { host: String, failure: Failure },
    /// The link or the agent went away; what was in hand may be half done.
    #[error("{host}: lost the connection while {doing}: {reason}")]
    Lost {
        host: String,
        doing: String,
        reason: String,
    },
    /// Nothing came back within the limit.
    #[error("{host}: no answer within {seconds} s while {doing}; last: {last}")]
    Timeout {
        host: String,
        doing: String,
        seconds: u64,
        last: String,
    },
    /// The body could not be read on this side.
    #[error("{host}: reading what was to be sent: {source}")]
    Body {
        host: String,
        source: std::io::Error,
    },
}

impl HostError {
    /// The host.
    pub fn host(&self) -> &str {
        match self {
            Self::Failed { host, .. }
            | Self::Lost { host, .. }
            | Self::Timeout { host, .. }
            | Self::Body { host, .. } => host,
        }
    }
}
