//! What the registry's store holds of bundles that nobody goes back to.

use crate::agent::inside::Inside;
use crate::agent::observe::{BLOBS, REPOSITORIES, add_names, blob_place};
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::RegistryFacts;
use crate::layout;
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{self, Read};

/// As registries have it for manifests.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// An index or an image's manifest, as far as it names others.
#[derive(Default, Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

/// Removes all that is not below one of `needed`, pairs of `repository:tag` and the
/// manifest's digest. Names go before content, so that the serving instance never finds
/// half of an image. Nothing else may write to the store meanwhile.
///
/// # Errors
/// If the store can't be read or changed.
pub fn remove_surplus(root: &Root, needed: &BTreeSet<(String, Digest)>) -> Result<()> {
    let store = match Inside::open(&root.path(layout::REGISTRY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        store => store.context("opening the registry's store")?,
    };
    // What can't be read might have named something that is needed.
    let Some(links) = links_below(&store, needed) else {
        return Ok(());
    };
    sweep(&store, needed, &links).context("removing old content of the registry")
}

/// `repository@digest` of all that manifests name; none if one of them is damaged. What
/// the bundle leaves out of an index is not there.
fn links_below(store: &Inside, needed: &BTreeSet<(String, Digest)>) -> Option<BTreeSet<String>> {
    let mut links = BTreeSet::new();
    for (name, digest) in needed {
        let (repository, _) = name.rsplit_once(':')?;
        let mut manifests = vec![*digest];
        while let Some(digest) = manifests.pop() {
            if !links.insert(format!("{repository}@{digest}")) {
                continue;
            }
            let manifest = match store.file(&blob_place(&digest)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => read(file.ok()?, &digest)?,
            };
            manifests.extend(manifest.manifests.iter().map(|below| below.digest));
            let blobs = manifest.layers.iter().chain(&manifest.config);
            links.extend(blobs.map(|blob| format!("{repository}@{}", blob.digest)));
        }
    }
    Some(links)
}

fn read(file: std::fs::File, digest: &Digest) -> Option<Manifest> {
    let mut bytes = Vec::new();
    file.take(MANIFEST_LIMIT).read_to_end(&mut bytes).ok()?;
    let is_right = Digest::of(&bytes) == *digest;
    is_right.then(|| serde_json::from_slice(&bytes).ok())?
}

fn sweep(
    store: &Inside,
    needed: &BTreeSet<(String, Digest)>,
    links: &BTreeSet<String>,
) -> io::Result<()> {
    let mut found = RegistryFacts::default();
    add_names(store, &mut found);
    let tags: BTreeSet<&str> = needed.iter().map(|(name, _)| name.as_str()).collect();
    for (repository, tag) in found.tags.keys().filter_map(|name| name.rsplit_once(':')) {
        if !tags.contains(format!("{repository}:{tag}").as_str()) {
            let place = repository_place(repository).join("_manifests/tags");
            store.remove_tree(&place.join(tag))?;
        }
    }
    for (repository, digest) in found.links.difference(links).filter_map(|link| parts(link)) {
        for kind in ["_manifests/revisions/sha256", "_layers/sha256"] {
            let place = repository_place(repository).join(kind);
            store.remove_tree(&place.join(digest.hex()))?;
        }
    }
    remove_empty_repositories(store, &found.links, links)?;
    // After a power cut, no name is without its content.
    store.sync()?;
    let kept: BTreeSet<Digest> = links
        .iter()
        .filter_map(|link| Some(parts(link)?.1))
        .collect();
    let blobs = Utf8Path::new(BLOBS);
    for group in store.names(blobs) {
        for name in store.names(&blobs.join(&group)) {
            let digest = Digest::from_hex(&name);
            if digest.is_ok_and(|digest| !kept.contains(&digest)) {
                store.remove_tree(&blobs.join(&group).join(name))?;
            }
        }
    }
    store.sync()
}

/// Those that lost their last link, with directories above them that hold no other.
fn remove_empty_repositories(
    store: &Inside,
    found: &BTreeSet<String>,
    kept: &BTreeSet<String>,
) -> io::Result<()> {
    let repositories = |links: &BTreeSet<String>| -> BTreeSet<String> {
        let named = links.iter().filter_map(|link| parts(link));
        named.map(|(repository, _)| repository.to_owned()).collect()
    };
    for repository in repositories(found).difference(&repositories(kept)) {
        let place = repository_place(repository);
        for part in ["_layers", "_manifests", "_uploads"] {
            store.remove_tree(&place.join(part))?;
        }
        let above = place.ancestors().take_while(|path| *path != REPOSITORIES);
        for directory in above {
            if store.remove_empty(directory).is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn repository_place(repository: &str) -> Utf8PathBuf {
    Utf8Path::new(REPOSITORIES).join(repository)
}

fn parts(link: &str) -> Option<(&str, Digest)> {
    let (repository, digest) = link.split_once('@')?;
    Some((repository, digest.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;
    use serde_json::json;

    struct Store {
        host: TestHost,
    }

    impl Store {
        fn write(&self, path: &str, text: &str) {
            self.host
                .write(&format!("{}/{path}", layout::REGISTRY), text);
        }

        fn blob(&self, repository: &str, kind: &str, text: &str) -> Digest {
            let digest = Digest::of(text);
            self.write(blob_place(&digest).as_str(), text);
            let link = format!(
                "{REPOSITORIES}/{repository}/{kind}/sha256/{}/link",
                digest.hex()
            );
            self.write(&link, &digest.to_string());
            digest
        }

        /// An index with an image of two layers, and an image that was left out.
        fn image(&self, repository: &str, tag: &str, layers: [&str; 2]) -> (String, Digest) {
            let layers = layers.map(|text| self.blob(repository, "_layers", text));
            let config = self.blob(repository, "_layers", &format!("config {tag}"));
            let named = |digest: &Digest| json!({"digest": digest.to_string()});
            let manifest = json!({
                "config": named(&config),
                "layers": layers.iter().map(named).collect::<Vec<_>>(),
            });
            let revisions = "_manifests/revisions";
            let manifest = self.blob(repository, revisions, &manifest.to_string());
            let absent = Digest::of("absent");
            let index = json!({"manifests": [named(&manifest), named(&absent)]});
            let index = self.blob(repository, revisions, &index.to_string());
            let link = format!("{REPOSITORIES}/{repository}/_manifests/tags/{tag}/current/link");
            self.write(&link, &index.to_string());
            (format!("{repository}:{tag}"), index)
        }

        /// Tags, the number of links, and the number of blobs.
        fn holds(&self) -> (Vec<String>, usize, usize) {
            let inside = Inside::open(&self.host.root.path(layout::REGISTRY)).unwrap();
            let mut facts = RegistryFacts::default();
            add_names(&inside, &mut facts);
            let groups = inside.names(BLOBS.into()).into_iter();
            let blobs = groups.map(|group| inside.names(&Utf8Path::new(BLOBS).join(group)).len());
            let tags = facts.tags.into_keys().collect();
            (tags, facts.links.len(), blobs.sum())
        }
    }

    fn store() -> Store {
        Store {
            host: TestHost::new(),
        }
    }

    #[test]
    fn what_neither_generation_needs_goes_and_shared_layers_stay() {
        let store = store();
        let old = store.image("docker.io/a/web", "v1", ["base", "one"]);
        let kept = store.image("docker.io/a/web", "v2", ["base", "two"]);
        let other = store.image("docker.io/a/deep/other", "v1", ["base", "other"]);
        let gone = store.image("docker.io/b/gone", "v1", ["base", "gone"]);
        assert_eq!(store.holds().1, 19);
        let root = &store.host.root;
        remove_surplus(root, &[kept.clone(), other.clone()].into()).unwrap();
        let tags = vec![other.0.clone(), kept.0.clone()];
        // `base` is one blob, linked into both.
        assert_eq!(store.holds(), (tags, 10, 9));
        let place = |repository: &str| {
            let store = root.path(layout::REGISTRY);
            store.join(REPOSITORIES).join(repository)
        };
        assert!(!place("docker.io/b").exists() && place("docker.io/a/web").exists());
        assert!(
            ![old, gone]
                .iter()
                .any(|(_, index)| { root.path(layout::REGISTRY).join(blob_place(index)).exists() })
        );
        // A host that is no registry any more needs nothing of it.
        remove_surplus(root, &BTreeSet::new()).unwrap();
        assert_eq!(store.holds(), (Vec::new(), 0, 0));
    }

    #[test]
    fn one_tag_may_be_needed_with_two_contents() {
        let store = store();
        let old = store.image("a/web", "v1", ["base", "one"]);
        let new = store.image("a/web", "v1", ["base", "two"]);
        assert_ne!(old, new);
        let before = store.holds();
        remove_surplus(&store.host.root, &[old, new].into()).unwrap();
        assert_eq!(store.holds(), before);
    }

    #[test]
    fn nothing_goes_while_a_needed_manifest_is_damaged() {
        let store = store();
        store.image("a/web", "v1", ["base", "one"]);
        let kept = store.image("a/web", "v2", ["base", "two"]);
        let before = store.holds();
        store.write(blob_place(&kept.1).as_str(), "{}");
        remove_surplus(&store.host.root, &[kept].into()).unwrap();
        assert_eq!(store.holds(), before);
    }

    #[test]
    fn a_host_without_a_store_has_no_surplus() {
        let store = store();
        remove_surplus(&store.host.root, &BTreeSet::new()).unwrap();
    }
}
