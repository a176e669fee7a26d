//! Blobs on their way from the bundle to hosts.

use super::failure::StepError;
use super::lane::{Stage, abandoned, expect_done, unexpected};
use super::limits::{ANSWER, blob_limit};
use crate::desired::BlobReference;
use crate::host::{BlobTarget, Body, Notice, Request, Response};
use crate::plan::{SeedArtifact, Step};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Two at a time: one is on the link while the other is being checked and
/// synced at its end.
const BLOBS_AT_ONCE: usize = 2;

/// Bytes of a step's blobs.
struct Progress {
    done: AtomicU64,
    total: u64,
}

/// Streams blobs into a host's staging directory.
pub(super) async fn put_blobs(
    stage: &Stage<'_>,
    step: &Step,
    blobs: &[BlobReference],
) -> Result<(), StepError> {
    let progress = Progress::of(blobs);
    let each = blobs.iter().map(Ok::<_, StepError>);
    stream::iter(each)
        .try_for_each_concurrent(BLOBS_AT_ONCE, |blob| {
            put_blob(stage, step, blob, BlobTarget::Staging, &progress)
        })
        .await
}

/// Fills a host's registry: first all layers, then the manifests that name
/// them, in their order.
pub(super) async fn seed(
    stage: &Stage<'_>,
    step: &Step,
    artifacts: &[SeedArtifact],
) -> Result<(), StepError> {
    let started = stage.call(step, Request::SeedStart, None, ANSWER).await?;
    expect_done(step, started)?;
    let result = fill(stage, step, artifacts).await;
    let stopped = stage.call(step, Request::SeedStop, None, ANSWER).await;
    // What went wrong first is what people need to know.
    result?;
    expect_done(step, stopped?)
}

async fn fill(stage: &Stage<'_>, step: &Step, artifacts: &[SeedArtifact]) -> Result<(), StepError> {
    let all = artifacts
        .iter()
        .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests));
    let progress = Progress::of(all);
    let blobs = artifacts
        .iter()
        .flat_map(|artifact| artifact.blobs.iter().map(move |blob| (artifact, blob)));
    // Collected, so that the stream's items name no borrowed iterator.
    let blobs: Vec<_> = blobs.collect();
    stream::iter(blobs)
        .map(Ok::<_, StepError>)
        .try_for_each_concurrent(BLOBS_AT_ONCE, |(artifact, blob)| {
            let repository = artifact.repository.clone();
            let target = BlobTarget::Repository { repository };
            put_blob(stage, step, blob, target, &progress)
        })
        .await?;
    for artifact in artifacts {
        for (manifest, tag) in artifact.tagged_manifests() {
            let target = BlobTarget::Manifest {
                repository: artifact.repository.clone(),
                media_type: manifest.media_type.clone(),
                tag,
            };
            put_blob(stage, step, manifest, target, &progress).await?;
        }
    }
    Ok(())
}

async fn put_blob(
    stage: &Stage<'_>,
    step: &Step,
    blob: &BlobReference,
    target: BlobTarget,
    progress: &Progress,
) -> Result<(), StepError> {
    // Between blobs nothing is in hand, and the next run goes on from here.
    if stage.halt.is_cancelled() {
        return Err(abandoned(step));
    }
    let inner = match stage.run.blobs.open(&blob.digest) {
        Err(error)
            if error.kind() == ErrorKind::NotFound
                && matches!(target, BlobTarget::Manifest { .. }) =>
        {
            Box::new(Nothing)
        }
        source => source.map_err(|source| StepError::Blob {
            host: step.host.clone(),
            digest: blob.digest.to_string(),
            source,
        })?,
    };
    let tell = |sent: u64| {
        let done = progress.done.fetch_add(sent, Ordering::Relaxed) + sent;
        let notice = Notice::Progress {
            item: "blobs".to_owned(),
            done: done.min(progress.total),
            total: progress.total,
        };
        stage.tell(step, notice);
    };
    let body = Counted { inner, tell: &tell };
    let request = Request::PutBlob {
        digest: blob.digest,
        size: blob.size,
        target,
    };
    let body: Box<dyn Body + '_> = Box::new(body);
    let limit = blob_limit(blob.size);
    match stage.call(step, request, Some(body), limit).await? {
        Response::Stored { present } => {
            // The body of a blob that was there already is not read.
            if present {
                tell(blob.size);
            }
            Ok(())
        }
        other => Err(unexpected(step, &other)),
    }
}

impl Progress {
    fn of<'a>(blobs: impl IntoIterator<Item = &'a BlobReference>) -> Self {
        Self {
            done: AtomicU64::new(0),
            total: blobs.into_iter().map(|blob| blob.size).sum(),
        }
    }
}

/// The body of a manifest that no bundle here has: a host that has it under another tag
/// needs no more.
struct Nothing;

impl Body for Nothing {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

/// A body whose bytes are counted as they are taken.
struct Counted<'a, Tell: Fn(u64)> {
    inner: Box<dyn Body>,
    tell: &'a Tell,
}

impl<Tell: Fn(u64) + Sync> Body for Counted<'_, Tell> {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let piece = self.inner.next()?;
        if let Some(piece) = &piece {
            let bytes = piece.len() as u64;
            (self.tell)(bytes);
        }
        Ok(piece)
    }
}
