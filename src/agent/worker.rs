//! One agent's state, and which function does which request.

use super::channel::{BodyReceiver, NoticeSender};
use super::failure::failure_of;
use super::root::Root;
use super::seed::{ManifestTarget, Seed, pieces};
use super::staging::{self, Stored};
use super::{
    apply, cluster, generations, leadership, observe, registry_question, run, snapshots, usage,
};
use crate::digest::Digest;
use crate::host::{BlobTarget, Failure, Request, Response};
use anyhow::Result;
use std::time::Duration;

/// State of one agent.
#[derive(Debug)]
pub struct Worker {
    root: Root,
    seed: Seed,
}

impl Worker {
    /// An agent for this machine.
    pub fn new() -> Self {
        Self::with_root(Root::host())
    }

    /// An agent for a host whose file tree begins elsewhere.
    pub fn with_root(root: Root) -> Self {
        Self {
            root,
            seed: Seed::default(),
        }
    }

    /// The root of the host's file tree.
    pub fn root(&self) -> &Root {
        &self.root
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

    /// Ends what lives as long as the agent: the writable registry instance.
    pub async fn shutdown(&self) {
        // It also goes by itself when this process ends.
        let _ = self.seed.stop().await;
    }

    async fn dispatch(
        &self,
        request: Request,
        body: BodyReceiver,
        notices: NoticeSender,
    ) -> Result<Response> {
        match request {
            // The lock lies with whoever serves the stream; an agent in the
            // same process has the site's.
            Request::Acquire { .. } => Ok(Response::Done),
            Request::Observe(request) => {
                let facts = observe::observe(&self.root, &request, notices).await?;
                Ok(Response::Facts(Box::new(facts)))
            }
            Request::ObserveCluster {
                manifests,
                conditions,
            } => {
                let facts = cluster::observe(&self.root, &manifests, &conditions).await?;
                Ok(Response::Cluster(Box::new(facts)))
            }
            Request::ObserveUsage => {
                let facts = usage::observe(&self.root).await?;
                Ok(Response::Usage(Box::new(facts)))
            }
            Request::AskRegistry(question) => {
                let lacking = registry_question::lacking(&question, &notices).await?;
                Ok(Response::Lacking { lacking })
            }
            Request::Apply(request) => {
                apply::apply(&self.root, *request, &notices).await?;
                Ok(Response::Done)
            }
            Request::PutBlob {
                digest,
                size,
                target,
            } => {
                let stored = self.put(&digest, size, target, body).await?;
                Ok(Response::Stored {
                    present: stored == Stored::AlreadyThere,
                })
            }
            Request::SeedStart => {
                self.seed.start(&self.root).await?;
                Ok(Response::Done)
            }
            Request::SeedStop => {
                self.seed.stop().await?;
                Ok(Response::Done)
            }
            Request::ReadGenerations => {
                let generations = generations::read(&self.root);
                Ok(Response::Generations { generations })
            }
            Request::ListSnapshots => {
                let snapshots = snapshots::list(&self.root)?;
                Ok(Response::Snapshots { snapshots })
            }
            Request::ReadSnapshot { name } => {
                snapshots::read(&self.root, &name, &notices).await?;
                Ok(Response::Done)
            }
            Request::Suspend {
                unit,
                limit_seconds,
            } => {
                let limit = Duration::from_secs(limit_seconds.into());
                leadership::suspend(&self.root, &unit, limit).await?;
                Ok(Response::Done)
            }
            Request::Resume { unit } => {
                leadership::resume(&self.root, &unit).await?;
                Ok(Response::Done)
            }
            Request::MoveEtcdLeader { endpoint, to } => {
                leadership::hand_over(&self.root, &endpoint, &to).await?;
                Ok(Response::Done)
            }
            Request::Run(request) => {
                let status = run::run(&self.root, request, body, notices).await?;
                Ok(Response::Exited { status })
            }
        }
    }

    async fn put(
        &self,
        digest: &Digest,
        size: u64,
        target: BlobTarget,
        body: BodyReceiver,
    ) -> Result<Stored> {
        match target {
            BlobTarget::Staging => staging::put(&self.root, digest, size, body).await,
            BlobTarget::Repository { repository } => {
                self.seed
                    .put_blob(&repository, digest, size, pieces(body))
                    .await
            }
            BlobTarget::Manifest {
                repository,
                media_type,
                tag,
            } => {
                let target = ManifestTarget {
                    repository,
                    media_type,
                    tag,
                };
                self.seed
                    .put_manifest(&target, digest, size, pieces(body))
                    .await
            }
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self::new()
    }
}
