//! Images as one OCI archive, which `ctr images import` and others read.

use super::components::{self, Platform};
use super::image::{self, Binaries, INDEX};
use super::tarball::{Content, Entry, write_tar};
use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use std::collections::BTreeMap;

/// Finds a binary by its name.
type Find<'a> = dyn Fn(&str) -> Result<Utf8PathBuf> + 'a;
/// More files for an image: path inside, and path on this machine.
type More<'a> = dyn Fn(&str) -> Vec<(String, Utf8PathBuf)> + 'a;

struct Found<'a> {
    find: &'a Find<'a>,
    more: BTreeMap<String, Utf8PathBuf>,
}

impl Binaries for Found<'_> {
    fn find(&self, _platform: &Platform, name: &str) -> Result<Utf8PathBuf> {
        match self.more.get(name) {
            Some(path) => Ok(path.clone()),
            None => (self.find)(name),
        }
    }
}

/// Makes the images of a list in the form of `components.toml`, for this
/// machine's platform, and writes them all to one file.
///
/// # Errors
/// If a binary or a file is not there.
pub fn write(path: &Utf8Path, list: &str, find: &Find<'_>, more: &More<'_>) -> Result<()> {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut named = Vec::new();
    for mut image in components::parse_images(list)? {
        let more: BTreeMap<String, Utf8PathBuf> = more(&image.reference).into_iter().collect();
        let files = more.keys().map(|inside| (inside.clone(), inside.clone()));
        image.files.extend(files);
        let built = image::build(&image, &Found { find, more })?;
        named.push(json!({
            "mediaType": INDEX,
            "digest": image::digest(&built.index),
            "size": built.index.len(),
            "annotations": { "io.containerd.image.name": image.reference },
        }));
        for blob in built
            .blobs
            .into_iter()
            .chain(built.manifests)
            .chain([built.index])
        {
            blobs.insert(image::digest(&blob), blob);
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": named });
    let mut entries = vec![
        Entry::text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::text("index.json", &index.to_string()),
    ];
    entries.extend(blobs.into_iter().map(|(digest, bytes)| Entry {
        name: format!("blobs/{}", digest.replace(':', "/")),
        mode: 0o644,
        content: Content::Bytes(bytes),
    }));
    write_tar(fs_err::File::create(path)?, &entries)
}
