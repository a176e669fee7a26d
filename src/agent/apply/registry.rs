//! Fills this host's registry from another one.

use super::registries::{QUIET_LIMIT, Registries, not_to_be_had};
use super::source::{Counted, Source};
use crate::agent::channel::NoticeSender;
use crate::agent::http;
use crate::agent::root::Root;
use crate::agent::seed::{ManifestTarget, Seed};
use crate::agent::staging::Stored;
use crate::desired::BlobReference;
use crate::host::Failure;
use crate::layout;
use crate::plan::SeedArtifact;
use anyhow::{Context, Error, Result, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::ACCEPT;
use reqwest::{Method, RequestBuilder};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// One is on its way while the other is synced at its end.
const BLOBS_AT_ONCE: usize = 2;
/// The client counts also while nobody reads, since the disk is slow; who says
/// nothing is told apart by [`Source`].
const CLIENT_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Copies what this host's registry lacks: first all layers, then the
/// manifests that name them, in their order. What is there already stays.
pub(super) async fn copy(
    root: &Root,
    artifacts: &[SeedArtifact],
    registries: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    let total = blobs(artifacts).map(|(_, blob)| blob.size).sum();
    let copier = Copier {
        registries: Registries::new(root, registries, notices, CLIENT_LIMIT)?,
        seed: Seed::default(),
        counted: Arc::new(Counted::new(notices.clone(), total)),
    };
    copier.seed.start(root).await?;
    let filled = copier.fill(artifacts).await;
    let stopped = copier.seed.stop().await;
    // What went wrong first is what people need to know.
    filled?;
    stopped
}

fn blobs(artifacts: &[SeedArtifact]) -> impl Iterator<Item = (&SeedArtifact, &BlobReference)> {
    let each = artifacts.iter();
    each.flat_map(|artifact| artifact.blobs.iter().map(move |blob| (artifact, blob)))
}

struct Copier<'a> {
    registries: Registries<'a>,
    seed: Seed,
    counted: Arc<Counted>,
}

/// Nothing is to be expected from that registry for a while.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoConnection(String);

/// Whose fault it is.
enum Fault {
    Source(Error),
    Own(Error),
}

impl Copier<'_> {
    async fn fill(&self, artifacts: &[SeedArtifact]) -> Result<()> {
        // Futures first: a closure inside the stream would be too narrow in
        // its lifetimes for a spawned task.
        let work: Vec<_> = blobs(artifacts)
            .map(|(artifact, blob)| self.copy(&artifact.repository, blob, None))
            .collect();
        stream::iter(work)
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        for artifact in artifacts {
            for (manifest, tag) in artifact.tagged_manifests() {
                let target = ManifestTarget {
                    repository: artifact.repository.clone(),
                    media_type: manifest.media_type.clone(),
                    tag,
                };
                self.copy(&artifact.repository, manifest, Some(&target))
                    .await?;
            }
        }
        Ok(())
    }

    /// A layer or, with a target, a manifest, from the first registry that
    /// gives it.
    async fn copy(
        &self,
        repository: &str,
        blob: &BlobReference,
        manifest: Option<&ManifestTarget>,
    ) -> Result<()> {
        let digest = &blob.digest;
        let mut tries = self.registries.tries(digest.to_string());
        while let Some(registry) = tries.next().await {
            let kind = if manifest.is_some() {
                "manifests"
            } else {
                "blobs"
            };
            let path = format!("{repository}/{kind}/{digest}");
            let client = self.registries.client();
            let request = client.request(Method::GET, registry, &path);
            match self.copy_from(request, repository, blob, manifest).await {
                Ok(_) => return Ok(()),
                Err(Fault::Source(error)) => {
                    if error.is::<NoConnection>() {
                        self.registries.avoid(registry).await;
                    }
                    tries.failed(registry, &error);
                }
                Err(Fault::Own(error)) => {
                    return Err(Failure {
                        message: format!("filling the registry: {error:#}"),
                        lines: Vec::new(),
                        hint: Some(format!(
                            "look at this host's disk: `df -h {}`",
                            layout::REGISTRY
                        )),
                    }
                    .into());
                }
            }
        }
        Err(not_to_be_had(&tries.tried()))
            .with_context(|| format!("filling the registry: {repository}@{digest}"))
    }

    async fn copy_from(
        &self,
        request: RequestBuilder,
        repository: &str,
        blob: &BlobReference,
        manifest: Option<&ManifestTarget>,
    ) -> Result<Stored, Fault> {
        let response = get(request, manifest).await.map_err(Fault::Source)?;
        let counted = manifest.is_none().then(|| self.counted.clone());
        let source = Source::new(response, blob.digest, blob.size, counted);
        let broken = source.broken();
        let content = source.content();
        let put = match manifest {
            None => {
                let put = self
                    .seed
                    .put_blob(repository, &blob.digest, blob.size, content);
                put.await
            }
            Some(target) => {
                let put = self
                    .seed
                    .put_manifest(target, &blob.digest, blob.size, content);
                put.await
            }
        };
        put.map_err(|error| match broken.get() {
            Some(reason) => Fault::Source(anyhow!("{reason}")),
            None => Fault::Own(error),
        })
    }
}

/// Whatever a registry answers that it has.
async fn get(
    mut request: RequestBuilder,
    manifest: Option<&ManifestTarget>,
) -> Result<reqwest::Response> {
    if let Some(target) = manifest {
        request = request.header(ACCEPT, &target.media_type);
    }
    let Ok(answered) = timeout(QUIET_LIMIT, request.send()).await else {
        bail!("no answer within {} s", QUIET_LIMIT.as_secs());
    };
    let response = answered.map_err(|error| {
        let reason = http::reason(&error);
        match error.is_connect() {
            true => Error::new(NoConnection(reason)),
            false => anyhow!("{reason}"),
        }
    })?;
    if !response.status().is_success() {
        bail!("status {}", response.status().as_u16());
    }
    Ok(response)
}
