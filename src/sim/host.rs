//! The [`Host`] over a simulated machine.

use super::apply::apply;
use super::machine::Machine;
use super::registry::{is_present, is_to_be_removed, store};
use super::world::{Durability, Gone, InHand, SharedWorld};
use super::zones::Link;
use crate::digest::Digest;
use crate::host::{
    BlobTarget, Body, Call, Failure, Host, HostError, Request, Response, Transferred,
};
use crate::plan::SeedArtifact;
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};

/// Where a blob's bytes are.
enum Bytes<'a> {
    Of(Option<Box<dyn Body + 'a>>),
    /// In a repository of other registries.
    From(&'a [String], &'a str),
}

/// A connection to a simulated machine.
pub(super) struct SimulatedHost {
    pub(super) name: String,
    pub(super) world: SharedWorld,
}

impl Host for SimulatedHost {
    fn name(&self) -> &str {
        &self.name
    }

    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Response, HostError>> {
        Box::pin(async move {
            self.pause().await;
            self.check_connection().await?;
            let response = self.answer(call).await?;
            self.check_connection().await?;
            let is_lost = self
                .world
                .with(|world| world.answers_lost.remove(&self.name));
            match is_lost {
                true => Err(self.lost()),
                false => Ok(response),
            }
        })
    }

    fn transferred(&self) -> Transferred {
        Transferred::default()
    }
}

impl SimulatedHost {
    async fn answer(&self, call: Call<'_>) -> Result<Response, HostError> {
        match call.request {
            Request::Observe(request) => {
                let facts = self.world.with(|world| world.observe(&self.name, &request));
                let facts = facts.ok_or_else(|| self.failed("no such machine"))?;
                Ok(Response::Facts(Box::new(facts)))
            }
            Request::ObserveCluster {
                manifests,
                conditions,
            } => {
                let look = |world: &mut super::world::World| {
                    world.observe_cluster(&self.name, &manifests, &conditions)
                };
                let facts = self.world.with(look);
                let facts = facts.ok_or_else(|| self.failed("the API server does not answer"))?;
                Ok(Response::Cluster(Box::new(facts)))
            }
            Request::Apply(request) => {
                let logged = (self.name.clone(), request.action.clone());
                self.world.with(|world| world.log.push(logged));
                apply(self, *request).await.map(|()| Response::Done)
            }
            Request::PutBlob {
                digest,
                size,
                target,
            } => {
                self.put_blob(digest, size, target, Bytes::Of(call.body))
                    .await
            }
            // One run at a time is what the real lock is tested for.
            Request::Acquire { .. } => Ok(Response::Done),
            Request::SeedStart => self.set_seeding(Seeding::Started).await,
            Request::SeedStop => self.set_seeding(Seeding::Stopped).await,
            // The checks that want it are asked by the verbs alone.
            Request::ObserveUsage => Ok(Response::Usage(Box::default())),
            // Its site has registries of cofferdam's own.
            Request::AskRegistry(_) => Ok(Response::Lacking {
                lacking: Vec::new(),
            }),
            Request::Suspend { unit, .. } => {
                let suspend = |machine: &mut Machine, _| {
                    machine.memory.suspended.insert(unit);
                };
                self.operate(InHand::Finished, Durability::Unsynced, suspend)
                    .await?;
                Ok(Response::Done)
            }
            Request::Resume { unit } => {
                let resume = |machine: &mut Machine, _| {
                    machine.memory.suspended.remove(&unit);
                };
                self.operate(InHand::Finished, Durability::Unsynced, resume)
                    .await?;
                Ok(Response::Done)
            }
            Request::MoveEtcdLeader { to, .. } => {
                self.operate(InHand::Finished, Durability::Unsynced, |_, _| {})
                    .await?;
                let moved = self
                    .world
                    .with(|world| world.move_etcd_leader(&self.name, &to));
                moved.map_err(|reason| self.failed(reason))?;
                Ok(Response::Done)
            }
            Request::ReadGenerations => {
                let read = |world: &mut super::world::World| {
                    let machine = world.machines.get(&self.name);
                    machine.map(Machine::stored_generations)
                };
                let generations = self.world.with(read);
                let generations = generations.ok_or_else(|| self.failed("no such machine"))?;
                Ok(Response::Generations { generations })
            }
            Request::ListSnapshots | Request::ReadSnapshot { .. } => {
                Err(self.failed("simulated snapshots have no bytes"))
            }
            Request::Run(_) => Err(self.failed("simulated hosts run no programs")),
        }
    }

    /// One operation, with a pause before it in which others go on.
    pub(super) async fn operate(
        &self,
        in_hand: InHand,
        durability: Durability,
        change: impl FnOnce(&mut super::machine::Machine, u64),
    ) -> Result<(), HostError> {
        self.pause().await;
        let operate = |world: &mut super::world::World| {
            world.operate(&self.name, in_hand, durability, change)
        };
        self.world.with(operate).map_err(|Gone| self.lost())
    }

    /// Lets time pass, and the other lanes go on, as the seed has it.
    pub(super) async fn pause(&self) {
        const MOST: u64 = 3;
        let times = self.world.with(|world| {
            world.pass_time();
            world.random(MOST)
        });
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }

    /// Waits while nothing is heard of the host.
    pub(super) async fn check_connection(&self) -> Result<(), HostError> {
        loop {
            match self.world.with(|world| world.link(&self.name)) {
                Link::Up => return Ok(()),
                Link::Gone => return Err(self.lost()),
                Link::Silent => self.pause().await,
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn failed(&self, message: impl Into<String>) -> HostError {
        HostError::Failed {
            host: self.name.clone(),
            failure: Failure {
                message: message.into(),
                lines: Vec::new(),
                hint: None,
            },
        }
    }

    fn lost(&self) -> HostError {
        HostError::Lost {
            host: self.name.clone(),
            doing: "talking to the agent".to_owned(),
            reason: "simulated".to_owned(),
        }
    }

    /// Fills the registry from others, blob by blob, as from a bundle.
    pub(super) async fn copy_artifacts(
        &self,
        artifacts: &[SeedArtifact],
        registries: &[String],
    ) -> Result<(), HostError> {
        self.set_seeding(Seeding::Started).await?;
        for artifact in artifacts {
            let repository = &artifact.repository;
            for blob in &artifact.blobs {
                let target = BlobTarget::Repository {
                    repository: repository.clone(),
                };
                let bytes = Bytes::From(registries, repository);
                self.put_blob(blob.digest, blob.size, target, bytes).await?;
            }
            for (manifest, tag) in artifact.tagged_manifests() {
                let target = BlobTarget::Manifest {
                    repository: repository.clone(),
                    media_type: manifest.media_type.clone(),
                    tag,
                };
                let bytes = Bytes::From(registries, repository);
                self.put_blob(manifest.digest, manifest.size, target, bytes)
                    .await?;
            }
        }
        self.set_seeding(Seeding::Stopped).await.map(|_| ())
    }

    async fn put_blob(
        &self,
        digest: Digest,
        size: u64,
        target: BlobTarget,
        bytes: Bytes<'_>,
    ) -> Result<Response, HostError> {
        let is_damaged = self.world.with(|world| {
            let machine = world.machines.get(&self.name);
            machine.is_some_and(|machine| is_to_be_removed(machine, &target, &digest))
        });
        if is_damaged {
            self.operate(InHand::GivenUp, Durability::Synced, |machine, _| {
                machine.disk.registry.blobs.remove(&digest);
                machine.disk.damaged_blobs.remove(&digest);
            })
            .await?;
        }
        let (refused, present) = self.world.with(|world| {
            let machine = world.machines.get(&self.name);
            let present = machine.is_some_and(|machine| is_present(machine, &target, &digest));
            (world.why_not_pushed(&self.name, &target, &digest), present)
        });
        if let Some(reason) = refused {
            return Err(self.failed(reason));
        }
        match bytes {
            _ if present => {}
            Bytes::Of(body) => self.read(&digest, body)?,
            Bytes::From(registries, repository) => {
                let reason = self.world.with(|world| {
                    world.why_not_served(&self.name, registries, repository, &digest)
                });
                if let Some(reason) = reason {
                    return Err(self.failed(reason));
                }
            }
        }
        self.operate(InHand::GivenUp, Durability::Synced, |machine, _| {
            store(machine, &target, digest, size);
        })
        .await?;
        Ok(Response::Stored { present })
    }

    /// Takes the bytes, which must be what the digest says.
    fn read(&self, digest: &Digest, body: Option<Box<dyn Body + '_>>) -> Result<(), HostError> {
        let mut body = body.ok_or_else(|| self.failed("no body"))?;
        let mut hasher = Sha256::new();
        loop {
            let piece = body.next().map_err(|source| HostError::Body {
                host: self.name.clone(),
                source,
            })?;
            match piece {
                Some(piece) => hasher.update(&piece),
                None => break,
            }
        }
        match Digest::from_bytes(hasher.finalize().into()) == *digest {
            true => Ok(()),
            false => Err(self.failed(format!("the bytes that came are not {digest}"))),
        }
    }

    async fn set_seeding(&self, seeding: Seeding) -> Result<Response, HostError> {
        let reason = self
            .world
            .with(|world| world.why_not_startable(&self.name, "registry.service"));
        if let (Some(reason), Seeding::Started) = (reason, seeding) {
            return Err(self.failed(reason));
        }
        self.operate(InHand::GivenUp, Durability::Unsynced, |machine, _| {
            machine.memory.is_seeding = seeding == Seeding::Started;
        })
        .await?;
        Ok(Response::Done)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seeding {
    Started,
    Stopped,
}
