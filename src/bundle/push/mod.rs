//! `cofferdam registry push`: a bundle's images and files into a registry that is
//! not cofferdam's own, under the names by which its own have them:
//! `HOST/PREFIX/registry.k8s.io/pause:3.10.2`.

use super::fetch::{Failure, READ_TIMEOUT, chain, registry_client, with_retries};
use super::oci::{self, Descriptor, Kind};
use super::progress::Progress;
use super::reader::{BlobReader, Bundle};
use crate::digest::Digest;
use crate::registry_address::RegistryAddress;
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use camino::Utf8PathBuf;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::header::HeaderValue;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Name of the stage that progress is reported under.
const STAGE: &str = "push";
/// Blobs on their way at once.
const AT_ONCE: usize = 4;
/// How long a registry may take to check and store a blob that it has whole.
const TAKEN_IN: Duration = Duration::from_secs(600);
/// Media type of an index that is kept as a blob.
const INDEX_ARTIFACT: &str = "application/vnd.cofferdam.index.v1+json";
/// A blob is sent in pieces of this size, in bytes.
const PIECE: usize = 256 << 10;

/// Where to: `harbor.example.org/k8s`, or `http://…` without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    is_plain: bool,
    address: RegistryAddress,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_plain, rest) = match text.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https", rest)) => (false, rest),
            Some(_) => return Err("write HOST, HOST/PREFIX, or http://… without TLS".to_owned()),
            None => (false, text),
        };
        let address = rest.parse()?;
        Ok(Self { is_plain, address })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}

/// How to get in.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// User and password; none to push as nobody.
    pub login: Option<(String, String)>,
    /// PEM file with authorities to trust beside the system's.
    pub ca_file: Option<Utf8PathBuf>,
}

/// What was pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Number of images and files.
    pub artifacts: usize,
    /// Blobs that were sent, and their bytes.
    pub sent: usize,
    pub sent_bytes: u64,
    /// Blobs that were there already.
    pub there: usize,
    /// Images whose tag names an index of the carried platforms alone, since the
    /// registry takes no index whose other children are missing. Its digest is not
    /// upstream's.
    pub reduced: Vec<String>,
}

/// Something with a name and tag.
struct Artifact {
    repository: String,
    tag: String,
    blobs: Vec<Descriptor>,
    /// The last is the one that the tag names.
    manifests: Vec<Descriptor>,
}

/// What a tag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tagged {
    AsUpstream,
    /// An index of the carried platforms alone.
    Reduced,
}

/// A push in progress.
struct Push<'a> {
    bundle: &'a Bundle,
    to: &'a Destination,
    client: Client,
    auth: RegistryAuth,
    progress: &'a dyn Progress,
    done: AtomicU64,
    total: u64,
}

/// Pushes all images and files of a bundle, for all its platforms. What is there is
/// not sent again, so the same call goes on after one that failed.
///
/// # Errors
/// When the registry can't be reached or refuses something, which is named.
pub async fn push(
    bundle: &Bundle,
    to: &Destination,
    access: &Access,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let artifacts = artifacts(bundle);
    // A blob of several repositories is sent to the first.
    let mut first: BTreeMap<Digest, (&Artifact, &Descriptor)> = BTreeMap::new();
    let mut others = Vec::new();
    for artifact in &artifacts {
        for blob in &artifact.blobs {
            let known = *first.entry(blob.digest).or_insert((artifact, blob));
            if known.0.repository != artifact.repository {
                others.push((known.0, artifact, blob));
            }
        }
    }
    let push = Push {
        bundle,
        to,
        client: client(to, access)?,
        auth: match &access.login {
            Some((user, password)) => RegistryAuth::Basic(user.clone(), password.clone()),
            None => RegistryAuth::Anonymous,
        },
        progress,
        done: AtomicU64::new(0),
        total: first.values().map(|(_, blob)| blob.size).sum(),
    };
    push.log_in(&artifacts).await?;
    let sent: Vec<u64> = stream::iter(first.values())
        .map(|(artifact, blob)| push.blob(artifact, blob))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    stream::iter(&others)
        .map(|(from, artifact, blob)| push.mount(from, artifact, blob))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let mut reduced = Vec::new();
    for artifact in &artifacts {
        if push.manifests(artifact).await? == Tagged::Reduced {
            reduced.push(push.reference(artifact).to_string());
        }
    }
    push.tell(0);
    let there = sent.iter().filter(|bytes| **bytes == 0).count();
    Ok(Pushed {
        artifacts: artifacts.len(),
        sent: sent.len() - there,
        sent_bytes: sent.iter().sum(),
        there,
        reduced,
    })
}

fn artifacts(bundle: &Bundle) -> Vec<Artifact> {
    let contents = bundle.contents();
    let split = |repository: &str, tag: &str, content: Vec<Descriptor>| {
        let is_blob = |one: &Descriptor| oci::kind(&one.media_type) == Kind::Blob;
        let (blobs, manifests) = content.into_iter().partition(is_blob);
        Artifact {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            blobs,
            manifests,
        }
    };
    let images = contents.images_of_all_platforms();
    let images = images
        .iter()
        .map(|image| split(&image.repository, &image.tag, image.content.clone()));
    let files = contents.files.iter();
    let files = files.map(|file| split(&file.repository, &file.tag, file.content()));
    images.chain(files).collect()
}

fn client(to: &Destination, access: &Access) -> Result<Client> {
    let special = ClientConfig {
        protocol: match to.is_plain {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        },
        // It counts from a request's start, its body included; see `unless_it_stands`.
        read_timeout: None,
        use_monolithic_push: true,
        ..ClientConfig::default()
    };
    registry_client(access.ca_file.as_deref(), special)
}

impl Push<'_> {
    /// Whether it lets us in, before anything is sent.
    async fn log_in(&self, artifacts: &[Artifact]) -> Result<()> {
        let Some(artifact) = artifacts.first() else {
            bail!("the bundle holds neither images nor files");
        };
        let image = self.reference(artifact);
        let attempt = || async {
            let login = self
                .client
                .auth(&image, &self.auth, RegistryOperation::Push)
                .await;
            login.map_err(failure)?;
            // Some take user and password only with a request.
            let digest = self.bundle.index_digest().to_string();
            let asked = self.client.blob_exists(&image, &digest).await;
            asked.map(drop).map_err(failure)
        };
        with_retries(attempt)
            .await
            .with_context(|| format!("getting into registry {}", self.to.address.registry))
    }

    /// Sends a blob unless it is there, and gives the bytes that were sent.
    async fn blob(&self, artifact: &Artifact, blob: &Descriptor) -> Result<u64> {
        let image = self.reference(artifact);
        let digest = blob.digest.to_string();
        let attempt = || async {
            let is_there = self.client.blob_exists(&image, &digest).await;
            if is_there.map_err(failure)? {
                self.tell(blob.size);
                return Ok(0);
            }
            let reader = self.bundle.blob(&blob.digest);
            let reader = reader.map_err(|error| Failure::Lasting(error.into()))?;
            let moved = Arc::new(AtomicU64::new(0));
            let body = pieces(reader, Arc::clone(&moved));
            let send = self
                .client
                .push_blob_stream(&image, body, &digest, Some(blob.size));
            unless_it_stands(&moved, blob.size, send).await?;
            self.tell(blob.size);
            Ok(blob.size)
        };
        with_retries(attempt)
            .await
            .with_context(|| format!("pushing blob {digest} to {image}"))
    }

    /// Makes a blob known in another repository of the registry; one that can't do
    /// that gets it again.
    async fn mount(&self, from: &Artifact, artifact: &Artifact, blob: &Descriptor) -> Result<()> {
        let image = self.reference(artifact);
        let digest = blob.digest.to_string();
        let is_there = self.client.blob_exists(&image, &digest).await;
        if is_there.is_ok_and(|is_there| is_there) {
            return Ok(());
        }
        let from = self.reference(from);
        if self.client.mount_blob(&image, &from, &digest).await.is_ok() {
            return Ok(());
        }
        let again = Push {
            client: self.client.clone(),
            auth: self.auth.clone(),
            done: AtomicU64::new(0),
            total: 0,
            progress: &super::progress::NoProgress,
            ..*self
        };
        again.blob(artifact, blob).await.map(drop)
    }

    /// Children first, then what the tag names.
    async fn manifests(&self, artifact: &Artifact) -> Result<Tagged> {
        let Some((root, children)) = artifact.manifests.split_last() else {
            return Ok(Tagged::AsUpstream);
        };
        for child in children {
            let bytes = self.bytes(child)?;
            self.manifest(&self.by_digest(artifact, child), child, bytes)
                .await?;
        }
        let tagged = self.reference(artifact);
        let bytes = self.bytes(root)?;
        let Err(error) = self.manifest(&tagged, root, bytes.clone()).await else {
            return Ok(Tagged::AsUpstream);
        };
        let carried: Vec<Digest> = children.iter().map(|child| child.digest).collect();
        match reduced(&bytes, &carried).filter(|_| is_for_missing_children(&error)) {
            Some(reduced) => {
                self.manifest(&tagged, root, reduced).await?;
                self.keep_index(artifact, root, bytes).await?;
                Ok(Tagged::Reduced)
            }
            None => Err(error),
        }
    }

    /// Leaves an index that the registry does not take as one as a blob, which hosts find
    /// by its digest. A manifest names it, or the registry would collect it.
    async fn keep_index(&self, artifact: &Artifact, root: &Descriptor, bytes: Bytes) -> Result<()> {
        let image = self.reference(artifact);
        let empty = Bytes::from_static(oci::EMPTY_CONTENT);
        let empty_digest = Digest::of(&empty).to_string();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": oci::MANIFEST_MEDIA_TYPE,
            "artifactType": INDEX_ARTIFACT,
            "config": {
                "mediaType": oci::EMPTY_MEDIA_TYPE,
                "digest": empty_digest,
                "size": empty.len(),
            },
            "layers": [{
                "mediaType": INDEX_ARTIFACT,
                "digest": root.digest.to_string(),
                "size": bytes.len(),
            }],
        });
        for (bytes, digest) in [(empty, empty_digest), (bytes, root.digest.to_string())] {
            let attempt = || async {
                let is_there = self.client.blob_exists(&image, &digest).await;
                if is_there.map_err(failure)? {
                    return Ok(());
                }
                let pushed = self.client.push_blob(&image, bytes.clone(), &digest).await;
                pushed.map(drop).map_err(failure)
            };
            with_retries(attempt)
                .await
                .with_context(|| format!("pushing blob {digest} to {image}"))?;
        }
        let tag = format!("sha256-{}.index", root.digest.hex());
        let tagged = Reference::with_tag(
            image.registry().to_owned(),
            image.repository().to_owned(),
            tag,
        );
        let descriptor = Descriptor {
            media_type: oci::MANIFEST_MEDIA_TYPE.to_owned(),
            ..root.clone()
        };
        self.manifest(&tagged, &descriptor, manifest.to_string().into())
            .await
    }

    fn bytes(&self, manifest: &Descriptor) -> Result<Bytes> {
        let bytes = self
            .bundle
            .blob_bytes(&manifest.digest, oci::MANIFEST_LIMIT_BYTES)?;
        Ok(Bytes::from(bytes))
    }

    async fn manifest(&self, image: &Reference, manifest: &Descriptor, bytes: Bytes) -> Result<()> {
        let kind: HeaderValue = manifest
            .media_type
            .parse()
            .context("reading a media type")?;
        let attempt = || async {
            let pushed = self
                .client
                .push_manifest_raw(image, bytes.clone(), kind.clone())
                .await;
            pushed.map(drop).map_err(failure)
        };
        with_retries(attempt)
            .await
            .with_context(|| format!("pushing manifest {image}"))
    }

    fn reference(&self, artifact: &Artifact) -> Reference {
        Reference::with_tag(
            self.to.address.registry.clone(),
            self.to.address.repository(&artifact.repository),
            artifact.tag.clone(),
        )
    }

    fn by_digest(&self, artifact: &Artifact, manifest: &Descriptor) -> Reference {
        // The client looks for the tag at the address' end where a registry names no
        // place of what it took; the address has the digest.
        let digest = manifest.digest.to_string();
        Reference::with_tag_and_digest(
            self.to.address.registry.clone(),
            self.to.address.repository(&artifact.repository),
            digest.clone(),
            digest,
        )
    }

    fn tell(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let done = done.min(self.total);
        self.progress
            .advance(STAGE, &self.to.address.registry, done, Some(self.total));
    }
}

/// Whether a registry refuses an index since not all of its children are there: the
/// CNCF registry does so unless told otherwise.
fn is_for_missing_children(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    [
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_UNKNOWN",
        "MANIFEST_INVALID",
    ]
    .iter()
    .any(|code| text.contains(code))
}

/// The index with the carried children alone; none if it has no others, or is none.
fn reduced(index: &[u8], carried: &[Digest]) -> Option<Bytes> {
    let mut index: serde_json::Value = serde_json::from_slice(index).ok()?;
    let children = index.get_mut("manifests")?.as_array_mut()?;
    let before = children.len();
    children.retain(|child| {
        let digest = child["digest"].as_str().and_then(|text| text.parse().ok());
        digest.is_some_and(|digest: Digest| carried.contains(&digest))
    });
    let is_reduced = (1..before).contains(&children.len());
    is_reduced.then(|| Bytes::from(index.to_string()))
}

/// A blob as a registry client takes it. It is read while it is sent; the reads are
/// short, and not worth a thread.
fn pieces(
    reader: BlobReader,
    moved: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    stream::try_unfold((reader, moved), |(mut reader, moved)| async move {
        let mut piece = BytesMut::zeroed(PIECE);
        let read = reader.read(&mut piece)?;
        piece.truncate(read);
        moved.fetch_add(read as u64, Ordering::Relaxed);
        Ok((read > 0).then(|| (piece.freeze(), (reader, moved))))
    })
}

/// Waits for an upload as long as something of it moves, and then for the registry to
/// take it in.
async fn unless_it_stands<T>(
    moved: &AtomicU64,
    size: u64,
    send: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<T, Failure> {
    let mut send = std::pin::pin!(send);
    let mut before = 0;
    loop {
        let limit = if before < size {
            READ_TIMEOUT
        } else {
            TAKEN_IN
        };
        match tokio::time::timeout(limit, &mut send).await {
            Ok(sent) => return sent.map_err(failure),
            Err(_) if moved.load(Ordering::Relaxed) > before => {
                before = moved.load(Ordering::Relaxed);
            }
            Err(_) => {
                let seconds = limit.as_secs();
                return Err(Failure::Passing(anyhow!(
                    "nothing moved for {seconds} s, after {before} of {size} bytes"
                )));
            }
        }
    }
}

fn failure(error: OciDistributionError) -> Failure {
    let text = anyhow!(chain(&error));
    let status = match &error {
        OciDistributionError::RequestError(error) => error.status().map(|status| status.as_u16()),
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::IoError(_) => None,
        _ => return Failure::Lasting(text),
    };
    // 408 and 429 ask to come back later.
    match status {
        Some(status) if status < 500 && !matches!(status, 408 | 429) => Failure::Lasting(text),
        _ => Failure::Passing(text),
    }
}

#[cfg(test)]
mod tests;
