//! Puts a bundle's index and artifact manifests together. Pure: the same entries,
//! in whatever order they are added, give the same bytes.

use crate::bundle::names;
use crate::bundle::oci::{self, Descriptor, Index, Manifest, OciPlatform};
use crate::bundle::platform::Platform;
use crate::bundle::reader::Bundle;
use crate::digest::Digest;
use anyhow::{Result, bail};
use camino::Utf8PathBuf;
use std::collections::{BTreeMap, BTreeSet};

/// Level for manifest templates, which are small.
const TEMPLATE_ZSTD_LEVEL: i32 = 19;

/// Where the bytes of a blob come from.
#[derive(Debug, Clone)]
pub enum BlobSource {
    Memory(Vec<u8>),
    File(Utf8PathBuf),
    /// Of the same digest in another bundle.
    Bundle(Bundle),
}

/// A blob that lies in a file, with its digest and size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    pub digest: Digest,
    pub size: u64,
    pub path: Utf8PathBuf,
}

/// A file for one platform, compressed already.
#[derive(Debug, Clone)]
pub struct FileEntry {
    pub name: String,
    pub version: String,
    pub platform: Platform,
    pub licence: Option<String>,
    /// Digest of the file itself.
    pub digest: Digest,
    /// Size of the file itself in bytes.
    pub size: u64,
    pub compressed: StoredBlob,
    /// Names of the flags that it knows, if it has a list of them.
    pub flags: Option<Vec<String>>,
    /// Names that stand in it as configuration fields, if it has a list of them.
    pub fields: Option<Vec<String>>,
}

/// An image. Its bytes stay as upstream has them.
#[derive(Debug, Clone)]
pub struct ImageEntry {
    /// Full name with tag.
    pub reference: String,
    pub root: StoredBlob,
    pub root_media_type: String,
    /// The platform of a root that is a manifest and not an index.
    pub root_platform: Option<Platform>,
    /// Manifests of the platforms carried.
    pub manifests: Vec<StoredBlob>,
    /// Their configurations and layers.
    pub blobs: Vec<StoredBlob>,
}

/// A bundle that is ready to be signed and written.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The bytes of `index.json`.
    pub index: Vec<u8>,
    /// All blobs with their sizes in bytes, sorted as they are to be written.
    pub blobs: BTreeMap<Digest, (u64, BlobSource)>,
    /// Those that a reader needs to know what the bundle holds. The others are
    /// content, which a site may have already.
    pub read_first: BTreeSet<Digest>,
}

impl Layout {
    /// All that a bundle has at hand, as it is.
    pub fn of(bundle: &Bundle) -> Self {
        let blobs = bundle.reachable_blobs().into_iter();
        let source = |size| (size, BlobSource::Bundle(bundle.clone()));
        let blobs: BTreeMap<_, _> = blobs.map(|(digest, size)| (digest, source(size))).collect();
        Self {
            index: bundle.index().to_owned(),
            read_first: blobs.keys().copied().collect(),
            blobs,
        }
    }
}

/// Collects a bundle's entries.
pub struct LayoutBuilder {
    name: String,
    version: String,
    platforms: Vec<Platform>,
    artifacts: Vec<Descriptor>,
    blobs: BTreeMap<Digest, (u64, BlobSource)>,
    read_first: BTreeSet<Digest>,
}

impl LayoutBuilder {
    /// An empty bundle for some platforms.
    pub fn new(name: &str, version: &str, platforms: &[Platform]) -> Self {
        let mut platforms = platforms.to_vec();
        platforms.sort();
        platforms.dedup();
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            platforms,
            artifacts: Vec::new(),
            blobs: BTreeMap::new(),
            read_first: BTreeSet::new(),
        }
    }

    /// Adds a file as an artifact under `cofferdam/file/<name>`.
    pub fn add_file(&mut self, file: FileEntry) -> Result<()> {
        let mut layer = Descriptor::plain(
            oci::FILE_LAYER_TYPE,
            file.compressed.digest,
            file.compressed.size,
        );
        layer.annotations = Some(annotations([
            (oci::TITLE, file.name.clone()),
            (oci::FILE_DIGEST, file.digest.to_string()),
            (oci::FILE_SIZE, file.size.to_string()),
        ]));
        self.add_stored(&file.compressed);
        let mut layers = vec![layer];
        for (list, media_type) in [
            (&file.flags, oci::FLAGS_LAYER_TYPE),
            (&file.fields, oci::FIELDS_LAYER_TYPE),
        ] {
            if let Some(names) = list {
                let mut names = names.clone();
                names.sort();
                names.dedup();
                let content = serde_json::to_vec(&names)?;
                layers.push(self.add_memory(media_type, content));
            }
        }
        let mut manifest_annotations = annotations([
            (oci::FILE_NAME, file.name.clone()),
            (oci::VERSION, file.version.clone()),
        ]);
        if let Some(licence) = file.licence {
            manifest_annotations.insert(oci::LICENSES.to_owned(), licence);
        }
        let mut descriptor =
            self.add_artifact(oci::FILE_ARTIFACT_TYPE, layers, manifest_annotations)?;
        descriptor.platform = Some(OciPlatform::from(&file.platform));
        let repository = names::file_repository(&file.name);
        let reference = format!(
            "{repository}:{}",
            names::file_tag(&file.version, &file.platform)
        );
        descriptor.annotations = Some(annotations([(oci::REF_NAME, reference)]));
        self.artifacts.push(descriptor);
        Ok(())
    }

    /// Adds an image under its upstream name.
    pub fn add_image(&mut self, image: ImageEntry) {
        for manifest in image.manifests.iter().chain([&image.root]) {
            self.add_stored(manifest);
            self.read_first.insert(manifest.digest);
        }
        for blob in &image.blobs {
            self.add_stored(blob);
        }
        let mut descriptor =
            Descriptor::plain(&image.root_media_type, image.root.digest, image.root.size);
        descriptor.platform = image.root_platform.as_ref().map(OciPlatform::from);
        descriptor.annotations = Some(annotations([
            (oci::REF_NAME, image.reference.clone()),
            (oci::CONTAINERD_NAME, image.reference),
        ]));
        self.artifacts.push(descriptor);
    }

    /// Adds a manifest template.
    pub fn add_manifest(&mut self, name: &str, text: &str) -> Result<()> {
        let compressed = zstd::bulk::compress(text.as_bytes(), TEMPLATE_ZSTD_LEVEL)?;
        let mut layer = self.add_memory(oci::MANIFEST_LAYER_TYPE, compressed);
        layer.annotations = Some(annotations([(oci::TITLE, format!("{name}.yaml"))]));
        let manifest_annotations = annotations([
            (oci::MANIFEST_NAME, name.to_owned()),
            (oci::VERSION, self.version.clone()),
        ]);
        let mut descriptor = self.add_artifact(
            oci::MANIFEST_ARTIFACT_TYPE,
            vec![layer],
            manifest_annotations,
        )?;
        let reference = format!("{}:{}", names::manifest_repository(name), self.version);
        descriptor.annotations = Some(annotations([(oci::REF_NAME, reference)]));
        self.artifacts.push(descriptor);
        Ok(())
    }

    /// Adds the lock that the bundle was built from.
    pub fn add_lock(&mut self, text: &str) -> Result<()> {
        let mut layer = self.add_memory(oci::LOCK_LAYER_TYPE, text.as_bytes().to_vec());
        layer.annotations = Some(annotations([(oci::TITLE, format!("{}.lock", self.name))]));
        let manifest_annotations = annotations([(oci::VERSION, self.version.clone())]);
        let mut descriptor =
            self.add_artifact(oci::LOCK_ARTIFACT_TYPE, vec![layer], manifest_annotations)?;
        let reference = format!("cofferdam/lock:{}", self.version);
        descriptor.annotations = Some(annotations([(oci::REF_NAME, reference)]));
        self.artifacts.push(descriptor);
        Ok(())
    }

    /// Adds the SBOM, a CycloneDX document in JSON.
    pub fn add_sbom(&mut self, content: &[u8]) -> Result<()> {
        let mut layer = self.add_memory(oci::SBOM_LAYER_TYPE, content.to_vec());
        layer.annotations = Some(annotations([(oci::TITLE, "sbom.cdx.json".to_owned())]));
        let manifest_annotations = annotations([(oci::VERSION, self.version.clone())]);
        let mut descriptor =
            self.add_artifact(oci::SBOM_ARTIFACT_TYPE, vec![layer], manifest_annotations)?;
        let reference = format!("cofferdam/sbom:{}", self.version);
        descriptor.annotations = Some(annotations([(oci::REF_NAME, reference)]));
        self.artifacts.push(descriptor);
        Ok(())
    }

    /// The finished index, sorted by reference, and all blobs.
    pub fn finish(mut self) -> Result<Layout> {
        let reference = |descriptor: &Descriptor| {
            descriptor
                .annotation(oci::REF_NAME)
                .unwrap_or_default()
                .to_owned()
        };
        self.artifacts.sort_by_key(reference);
        for pair in self.artifacts.windows(2) {
            if reference(&pair[0]) == reference(&pair[1]) {
                bail!("`{}` would be in the bundle twice", reference(&pair[0]));
            }
        }
        let platforms: Vec<String> = self.platforms.iter().map(Platform::to_string).collect();
        let index = Index {
            schema_version: 2,
            media_type: Some(oci::INDEX_MEDIA_TYPE.to_owned()),
            manifests: self.artifacts,
            annotations: Some(annotations([
                (oci::BUNDLE_NAME, self.name),
                (oci::BUNDLE_PLATFORMS, platforms.join(",")),
                (oci::VERSION, self.version),
            ])),
        };
        Ok(Layout {
            index: serde_json::to_vec(&index)?,
            blobs: self.blobs,
            read_first: self.read_first,
        })
    }

    fn add_artifact(
        &mut self,
        artifact_type: &str,
        layers: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor> {
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST_MEDIA_TYPE.to_owned()),
            artifact_type: Some(artifact_type.to_owned()),
            config: self.add_memory(oci::EMPTY_MEDIA_TYPE, oci::EMPTY_CONTENT.to_vec()),
            layers,
            annotations: Some(annotations),
        };
        let content = serde_json::to_vec(&manifest)?;
        let mut descriptor = self.add_memory(oci::MANIFEST_MEDIA_TYPE, content);
        descriptor.artifact_type = Some(artifact_type.to_owned());
        Ok(descriptor)
    }

    fn add_memory(&mut self, media_type: &str, content: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &content);
        self.blobs.insert(
            descriptor.digest,
            (descriptor.size, BlobSource::Memory(content)),
        );
        self.read_first.insert(descriptor.digest);
        descriptor
    }

    fn add_stored(&mut self, blob: &StoredBlob) {
        let source = || (blob.size, BlobSource::File(blob.path.clone()));
        self.blobs.entry(blob.digest).or_insert_with(source);
    }
}

fn annotations<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str) -> StoredBlob {
        StoredBlob {
            digest: Digest::of(name),
            size: name.len() as u64,
            path: name.into(),
        }
    }

    fn image(reference: &str) -> ImageEntry {
        ImageEntry {
            reference: reference.to_owned(),
            root: stored(reference),
            root_media_type: oci::INDEX_MEDIA_TYPE.to_owned(),
            root_platform: None,
            manifests: Vec::new(),
            blobs: vec![stored("shared"), stored(&format!("blob of {reference}"))],
        }
    }

    #[test]
    fn the_order_of_adding_does_not_show() {
        let build = |references: [&str; 2]| {
            let mut builder = LayoutBuilder::new("x", "1", &[Platform::linux("amd64")]);
            for reference in references {
                builder.add_image(image(reference));
                builder.add_manifest(&reference[..1], "text").unwrap();
            }
            let layout = builder.finish().unwrap();
            (layout.index, layout.blobs.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(
            build(["a.io/a:1", "b.io/b:1"]),
            build(["b.io/b:1", "a.io/a:1"])
        );
    }

    #[test]
    fn nothing_is_in_a_bundle_twice() {
        let mut builder = LayoutBuilder::new("x", "1", &[Platform::linux("amd64")]);
        builder.add_image(image("a.io/a:1"));
        builder.add_image(image("a.io/a:1"));
        let error = builder.finish().unwrap_err().to_string();
        assert!(error.contains("a.io/a:1"), "{error}");
    }
}
