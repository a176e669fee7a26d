//! A bundle with realistic names and sizes, and made-up bytes.

use crate::desired::{Binary, BlobReference, BundleImage, BundleView, RegistryArtifact};
use crate::digest::Digest;
use crate::execute::BlobSource;
use crate::host::Body;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;

/// The platform of simulated hosts.
pub const PLATFORM: &str = "linux/amd64";

/// Name, version, and size in MB of each file, unpacked.
const FILES: [(&str, &str, u64); 21] = [
    ("bandwidth", "1.9.1", 4),
    ("bridge", "1.9.1", 4),
    ("cofferdam", "1.36.0", 20),
    ("containerd", "2.3.7", 45),
    ("containerd-shim-runc-v2", "2.3.7", 12),
    ("ctr", "2.3.7", 24),
    ("etcd", "3.6.16", 27),
    ("etcdctl", "3.6.16", 17),
    ("etcdutl", "3.6.16", 17),
    ("flanneld", "0.28.4", 38),
    ("host-local", "1.9.1", 4),
    ("kube-apiserver", "1.36.0", 105),
    ("kube-controller-manager", "1.36.0", 80),
    ("kube-proxy", "1.36.0", 46),
    ("kube-scheduler", "1.36.0", 55),
    ("kubectl", "1.36.0", 60),
    ("kubelet", "1.36.0", 84),
    ("loopback", "1.9.1", 4),
    ("portmap", "1.9.1", 4),
    ("registry", "3.1.2", 56),
    ("runc", "1.4.3", 13),
];

/// Repository, tag, and size in MB.
const IMAGES: [(&str, &str, u64); 4] = [
    ("registry.k8s.io/pause", "3.10.2", 1),
    ("registry.k8s.io/coredns/coredns", "v1.14.7", 24),
    (
        "registry.k8s.io/metrics-server/metrics-server",
        "v0.9.0",
        22,
    ),
    ("docker.io/library/busybox", "1.36.1", 2),
];

const MEGABYTE: u64 = 1_000_000;
/// zstd leaves about a third of a Go binary.
const COMPRESSION: u64 = 3;

/// The edition that has the next minors of what changes with Kubernetes'.
pub const NEXT_MINOR: &str = "+next";

/// The version that a file has in an edition.
fn version_in(edition: &str, version: &str) -> String {
    match (edition, version) {
        (NEXT_MINOR, "1.36.0") => "1.37.0".to_owned(),
        (NEXT_MINOR, "3.6.16") => "3.7.3".to_owned(),
        (NEXT_MINOR, "2.3.7") => "2.4.2".to_owned(),
        (NEXT_MINOR, "1.4.3") => "1.5.2".to_owned(),
        _ => version.to_owned(),
    }
}

/// What the bundle holds. Another `edition` has other bytes under the same
/// names, as a later bundle has, and [`NEXT_MINOR`] other versions too.
pub fn bundle_view(edition: &str) -> BundleView {
    let files = FILES.iter().map(|(name, version, megabytes)| {
        let binary = Binary {
            digest: Digest::of(format!("{name} {edition} unpacked")),
            size: megabytes * MEGABYTE,
            blob: Digest::of(bytes_of(&file_repository(name), edition, "layer")),
            blob_size: megabytes * MEGABYTE / COMPRESSION,
            repository: file_repository(name),
            version: version_in(edition, version),
        };
        ((*name).to_owned(), binary)
    });
    let file_artifacts = FILES.iter().map(|(name, version, megabytes)| {
        let size = megabytes * MEGABYTE / COMPRESSION;
        artifact(
            &file_repository(name),
            &version_in(edition, version),
            edition,
            size,
        )
    });
    let images = IMAGES
        .iter()
        .map(|(repository, tag, megabytes)| BundleImage {
            reference: format!("{repository}:{tag}"),
            artifact: artifact(repository, tag, edition, megabytes * MEGABYTE),
            sizes: [(PLATFORM.to_owned(), megabytes * MEGABYTE)].into(),
        });
    BundleView {
        name: "kubernetes-1.36".to_owned(),
        version: format!("1.36.0{edition}"),
        files: [(PLATFORM.to_owned(), files.collect())].into(),
        flags: BTreeMap::new(),
        fields: BTreeMap::new(),
        images: images.collect(),
        file_artifacts: file_artifacts.collect(),
        manifests: [
            (
                "coredns",
                include_str!("../../bundles/manifests/coredns.yaml"),
            ),
            (
                "metrics-server",
                include_str!("../../bundles/manifests/metrics-server.yaml"),
            ),
        ]
        .map(|(name, template)| (name.to_owned(), template.to_owned()))
        .into(),
    }
}

/// Gives the bytes of every blob of a simulated bundle.
#[derive(Debug, Default)]
pub struct SimulatedBundle {
    blobs: BTreeMap<Digest, Bytes>,
}

impl SimulatedBundle {
    /// Adds a blob with these bytes, and returns its digest and size.
    pub fn add(&mut self, bytes: &str) -> (Digest, u64) {
        let digest = Digest::of(bytes);
        let bytes = Bytes::copy_from_slice(bytes.as_bytes());
        let size = bytes.len() as u64;
        self.blobs.insert(digest, bytes);
        (digest, size)
    }

    /// The blobs of an edition, see [`bundle_view`].
    pub fn new(edition: &str) -> Self {
        let files = FILES.iter().map(|(name, ..)| file_repository(name));
        let images = IMAGES
            .iter()
            .map(|(repository, ..)| (*repository).to_owned());
        let blobs = files.chain(images).flat_map(|repository| {
            PARTS.map(|part| {
                let bytes = bytes_of(&repository, edition, part);
                (Digest::of(&bytes), Bytes::from(bytes))
            })
        });
        Self {
            blobs: blobs.collect(),
        }
    }

    /// Adds those of another edition.
    pub fn take(&mut self, edition: &str) {
        self.blobs.extend(Self::new(edition).blobs);
    }

    /// Makes one blob's bytes other than its digest says.
    pub fn damage(&mut self, digest: &Digest) {
        self.blobs.insert(*digest, Bytes::from_static(b"damaged"));
    }
}

impl BlobSource for SimulatedBundle {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Body>> {
        let bytes = self.blobs.get(digest).cloned();
        let bytes = bytes.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no blob {digest} in the bundle"),
            )
        })?;
        Ok(Box::new(InMemory { rest: Some(bytes) }))
    }
}

struct InMemory {
    rest: Option<Bytes>,
}

impl Body for InMemory {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.rest.take())
    }
}

const PARTS: [&str; 4] = ["config", "layer", "manifest", "index"];

fn artifact(repository: &str, tag: &str, edition: &str, size: u64) -> RegistryArtifact {
    const SMALL: u64 = 1_000;
    let blob = |part: &str, size: u64, media_type: &str| BlobReference {
        digest: Digest::of(bytes_of(repository, edition, part)),
        size,
        media_type: media_type.to_owned(),
    };
    RegistryArtifact {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        blobs: vec![
            blob("config", SMALL, "application/vnd.oci.image.config.v1+json"),
            blob("layer", size, "application/vnd.oci.image.layer.v1.tar+gzip"),
        ],
        manifests: vec![
            blob(
                "manifest",
                SMALL,
                "application/vnd.oci.image.manifest.v1+json",
            ),
            blob("index", SMALL, "application/vnd.oci.image.index.v1+json"),
        ],
    }
}

fn file_repository(name: &str) -> String {
    format!("cofferdam/file/{name}")
}

fn bytes_of(repository: &str, edition: &str, part: &str) -> String {
    format!("{part} of {repository}{edition}")
}
