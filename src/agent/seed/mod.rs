//! Fills this host's registry through a short-lived, writable instance on a
//! socket that only root and the registry's user can reach. The serving
//! instance stays read-only and sees at once what this one takes in.

mod damaged;
mod instance;
mod leftovers;
mod push;
mod surplus;

use super::channel::BodyReceiver;
use super::root::Root;
use super::staging::Stored;
use crate::digest::Digest;
use anyhow::{Result, anyhow};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use instance::Instance;
pub use leftovers::remove_leftovers;
pub use push::ManifestTarget;
use push::Pusher;
pub use surplus::{Removed, remove_surplus};
use tokio::sync::Mutex;

/// What goes into the registry, piece by piece.
pub type Content = BoxStream<'static, std::io::Result<Bytes>>;

/// A request's body as content that fails if it is cut off.
pub fn pieces(body: BodyReceiver) -> Content {
    let pieces = stream::try_unfold(body, |mut body| async move {
        match body.next().await {
            Ok(Some(piece)) => Ok(Some((piece, body))),
            Ok(None) => Ok(None),
            Err(error) => Err(std::io::Error::other(error)),
        }
    });
    pieces.boxed()
}

/// The writable instance of one agent; none until it is started.
#[derive(Debug, Default)]
pub struct Seed {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    instance: Instance,
    pusher: Pusher,
}

impl Seed {
    /// Starts the instance; one that runs already is left alone.
    ///
    /// # Errors
    /// If the registry is not installed or does not come up, with its last
    /// lines.
    pub async fn start(&self, root: &Root) -> Result<()> {
        let mut running = self.running.lock().await;
        if let Some(present) = running.as_mut()
            && present.instance.is_alive()
        {
            return Ok(());
        }
        *running = None;
        remove_leftovers(root)?;
        let instance = Instance::start(root).await?;
        let pusher = Pusher::new(root.clone(), instance.socket())?;
        *running = Some(Running { instance, pusher });
        Ok(())
    }

    /// Stops the instance, if there is one.
    ///
    /// # Errors
    /// If it can't be ended.
    pub async fn stop(&self) -> Result<()> {
        match self.running.lock().await.take() {
            Some(running) => running.instance.stop().await,
            None => Ok(()),
        }
    }

    /// Puts a layer or configuration into a repository: from staging if it is
    /// there, else from the content given.
    ///
    /// # Errors
    /// If the instance does not run, or refuses the blob.
    pub async fn put_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<Stored> {
        let pusher = self.pusher().await?;
        pusher.put_blob(repository, digest, size, content).await
    }

    /// Puts a manifest or index into a repository.
    ///
    /// # Errors
    /// As [`Seed::put_blob`].
    pub async fn put_manifest(
        &self,
        target: &ManifestTarget,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<Stored> {
        let pusher = self.pusher().await?;
        pusher.put_manifest(target, digest, size, content).await
    }

    async fn pusher(&self) -> Result<Pusher> {
        let running = self.running.lock().await;
        running
            .as_ref()
            .map(|running| running.pusher.clone())
            .ok_or_else(|| anyhow!("filling the registry: its writable instance is not started"))
    }
}
