//! A small but complete bundle for tests: two platforms, files with and without
//! flags, an image with a child left out, a manifest, a lock.

use super::oci::{self, Descriptor, Index, Manifest, OciPlatform};
use super::platform::Platform;
use super::progress::NoProgress;
use super::sign::{KeyPairPaths, Password, SigningKey, TrustedKey, generate_key_pair};
use super::write::{
    FileEntry, ImageEntry, Layout, LayoutBuilder, Shape, StoredBlob, WrittenFile, plan, write_files,
};
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;

/// A directory that lives as long as the value.
pub(crate) struct TestDirectory {
    _guard: tempfile::TempDir,
    pub(crate) path: Utf8PathBuf,
}

impl TestDirectory {
    pub(crate) fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        Self {
            _guard: guard,
            path,
        }
    }
}

/// A new key pair in a directory.
pub(crate) fn keys(directory: &Utf8Path, name: &str) -> (SigningKey, TrustedKey) {
    let paths = KeyPairPaths {
        secret: directory.join(format!("{name}.key")),
        public: directory.join(format!("{name}.pub")),
    };
    let trusted = generate_key_pair(&paths, None).unwrap();
    (
        SigningKey::load(&paths.secret, &Password::None).unwrap(),
        trusted,
    )
}

pub(crate) fn platforms() -> Vec<Platform> {
    vec![Platform::linux("amd64"), Platform::linux("arm64")]
}

fn stored(directory: &Utf8Path, content: &[u8]) -> StoredBlob {
    let digest = Digest::of(content);
    let path = directory.join(digest.hex());
    fs::write(&path, content).unwrap();
    StoredBlob {
        digest,
        size: content.len() as u64,
        path,
    }
}

/// An image index with children for the given platforms and one that is left out.
pub(crate) fn image(directory: &Utf8Path, reference: &str, platforms: &[Platform]) -> ImageEntry {
    let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
    let mut children = Vec::new();
    for platform in platforms {
        let mut blob = |kind: &str, content: String| {
            let blob = stored(directory, content.as_bytes());
            let descriptor = Descriptor::plain(kind, blob.digest, blob.size);
            match kind {
                oci::MANIFEST_MEDIA_TYPE => manifests.push(blob),
                _ => blobs.push(blob),
            }
            descriptor
        };
        let config = blob(
            "application/vnd.oci.image.config.v1+json",
            format!(
                r#"{{"os":"linux","architecture":"{}"}}"#,
                platform.architecture
            ),
        );
        let layers = vec![
            blob(
                "application/vnd.oci.image.layer.v1.tar",
                "shared layer".to_owned(),
            ),
            blob(
                "application/vnd.oci.image.layer.v1.tar",
                format!("layer of {reference} for {platform} {}", "x".repeat(3000)),
            ),
        ];
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST_MEDIA_TYPE.to_owned()),
            artifact_type: None,
            config,
            layers,
            annotations: None,
        };
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        let mut child = blob(oci::MANIFEST_MEDIA_TYPE, text);
        child.platform = Some(OciPlatform::from(platform));
        children.push(child);
    }
    let mut left_out = Descriptor::of(oci::MANIFEST_MEDIA_TYPE, b"left out");
    left_out.platform = Some(OciPlatform::from(&Platform::linux("s390x")));
    children.push(left_out);
    let index = Index {
        schema_version: 2,
        media_type: Some(oci::INDEX_MEDIA_TYPE.to_owned()),
        manifests: children,
        annotations: None,
    };
    ImageEntry {
        reference: reference.to_owned(),
        root: stored(directory, &serde_json::to_vec_pretty(&index).unwrap()),
        root_media_type: oci::INDEX_MEDIA_TYPE.to_owned(),
        root_platform: None,
        manifests,
        blobs,
    }
}

/// A file whose content is its name, repeated.
pub(crate) fn file(directory: &Utf8Path, name: &str, platform: &Platform) -> FileEntry {
    let content = format!("{name} for {platform}\n").repeat(40);
    let compressed = zstd::bulk::compress(content.as_bytes(), 3).unwrap();
    FileEntry {
        name: name.to_owned(),
        version: "1.2.3".to_owned(),
        platform: platform.clone(),
        licence: Some("Apache-2.0".to_owned()),
        digest: Digest::of(&content),
        size: content.len() as u64,
        compressed: stored(directory, &compressed),
        flags: (name == "kubelet").then(|| vec!["v".to_owned(), "config".to_owned()]),
        fields: (name == "kubelet").then(|| vec!["maxPods".to_owned(), "kind".to_owned()]),
    }
}

/// The content of [`bundle`].
pub(crate) fn builder(directory: &Utf8Path) -> LayoutBuilder {
    let platforms = platforms();
    let mut builder = LayoutBuilder::new("test", "1.0.0", &platforms);
    for platform in &platforms {
        builder
            .add_file(file(directory, "kubelet", platform))
            .unwrap();
        builder.add_file(file(directory, "runc", platform)).unwrap();
    }
    builder.add_image(image(directory, "registry.example/pause:3", &platforms));
    builder.add_image(image(
        directory,
        "registry.example/tools/dns:v1",
        &platforms,
    ));
    builder
        .add_manifest(
            "dns",
            "image: {{ images[\"registry.example/tools/dns\"] }}\n",
        )
        .unwrap();
    builder.add_lock("schema = 1\n").unwrap();
    builder
}

pub(crate) fn write(path: &Utf8Path, layout: &Layout, key: Option<&SigningKey>) {
    write_shaped(path, layout, key, &Shape::default());
}

/// Writes a bundle in parts, or as a delta.
pub(crate) fn write_shaped(
    path: &Utf8Path,
    layout: &Layout,
    key: Option<&SigningKey>,
    shape: &Shape,
) -> Vec<WrittenFile> {
    let signature = key.map(|key| key.sign(&layout.index, "test").unwrap().render());
    let signatures = signature.as_slice();
    let files = plan(path, layout, signatures, shape).unwrap();
    write_files(&files, layout, signatures, &NoProgress).unwrap()
}

/// Writes a small bundle, signed with a new key, and gives its path.
pub(crate) fn bundle(directory: &Utf8Path) -> (Utf8PathBuf, TrustedKey) {
    let (secret, trusted) = keys(directory, "bundle");
    let path = directory.join("test.tar");
    write(&path, &builder(directory).finish().unwrap(), Some(&secret));
    (path, trusted)
}
