//! What the registry's store holds of bundles that nobody goes back to.

use crate::agent::inside::Inside;
use crate::agent::observe::{BLOBS, REPOSITORIES, add_names, blob_place};
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::RegistryFacts;
use crate::layout;
use anyhow::{Context, Error, Result};
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

/// What went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub blobs: usize,
    /// Of these blobs.
    pub bytes: u64,
}

/// Removes all that is not below one of `needed`, `repository:tag@digest` of manifests.
/// Manifests' names go first, then those of layers, then content. Nothing else may write
/// to the store meanwhile.
///
/// # Errors
/// If something can't be told from what is needed, and nothing was removed; or with the
/// first path that can't be removed, and everything else was.
pub fn remove_surplus(root: &Root, needed: &BTreeSet<String>) -> Result<Removed> {
    let store = match Inside::open(&root.path(layout::REGISTRY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::default()),
        store => store.context("opening the registry's store")?,
    };
    let links = links_below(&store, needed)?;
    let sweep = Sweep {
        store: &store,
        changed: BTreeSet::new(),
        failure: None,
    };
    sweep.all(needed, &links)
}

/// `repository@digest` of all that manifests name. What the bundle leaves out of an index
/// is not there.
fn links_below(store: &Inside, needed: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut links = BTreeSet::new();
    for artifact in needed {
        let (name, root) = parts(artifact).with_context(|| format!("{artifact} is no name"))?;
        let (repository, _) = name.rsplit_once(':').unwrap_or((name, ""));
        let mut manifests = vec![root];
        while let Some(digest) = manifests.pop() {
            if !links.insert(format!("{repository}@{digest}")) {
                continue;
            }
            let manifest = match read(store, &digest) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && digest != root => continue,
                manifest => manifest.with_context(|| format!("{artifact}, manifest {digest}"))?,
            };
            manifests.extend(manifest.manifests.iter().map(|below| below.digest));
            let blobs = manifest.layers.iter().chain(&manifest.config);
            links.extend(blobs.map(|blob| format!("{repository}@{}", blob.digest)));
        }
    }
    Ok(links)
}

fn read(store: &Inside, digest: &Digest) -> io::Result<Manifest> {
    let mut bytes = Vec::new();
    let file = store.file(&blob_place(digest))?;
    file.take(MANIFEST_LIMIT).read_to_end(&mut bytes)?;
    if Digest::of(&bytes) != *digest {
        return Err(io::Error::other("it is damaged"));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// The removal, which goes on past what can't be removed.
struct Sweep<'a> {
    store: &'a Inside,
    /// Directories that something was removed from.
    changed: BTreeSet<Utf8PathBuf>,
    failure: Option<Error>,
}

impl Sweep<'_> {
    fn all(mut self, needed: &BTreeSet<String>, links: &BTreeSet<String>) -> Result<Removed> {
        let mut found = RegistryFacts::default();
        add_names(self.store, &mut found);
        let tags: BTreeSet<&str> = needed
            .iter()
            .filter_map(|name| Some(parts(name)?.0))
            .collect();
        let surplus = found
            .tags
            .keys()
            .filter(|name| !tags.contains(name.as_str()));
        for (repository, tag) in surplus.filter_map(|name| name.rsplit_once(':')) {
            self.remove(
                repository_place(repository)
                    .join("_manifests/tags")
                    .join(tag),
            );
        }
        let surplus: Vec<_> = found
            .links
            .difference(links)
            .filter_map(|link| parts(link))
            .collect();
        for kind in ["_manifests/revisions/sha256", "_layers/sha256"] {
            for (repository, digest) in &surplus {
                let place = repository_place(repository).join(kind).join(digest.hex());
                self.remove(place);
            }
        }
        self.remove_empty_repositories(&found.links, links);
        let removed = self.remove_blobs(links);
        for directory in &self.changed {
            let synced = self.store.sync(directory);
            let synced =
                synced.with_context(|| format!("syncing {directory} of the registry's store"));
            if let Err(error) = synced {
                self.failure.get_or_insert(error);
            }
        }
        match self.failure {
            Some(error) => Err(error),
            None => Ok(removed),
        }
    }

    /// Whether it is gone.
    fn remove(&mut self, path: Utf8PathBuf) -> bool {
        let removed = self.store.remove_tree(&path);
        let parent = path.parent().map(Utf8Path::to_owned);
        self.changed.extend(parent);
        match removed.with_context(|| format!("removing {path} of the registry's store")) {
            Ok(()) => true,
            Err(error) => {
                self.failure.get_or_insert(error);
                false
            }
        }
    }

    /// Those that lost their last link, with directories above them that hold no other.
    fn remove_empty_repositories(&mut self, found: &BTreeSet<String>, kept: &BTreeSet<String>) {
        let repositories = |links: &BTreeSet<String>| -> BTreeSet<String> {
            let named = links.iter().filter_map(|link| parts(link));
            named.map(|(repository, _)| repository.to_owned()).collect()
        };
        for repository in repositories(found).difference(&repositories(kept)) {
            let place = repository_place(repository);
            for part in ["_layers", "_manifests", "_uploads"] {
                self.remove(place.join(part));
            }
            let mut above = place.ancestors().take_while(|path| *path != REPOSITORIES);
            // It ends at the first that holds another repository.
            while above
                .next()
                .is_some_and(|path| self.store.remove_empty(path).is_ok())
            {}
        }
    }

    fn remove_blobs(&mut self, links: &BTreeSet<String>) -> Removed {
        let kept = links.iter().filter_map(|link| Some(parts(link)?.1));
        let kept: BTreeSet<Digest> = kept.collect();
        let mut removed = Removed::default();
        let blobs = Utf8Path::new(BLOBS);
        for group in self.store.names(blobs) {
            for name in self.store.names(&blobs.join(&group)) {
                let Ok(digest) = Digest::from_hex(&name) else {
                    continue;
                };
                if kept.contains(&digest) {
                    continue;
                }
                let content = self.store.file(&blob_place(&digest));
                let size = content.and_then(|file| Ok(file.metadata()?.len()));
                if self.remove(blobs.join(&group).join(name)) {
                    removed.blobs += 1;
                    removed.bytes += size.unwrap_or_default();
                }
            }
        }
        removed
    }
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
            let index = self.put_image(repository, tag, layers);
            (format!("{repository}:{tag}@{index}"), index)
        }

        fn put_image(&self, repository: &str, tag: &str, layers: [&str; 2]) -> Digest {
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
            index
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
        let removed = remove_surplus(root, &[kept.0, other.0].into()).unwrap();
        // Of each, a manifest, an index and a layer; `config v1` and `base` are others' too.
        assert_eq!(removed.blobs, 6);
        assert!(removed.bytes > 500);
        let tags = ["docker.io/a/deep/other:v1", "docker.io/a/web:v2"].map(str::to_owned);
        assert_eq!(store.holds(), (tags.into(), 10, 9));
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
        let removed = remove_surplus(&store.host.root, &[old.0, new.0].into()).unwrap();
        assert_eq!((store.holds(), removed), (before, Removed::default()));
    }

    #[test]
    fn nothing_goes_while_a_needed_manifest_is_damaged_or_gone() {
        for text in [Some("{}"), None] {
            let store = store();
            store.image("a/web", "v1", ["base", "one"]);
            let (name, index) = store.image("a/web", "v2", ["base", "two"]);
            let place = blob_place(&index);
            match text {
                Some(text) => store.write(place.as_str(), text),
                None => {
                    let place = store.host.root.path(layout::REGISTRY).join(place);
                    fs_err::remove_dir_all(place.parent().unwrap()).unwrap();
                }
            }
            let before = store.holds();
            let error = remove_surplus(&store.host.root, &[name.clone()].into()).unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
            assert_eq!(store.holds(), before);
        }
    }

    #[test]
    fn what_can_not_be_removed_is_named_and_all_else_goes() {
        let store = store();
        let kept = store.image("a/web", "v2", ["base", "two"]);
        store.image("b/gone", "v1", ["base", "gone"]);
        let root = store.host.root.path(layout::REGISTRY);
        // As the registry's user may have made them.
        store.write(&format!("{BLOBS}/00/{}", "00".repeat(32)), "a file");
        let layers = root.join(REPOSITORIES).join("b/gone/_layers");
        let elsewhere = store.host.root.path("/elsewhere");
        fs_err::rename(layers.join("sha256"), &elsewhere).unwrap();
        fs_err::os::unix::fs::symlink(&elsewhere, layers.join("sha256")).unwrap();
        let manifests = root.join(REPOSITORIES).join("b/gone/_manifests/revisions");
        assert!(manifests.exists());
        let error = remove_surplus(&store.host.root, &[kept.0].into()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("b/gone/_layers/sha256/"), "{text}");
        assert!(elsewhere.read_dir_utf8().unwrap().next().is_some());
        assert_eq!(store.holds(), (vec!["a/web:v2".to_owned()], 5, 5));
    }

    #[test]
    fn a_host_without_a_store_has_no_surplus() {
        let removed = remove_surplus(&store().host.root, &BTreeSet::new()).unwrap();
        assert_eq!(removed, Removed::default());
    }
}
