//! What registries have an image as. An upstream index that one refused, since the bundle
//! leaves some of its platforms out, is a blob there, kept by an artifact (see `registry
//! push`), and the node puts it together with its own platform's image.

use super::registries::{QUIET_LIMIT, Registries, not_to_be_had};
use crate::agent::http;
use crate::agent::observe::{ctr, platform, repository_of};
use crate::agent::registry_client::RegistryClient;
use crate::agent::root::Root;
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// As registries have it for manifests.
const INDEX_LIMIT_BYTES: usize = 4 << 20;
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What an image's tag may name, and blobs.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";
/// Which manifest an answer is.
const DIGEST_HEADER: &str = "docker-content-digest";
const IMPORT_LIMIT: Duration = Duration::from_secs(60);

/// An index, proven by its digest.
pub(super) struct Index {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
    /// What it has for this host's platform.
    pub(super) child: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexFields {
    media_type: Option<String>,
    manifests: Vec<Child>,
}

#[derive(Deserialize)]
struct Child {
    digest: String,
    platform: Option<ChildPlatform>,
}

#[derive(Deserialize)]
struct ChildPlatform {
    os: String,
    architecture: String,
}

/// The index where registries have it as a blob alone; none where one has it as what the
/// tag names, which is proven too, since pods ask by tag. containerd would take the blob
/// for the image.
///
/// # Errors
/// With what each registry said, if none of them has it.
pub(super) async fn find(
    registries: &Registries<'_>,
    reference: &str,
    digest: &Digest,
) -> Result<Option<Index>> {
    let repository = repository_of(reference);
    let tag = reference[repository.len()..].trim_start_matches(':');
    let mut tries = registries.tries(reference);
    while let Some(registry) = tries.next().await {
        match ask(registries.client(), registry, (repository, tag), digest).await {
            Ok(index) => return Ok(index),
            Err(error) => tries.failed(registry, &error),
        }
    }
    Err(not_to_be_had(&tries.tried()))
}

async fn ask(
    client: &RegistryClient,
    registry: &str,
    (repository, tag): (&str, &str),
    digest: &Digest,
) -> Result<Option<Index>> {
    let name = digest.to_string();
    let send = async |method: Method, kind: &str, name: &str| {
        let path = format!("{repository}/{kind}/{name}");
        let request = client.request(method, registry, &path);
        let sent = timeout(QUIET_LIMIT, request.header(ACCEPT, ACCEPTED).send()).await;
        let sent = sent.map_err(|_| anyhow!("no answer within {} s", QUIET_LIMIT.as_secs()))?;
        let answer = sent.map_err(|error| anyhow!("{}", http::reason(&error)))?;
        match answer.status() {
            status if status.is_success() => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(anyhow!("{kind}/{name}: status {}", status.as_u16())),
        }
    };
    if send(Method::HEAD, "manifests", &name).await?.is_some() {
        let named = send(Method::HEAD, "manifests", tag).await?;
        let named = named.ok_or_else(|| anyhow!("it has no tag {tag} in {repository}"))?;
        let found = named.headers().get(DIGEST_HEADER);
        return match found.and_then(|found| found.to_str().ok()) {
            Some(found) if found != name => bail!("its tag {tag} leads to {found}"),
            _ => Ok(None),
        };
    }
    let answer = send(Method::GET, "blobs", &name).await?;
    let mut answer = answer.ok_or_else(|| anyhow!("it has not got {digest}"))?;
    let mut bytes = Vec::new();
    loop {
        let piece = timeout(QUIET_LIMIT, answer.chunk()).await;
        let piece = piece.map_err(|_| anyhow!("silent for {} s", QUIET_LIMIT.as_secs()))?;
        let Some(piece) = piece.map_err(|error| anyhow!("{}", http::reason(&error)))? else {
            break;
        };
        bytes.extend_from_slice(&piece);
        if bytes.len() > INDEX_LIMIT_BYTES {
            bail!("{digest} is longer than {INDEX_LIMIT_BYTES} bytes there");
        }
    }
    if Digest::of(&bytes) != *digest {
        bail!("what came for {digest} is something else");
    }
    let index = read(*digest, bytes.into(), &platform());
    index
        .map(Some)
        .ok_or_else(|| anyhow!("{digest} names no image for {}", platform()))
}

fn read(digest: Digest, bytes: Bytes, platform: &str) -> Option<Index> {
    let fields: IndexFields = serde_json::from_slice(&bytes).ok()?;
    let mut children = fields.manifests.iter();
    let child = children.find(|child| {
        let of = child.platform.as_ref();
        of.is_some_and(|of| format!("{}/{}", of.os, of.architecture) == platform)
    })?;
    let media_type = fields.media_type;
    Some(Index {
        digest,
        media_type: media_type.unwrap_or_else(|| OCI_INDEX.to_owned()),
        child: child.digest.parse().ok()?,
        bytes,
    })
}

/// Gives containerd the index under a name; the content below it is there.
///
/// # Errors
/// If containerd doesn't take it.
pub(super) async fn import(root: &Root, name: &str, index: &Index) -> Result<()> {
    let archive = tempfile::NamedTempFile::new().context("making an archive of an index")?;
    fill(archive.as_file(), name, index).context("writing an archive of an index")?;
    let path = archive.path().to_string_lossy().into_owned();
    ctr(root)?
        .arguments(["images", "import", "--local", "--no-unpack"])
        .arguments(["--platform", &platform(), &path])
        .limit(IMPORT_LIMIT)
        .succeed()
        .await?;
    Ok(())
}

/// An OCI image layout with the index alone.
fn fill(file: &std::fs::File, name: &str, index: &Index) -> std::io::Result<()> {
    let top = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": index.media_type,
            "digest": index.digest.to_string(),
            "size": index.bytes.len(),
            "annotations": {"io.containerd.image.name": name},
        }],
    });
    let blob = format!("blobs/sha256/{}", index.digest.hex());
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    let mut archive = tar::Builder::new(file);
    for (path, bytes) in [
        ("oci-layout", layout.to_string().into_bytes()),
        ("index.json", top.to_string().into_bytes()),
        (&blob, index.bytes.to_vec()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &bytes[..])?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::registry::{Answer, FakeRegistry};

    fn index_of(children: &[(&str, Digest)]) -> Vec<u8> {
        let child = |(platform, digest): &(&str, Digest)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            json!({
                "digest": digest.to_string(),
                "platform": {"os": os, "architecture": architecture},
            })
        };
        let mut manifests = vec![json!({"digest": Digest::of("attestation").to_string()})];
        manifests.extend(children.iter().map(child));
        json!({"mediaType": OCI_INDEX, "manifests": manifests})
            .to_string()
            .into_bytes()
    }

    async fn answered(answer: Box<Answer>, digest: &Digest) -> Result<Option<Index>> {
        let registry = FakeRegistry::start(answer).await;
        let client = RegistryClient::of(&registry.registry, &registry.ca, None, QUIET_LIMIT)?;
        ask(&client, &registry.registry, ("a/pause", "v1"), digest).await
    }

    #[test]
    fn the_child_of_the_platform_is_found() {
        let (amd64, arm64) = (Digest::of("amd64"), Digest::of("arm64"));
        let bytes = Bytes::from(index_of(&[("linux/arm64", arm64), ("linux/amd64", amd64)]));
        let digest = Digest::of(&bytes);
        let child = |platform: &str| read(digest, bytes.clone(), platform).map(|index| index.child);
        assert_eq!(child("linux/amd64"), Some(amd64));
        assert_eq!(child("linux/arm64"), Some(arm64));
        assert_eq!(child("linux/s390x"), None);
    }

    #[tokio::test]
    async fn an_index_that_is_a_blob_alone_is_put_together_here() {
        let own = platform();
        let bytes = index_of(&[(&own, Digest::of("child"))]);
        let digest = Digest::of(&bytes);
        let body = bytes.clone();
        let as_blob: Box<Answer> = Box::new(move |asked, _| match asked.line.contains("/blobs/") {
            true => (200, body.clone()),
            false => (404, Vec::new()),
        });
        let index = answered(as_blob, &digest).await.unwrap().unwrap();
        assert_eq!(index.child, Digest::of("child"));
        // containerd pulls what is there as upstream has it, by its digest and its tag.
        let as_manifest = answered(Box::new(|_, _| (200, Vec::new())), &digest);
        assert!(as_manifest.await.unwrap().is_none());
        let untagged: Box<Answer> = Box::new(|asked, _| match asked.line.ends_with("/v1") {
            true => (404, Vec::new()),
            false => (200, Vec::new()),
        });
        let error = answered(untagged, &digest).await.err().unwrap().to_string();
        assert_eq!(error, "it has no tag v1 in a/pause");
        let archive = tempfile::NamedTempFile::new().unwrap();
        fill(archive.as_file(), "a/pause@sha256:x", &index).unwrap();
        let mut archive = tar::Archive::new(archive.reopen().unwrap());
        let paths = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            entry.path().unwrap().to_string_lossy().into_owned()
        });
        let blob = format!("blobs/sha256/{}", digest.hex());
        assert_eq!(
            paths.collect::<Vec<_>>(),
            ["oci-layout", "index.json", &blob]
        );
    }

    /// containerd would take a blob for the image, so nothing is left to it.
    #[tokio::test]
    async fn whatever_else_comes_is_an_error() {
        let own = platform();
        let right = index_of(&[(&own, Digest::of("child"))]);
        let other_platform = index_of(&[("linux/other", Digest::of("child"))]);
        for (status, body, wanted, told) in [
            (503, right.clone(), Digest::of(&right), "status 503"),
            (404, Vec::new(), Digest::of(&right), "it has not got"),
            (200, b"else".to_vec(), Digest::of(&right), "something else"),
            (
                200,
                other_platform.clone(),
                Digest::of(&other_platform),
                "no image for",
            ),
        ] {
            let answer: Box<Answer> =
                Box::new(move |asked, _| match asked.line.contains("/blobs/") {
                    true => (status, body.clone()),
                    false => (404, Vec::new()),
                });
            let error = answered(answer, &wanted).await.err().unwrap().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
