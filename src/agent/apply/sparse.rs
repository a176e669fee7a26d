//! Images whose upstream index a registry refused, since the bundle leaves some of its
//! platforms out: there it is a blob, kept by an artifact (see `registry push`), and the
//! node puts it together with its own platform's image.

use super::registries::QUIET_LIMIT;
use crate::agent::observe::{ctr, platform};
use crate::agent::registry_client::RegistryClient;
use crate::agent::root::Root;
use crate::digest::Digest;
use anyhow::{Context, Result};
use bytes::Bytes;
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// As registries have it for manifests.
const INDEX_LIMIT_BYTES: u64 = 4 << 20;
/// What an image's tag may name.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
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

/// Looks for such indexes in the registry that is asked first.
pub(super) struct Indexes<'a> {
    /// None once it did not answer: what can be had then, containerd finds by itself.
    registry: Option<(RegistryClient, &'a str)>,
}

impl<'a> Indexes<'a> {
    pub(super) fn of(root: &Root, registries: &'a [String]) -> Self {
        let client = RegistryClient::load(root, QUIET_LIMIT).ok();
        let first = registries.first().map(String::as_str);
        Self {
            registry: client.zip(first),
        }
    }

    /// The index where the registry has it as a blob alone. containerd would take the
    /// blob for the image.
    pub(super) async fn find(&mut self, reference: &str, digest: &Digest) -> Option<Index> {
        let (client, registry) = self.registry.as_ref()?;
        let repository = reference
            .rsplit_once(':')
            .map_or(reference, |parts| parts.0);
        let path = |kind: &str| format!("{repository}/{kind}/{digest}");
        let head = client.request(Method::HEAD, registry, &path("manifests"));
        let head = head.header(ACCEPT, MANIFESTS).send();
        let Ok(Ok(answer)) = timeout(QUIET_LIMIT, head).await else {
            self.registry = None;
            return None;
        };
        if answer.status() != StatusCode::NOT_FOUND {
            return None;
        }
        let get = client.request(Method::GET, registry, &path("blobs"));
        let answer = timeout(QUIET_LIMIT, get.send()).await.ok()?.ok()?;
        let length = answer.content_length();
        let is_short = length.is_some_and(|length| length <= INDEX_LIMIT_BYTES);
        if !answer.status().is_success() || !is_short {
            return None;
        }
        let bytes = timeout(QUIET_LIMIT, answer.bytes()).await.ok()?.ok()?;
        let is_right = Digest::of(&bytes) == *digest;
        is_right
            .then(|| read(*digest, bytes, &platform()))
            .flatten()
    }
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

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

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

    #[test]
    fn the_child_of_the_platform_is_found() {
        let (amd64, arm64) = (Digest::of("amd64"), Digest::of("arm64"));
        let text = json!({
            "mediaType": OCI_INDEX,
            "manifests": [
                {"digest": Digest::of("attestation").to_string()},
                {"digest": arm64.to_string(), "platform": {"os": "linux", "architecture": "arm64"}},
                {"digest": amd64.to_string(), "platform": {"os": "linux", "architecture": "amd64"}},
            ],
        });
        let bytes = Bytes::from(text.to_string());
        let digest = Digest::of(&bytes);
        let child = |platform: &str| read(digest, bytes.clone(), platform).map(|index| index.child);
        assert_eq!(child("linux/amd64"), Some(amd64));
        assert_eq!(child("linux/arm64"), Some(arm64));
        assert_eq!(child("linux/s390x"), None);
    }
}
