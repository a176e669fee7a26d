//! Managed files: written whole or not at all, known to one of the host's
//! manifests before they are there, and removed only if one names them.

use super::pending;
use crate::agent::accounts::Accounts;
use crate::agent::atomic::{self, Ownership};
use crate::agent::command::Program;
use crate::agent::observe::{
    generation_numbers, read_numbered_generation, read_pending, read_trust,
};
use crate::agent::root::Root;
use crate::desired::FileKind;
use crate::digest::Digest;
use crate::host::FileBody;
use crate::layout;
use crate::plan::{FileChange, FileChangeKind};
use anyhow::{Context, Result, anyhow, bail};
use camino::Utf8PathBuf;
use std::collections::{BTreeMap, BTreeSet};

/// Where systemd reads units from.
const UNITS: &str = "/etc/systemd/";
/// Content of software is as public as the files themselves may be: only
/// root reads it here.
const CONTENT_MODE: u32 = 0o600;

/// What [`crate::plan::Action::WriteFiles`] says, with the bytes.
pub(super) struct WriteFiles {
    pub(super) changes: Vec<FileChange>,
    pub(super) remove: Vec<String>,
    pub(super) kind: FileKind,
    pub(super) bodies: BTreeMap<String, FileBody>,
}

pub(super) async fn write(root: &Root, request: WriteFiles) -> Result<()> {
    let removes_units = request.remove.iter().any(|path| path.starts_with(UNITS));
    let work = {
        let root = root.clone();
        tokio::task::spawn_blocking(move || write_and_remove(&root, &request))
    };
    work.await.context("writing files")??;
    // Written units are read when they are started: until then, that systemd
    // has not read them is the trace of a change without a start.
    if removes_units {
        reload(root).await?;
    }
    Ok(())
}

/// Makes systemd read changed units. Running processes are left alone.
pub(super) async fn reload(root: &Root) -> Result<()> {
    Program::new(root.program("systemctl")?)
        .argument("daemon-reload")
        .succeed()
        .await
        .context("making systemd read the units")?;
    Ok(())
}

fn write_and_remove(root: &Root, request: &WriteFiles) -> Result<()> {
    let accounts = Accounts::load(root);
    let paths: BTreeMap<&str, FileChangeKind> = request
        .changes
        .iter()
        .map(|change| (change.path.as_str(), change.change))
        .collect();
    let owned = owned_paths(root, request.kind);
    for path in &request.remove {
        let is_there = root.path(path).symlink_metadata().is_ok();
        if is_there && !owned.contains(path) {
            bail!("removing {path}: cofferdam did not write it");
        }
    }
    match request.kind {
        FileKind::Trust => {
            let mut trust = read_trust(root);
            trust.extend(paths.keys().map(|path| (*path).to_owned()));
            write_trust(root, &trust)?;
        }
        FileKind::Software => {
            pending::add_files(root, paths.keys().copied())?;
            // What held a secret once is compared in the open from now on.
            let mut trust = read_trust(root);
            let before = trust.len();
            trust.retain(|path| !paths.contains_key(path.as_str()));
            if trust.len() < before {
                write_trust(root, &trust)?;
            }
        }
    }
    let mut touched: BTreeSet<Utf8PathBuf> = BTreeSet::new();
    // In the order of paths, so that a directory comes before what is in it.
    for (path, change) in paths {
        let body = request
            .bodies
            .get(path)
            .ok_or_else(|| anyhow!("writing {path}: the request does not carry it"))?;
        if body.kind != request.kind {
            bail!("writing {path}: it is of another kind than the step says");
        }
        write_one(root, path, change, body, &accounts)?;
        touched.insert(atomic::parent_of(&root.path(path)));
    }
    // What is in a directory goes before it.
    let mut remove: Vec<&String> = request.remove.iter().collect();
    remove.sort_unstable_by(|left, right| right.cmp(left));
    for path in remove {
        remove_one(root, path)?;
        touched.insert(atomic::parent_of(&root.path(path)));
    }
    atomic::sync_directories(touched.iter().map(Utf8PathBuf::as_path))?;
    if request.kind == FileKind::Trust && !request.remove.is_empty() {
        let mut trust = read_trust(root);
        trust.retain(|path| !request.remove.contains(path));
        write_trust(root, &trust)?;
    }
    Ok(())
}

fn write_one(
    root: &Root,
    path: &str,
    change: FileChangeKind,
    body: &FileBody,
    accounts: &Accounts,
) -> Result<()> {
    let missing = |kind: &str, name: &str| {
        anyhow!("writing {path}: there is no {kind} `{name}` on this host to own it")
    };
    let ownership = Ownership {
        user: accounts
            .user(&body.user)
            .ok_or_else(|| missing("user", &body.user))?,
        group: accounts
            .group(&body.group)
            .ok_or_else(|| missing("group", &body.group))?,
        mode: body.mode,
    };
    let place = root.path(path);
    let Some(bytes) = &body.bytes else {
        return atomic::make_directory(&place, ownership);
    };
    if body.kind == FileKind::Software && !body.secret {
        keep_content(root, bytes)?;
    }
    if change == FileChangeKind::Attributes {
        atomic::set_ownership(&place, ownership)
    } else {
        atomic::write_file(&place, bytes, ownership)
    }
}

/// Keeps the bytes of a software file, so that its generation can be gone
/// back to.
fn keep_content(root: &Root, bytes: &[u8]) -> Result<()> {
    let directory = root.path(layout::GENERATIONS).join("content");
    let place = directory.join(Digest::of(bytes).hex());
    if fs_err::read(&place).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    atomic::write_and_sync(&place, bytes, Ownership::own(CONTENT_MODE))
}

fn remove_one(root: &Root, path: &str) -> Result<()> {
    let place = root.path(path);
    match place.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_dir() => {
            // A directory with something else in it is somebody else's too.
            match fs_err::remove_dir(&place) {
                Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
                    Err(error.into())
                }
                _ => Ok(()),
            }
        }
        Ok(_) => {
            atomic::remove_if_there(&place)?;
            // containerd takes an empty directory of a registry for leave to ask the
            // real one, instead of its default.
            if path.starts_with(layout::REGISTRY_HOSTS)
                && let Some(directory) = place.parent()
            {
                // One with something else in it stays.
                let _ = fs_err::remove_dir(directory);
            }
            Ok(())
        }
    }
}

/// Paths that the host's manifests name.
fn owned_paths(root: &Root, kind: FileKind) -> BTreeSet<String> {
    match kind {
        FileKind::Trust => read_trust(root),
        FileKind::Software => generation_numbers(root)
            .into_iter()
            .filter_map(|number| read_numbered_generation(root, number))
            .flat_map(|generation| generation.files.into_keys())
            .chain(read_pending(root).files)
            .collect(),
    }
}

fn write_trust(root: &Root, paths: &BTreeSet<String>) -> Result<()> {
    let text = serde_json::to_vec(paths).context("writing the trust manifest")?;
    atomic::write_and_sync(
        &root.path(layout::TRUST_MANIFEST),
        &text,
        Ownership::own(0o600),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    fn body(kind: FileKind, bytes: Option<&[u8]>, mode: u32) -> FileBody {
        FileBody {
            bytes: bytes.map(<[u8]>::to_vec),
            mode,
            user: "tester".to_owned(),
            group: "tester".to_owned(),
            kind,
            secret: kind == FileKind::Trust,
        }
    }

    fn request(kind: FileKind, files: &[(&str, FileBody)], remove: &[&str]) -> WriteFiles {
        WriteFiles {
            changes: files
                .iter()
                .map(|(path, _)| FileChange {
                    path: (*path).to_owned(),
                    change: FileChangeKind::Create,
                })
                .collect(),
            remove: remove.iter().map(|path| (*path).to_owned()).collect(),
            kind,
            bodies: files
                .iter()
                .map(|(path, body)| ((*path).to_owned(), body.clone()))
                .collect(),
        }
    }

    #[tokio::test]
    async fn trust_is_in_its_manifest_and_never_in_the_content() {
        let host = TestHost::new();
        let key = body(FileKind::Trust, Some(b"key"), 0o400);
        let directory = body(FileKind::Trust, None, 0o700);
        let files = [("/etc/pki/key", key), ("/etc/pki", directory)];
        write(&host.root, request(FileKind::Trust, &files, &[]))
            .await
            .unwrap();
        let trust = ["/etc/pki".to_owned(), "/etc/pki/key".to_owned()];
        assert_eq!(read_trust(&host.root), trust.into());
        assert!(!host.root.path(layout::GENERATIONS).exists());
        write(&host.root, request(FileKind::Trust, &[], &["/etc/pki/key"]))
            .await
            .unwrap();
        assert_eq!(read_trust(&host.root), ["/etc/pki".to_owned()].into());
        assert!(!host.root.path("/etc/pki/key").exists());
    }

    /// Observation tells no digest in the open of what the trust manifest names.
    #[tokio::test]
    async fn a_file_that_holds_a_secret_no_more_leaves_the_trust_manifest() {
        let host = TestHost::new();
        for (kind, text, mode) in [
            (FileKind::Trust, "header = \"Basic eDp5\"", 0o400),
            (FileKind::Software, "plain", 0o644),
        ] {
            let file = body(kind, Some(text.as_bytes()), mode);
            let files = [("/etc/containerd/hosts.toml", file)];
            write(&host.root, request(kind, &files, &[])).await.unwrap();
            assert_eq!(
                read_trust(&host.root).len(),
                usize::from(kind == FileKind::Trust)
            );
        }
        assert_eq!(host.read("/etc/containerd/hosts.toml"), "plain");
    }

    #[tokio::test]
    async fn a_registry_that_goes_leaves_no_directory_behind() {
        let host = TestHost::new();
        let path = |name: &str| format!("{}/{name}/hosts.toml", layout::REGISTRY_HOSTS);
        let (kept, gone) = (path("kept.example"), path("gone.example"));
        let file = body(FileKind::Software, Some(b"server"), 0o644);
        let files = [(kept.as_str(), file.clone()), (gone.as_str(), file)];
        let kind = FileKind::Software;
        write(&host.root, request(kind, &files, &[])).await.unwrap();
        host.write("/etc/containerd/certs.d/kept.example/mine.crt", "x");
        let removal = request(kind, &[], &[&kept, &gone]);
        write(&host.root, removal).await.unwrap();
        let left = |path: &str| host.root.path(path).parent().unwrap().exists();
        assert!(left(&kept) && !left(&gone));
    }

    #[tokio::test]
    async fn software_is_kept_by_content() {
        let host = TestHost::new();
        let files = [(
            "/etc/x.conf",
            body(FileKind::Software, Some(b"x = 1"), 0o644),
        )];
        for _ in 0..2 {
            write(&host.root, request(FileKind::Software, &files, &[]))
                .await
                .unwrap();
        }
        let content = host.root.path(layout::GENERATIONS).join("content");
        let kept = content.join(Digest::of(b"x = 1").hex());
        assert_eq!(fs_err::read(kept).unwrap(), b"x = 1");
    }

    #[tokio::test]
    async fn only_owned_paths_are_removed() {
        let host = TestHost::new();
        host.write("/etc/theirs", "x");
        let error = write(
            &host.root,
            request(FileKind::Software, &[], &["/etc/theirs"]),
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("did not write it"), "{error}");
        assert!(host.root.path("/etc/theirs").exists());
        // What is gone already is no error, so that a step can be repeated.
        write(&host.root, request(FileKind::Software, &[], &["/etc/gone"]))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn software_is_known_as_ours_before_any_generation_names_it() {
        let host = TestHost::new();
        let known = "/etc/known";
        let generation = crate::facts::Generation {
            files: [(
                known.to_owned(),
                crate::facts::GenerationFile {
                    digest: None,
                    mode: 0o755,
                    user: "tester".to_owned(),
                    group: "tester".to_owned(),
                    part: None,
                },
            )]
            .into(),
            ..crate::facts::Generation::default()
        };
        let text = serde_json::to_string(&generation).unwrap();
        host.write(&format!("{}/1.json", layout::GENERATIONS), &text);
        let new = body(FileKind::Software, Some(b"new"), 0o644);
        let mut fails = new.clone();
        fails.user = "nobody-here".to_owned();
        let files = [
            (known, new.clone()),
            ("/etc/new", new),
            ("/etc/then", fails),
        ];
        // The one that could not be written was named before as well.
        write(&host.root, request(FileKind::Software, &files, &[]))
            .await
            .unwrap_err();
        let pending = read_pending(&host.root);
        let expected = ["/etc/new", "/etc/then"].map(str::to_owned);
        assert_eq!(pending.files, expected.into());
        write(&host.root, request(FileKind::Software, &[], &["/etc/new"]))
            .await
            .unwrap();
        assert!(!host.root.path("/etc/new").exists());
    }

    #[tokio::test]
    async fn an_unknown_owner_is_named_and_nothing_is_written() {
        let host = TestHost::new();
        let mut wrong = body(FileKind::Software, Some(b"x"), 0o644);
        wrong.user = "etcd".to_owned();
        let error = write(
            &host.root,
            request(FileKind::Software, &[("/etc/x", wrong)], &[]),
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("no user `etcd`"), "{error}");
        assert!(!host.root.path("/etc/x").exists());
    }
}
