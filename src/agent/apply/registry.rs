//! Fills this host's registry from another one.

use super::registries::{Registries, not_to_be_had};
use crate::agent::channel::NoticeSender;
use crate::agent::http;
use crate::agent::root::Root;
use crate::agent::seed::{Content, ManifestTarget, Seed};
use crate::desired::BlobReference;
use crate::host::Notice;
use crate::plan::SeedArtifact;
use anyhow::{Context, Result, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::ACCEPT;
use std::sync::atomic::{AtomicU64, Ordering};

/// One is on its way while the other is synced at its end.
const BLOBS_AT_ONCE: usize = 2;

/// Copies what this host's registry lacks: first all layers, then the
/// manifests that name them, in their order. What is there already stays.
pub(super) async fn copy(
    root: &Root,
    artifacts: &[SeedArtifact],
    registries: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    let copier = Copier {
        registries: Registries::new(root, registries, notices)?,
        seed: Seed::default(),
        notices,
        done: AtomicU64::new(0),
        total: blobs(artifacts).map(|(_, blob)| blob.size).sum(),
    };
    copier.seed.start(root).await?;
    let filled = copier.fill(artifacts).await;
    let stopped = copier.seed.stop().await;
    // What went wrong first is what people need to know.
    filled.context("filling the registry from another one")?;
    stopped
}

fn blobs(artifacts: &[SeedArtifact]) -> impl Iterator<Item = (&SeedArtifact, &BlobReference)> {
    let each = artifacts.iter();
    each.flat_map(|artifact| artifact.blobs.iter().map(move |blob| (artifact, blob)))
}

struct Copier<'a> {
    registries: Registries<'a>,
    seed: Seed,
    notices: &'a NoticeSender,
    /// Bytes of blobs.
    done: AtomicU64,
    total: u64,
}

impl Copier<'_> {
    async fn fill(&self, artifacts: &[SeedArtifact]) -> Result<()> {
        // Futures first: a closure inside the stream would be too narrow in
        // its lifetimes for a spawned task.
        let work: Vec<_> = blobs(artifacts)
            .map(|(artifact, blob)| self.blob(&artifact.repository, blob))
            .collect();
        stream::iter(work)
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        for artifact in artifacts {
            let last = artifact.manifests.len().saturating_sub(1);
            for (index, manifest) in artifact.manifests.iter().enumerate() {
                let target = ManifestTarget {
                    repository: artifact.repository.clone(),
                    media_type: manifest.media_type.clone(),
                    tag: (index == last).then(|| artifact.tag.clone()),
                };
                self.manifest(&target, manifest).await?;
            }
        }
        Ok(())
    }

    async fn blob(&self, repository: &str, blob: &BlobReference) -> Result<()> {
        let mut tries = self.registries.tries(blob.digest.to_string());
        while let Some(registry) = tries.next().await {
            let url = format!("https://{registry}/v2/{repository}/blobs/{}", blob.digest);
            let copied = async {
                let content = self.get(&url, None).await?;
                let put = self
                    .seed
                    .put_blob(repository, &blob.digest, blob.size, content);
                put.await
            };
            match copied.await {
                Ok(_) => {
                    let done = self.done.fetch_add(blob.size, Ordering::Relaxed) + blob.size;
                    self.notices.send_lossy(Notice::Progress {
                        item: "blobs".to_owned(),
                        done,
                        total: self.total,
                    });
                    return Ok(());
                }
                Err(error) => tries.failed(registry, &error).await,
            }
        }
        Err(not_to_be_had(&tries.tried())).with_context(|| format!("copying {}", blob.digest))
    }

    async fn manifest(&self, target: &ManifestTarget, manifest: &BlobReference) -> Result<()> {
        let (repository, digest) = (&target.repository, &manifest.digest);
        let mut tries = self.registries.tries(digest.to_string());
        while let Some(registry) = tries.next().await {
            let url = format!("https://{registry}/v2/{repository}/manifests/{digest}");
            let copied = async {
                let content = self.get(&url, Some(&target.media_type)).await?;
                let put = self
                    .seed
                    .put_manifest(target, digest, manifest.size, content);
                put.await
            };
            match copied.await {
                Ok(_) => return Ok(()),
                Err(error) => tries.failed(registry, &error).await,
            }
        }
        Err(not_to_be_had(&tries.tried())).with_context(|| format!("copying manifest {digest}"))
    }

    async fn get(&self, url: &str, media_type: Option<&str>) -> Result<Content> {
        let mut request = self.registries.client().get(url);
        if let Some(media_type) = media_type {
            request = request.header(ACCEPT, media_type);
        }
        let response = request
            .send()
            .await
            .map_err(|error| anyhow!("{}", http::reason(&error)))?;
        if !response.status().is_success() {
            bail!("status {}", response.status().as_u16());
        }
        let pieces = response.bytes_stream();
        let pieces = pieces.map_err(|error| std::io::Error::other(http::reason(&error)));
        Ok(pieces.boxed())
    }
}
