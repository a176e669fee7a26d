//! What the registry's store holds, read off its directories: the shape is
//! that of the distribution server's file-system driver, version 2.

use super::store::{Named, right_ones};
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::RegistryFacts;
use crate::layout;
use camino::{Utf8Path, Utf8PathBuf};

/// Repositories deeper than this are none of ours: `<upstream-host>/<path>`.
const DEPTH_LIMIT: usize = 12;

const DRIVER_ROOT: &str = "docker/registry/v2";
const BLOBS: &str = "blobs/sha256";
const DATA: &str = "data";

/// Where the bytes of a blob or manifest are.
pub(crate) fn blob_place(root: &Root, digest: &Digest) -> Utf8PathBuf {
    let hex = digest.hex();
    root.path(layout::REGISTRY)
        .join(DRIVER_ROOT)
        .join(BLOBS)
        .join(&hex[..2])
        .join(hex)
        .join(DATA)
}

pub(super) fn observe(root: &Root) -> Option<RegistryFacts> {
    let top = root.path(layout::REGISTRY);
    if !top.is_dir() {
        return None;
    }
    let store = top.join(DRIVER_ROOT);
    let blobs = entries(&store.join(BLOBS))
        .into_iter()
        .flat_map(|prefix| entries(&prefix))
        .filter_map(|blob| {
            let place = blob.join(DATA);
            Some(Named {
                digest: named_digest(&blob)?,
                size: fs_err::metadata(&place).ok()?.len(),
                place,
            })
        });
    let mut facts = RegistryFacts {
        blobs: right_ones(blobs.collect()),
        ..RegistryFacts::default()
    };
    walk(&store.join("repositories"), "", 0, &mut facts);
    Some(facts)
}

fn walk(directory: &Utf8Path, repository: &str, depth: usize, facts: &mut RegistryFacts) {
    if depth > DEPTH_LIMIT {
        return;
    }
    for entry in entries(directory) {
        match entry.file_name() {
            Some("_layers") => add_links(&entry.join("sha256"), repository, facts),
            Some("_manifests") => {
                add_links(&entry.join("revisions/sha256"), repository, facts);
                add_tags(&entry.join("tags"), repository, facts);
            }
            Some(name) if !name.starts_with('_') && entry.is_dir() => {
                let deeper = match repository {
                    "" => name.to_owned(),
                    parent => format!("{parent}/{name}"),
                };
                walk(&entry, &deeper, depth + 1, facts);
            }
            _ => {}
        }
    }
}

fn add_links(directory: &Utf8Path, repository: &str, facts: &mut RegistryFacts) {
    for entry in entries(directory) {
        let named = named_digest(&entry);
        // A link that a power cut left empty leads nowhere.
        if named.is_some()
            && read_link(&entry.join("link")) == named
            && let Some(digest) = named
        {
            facts.links.insert(format!("{repository}@{digest}"));
        }
    }
}

fn add_tags(directory: &Utf8Path, repository: &str, facts: &mut RegistryFacts) {
    for entry in entries(directory) {
        if let Some(tag) = entry.file_name()
            && let Some(digest) = read_link(&entry.join("current/link"))
        {
            facts.tags.insert(format!("{repository}:{tag}"), digest);
        }
    }
}

fn read_link(path: &Utf8Path) -> Option<Digest> {
    fs_err::read_to_string(path).ok()?.trim().parse().ok()
}

fn named_digest(path: &Utf8Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?).ok()
}

fn entries(directory: &Utf8Path) -> Vec<Utf8PathBuf> {
    directory
        .read_dir_utf8()
        .map(|entries| entries.flatten().map(|entry| entry.into_path()).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_blobs_links_and_tags() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        assert_eq!(observe(&root), None);
        let store = root.path(layout::REGISTRY).join("docker/registry/v2");
        let write = |path: String, text: &str| {
            let place = store.join(path);
            fs_err::create_dir_all(place.parent().unwrap()).unwrap();
            fs_err::write(place, text).unwrap();
        };
        let (layer, manifest) = (Digest::of("layer"), Digest::of("manifest"));
        let (torn, damaged) = (Digest::of("torn"), Digest::of("damaged"));
        for (digest, text) in [
            (layer, "layer"),
            (manifest, "manifest"),
            // Right in size, which proves nothing.
            (damaged, "dAmaged"),
        ] {
            let place = blob_place(&root, &digest);
            fs_err::create_dir_all(place.parent().unwrap()).unwrap();
            fs_err::write(place, text).unwrap();
        }
        let repository = "repositories/registry.k8s.io/coredns/coredns";
        let link = |digest: Digest| digest.to_string();
        write(
            format!("{repository}/_layers/sha256/{}/link", layer.hex()),
            &link(layer),
        );
        write(
            format!("{repository}/_layers/sha256/{}/link", torn.hex()),
            "",
        );
        write(
            format!(
                "{repository}/_manifests/revisions/sha256/{}/link",
                manifest.hex()
            ),
            &link(manifest),
        );
        write(
            format!("{repository}/_manifests/tags/v1.14.7/current/link"),
            &link(manifest),
        );
        write(format!("{repository}/_uploads/0/data"), "half");
        let facts = observe(&root).unwrap();
        assert_eq!(facts.blobs, [(layer, 5), (manifest, 8)].into());
        let name = "registry.k8s.io/coredns/coredns";
        let links = [format!("{name}@{layer}"), format!("{name}@{manifest}")];
        assert_eq!(facts.links, links.into());
        assert_eq!(facts.tags, [(format!("{name}:v1.14.7"), manifest)].into());
    }
}
