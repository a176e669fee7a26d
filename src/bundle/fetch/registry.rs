//! Images from registries: raw manifests and blobs, bytes kept as they are.

use super::retry::{Failure, with_retries, with_retries_while};
use super::{FetchOptions, Mirrors, READ_TIMEOUT, chain, registry_client};
use crate::bundle::cache::{Cache, WrongDigest};
use crate::bundle::oci;
use crate::bundle::progress::Progress;
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt as _;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything that an image's tag can point to.
const ACCEPTED: [&str; 4] = [
    oci::INDEX_MEDIA_TYPE,
    oci::MANIFEST_MEDIA_TYPE,
    oci::DOCKER_LIST_MEDIA_TYPE,
    oci::DOCKER_MANIFEST_MEDIA_TYPE,
];

/// Reads images from whatever registries they live in.
pub struct Registries {
    encrypted: Client,
    plain: Client,
    mirrors: Mirrors,
}

/// A blob or manifest of an image in a registry.
#[derive(Debug, Clone, Copy)]
pub struct RemoteBlob<'a> {
    /// The image's full name without tag.
    pub image: &'a str,
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Name of the stage and item to report progress under.
    pub stage: &'a str,
    pub item: &'a str,
}

/// Where an image's repository is after mirrors were applied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    plain: bool,
    registry: String,
    repository: String,
}

impl Registries {
    pub fn new(options: &FetchOptions) -> Result<Self> {
        let client = |protocol: ClientProtocol| -> Result<Client> {
            let special = ClientConfig {
                protocol,
                read_timeout: Some(READ_TIMEOUT),
                // The default picks the running platform's child; ours are picked by
                // the definition.
                platform_resolver: None,
                ..ClientConfig::default()
            };
            registry_client(options.ca_file.as_deref(), special)
        };
        Ok(Self {
            encrypted: client(ClientProtocol::Https)?,
            plain: client(ClientProtocol::Http)?,
            mirrors: options.mirrors.clone(),
        })
    }

    /// What a tag points to: the bytes of the index or manifest, as they are.
    pub async fn resolve(&self, image: &str, tag: &str) -> Result<Vec<u8>> {
        let place = self.place(image)?;
        let reference = Reference::with_tag(
            place.registry.clone(),
            place.repository.clone(),
            tag.to_owned(),
        );
        self.manifest_bytes(&place, &reference)
            .await
            .with_context(|| format!("resolving image {image}:{tag}{}", place.describe(image)))
    }

    /// A manifest or index by digest, from the cache if it is there.
    pub async fn manifest(&self, blob: RemoteBlob<'_>, cache: &Cache) -> Result<Vec<u8>> {
        if cache.holds(&blob.digest, blob.size) {
            return cache.read(&blob.digest);
        }
        let place = self.place(blob.image)?;
        let reference = place.by_digest(&blob.digest);
        let bytes = self
            .manifest_bytes(&place, &reference)
            .await
            .with_context(|| {
                let place = place.describe(blob.image);
                format!(
                    "fetching manifest {} of image {}{place}",
                    blob.digest, blob.image
                )
            })?;
        let found = cache.put(&bytes)?;
        if found != blob.digest || bytes.len() as u64 != blob.size {
            bail!(
                "fetching manifest {} of image {}: got {} bytes with digest {found}",
                blob.digest,
                blob.image,
                bytes.len()
            );
        }
        Ok(bytes)
    }

    /// Fetches a configuration or layer into the cache, if it is not there.
    pub async fn blob(
        &self,
        blob: RemoteBlob<'_>,
        cache: &Cache,
        progress: &dyn Progress,
    ) -> Result<()> {
        if cache.holds(&blob.digest, blob.size) {
            return Ok(());
        }
        let place = self.place(blob.image)?;
        let reference = place.by_digest(&blob.digest);
        let client = self.client(&place);
        let digest = blob.digest.to_string();
        let came = AtomicU64::new(0);
        let storing =
            |error| Failure::Lasting(anyhow::Error::from(error).context("writing to the cache"));
        let attempt = || async {
            client
                .store_auth_if_needed(reference.resolve_registry(), &RegistryAuth::Anonymous)
                .await;
            let mut writer = cache.resume(&blob.digest).map_err(Failure::Lasting)?;
            if writer.length() > blob.size {
                writer.restart().map_err(storing)?;
            }
            let begun = writer.length();
            let mut stream = if begun == 0 {
                let stream = client.pull_blob_stream(&reference, digest.as_str()).await;
                stream.map_err(failure)?.stream
            } else if begun == blob.size {
                futures_util::stream::empty().boxed()
            } else {
                let rest = client
                    .pull_blob_stream_partial(&reference, digest.as_str(), begun, None)
                    .await;
                match rest.map_err(failure) {
                    Ok(BlobResponse::Partial(rest)) => rest.stream,
                    // A registry that knows no ranges.
                    Ok(BlobResponse::Full(whole)) => {
                        writer.restart().map_err(storing)?;
                        whole.stream
                    }
                    // Or one, or what stands before it, that refuses them.
                    Err(Failure::Lasting(_)) => {
                        writer.restart().map_err(storing)?;
                        let whole = client.pull_blob_stream(&reference, digest.as_str()).await;
                        whole.map_err(failure)?.stream
                    }
                    Err(failure) => return Err(failure),
                }
            };
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|error| Failure::Passing(anyhow!(chain(&error))))?;
                if writer.length() + chunk.len() as u64 > blob.size {
                    // Nor is what came before it worth anything.
                    writer.restart().map_err(storing)?;
                    let error = anyhow!("it is larger than the {} bytes announced", blob.size);
                    return Err(Failure::Lasting(error));
                }
                writer.write_all(&chunk).map_err(storing)?;
                came.fetch_max(writer.length(), Ordering::Relaxed);
                progress.advance(blob.stage, blob.item, writer.length(), Some(blob.size));
            }
            writer.commit_as(&blob.digest).map_err(|error| match error {
                WrongDigest::Differs { .. } => Failure::Passing(error.into()),
                WrongDigest::Store(_) => Failure::Lasting(error.into()),
            })
        };
        let done = || came.load(Ordering::Relaxed);
        let fetched = with_retries_while(&done, attempt).await;
        fetched.with_context(|| {
            let place = place.describe(blob.image);
            format!(
                "fetching blob {} of image {}{place}",
                blob.digest, blob.image
            )
        })?;
        Ok(())
    }

    async fn manifest_bytes(&self, place: &Place, reference: &Reference) -> Result<Vec<u8>> {
        let client = self.client(place);
        let attempt = || async {
            let pulled = client
                .pull_manifest_raw(reference, &RegistryAuth::Anonymous, &ACCEPTED)
                .await;
            pulled.map_err(failure)
        };
        let (bytes, _) = with_retries(attempt).await?;
        if bytes.len() as u64 > oci::MANIFEST_LIMIT_BYTES {
            bail!(
                "it has {} bytes; at most {} are read",
                bytes.len(),
                oci::MANIFEST_LIMIT_BYTES
            );
        }
        Ok(bytes.to_vec())
    }

    fn client(&self, place: &Place) -> &Client {
        if place.plain {
            &self.plain
        } else {
            &self.encrypted
        }
    }

    fn place(&self, image: &str) -> Result<Place> {
        Place::parse(&self.mirrors.apply(&format!("oci://{image}")))
    }
}

impl Place {
    fn parse(address: &str) -> Result<Self> {
        let schemes = [("oci://", false), ("https://", false), ("http://", true)];
        let found = schemes
            .iter()
            .find_map(|(scheme, plain)| Some((address.strip_prefix(scheme)?, *plain)));
        let Some((rest, plain)) = found else {
            bail!("images are not fetched from {address}; mirror oci:// to http:// or https://");
        };
        let Some((registry, repository)) = rest.split_once('/') else {
            bail!("{address} names no repository");
        };
        let repository = repository.trim_start_matches('/').to_owned();
        Ok(Self {
            plain,
            registry: registry.to_owned(),
            repository,
        })
    }

    fn by_digest(&self, digest: &Digest) -> Reference {
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        Reference::with_digest(registry, repository, digest.to_string())
    }

    /// Where it was looked for, if that is not what the name says.
    fn describe(&self, image: &str) -> String {
        let place = format!("{}/{}", self.registry, self.repository);
        if place == image {
            String::new()
        } else {
            format!(" from {place}")
        }
    }
}

fn failure(error: OciDistributionError) -> Failure {
    let text = anyhow!(chain(&error));
    let passing = match &error {
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        _ => false,
    };
    if passing {
        Failure::Passing(text)
    } else {
        Failure::Lasting(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_images() {
        let place = |plain, registry: &str, repository: &str| Place {
            plain,
            registry: registry.to_owned(),
            repository: repository.to_owned(),
        };
        for (address, expected) in [
            (
                "oci://registry.k8s.io/pause",
                place(false, "registry.k8s.io", "pause"),
            ),
            (
                "http://127.0.0.1:5000/registry.k8s.io/coredns/coredns",
                place(true, "127.0.0.1:5000", "registry.k8s.io/coredns/coredns"),
            ),
            (
                "https://harbor.example/k8s//pause",
                place(false, "harbor.example", "k8s//pause"),
            ),
        ] {
            assert_eq!(Place::parse(address).unwrap(), expected);
        }
        assert!(Place::parse("file:///x/y").is_err());
        assert!(Place::parse("http://host").is_err());
    }
}
