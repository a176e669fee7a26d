//! The snapshots of etcd that a host keeps.

use super::apply::snapshot::SUFFIX;
use super::channel::NoticeSender;
use super::root::Root;
use crate::facts::SnapshotFacts;
use crate::host::{Notice, OutputStream};
use crate::layout;
use anyhow::{Context, Result, bail};
use fs_err as fs;
use std::time::SystemTime;
use tokio::io::AsyncReadExt;

/// As the output of programs.
const PIECE_BYTES: usize = 256 << 10;

/// All of them, the newest first.
///
/// # Errors
/// If the directory can't be read; one that is not there has none.
pub(super) fn list(root: &Root) -> Result<Vec<SnapshotFacts>> {
    let directory = root.path(layout::SNAPSHOTS);
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in directory.read_dir_utf8()? {
        let entry = entry?;
        let path = entry.path();
        let (Some(name), Some(SUFFIX)) = (path.file_stem(), path.extension()) else {
            continue;
        };
        let metadata = entry.metadata()?;
        let saved = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH);
        all.push(SnapshotFacts {
            name: name.to_owned(),
            size: metadata.len(),
            saved: i64::try_from(saved.unwrap_or_default().as_secs())?,
        });
    }
    all.sort_by(|one, other| (other.saved, &other.name).cmp(&(one.saved, &one.name)));
    Ok(all)
}

/// Sends the bytes of one, as long as somebody listens.
///
/// # Errors
/// If there is none of that name, or it can't be read.
pub(super) async fn read(root: &Root, name: &str, notices: &NoticeSender) -> Result<()> {
    let known = list(root)?;
    if !known.iter().any(|snapshot| snapshot.name == name) {
        let names: Vec<&str> = known
            .iter()
            .map(|snapshot| snapshot.name.as_str())
            .collect();
        bail!(
            "there is no snapshot {name} in {}; there is: {}",
            layout::SNAPSHOTS,
            names.join(", ")
        );
    }
    let path = root
        .path(layout::SNAPSHOTS)
        .join(format!("{name}.{SUFFIX}"));
    let file = fs::File::open(&path)?.into_parts().0;
    let mut file = tokio::fs::File::from_std(file);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = file.read(&mut piece).await;
        let length = length.with_context(|| format!("reading {path}"))?;
        if length == 0 {
            return Ok(());
        }
        let stream = OutputStream::Stdout;
        let bytes = piece[..length].to_vec();
        notices.send(Notice::Output { stream, bytes }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::notice_channel;
    use super::super::test_host::TestHost;
    use super::*;

    #[tokio::test]
    async fn what_is_listed_can_be_read() {
        let host = TestHost::new();
        assert_eq!(list(&host.root).unwrap(), []);
        for name in ["one.db", "two.db", ".half/snapshot", "note.txt"] {
            host.write(&format!("{}/{name}", layout::SNAPSHOTS), name);
        }
        let all = list(&host.root).unwrap();
        let mut names: Vec<(&str, u64)> = all
            .iter()
            .map(|snapshot| (snapshot.name.as_str(), snapshot.size))
            .collect();
        names.sort_unstable();
        assert_eq!(names, [("one", 6), ("two", 6)]);
        let (notices, mut heard) = notice_channel();
        read(&host.root, "one", &notices).await.unwrap();
        drop(notices);
        let mut bytes = Vec::new();
        while let Some(Notice::Output { bytes: piece, .. }) = heard.recv().await {
            bytes.extend(piece);
        }
        assert_eq!(bytes, b"one.db");
    }

    #[tokio::test]
    async fn only_what_is_listed_is_read() {
        let host = TestHost::new();
        host.write(&format!("{}/one.db", layout::SNAPSHOTS), "one");
        host.write("/var/lib/cofferdam/secret.db", "secret");
        let (notices, _heard) = notice_channel();
        for name in ["two", "../secret", "one.db", ""] {
            let error = read(&host.root, name, &notices).await.unwrap_err();
            let error = error.to_string();
            assert!(error.contains("there is: one"), "{error}");
        }
    }
}
