//! The verified bundle as the rest of the program uses it: a view without
//! bytes, blobs for hosts, agents for platforms.

use crate::bundle::reader::BlobReader;
use crate::bundle::{Bundle, FileArtifact, Platform};
use crate::desired::{Binary, BlobReference, BundleImage, BundleView, RegistryArtifact};
use crate::digest::Digest;
use crate::execute::BlobSource;
use crate::host::Body;
use crate::host::frame::BODY_PIECE;
use crate::host::remote::AgentSource;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

/// Name of cofferdam's own binary in bundles.
pub(super) const AGENT_FILE: &str = "cofferdam";

/// A bundle's bytes for hosts.
pub struct BundleContent {
    bundle: Bundle,
    /// Agents by platform, unpacked once.
    agents: Mutex<HashMap<String, Bytes>>,
}

impl BundleContent {
    pub fn new(bundle: Bundle) -> Self {
        Self {
            bundle,
            agents: Mutex::default(),
        }
    }

    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

impl BlobSource for BundleContent {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Body>> {
        // A host that has it takes no byte of it; before anything is done, it was
        // proven that it is there.
        if self.bundle.is_left_out(digest) {
            return Ok(Box::new(Nothing));
        }
        let reader = self.bundle.blob(digest).map_err(io::Error::other)?;
        Ok(Box::new(BlobBody { reader }))
    }
}

impl BundleContent {
    fn agent_file(&self, platform: &str) -> Option<FileArtifact> {
        let platform: Platform = platform.parse().ok()?;
        self.bundle.files(&platform).remove(AGENT_FILE)
    }
}

impl AgentSource for BundleContent {
    fn agent_digest(&self, platform: &str) -> Option<Digest> {
        self.agent_file(platform).map(|file| file.digest)
    }

    fn agent(&self, platform: &str) -> io::Result<Bytes> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(platform) {
            return Ok(agent.clone());
        }
        let file = self
            .agent_file(platform)
            .ok_or_else(|| io::Error::other(format!("it has no agent for {platform}")))?;
        let bytes = match self.bundle.blob(&file.blob.digest) {
            Ok(reader) => {
                let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or_default());
                zstd::Decoder::new(reader)?
                    .take(file.size + 1)
                    .read_to_end(&mut bytes)?;
                bytes
            }
            // A delta leaves it out; it may be the very program that runs here.
            Err(error) => match fs_err::read(std::env::current_exe()?) {
                Ok(bytes) if Digest::of(&bytes) == file.digest => bytes,
                _ => return Err(io::Error::other(error)),
            },
        };
        if Digest::of(&bytes) != file.digest {
            let message = "cofferdam's own file in the bundle is not what its digest says";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let agent = Bytes::from(bytes);
        agents.insert(platform.to_owned(), agent.clone());
        Ok(agent)
    }
}

/// The body of what a delta leaves out.
struct Nothing;

impl Body for Nothing {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

/// Where no bundle is at hand: everything is on the hosts already.
pub struct NoBundle;

impl BlobSource for NoBundle {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Body>> {
        let message = format!("{digest} is on no host, and no bundle was given");
        Err(io::Error::new(io::ErrorKind::NotFound, message))
    }
}

/// A blob in pieces. The reader fails at the end unless digest and size fit.
struct BlobBody {
    reader: BlobReader,
}

impl Body for BlobBody {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = BytesMut::zeroed(BODY_PIECE);
        let mut filled = 0;
        while filled < piece.len() {
            match self.reader.read(&mut piece[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        piece.truncate(filled);
        Ok((filled > 0).then(|| piece.freeze()))
    }
}

/// What the desired state needs to know of a bundle.
pub fn view(bundle: &Bundle) -> BundleView {
    let mut files: BTreeMap<String, BTreeMap<String, Binary>> = BTreeMap::new();
    let mut flags: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut fields: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut file_artifacts = Vec::new();
    for platform in bundle.platforms() {
        for (name, file) in bundle.files(platform) {
            let content = file.content();
            let (manifest, blobs) = match content.split_last() {
                Some((manifest, blobs)) => (manifest, blobs),
                None => continue,
            };
            file_artifacts.push(RegistryArtifact {
                repository: file.repository.clone(),
                tag: file.tag.clone(),
                blobs: blobs.iter().map(reference).collect(),
                manifests: vec![reference(manifest)],
            });
            for (lists, known) in [(&mut flags, file.flags), (&mut fields, file.fields)] {
                if let Some(known) = known {
                    let of_platform = lists.entry(platform.to_string()).or_default();
                    of_platform.insert(name.clone(), known);
                }
            }
            let binary = Binary {
                digest: file.digest,
                size: file.size,
                blob: file.blob.digest,
                blob_size: file.blob.size,
                repository: file.repository,
                version: file.version,
            };
            files
                .entry(platform.to_string())
                .or_default()
                .insert(name, binary);
        }
    }
    BundleView {
        name: bundle.name().to_owned(),
        version: bundle.version().to_owned(),
        files,
        flags,
        fields,
        images: bundle.contents().images.iter().map(image).collect(),
        file_artifacts,
        manifests: bundle.manifests(),
    }
}

fn image(image: &crate::bundle::reader::Image) -> BundleImage {
    let mut blobs: Vec<BlobReference> = Vec::new();
    let mut manifests: Vec<BlobReference> = Vec::new();
    let mut sizes = BTreeMap::new();
    for (platform, half) in &image.platforms {
        let of_platform: Vec<BlobReference> = half.blobs.iter().map(reference).collect();
        sizes.insert(
            platform.to_string(),
            of_platform.iter().map(|blob| blob.size).sum(),
        );
        blobs.extend(of_platform);
        manifests.push(reference(&half.manifest));
    }
    let root = reference(&image.root);
    if !manifests.contains(&root) {
        manifests.push(root);
    }
    blobs.sort();
    blobs.dedup();
    BundleImage {
        reference: image.reference.clone(),
        artifact: RegistryArtifact {
            repository: image.repository.clone(),
            tag: image.tag.clone(),
            blobs,
            manifests,
        },
        sizes,
    }
}

fn reference(descriptor: &crate::bundle::oci::Descriptor) -> BlobReference {
    BlobReference {
        digest: descriptor.digest,
        size: descriptor.size,
        media_type: descriptor.media_type.clone(),
    }
}
