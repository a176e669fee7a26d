//! Managed files, and the manifests that name them.

use crate::agent::accounts::Accounts;
use crate::agent::root::Root;
use crate::desired::DigestKey;
use crate::digest::Digest;
use crate::facts::{Entry, FileFacts, Generation, ObserveRequest};
use crate::layout;
use crate::owned::Pending;
use camino::Utf8Path;
use fs_err::os::unix::fs::OpenOptionsExt;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::linux::fs::MetadataExt;

/// Reads are done in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;
/// Keys, certificates and kubeconfigs are far smaller; a larger file is none
/// of ours and gets no digest.
const SECRET_LIMIT: u64 = 16 << 20;

/// How a file's bytes are digested.
enum Digesting<'a> {
    Plain,
    Secret(Option<&'a DigestKey>),
}

/// The host's manifests.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifests {
    pub(super) generation: Option<Generation>,
    pub(super) pending: Pending,
    pub(super) trust: BTreeSet<String>,
}

impl Manifests {
    pub(super) fn read(root: &Root) -> Self {
        Self {
            generation: read_generation(root),
            pending: read_pending(root),
            trust: read_trust(root),
        }
    }
}

pub(super) fn observe(
    root: &Root,
    request: &ObserveRequest,
    manifests: &Manifests,
) -> BTreeMap<String, FileFacts> {
    let Manifests {
        generation,
        pending,
        trust,
    } = manifests;
    let accounts = Accounts::load(root);
    let mut paths: BTreeSet<String> = request.files.clone();
    paths.extend(request.secret_files.iter().cloned());
    paths.extend(trust.iter().cloned());
    paths.extend(
        generation
            .iter()
            .flat_map(|generation| generation.files.keys().cloned()),
    );
    paths.extend(pending.files.iter().cloned());
    paths.extend(links(root));
    let mut facts = BTreeMap::new();
    for path in paths {
        let is_secret = request.secret_files.contains(&path) || trust.contains(&path);
        let digesting = if is_secret {
            Digesting::Secret(request.digest_key.as_ref())
        } else {
            Digesting::Plain
        };
        if let Some(found) = observe_file(&root.path(&path), &accounts, &digesting) {
            facts.insert(path, found);
        }
    }
    facts
}

/// The newest generation whose manifest can be read.
pub(crate) fn read_generation(root: &Root) -> Option<Generation> {
    let mut numbers = generation_numbers(root);
    numbers.sort_unstable();
    numbers
        .into_iter()
        .rev()
        .find_map(|number| read_numbered_generation(root, number))
}

/// A generation's manifest, if it is there and whole.
pub(crate) fn read_numbered_generation(root: &Root, number: u64) -> Option<Generation> {
    let path = root
        .path(layout::GENERATIONS)
        .join(format!("{number}.json"));
    let text = fs_err::read_to_string(path).ok()?;
    serde_json::from_str(&text).ok()
}

/// Numbers of the generations that have a manifest.
pub(crate) fn generation_numbers(root: &Root) -> Vec<u64> {
    let Ok(entries) = fs_err::read_dir(root.path(layout::GENERATIONS)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".json")?.parse().ok()
        })
        .collect()
}

/// Software that no generation names.
pub(crate) fn read_pending(root: &Root) -> Pending {
    fs_err::read_to_string(root.path(layout::PENDING_MANIFEST))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Paths in the trust manifest, a JSON array.
pub(crate) fn read_trust(root: &Root) -> BTreeSet<String> {
    fs_err::read_to_string(root.path(layout::TRUST_MANIFEST))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn links(root: &Root) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(root.path(layout::BIN)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        // What a crash left of a link on its way to its name.
        .filter(|name| !name.starts_with('.'))
        .map(|name| format!("{}/{name}", layout::BIN))
        .collect()
}

fn observe_file(
    place: &Utf8Path,
    accounts: &Accounts,
    digesting: &Digesting<'_>,
) -> Option<FileFacts> {
    let metadata = fs_err::symlink_metadata(place).ok()?;
    let kind = metadata.file_type();
    let entry = if kind.is_dir() {
        Entry::Directory
    } else if kind.is_symlink() {
        Entry::Link {
            target: fs_err::read_link(place)
                .ok()?
                .to_string_lossy()
                .into_owned(),
        }
    } else if kind.is_file() {
        Entry::File {
            size: metadata.len(),
            digest: digest_as(place, digesting).ok().flatten(),
        }
    } else {
        Entry::Other
    };
    Some(FileFacts {
        entry,
        mode: metadata.st_mode() & 0o7777,
        user: accounts.user_name(metadata.st_uid()),
        group: accounts.group_name(metadata.st_gid()),
    })
}

fn digest_as(place: &Utf8Path, digesting: &Digesting<'_>) -> std::io::Result<Option<Digest>> {
    let key = match digesting {
        Digesting::Plain => None,
        Digesting::Secret(None) => return Ok(None),
        Digesting::Secret(Some(key)) => Some(key),
    };
    match key {
        None => digest_of(open(place)?, |_| ()).map(Some),
        Some(key) => {
            let mut bytes = Vec::new();
            open(place)?
                .take(SECRET_LIMIT + 1)
                .read_to_end(&mut bytes)?;
            Ok((bytes.len() as u64 <= SECRET_LIMIT).then(|| key.digest(&bytes)))
        }
    }
}

/// Between a look at a path and this, it may have become a link or a pipe:
/// neither is followed or waited for.
pub(super) fn open(place: &Utf8Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs_err::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(place)?;
    Ok(file.into_file())
}

/// The sha256 of what is read, and after each piece how many bytes it had.
pub(super) fn digest_of(
    mut source: impl Read,
    mut has_read: impl FnMut(u64),
) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = source.read(&mut piece)?;
        if length == 0 {
            return Ok(Digest::from_bytes(hasher.finalize().into()));
        }
        hasher.update(&piece[..length]);
        has_read(length as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn root_in(directory: &tempfile::TempDir) -> Root {
        Root::below(Utf8Path::from_path(directory.path()).unwrap())
    }

    fn write(root: &Root, path: &str, text: &str) {
        let place = root.path(path);
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        fs_err::write(&place, text).unwrap();
    }

    #[test]
    fn reports_what_each_path_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = root_in(&directory);
        write(&root, "/etc/plain", "text");
        write(&root, "/etc/secret", "hidden");
        let mode = std::fs::Permissions::from_mode(0o640);
        fs_err::set_permissions(root.path("/etc/secret"), mode).unwrap();
        fs_err::os::unix::fs::symlink("plain", root.path("/etc/link")).unwrap();
        fs_err::os::unix::fs::symlink("/nowhere", root.path("/etc/dangling")).unwrap();
        let key = DigestKey([7; 32]);
        let request = ObserveRequest {
            files: [
                "/etc",
                "/etc/plain",
                "/etc/link",
                "/etc/dangling",
                "/etc/none",
            ]
            .map(str::to_owned)
            .into(),
            secret_files: ["/etc/secret".to_owned()].into(),
            digest_key: Some(key.clone()),
            ..ObserveRequest::default()
        };
        let facts = observe(&root, &request, &Manifests::default());
        let entry = |path: &str| facts.get(path).map(|facts| facts.entry.clone());
        assert_eq!(entry("/etc"), Some(Entry::Directory));
        let plain = Entry::File {
            size: 4,
            digest: Some(Digest::of("text")),
        };
        assert_eq!(entry("/etc/plain"), Some(plain));
        let secret = Entry::File {
            size: 6,
            digest: Some(key.digest(b"hidden")),
        };
        assert_eq!(entry("/etc/secret"), Some(secret));
        assert_eq!(facts["/etc/secret"].mode, 0o640);
        let link = |target: &str| {
            Some(Entry::Link {
                target: target.to_owned(),
            })
        };
        assert_eq!(entry("/etc/link"), link("plain"));
        assert_eq!(entry("/etc/dangling"), link("/nowhere"));
        assert_eq!(entry("/etc/none"), None);
    }

    #[test]
    fn a_secret_has_no_digest_without_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let root = root_in(&directory);
        write(&root, "/etc/secret", "hidden");
        let manifests = Manifests {
            trust: BTreeSet::from(["/etc/secret".to_owned()]),
            ..Manifests::default()
        };
        let facts = observe(&root, &ObserveRequest::default(), &manifests);
        let expected = Entry::File {
            size: 6,
            digest: None,
        };
        assert_eq!(facts["/etc/secret"].entry, expected);
    }

    #[test]
    fn reads_the_newest_manifest_that_is_whole_and_what_it_names() {
        let directory = tempfile::tempdir().unwrap();
        let root = root_in(&directory);
        assert_eq!(read_generation(&root), None);
        for number in [2, 9, 10] {
            let generation = Generation {
                number,
                ..Generation::default()
            };
            let text = serde_json::to_string(&generation).unwrap();
            write(
                &root,
                &format!("{}/{number}.json", layout::GENERATIONS),
                &text,
            );
        }
        assert_eq!(read_generation(&root).unwrap().number, 10);
        write(&root, &format!("{}/10.json", layout::GENERATIONS), "{");
        assert_eq!(read_generation(&root).unwrap().number, 9);
        write(&root, layout::TRUST_MANIFEST, r#"["/etc/key"]"#);
        assert_eq!(read_trust(&root), BTreeSet::from(["/etc/key".to_owned()]));
    }

    #[test]
    fn what_a_killed_run_wrote_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let root = root_in(&directory);
        write(&root, "/etc/new", "text");
        let text = r#"{"files":["/etc/new","/etc/none"],"binaries":["kubelet"]}"#;
        write(&root, layout::PENDING_MANIFEST, text);
        let manifests = Manifests::read(&root);
        assert!(manifests.pending.binaries.contains("kubelet"));
        let facts = observe(&root, &ObserveRequest::default(), &manifests);
        assert_eq!(facts.keys().collect::<Vec<_>>(), ["/etc/new"]);
        // One that can't be read names nothing.
        write(&root, layout::PENDING_MANIFEST, "{");
        assert!(read_pending(&root).is_empty());
    }

    #[test]
    fn reports_links_to_binaries() {
        let directory = tempfile::tempdir().unwrap();
        let root = root_in(&directory);
        fs_err::create_dir_all(root.path(layout::BIN)).unwrap();
        let link = root.path(layout::BIN).join("kubelet");
        fs_err::os::unix::fs::symlink("../store/abc", link).unwrap();
        let facts = observe(&root, &ObserveRequest::default(), &Manifests::default());
        let expected = Entry::Link {
            target: "../store/abc".to_owned(),
        };
        assert_eq!(facts["/opt/cofferdam/bin/kubelet"].entry, expected);
    }
}
