//! A snapshot of etcd that is known to be good: saved from the host's own
//! member with its hash, restored into a directory of its own, and read back
//! there. It gets its name last.

use crate::agent::atomic;
use crate::agent::channel::NoticeSender;
use crate::agent::command::Program;
use crate::agent::etcdctl;
use crate::agent::root::Root;
use crate::host::Notice;
use crate::layout;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use serde::Deserialize;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::time::{Duration, SystemTime};

/// Eight gigabytes, saved from and restored to a slow disk.
const LIMIT: Duration = Duration::from_secs(1800);
/// Snapshots of a kind that are kept on a host; names begin with the kind, as
/// `before-…` or `asked-…`.
const KEPT: usize = 2;
pub(in crate::agent) const SUFFIX: &str = "db";
/// Only root reads what is in it.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What `etcdutl snapshot status` says.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Status {
    revision: i64,
    #[serde(rename = "totalKey")]
    keys: u64,
}

/// Saves and proves a snapshot as `name`.
///
/// # Errors
/// If it can't be saved, or what is restored from it is not what it says. What
/// had the name before stays then.
pub(super) async fn save(
    root: &Root,
    name: &str,
    endpoint: &str,
    notices: &NoticeSender,
) -> Result<()> {
    let directory = root.path(layout::SNAPSHOTS);
    let scratch = Scratch::new(&directory, name)?;
    let tell = |what: &str| {
        let reason = format!("etcd: {what}");
        notices.send_lossy(Notice::Waiting { reason });
    };
    tell("saving a snapshot");
    let saved = scratch.0.join("snapshot");
    etcdctl::program(root, &[endpoint.to_owned()], LIMIT)?
        .arguments(["snapshot", "save", saved.as_str()])
        .succeed()
        .await
        .context("saving a snapshot of etcd")?;
    let expected = status(root, &saved).await?;
    tell("restoring the snapshot, to prove it");
    let restored = scratch.0.join("restored");
    // Refuses a file whose hash is not right.
    etcdutl(root)?
        .arguments(["snapshot", "restore", saved.as_str(), "--data-dir"])
        .argument(restored.as_str())
        .succeed()
        .await
        .context("restoring the snapshot of etcd")?;
    let found = status(root, &restored.join("member/snap/db")).await?;
    if found != expected {
        bail!(
            "the snapshot of etcd has {} keys at revision {}, and {} at revision {} once it is \
             restored; look at the disk of this host, then run the same command again",
            expected.keys,
            expected.revision,
            found.keys,
            found.revision
        );
    }
    keep(&saved, &directory, name)?;
    let line = format!(
        "etcd: {}/{name}.{SUFFIX} holds {} keys at revision {}, as restored",
        layout::SNAPSHOTS,
        found.keys,
        found.revision
    );
    notices.send_lossy(Notice::Log { line });
    Ok(())
}

async fn status(root: &Root, file: &Utf8Path) -> Result<Status> {
    let text = etcdutl(root)?
        .arguments(["snapshot", "status", file.as_str(), "-w", "json"])
        .succeed()
        .await
        .with_context(|| format!("reading {file}"))?;
    serde_json::from_str(&text).with_context(|| format!("reading what etcdutl says of {file}"))
}

fn etcdutl(root: &Root) -> Result<Program> {
    Ok(Program::new(root.binary("etcdutl")?).limit(LIMIT))
}

/// Gives it its name, and removes older ones.
fn keep(saved: &Utf8Path, directory: &Utf8Path, name: &str) -> Result<()> {
    fs::set_permissions(saved, std::fs::Permissions::from_mode(FILE_MODE))?;
    fs::File::open(saved)?.sync_all()?;
    let place = directory.join(format!("{name}.{SUFFIX}"));
    fs::rename(saved, &place)?;
    atomic::sync_directories([directory])?;
    let mut all: Vec<(SystemTime, Utf8PathBuf)> = Vec::new();
    for entry in directory.read_dir_utf8()? {
        let entry = entry?;
        if entry.path().extension() == Some(SUFFIX) && kind(entry.file_name()) == kind(name) {
            all.push((entry.metadata()?.modified()?, entry.into_path()));
        }
    }
    all.sort();
    all.reverse();
    for (_, old) in all.iter().skip(KEPT).filter(|(_, old)| *old != place) {
        fs::remove_file(old)?;
    }
    Ok(())
}

fn kind(name: &str) -> Option<&str> {
    name.split_once('-').map(|(kind, _)| kind)
}

/// A directory that goes with this value, whatever happens.
struct Scratch(Utf8PathBuf);

impl Scratch {
    fn new(directory: &Utf8Path, name: &str) -> Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder
            .create(directory)
            .with_context(|| format!("making {directory}"))?;
        // Runs may have been killed in theirs.
        for entry in directory.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_name().starts_with('.') {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let scratch = directory.join(format!(".{name}"));
        builder
            .create(&scratch)
            .with_context(|| format!("making {scratch}"))?;
        Ok(Self(scratch))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::test_host::TestHost;

    /// etcdctl saves a word, and etcdutl restores it; status counts letters.
    fn host(restored: &str) -> TestHost {
        let host = TestHost::new();
        host.binary("etcdctl", "for file; do :; done; printf word > \"$file\"");
        host.binary(
            "etcdutl",
            &format!(
                r#"case "$2" in
status) printf '{{"hash":1,"revision":7,"totalKey":%s}}' "$(wc -c < "$3")" ;;
restore) mkdir -p "$5/member/snap" && printf '{restored}' > "$5/member/snap/db" ;;
esac"#
            ),
        );
        host
    }

    async fn save_on(host: &TestHost, name: &str) -> Result<()> {
        let (notices, _receiver) = notice_channel();
        save(&host.root, name, "https://127.0.0.1:2379", &notices).await
    }

    fn names(host: &TestHost) -> Vec<String> {
        let entries = host.root.path(layout::SNAPSHOTS).read_dir_utf8().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_two_newest_are_kept_for_root_alone() {
        let host = host("word");
        let names_of = |kind: &str| ["1", "2", "3"].map(|number| format!("{kind}-{number}"));
        save_on(&host, "asked-0").await.unwrap();
        for name in &names_of("before") {
            save_on(&host, name).await.unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(names(&host), ["asked-0.db", "before-2.db", "before-3.db"]);
        let directory = host.root.path(layout::SNAPSHOTS);
        let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("before-3.db")), 0o600);
    }

    #[tokio::test]
    async fn one_that_does_not_come_back_whole_gets_no_name() {
        let host = host("wor");
        let error = save_on(&host, "before").await.unwrap_err().to_string();
        assert!(
            error.contains("has 4 keys at revision 7, and 3 at revision 7 once it is restored"),
            "{error}"
        );
        assert_eq!(names(&host), [""; 0]);
    }
}
