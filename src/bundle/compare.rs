//! What differs between two bundles, or two locks, for who reviews one.

use super::inspect::{human_bytes, row, table};
use super::lock::Lock;
use super::oci::Descriptor;
use super::reader::Contents;
use super::sbom::{PartChange, render_changes};
use crate::digest::Digest;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that a bundle holds, for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    pub kind: Kind,
    /// A file's or manifest's name, an image's repository.
    pub name: String,
    /// None for what is the same on all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// A file's version, an image's tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of a file or manifest, or of an image's manifest for the platform.
    pub digest: Digest,
    /// Of what the version leads to: an image's index, which may change though
    /// nothing of the platform does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// Size in bytes: of a file unpacked, of an image's blobs.
    pub size: u64,
    /// Where a lock has a file or manifest from, with the digest of what is
    /// downloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// SPDX expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    File,
    Image,
    Manifest,
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Sorted by kind, name and platform, as all of them.
    pub changed: Vec<Change>,
    pub added: Vec<Item>,
    pub removed: Vec<Item>,
    /// Bytes of all blobs of the second bundle that the first has not; none where
    /// locks are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    /// Modules and packages in files and images, where both bundles have an SBOM.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartChange>,
}

/// An item of which there are two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub from: Item,
    pub to: Item,
}

/// Compares two bundles.
pub fn bundles(old: &Contents, new: &Contents) -> Comparison {
    let known: BTreeSet<Digest> = blobs(old).map(|blob| blob.digest).collect();
    let new_blobs: BTreeMap<Digest, u64> = blobs(new)
        .filter(|blob| !known.contains(&blob.digest))
        .map(|blob| (blob.digest, blob.size))
        .collect();
    Comparison {
        new_bytes: Some(new_blobs.values().sum()),
        ..compare(items_of_bundle(old), items_of_bundle(new))
    }
}

/// Compares a lock with the one before it.
pub fn locks(old: &Lock, new: &Lock) -> Comparison {
    compare(items_of_lock(old), items_of_lock(new))
}

/// Compares lists. An image of which there is one tag in each list is one that
/// changed; of several, each tag is by itself.
fn compare(old: Vec<Item>, new: Vec<Item>) -> Comparison {
    let mut comparison = Comparison::default();
    let mut groups: BTreeMap<(Kind, String, Option<String>), [Vec<Item>; 2]> = BTreeMap::new();
    for (side, items) in [old, new].into_iter().enumerate() {
        for item in items {
            let key = (item.kind, item.name.clone(), item.platform.clone());
            groups.entry(key).or_default()[side].push(item);
        }
    }
    for [mut old, mut new] in groups.into_values() {
        // What is in both is no difference, whatever else there is of its name.
        let both: Vec<Item> = old
            .iter()
            .filter(|item| new.contains(item))
            .cloned()
            .collect();
        old.retain(|item| !both.contains(item));
        new.retain(|item| !both.contains(item));
        for item in std::mem::take(&mut old) {
            let same = new.iter().position(|other| other.version == item.version);
            match same {
                Some(place) => comparison.changed.push(Change {
                    from: item,
                    to: new.remove(place),
                }),
                None => old.push(item),
            }
        }
        match (&old[..], &new[..]) {
            ([from], [to]) => comparison.changed.push(Change {
                from: from.clone(),
                to: to.clone(),
            }),
            _ => {
                comparison.removed.extend(old);
                comparison.added.extend(new);
            }
        }
    }
    comparison
}

fn blobs(contents: &Contents) -> impl Iterator<Item = Descriptor> {
    let files = contents.files.iter().flat_map(|file| file.content());
    let images = contents.images.iter().flat_map(|image| {
        let halves = image.platforms.values().flat_map(|half| {
            std::iter::once(half.manifest.clone()).chain(half.blobs.iter().cloned())
        });
        std::iter::once(image.root.clone()).chain(halves)
    });
    let manifests = contents.manifests.values();
    let manifests = manifests.flat_map(|one| [one.manifest.clone(), one.blob.clone()]);
    files
        .chain(images)
        .chain(manifests)
        .chain(contents.lock.clone())
        .chain(contents.sbom.clone())
}

fn items_of_bundle(contents: &Contents) -> Vec<Item> {
    let files = contents.files.iter().map(|file| Item {
        kind: Kind::File,
        name: file.name.clone(),
        platform: Some(file.platform.to_string()),
        version: Some(file.version.clone()),
        digest: file.digest,
        index: None,
        size: file.size,
        origin: None,
        licence: file.licence.clone(),
    });
    let images = contents.images.iter().flat_map(|image| {
        image.platforms.iter().map(|(platform, half)| Item {
            kind: Kind::Image,
            name: image.repository.clone(),
            platform: Some(platform.to_string()),
            version: Some(image.tag.clone()),
            digest: half.manifest.digest,
            index: Some(image.root.digest),
            size: half.blobs.iter().map(|blob| blob.size).sum(),
            origin: None,
            licence: None,
        })
    });
    let manifests = contents.manifests.values().map(|manifest| Item {
        kind: Kind::Manifest,
        name: manifest.name.clone(),
        platform: None,
        version: None,
        digest: Digest::of(&manifest.text),
        index: None,
        size: manifest.text.len() as u64,
        origin: None,
        licence: None,
    });
    files.chain(images).chain(manifests).collect()
}

fn items_of_lock(lock: &Lock) -> Vec<Item> {
    let files = lock.files.iter().map(|file| Item {
        kind: Kind::File,
        name: file.name.clone(),
        platform: Some(file.platform.to_string()),
        version: Some(file.version.clone()),
        digest: file.digest,
        index: None,
        size: file.size,
        origin: Some(match &file.member {
            Some(member) => format!("{} ({member}) {}", file.url, file.download.short()),
            None => format!("{} {}", file.url, file.download.short()),
        }),
        licence: file.licence.clone(),
    });
    let images = lock.images.iter().flat_map(|image| {
        let (name, tag) = match image.reference.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag.to_owned())),
            None => (image.reference.as_str(), None),
        };
        image.platforms.iter().map(move |half| Item {
            kind: Kind::Image,
            name: name.to_owned(),
            platform: Some(half.platform.to_string()),
            version: tag.clone(),
            digest: half.digest,
            index: Some(image.digest),
            size: half.blobs.iter().map(|blob| blob.size).sum(),
            origin: None,
            licence: image.licence.clone(),
        })
    });
    let manifests = lock.manifests.iter().map(|manifest| Item {
        kind: Kind::Manifest,
        name: manifest.name.clone(),
        platform: None,
        version: None,
        digest: manifest.digest,
        index: None,
        size: manifest.size,
        origin: Some(manifest.path.to_string()),
        licence: None,
    });
    files.chain(images).chain(manifests).collect()
}

impl Comparison {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }

    /// An aligned table for people; nothing without a difference.
    pub fn render(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut rows = vec![row(["", "WHAT", "NAME", "PLATFORM", "FROM", "TO", "SIZE"])];
        let changed = self.changed.iter();
        rows.extend(changed.map(|change| line("~", Some(&change.from), Some(&change.to))));
        rows.extend(self.added.iter().map(|item| line("+", None, Some(item))));
        rows.extend(self.removed.iter().map(|item| line("-", Some(item), None)));
        let moved = self.changed.iter().flat_map(Change::what_moved);
        let mut text = table(&rows) + &moved.collect::<String>();
        if !self.parts.is_empty() {
            text.push('\n');
            text.push_str(&render_changes(&self.parts));
        }
        text
    }
}

impl Change {
    /// What a table has no room for, in lines: another licence, and another origin of
    /// the same version.
    fn what_moved(&self) -> Vec<String> {
        let Self { from, to } = self;
        let is_same = from.version == to.version;
        let pairs = [
            ("from", &from.origin, &to.origin, is_same),
            ("licence", &from.licence, &to.licence, true),
        ];
        let told = pairs
            .into_iter()
            .filter(|(_, from, to, is_told)| *is_told && from != to);
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        told.map(|(what, from, to, _)| {
            format!(
                "{} {}: {what} {}, was {}\n",
                self.to.kind,
                self.to.name,
                text(to),
                text(from)
            )
        })
        .collect()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::File => "file",
            Self::Image => "image",
            Self::Manifest => "manifest",
        })
    }
}

fn line(sign: &str, from: Option<&Item>, to: Option<&Item>) -> Vec<String> {
    let Some(item) = to.or(from) else {
        return Vec::new();
    };
    // Where the version tells nothing, the digest does.
    let is_moved = from
        .zip(to)
        .is_some_and(|(from, to)| from.version == to.version);
    let version = |item: Option<&Item>| match item {
        None => String::new(),
        Some(item) => match (&item.version, is_moved) {
            (Some(version), false) => version.clone(),
            (Some(version), true) => format!("{version} {}", item.told_digest().short()),
            (None, _) => item.digest.short(),
        },
    };
    row([
        sign,
        &item.kind.to_string(),
        &item.name,
        item.platform.as_deref().unwrap_or_default(),
        &version(from),
        &version(to),
        &size(from, to),
    ])
}

impl Item {
    /// The digest that people know it by.
    fn told_digest(&self) -> Digest {
        self.index.unwrap_or(self.digest)
    }
}

/// `+1.2 MB` for what grew, the size of what is new or gone.
fn size(from: Option<&Item>, to: Option<&Item>) -> String {
    let signed = |sign: &str, bytes: u64| format!("{sign}{}", human_bytes(bytes));
    match (from, to) {
        (Some(from), Some(to)) if to.size >= from.size => signed("+", to.size - from.size),
        (Some(from), Some(to)) => signed("-", from.size - to.size),
        (None, Some(item)) => signed("+", item.size),
        (Some(item), None) => signed("-", item.size),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `file kubelet 1.36.0 100`, for amd64; the digest is that of the words.
    fn items(lines: &[&str]) -> Vec<Item> {
        let item = |line: &&str| {
            let [kind, name, version, size] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let kind = match kind {
                "file" => Kind::File,
                "image" => Kind::Image,
                _ => Kind::Manifest,
            };
            let is_manifest = kind == Kind::Manifest;
            Item {
                kind,
                name: name.to_owned(),
                platform: (!is_manifest).then(|| "linux/amd64".to_owned()),
                version: (!is_manifest).then(|| version.to_owned()),
                digest: Digest::of(line),
                index: (kind == Kind::Image).then(|| Digest::of(format!("{line} index"))),
                size: size.parse().unwrap(),
                origin: None,
                licence: None,
            }
        };
        lines.iter().map(item).collect()
    }

    fn told(old: &[&str], new: &[&str]) -> String {
        compare(items(old), items(new)).render()
    }

    #[test]
    fn what_changed_came_and_went_is_told_in_lines() {
        let old = [
            "file etcd 3.6.16 2000",
            "file kubelet 1.36.0 5000",
            "file runc 1.4.3 10",
            "image r.io/dns v1 700",
            "image r.io/pause 3.10 7",
            "manifest dns - 20",
        ];
        let new = [
            "file etcd 3.7.3 3000",
            "file flanneld 0.28.4 40",
            "file kubelet 1.36.0 5000",
            "image r.io/dns v2 600",
            // The tag leads elsewhere.
            "image r.io/pause 3.10 8",
            "manifest dns - 21",
        ];
        let text = told(&old, &new);
        let short = |text: &str| Digest::of(text).short();
        let expected = format!(
            "\
   WHAT      NAME        PLATFORM     FROM                     TO                       SIZE
~  file      etcd        linux/amd64  3.6.16                   3.7.3                    +1.0 kB
~  image     r.io/dns    linux/amd64  v1                       v2                       -100 B
~  image     r.io/pause  linux/amd64  3.10 {}  3.10 {}  +1 B
~  manifest  dns                      {}             {}             +1 B
+  file      flanneld    linux/amd64                           0.28.4                   +40 B
-  file      runc        linux/amd64  1.4.3                                             -10 B
",
            short("image r.io/pause 3.10 7 index"),
            short("image r.io/pause 3.10 8 index"),
            short("manifest dns - 20"),
            short("manifest dns - 21"),
        );
        let squeezed = |text: &str| {
            let lines = text.lines();
            let lines = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&text), squeezed(&expected), "{text}");
    }

    #[test]
    fn nothing_is_told_where_nothing_differs() {
        let same = ["file etcd 3.6.16 2000", "image r.io/dns v1 700"];
        assert_eq!(told(&same, &same), "");
    }

    #[test]
    fn another_origin_of_the_same_version_is_told() {
        let mut old = items(&["file etcd 3.6.16 2000"]);
        old[0].origin = Some("https://a.io/etcd 1".to_owned());
        let mut new = old.clone();
        new[0].origin = Some("https://b.io/etcd 1".to_owned());
        new[0].licence = Some("MIT".to_owned());
        let text = compare(old, new).render();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "file etcd: from https://b.io/etcd 1, was https://a.io/etcd 1",
                "file etcd: licence MIT, was none",
            ]
        );
    }

    /// Two tags of one image are two images, unless one of each is left.
    #[test]
    fn tags_of_one_image_are_told_apart() {
        let comparison = compare(
            items(&["image r.io/a v1 1", "image r.io/a v2 1"]),
            items(&["image r.io/a v2 1", "image r.io/a v3 1"]),
        );
        assert_eq!(comparison.changed.len(), 1);
        assert_eq!(comparison.changed[0].from.version.as_deref(), Some("v1"));
        assert_eq!(comparison.changed[0].to.version.as_deref(), Some("v3"));
        let comparison = compare(
            items(&["image r.io/a v1 1"]),
            items(&["image r.io/a v2 1", "image r.io/a v3 1"]),
        );
        assert_eq!((comparison.added.len(), comparison.removed.len()), (2, 1));
    }
}
