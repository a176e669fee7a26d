//! One agent's state, and which function does which request.

use super::channel::{BodyReceiver, NoticeSender};
use super::failure::failure_of;
use super::observe::observe;
use super::root::Root;
use crate::host::{Failure, Request, Response};
use anyhow::{Result, bail};

/// State of one agent.
#[derive(Debug)]
pub struct Worker {
    root: Root,
}

impl Worker {
    /// An agent for this machine.
    pub fn new() -> Self {
        Self::with_root(Root::host())
    }

    /// An agent for a host whose file tree begins elsewhere.
    pub fn with_root(root: Root) -> Self {
        Self { root }
    }

    /// Does one request. Several may be in hand at once.
    ///
    /// # Errors
    /// Why it could not be done, with the last lines of what was run.
    pub async fn handle(
        &self,
        request: Request,
        body: BodyReceiver,
        notices: NoticeSender,
    ) -> Result<Response, Failure> {
        self.dispatch(request, body, notices)
            .await
            .map_err(|error| failure_of(&error))
    }

    async fn dispatch(
        &self,
        request: Request,
        _body: BodyReceiver,
        _notices: NoticeSender,
    ) -> Result<Response> {
        match request {
            Request::Observe(request) => {
                let facts = observe(&self.root, &request).await?;
                Ok(Response::Facts(Box::new(facts)))
            }
            _ => bail!("doing a request that this agent does not know"),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self::new()
    }
}
