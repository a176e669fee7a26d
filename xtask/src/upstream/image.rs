//! Container images around static binaries, as OCI indexes.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use std::process::Command;

use super::cache::sha256;
use super::components::{Busybox, Image, Platform};
use super::tarball::{Entry, gzip, write_tar};
use crate::shell;

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Images carry no time of building, or no two builds would be alike.
const CREATED: &str = "1970-01-01T00:00:00Z";

const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image in memory, in the order in which a registry takes it.
pub struct BuiltImage {
    /// Configurations and layers.
    pub blobs: Vec<Vec<u8>>,
    /// One for each platform.
    pub manifests: Vec<Vec<u8>>,
    pub index: Vec<u8>,
}

/// Where the binaries of a platform were built.
pub trait Binaries {
    fn find(&self, platform: &Platform, name: &str) -> Result<Utf8PathBuf>;
}

/// Makes an image for all its platforms.
pub fn build(image: &Image, binaries: &dyn Binaries) -> Result<BuiltImage> {
    let mut built = BuiltImage {
        blobs: Vec::new(),
        manifests: Vec::new(),
        index: Vec::new(),
    };
    let mut children = Vec::new();
    for platform in image.platforms() {
        let layer = layer(image, &platform, binaries)
            .with_context(|| format!("making {} for {platform}", image.reference))?;
        let config = serde_json::to_vec(&config(image, &platform, &layer.uncompressed_digest))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer.compressed)],
        }))?;
        let mut child = descriptor(MANIFEST, &manifest);
        child["platform"] = json!({ "os": platform.os, "architecture": platform.architecture });
        children.push(child);
        built.blobs.extend([config, layer.compressed]);
        built.manifests.push(manifest);
    }
    built.index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": children,
    }))?;
    Ok(built)
}

/// `sha256:` and the digest.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

struct Layer {
    compressed: Vec<u8>,
    uncompressed_digest: String,
}

fn layer(image: &Image, platform: &Platform, binaries: &dyn Binaries) -> Result<Layer> {
    // Programs may write there without a volume, as in upstream's images.
    let mut entries = vec![Entry::directory("tmp/", 0o1777)];
    if let Some(busybox) = &image.busybox {
        entries.extend(busybox_entries(busybox)?);
    }
    for (path, name) in &image.files {
        entries.push(Entry::executable(path, binaries.find(platform, name)?));
    }
    let mut uncompressed = Vec::new();
    write_tar(&mut uncompressed, &entries)?;
    let compressed = gzip(Vec::new(), |writer| Ok(writer.write_all(&uncompressed)?))?;
    Ok(Layer {
        compressed,
        uncompressed_digest: digest(&uncompressed),
    })
}

/// A small root with busybox and a link for each of its applets.
fn busybox_entries(busybox: &Busybox) -> Result<Vec<Entry>> {
    let mut applets: Vec<String> = shell::read(Command::new(&busybox.binary).arg("--list"))?
        .lines()
        .filter(|applet| *applet != "busybox")
        .map(str::to_owned)
        .collect();
    applets.sort();
    let mut entries = vec![
        Entry::directory("bin/", 0o755),
        Entry::executable("bin/busybox", busybox.binary.clone()),
    ];
    entries.extend(
        applets
            .iter()
            .map(|applet| Entry::link(&format!("bin/{applet}"), "busybox")),
    );
    entries.extend([
        Entry::directory("etc/", 0o755),
        Entry::text("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        Entry::text(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
        Entry::directory("home/", 0o755),
        Entry::directory("root/", 0o700),
        Entry::directory("var/", 0o755),
    ]);
    Ok(entries)
}

fn config(image: &Image, platform: &Platform, layer_digest: &str) -> Value {
    let mut run = json!({ "Env": [SEARCH_PATH], "WorkingDir": "/" });
    if !image.entrypoint.is_empty() {
        run["Entrypoint"] = json!(image.entrypoint);
    }
    if !image.command.is_empty() {
        run["Cmd"] = json!(image.command);
    }
    if let Some(user) = &image.user {
        run["User"] = json!(user);
    }
    json!({
        "created": CREATED,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        "history": [{ "created": CREATED }],
    })
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

/// The digest of a busybox, for the key of what is made from it.
pub fn busybox_digest(busybox: &Busybox) -> Result<String> {
    super::cache::sha256_of_file(Utf8Path::new(&busybox.binary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::components::parse;

    struct OneFile(Utf8PathBuf);

    impl Binaries for OneFile {
        fn find(&self, _platform: &Platform, _name: &str) -> Result<Utf8PathBuf> {
            Ok(self.0.clone())
        }
    }

    fn built() -> BuiltImage {
        let components = parse(
            r#"
            [[modules]]
            name = "pause"
            version = "1"
            platforms = ["linux/amd64", "linux/arm64"]
            binaries = { pause = "example.com/pause" }
            [[images]]
            reference = "example.com/pause:1"
            platforms = ["linux/amd64", "linux/arm64"]
            entrypoint = ["/pause"]
            user = "65535:65535"
            files = { pause = "pause" }
            "#,
        )
        .unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "binary").unwrap();
        let path = Utf8PathBuf::from_path_buf(file.path().to_owned()).unwrap();
        build(&components.images[0], &OneFile(path)).unwrap()
    }

    #[test]
    fn an_index_reaches_everything_by_digest() {
        let image = built();
        let parse = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let index = parse(&image.index);
        let mut platforms = Vec::new();
        for child in index["manifests"].as_array().unwrap() {
            platforms.push(
                child["platform"]["architecture"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            );
            let manifest = image
                .manifests
                .iter()
                .find(|bytes| digest(bytes) == child["digest"])
                .unwrap();
            assert_eq!(child["size"], manifest.len());
            let manifest = parse(manifest);
            let blob = |descriptor: &Value| {
                let found = image
                    .blobs
                    .iter()
                    .find(|blob| digest(blob) == descriptor["digest"]);
                let found = found.unwrap();
                assert_eq!(descriptor["size"], found.len());
                found
            };
            let config = parse(blob(&manifest["config"]));
            assert_eq!(config["architecture"], child["platform"]["architecture"]);
            assert_eq!(config["config"]["Entrypoint"], json!(["/pause"]));
            let mut layer = Vec::new();
            let compressed = blob(&manifest["layers"][0]);
            std::io::Read::read_to_end(
                &mut flate2::read::GzDecoder::new(compressed.as_slice()),
                &mut layer,
            )
            .unwrap();
            assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&layer)]));
        }
        assert_eq!(platforms, ["amd64", "arm64"]);
    }

    #[test]
    fn two_builds_are_alike() {
        assert_eq!(built().index, built().index);
    }
}
