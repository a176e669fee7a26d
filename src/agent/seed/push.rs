//! Pushes blobs and manifests to a registry, as the OCI distribution
//! specification has it: one upload each, whole.

use crate::agent::channel::BodyReceiver;
use crate::agent::http;
use crate::agent::root::Root;
use crate::agent::staging::{self, Stored};
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use camino::Utf8Path;
use futures_util::{Stream, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Client, Response, StatusCode};
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// The registry answers an upload's end after it has hashed and synced all of
/// it, on a slow disk at some tens of megabytes a second.
const QUIET_LIMIT: Duration = Duration::from_secs(300);
/// Manifests are at most 4 MiB by the specification.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Staged blobs are read in pieces of this size.
const PIECE_BYTES: usize = 512 << 10;
/// Text of a refusal that is passed on.
const REFUSAL_CHARACTERS: usize = 300;
const DIGEST_HEADER: &str = "docker-content-digest";

/// Where a manifest goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestTarget {
    pub repository: String,
    pub media_type: String,
    pub tag: Option<String>,
}

/// A client of one registry on a local socket.
#[derive(Clone, Debug)]
pub(super) struct Pusher {
    root: Root,
    client: Client,
}

impl Pusher {
    pub(super) fn new(root: Root, socket: &Utf8Path) -> Result<Self> {
        let client = http::plain(QUIET_LIMIT)
            .unix_socket(socket.as_std_path())
            .build()
            .context("making a client of the registry")?;
        Ok(Self { root, client })
    }

    pub(super) async fn put_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        body: BodyReceiver,
    ) -> Result<Stored> {
        let pushing = || format!("putting blob {digest} into {repository}");
        if self.has_blob(repository, digest).await? {
            return Ok(Stored::AlreadyThere);
        }
        let (content, stored) = if staging::is_staged(&self.root, digest, size) {
            let file = tokio::fs::File::open(staging::place_of(&self.root, digest))
                .await
                .with_context(pushing)?;
            let stream = ReaderStream::with_capacity(file, PIECE_BYTES);
            (Body::wrap_stream(stream), Stored::AlreadyThere)
        } else {
            (Body::wrap_stream(pieces(body)), Stored::Taken)
        };
        let begin = self
            .client
            .post(url(&format!("{repository}/blobs/uploads/")))
            .header(CONTENT_LENGTH, 0)
            .send()
            .await
            .map_err(|error| anyhow!("{}: {}", pushing(), http::reason(&error)))?;
        let begin = accepted(begin, StatusCode::ACCEPTED)
            .await
            .with_context(pushing)?;
        let location = upload_location(&begin).with_context(pushing)?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let end = self
            .client
            .put(format!("{location}{separator}digest={digest}"))
            .header(CONTENT_LENGTH, size)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(content)
            .send()
            .await
            .map_err(|error| anyhow!("{}: {}", pushing(), http::reason(&error)))?;
        accepted(end, StatusCode::CREATED)
            .await
            .with_context(pushing)?;
        Ok(stored)
    }

    pub(super) async fn put_manifest(
        &self,
        target: &ManifestTarget,
        digest: &Digest,
        size: u64,
        mut body: BodyReceiver,
    ) -> Result<Stored> {
        let ManifestTarget {
            repository,
            media_type,
            tag,
        } = target;
        let pushing = || format!("putting manifest {digest} into {repository}");
        if self.has_manifest(target, digest).await? {
            return Ok(Stored::AlreadyThere);
        }
        if size > MANIFEST_LIMIT {
            bail!(
                "{}: it has {size} bytes, more than {MANIFEST_LIMIT}",
                pushing()
            );
        }
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > size {
                break;
            }
        }
        // Under a tag the registry takes any bytes, so they are proven here.
        if bytes.len() as u64 != size || Digest::of(&bytes) != *digest {
            bail!(
                "{}: what came is {} of {} bytes",
                pushing(),
                Digest::of(&bytes),
                bytes.len()
            );
        }
        let name = tag.clone().unwrap_or_else(|| digest.to_string());
        let answer = self
            .client
            .put(url(&format!("{repository}/manifests/{name}")))
            .header(CONTENT_TYPE, media_type)
            .body(bytes)
            .send()
            .await
            .map_err(|error| anyhow!("{}: {}", pushing(), http::reason(&error)))?;
        accepted(answer, StatusCode::CREATED)
            .await
            .with_context(pushing)?;
        Ok(Stored::Taken)
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let answer = self
            .client
            .head(url(&format!("{repository}/blobs/{digest}")))
            .send()
            .await
            .map_err(|error| anyhow!("asking the registry: {}", http::reason(&error)))?;
        Ok(answer.status().is_success())
    }

    async fn has_manifest(&self, target: &ManifestTarget, digest: &Digest) -> Result<bool> {
        let digest = digest.to_string();
        for name in std::iter::once(&digest).chain(&target.tag) {
            let answer = self
                .client
                .head(url(&format!("{}/manifests/{name}", target.repository)))
                .header(reqwest::header::ACCEPT, &target.media_type)
                .send()
                .await
                .map_err(|error| anyhow!("asking the registry: {}", http::reason(&error)))?;
            let found = answer.headers().get(DIGEST_HEADER);
            if !answer.status().is_success()
                || found.and_then(|value| value.to_str().ok()) != Some(&digest)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The host in it means nothing: all goes to the socket.
fn url(path: &str) -> String {
    format!("http://registry/v2/{path}")
}

fn upload_location(response: &Response) -> Result<String> {
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| anyhow!("the registry names no place for the upload"))?;
    if location.starts_with('/') {
        return Ok(format!("http://registry{location}"));
    }
    Ok(location.to_owned())
}

async fn accepted(response: Response, expected: StatusCode) -> Result<Response> {
    let status = response.status();
    if status == expected {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let text: String = text.trim().chars().take(REFUSAL_CHARACTERS).collect();
    bail!(
        "the registry answered with status {}: {text}",
        status.as_u16()
    )
}

/// A body as a stream that fails if it is cut off.
fn pieces(body: BodyReceiver) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(body, |mut body| async move {
        match body.next().await {
            Ok(Some(piece)) => Ok(Some((piece, body))),
            Ok(None) => Ok(None),
            Err(error) => Err(std::io::Error::other(error)),
        }
    })
}
