//! A bundle of any size: one image of layers of a GiB each, put into a cache as if
//! they had been fetched.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Seek as _, Write as _};

const GIBIBYTE: u64 = 1 << 30;
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What `bundle build` is called with.
pub(super) struct Large {
    pub(super) definition: Utf8PathBuf,
    pub(super) lock: Utf8PathBuf,
    pub(super) cache: Utf8PathBuf,
}

/// A blob's digest and size in bytes.
struct Blob {
    digest: String,
    size: u64,
}

impl Large {
    /// Makes it in a directory, sparse, with so many layers.
    pub(super) fn make(directory: &Utf8Path, layers: u64) -> Result<Self> {
        let cache = directory.join("cache");
        fs::create_dir_all(cache.join("blobs/sha256"))?;
        let config = put(&cache, br#"{"os":"linux","architecture":"amd64"}"#)?;
        let layers: Vec<Blob> = (0..layers)
            .map(|number| put_layer(&cache, number))
            .collect::<Result<_>>()?;
        let describe = |kind: &str, blob: &Blob| json!({"mediaType": kind, "digest": blob.digest, "size": blob.size});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": describe(CONFIG_TYPE, &config),
            "layers": layers.iter().map(|layer| describe(LAYER_TYPE, layer)).collect::<Vec<_>>(),
        });
        let manifest = put(&cache, manifest.to_string().as_bytes())?;
        let definition = "schema = 1\n[bundle]\nname = \"large\"\nversion = \"1\"\n\
            platforms = [\"linux/amd64\"]\n[[images]]\nname = \"bench.example/large\"\ntag = \"1\"\n";
        let blobs = std::iter::once((CONFIG_TYPE, &config))
            .chain(layers.iter().map(|layer| (LAYER_TYPE, layer)))
            .map(|(kind, blob)| {
                let Blob { digest, size } = blob;
                format!("  {{ digest = \"{digest}\", size = {size}, media_type = \"{kind}\" }},\n")
            });
        let blobs: String = blobs.collect();
        let lock = format!(
            "schema = 1\n[definition]\nname = \"large\"\nversion = \"1\"\n\
             platforms = [\"linux/amd64\"]\ndigest = \"{}\"\n[[images]]\n\
             reference = \"bench.example/large:1\"\ndigest = \"{}\"\nsize = {}\n\
             media_type = \"{MANIFEST_TYPE}\"\n[[images.platforms]]\nplatform = \"linux/amd64\"\n\
             digest = \"{}\"\nsize = {}\nmedia_type = \"{MANIFEST_TYPE}\"\nblobs = [\n{blobs}]\n",
            digest_of(definition.as_bytes()),
            manifest.digest,
            manifest.size,
            manifest.digest,
            manifest.size,
        );
        let large = Self {
            definition: directory.join("large.toml"),
            lock: directory.join("large.lock"),
            cache,
        };
        fs::write(&large.definition, definition)?;
        fs::write(&large.lock, lock)?;
        Ok(large)
    }
}

/// A layer that ends at once, for who reads it as a tar, and goes on with zeros.
fn put_layer(cache: &Utf8Path, number: u64) -> Result<Blob> {
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("layer-{number}"))?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(GIBIBYTE - 3 * 512);
    header.set_cksum();
    let mut file = tempfile::tempfile_in(cache.join("blobs"))?;
    file.write_all(header.as_bytes())?;
    file.set_len(GIBIBYTE)?;
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let digest = hex(&hasher.finalize());
    let mut named = fs::File::create(cache.join("blobs/sha256").join(&digest))?;
    named.write_all(header.as_bytes())?;
    named.set_len(GIBIBYTE)?;
    Ok(Blob {
        digest: format!("sha256:{digest}"),
        size: GIBIBYTE,
    })
}

fn put(cache: &Utf8Path, content: &[u8]) -> Result<Blob> {
    let digest = digest_of(content);
    let name = digest.trim_start_matches("sha256:");
    fs::write(cache.join("blobs/sha256").join(name), content)?;
    Ok(Blob {
        size: content.len() as u64,
        digest,
    })
}

fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
