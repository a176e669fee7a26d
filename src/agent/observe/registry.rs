//! What the registry's store holds, read off its directories: the shape is
//! that of the distribution server's file-system driver, version 2. They are
//! the registry's own, so that nothing in them is trusted.

use super::store::{Named, Told, has_content, right_ones};
use crate::agent::inside::Inside;
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::RegistryFacts;
use crate::layout;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::io;

/// Repositories deeper than this are none of ours: `<upstream-host>/<path>`.
const DEPTH_LIMIT: usize = 12;

/// Below the store; repositories are by their names in a directory of it.
pub(crate) const REPOSITORIES: &str = "docker/registry/v2/repositories";
/// Below the store, by the first two digits and all of them.
pub(crate) const BLOBS: &str = "docker/registry/v2/blobs/sha256";
const DATA: &str = "data";
/// A link is a file with a digest.
const LINK_LIMIT: u64 = 256;

/// Where in the store the bytes of a blob or manifest are.
pub(crate) fn blob_place(digest: &Digest) -> Utf8PathBuf {
    let hex = digest.hex();
    [BLOBS, &hex[..2], &hex, DATA].iter().collect()
}

/// Looks at the blobs of `wanted` (with their sizes in bytes), and at all
/// links and tags. None if there is no store.
pub(super) fn observe(
    root: &Root,
    wanted: &BTreeMap<Digest, u64>,
    told: &Told,
) -> Option<RegistryFacts> {
    let store = Inside::open(&root.path(layout::REGISTRY)).ok()?;
    let blobs = wanted.iter().map(|(digest, size)| Named {
        place: blob_place(digest),
        digest: *digest,
        size: *size,
    });
    let mut facts = RegistryFacts {
        blobs: right_ones(blobs.collect(), |place| store.file(place), told),
        ..RegistryFacts::default()
    };
    add_names(&store, &mut facts);
    Some(facts)
}

/// All links and tags of a store.
pub(crate) fn add_names(store: &Inside, facts: &mut RegistryFacts) {
    walk(store, REPOSITORIES.into(), "", 0, facts);
}

/// Opens a blob of the store; none if it is not there, or of another size.
pub(crate) fn open_blob(root: &Root, digest: &Digest, size: u64) -> Option<std::fs::File> {
    let store = Inside::open(&root.path(layout::REGISTRY)).ok()?;
    let file = store.file(&blob_place(digest)).ok()?;
    (file.metadata().ok()?.len() == size).then_some(file)
}

/// Removes a blob or manifest if it is there and damaged.
///
/// # Errors
/// If the store can't be read or changed.
pub(crate) fn remove_blob_if_damaged(root: &Root, digest: &Digest) -> io::Result<()> {
    let store = match Inside::open(&root.path(layout::REGISTRY)) {
        Ok(store) => store,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let place = blob_place(digest);
    let is_right = match store.file(&place) {
        Ok(file) => {
            let named = Named {
                size: file.metadata()?.len(),
                digest: *digest,
                place: place.clone(),
            };
            has_content(file, &named, |_| ())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A link, a pipe, a disk that can't read it.
        Err(_) => false,
    };
    match is_right {
        true => Ok(()),
        false => store.remove(&place),
    }
}

fn walk(
    store: &Inside,
    directory: &Utf8Path,
    repository: &str,
    depth: usize,
    facts: &mut RegistryFacts,
) {
    if depth > DEPTH_LIMIT {
        return;
    }
    for name in store.names(directory) {
        let place = directory.join(&name);
        match name.as_str() {
            "_layers" => add_links(store, &place.join("sha256"), repository, facts),
            "_manifests" => {
                let revisions = place.join("revisions/sha256");
                add_links(store, &revisions, repository, facts);
                add_tags(store, &place.join("tags"), repository, facts);
            }
            name if !name.starts_with('_') => {
                let deeper = match repository {
                    "" => name.to_owned(),
                    parent => format!("{parent}/{name}"),
                };
                walk(store, &place, &deeper, depth + 1, facts);
            }
            _ => {}
        }
    }
}

fn add_links(store: &Inside, directory: &Utf8Path, repository: &str, facts: &mut RegistryFacts) {
    for name in store.names(directory) {
        // A link that a power cut left empty leads nowhere.
        if let Ok(digest) = Digest::from_hex(&name)
            && read_link(store, &directory.join(name).join("link")) == Some(digest)
        {
            facts.links.insert(format!("{repository}@{digest}"));
        }
    }
}

fn add_tags(store: &Inside, directory: &Utf8Path, repository: &str, facts: &mut RegistryFacts) {
    for tag in store.names(directory) {
        let place = directory.join(&tag).join("current/link");
        if let Some(digest) = read_link(store, &place) {
            facts.tags.insert(format!("{repository}:{tag}"), digest);
        }
    }
}

fn read_link(store: &Inside, path: &Utf8Path) -> Option<Digest> {
    let text = store.short_text(path, LINK_LIMIT).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;

    #[test]
    fn reads_blobs_links_and_tags() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        let told = Told::new(notice_channel().0);
        assert_eq!(observe(&root, &BTreeMap::new(), &told), None);
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
            let place = root.path(layout::REGISTRY).join(blob_place(&digest));
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
        let wanted = [(layer, 5), (manifest, 8), (damaged, 7), (torn, 4)];
        let facts = observe(&root, &wanted.into(), &told).unwrap();
        assert_eq!(facts.blobs, [(layer, 5), (manifest, 8)].into());
        // Nobody asks for others, however many there are, and none of another
        // size is right.
        let facts = observe(&root, &[(layer, 6), (manifest, 8)].into(), &told).unwrap();
        assert_eq!(facts.blobs, [(manifest, 8)].into());
        let name = "registry.k8s.io/coredns/coredns";
        let links = [format!("{name}@{layer}"), format!("{name}@{manifest}")];
        assert_eq!(facts.links, links.into());
        assert_eq!(facts.tags, [(format!("{name}:v1.14.7"), manifest)].into());
    }
}
