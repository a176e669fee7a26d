//! A member of etcd that begins anew from a snapshot. Its data is made beside
//! what it has, and put in place by renames once nothing runs on either.

use super::units;
use crate::agent::accounts::Accounts;
use crate::agent::atomic::{self, Ownership};
use crate::agent::channel::NoticeSender;
use crate::agent::command::Program;
use crate::agent::root::Root;
use crate::agent::staging;
use crate::desired::EtcdRestore;
use crate::host::Notice;
use crate::layout;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Eight gigabytes to a slow disk.
const LIMIT: Duration = Duration::from_secs(1800);
/// Above what any client can have seen since the snapshot, so that what it
/// remembers is never taken for something newer:
/// <https://etcd.io/docs/v3.6/op-guide/recovery/>, "Restoring with revision bump".
const REVISIONS_SKIPPED: &str = "--bump-revision=1000000000";
const USER: &str = "etcd";
const ETCD: &str = "etcd.service";
const DATA: &str = "member";
const DIRECTORY_MODE: u32 = 0o700;
/// Data that a restore replaced, which is nobody's to remove but people's.
const KEPT: &str = "before-restore-";
/// Data that is to be put in place.
const PREPARED: &str = "restored-";
/// Beside it: the inode of its directory.
const IDENTITY: &str = "identity";
const SCRATCH: &str = ".restoring";

/// Makes the data of the member of that name, unless it is made. `members` are
/// peer URLs by name.
///
/// # Errors
/// If the snapshot is not there or not whole, or the disk refuses. Nothing that
/// is used is touched, and nothing half made is left.
pub(super) async fn prepare(
    root: &Root,
    restore: &EtcdRestore,
    name: &str,
    members: &BTreeMap<String, String>,
) -> Result<()> {
    let directory = root.path(layout::ETCD);
    let owner = owner(root)?;
    atomic::make_directory(&directory, owner)?;
    let place = prepared(&directory, &restore.token);
    for old in entries(&directory, PREPARED)? {
        if old != place || !is_prepared(&directory, &place)? {
            remove_directory(&old)?;
        }
    }
    if place.exists() {
        return Ok(());
    }
    let scratch = directory.join(SCRATCH);
    let made = make(root, restore, &scratch, (name, members));
    if let Err(error) = made.await {
        remove_directory(&scratch)?;
        return Err(error);
    }
    let identity = identity(&scratch.join(DATA))?.unwrap_or_default();
    atomic::write_file(
        &scratch.join(IDENTITY),
        identity.to_string().as_bytes(),
        Ownership::own(0o600),
    )?;
    give(&scratch, owner)?;
    fs::rename(&scratch, &place)?;
    atomic::sync_directories([place.as_path(), directory.as_path()])
}

async fn make(
    root: &Root,
    restore: &EtcdRestore,
    scratch: &Utf8Path,
    (name, members): (&str, &BTreeMap<String, String>),
) -> Result<()> {
    remove_directory(scratch)?;
    let snapshot = staging::place_of(root, &restore.snapshot);
    let peer_url = members.get(name);
    let peer_url = peer_url.with_context(|| format!("{name} is no member"))?;
    let all = members.iter();
    let all: Vec<String> = all.map(|(name, url)| format!("{name}={url}")).collect();
    Program::new(root.binary("etcdutl")?)
        .limit(LIMIT)
        .arguments(["snapshot", "restore", snapshot.as_str()])
        .argument(format!("--data-dir={scratch}"))
        .argument(format!("--name={name}"))
        .argument(format!("--initial-cluster={}", all.join(",")))
        .argument(format!("--initial-cluster-token={}", restore.token))
        .argument(format!("--initial-advertise-peer-urls={peer_url}"))
        .arguments([REVISIONS_SKIPPED, "--mark-compacted"])
        .succeed()
        .await
        .context("restoring the snapshot of etcd")?;
    Ok(())
}

/// Stops what runs on the data, and puts the prepared one in its place.
///
/// # Errors
/// If something does not stop, or nothing was prepared. What was stopped stays
/// so: the same run goes on from there.
pub(super) async fn switch(
    root: &Root,
    restore: &EtcdRestore,
    stop: &[String],
    is_member: bool,
    notices: &NoticeSender,
) -> Result<()> {
    // Without a majority of etcd an API server waits for it till its time is up.
    let (etcd, others): (Vec<_>, Vec<_>) = stop.iter().cloned().partition(|unit| unit == ETCD);
    units::halt_at_once(root, &others, notices).await?;
    units::halt(root, &etcd, notices).await?;
    let directory = root.path(layout::ETCD);
    let place = prepared(&directory, &restore.token);
    if is_member {
        put_in_place(root, &place, &restore.token, notices)?;
    }
    let marker = root.path(layout::ETCD_RESTORED);
    atomic::write_and_sync(&marker, restore.token.as_bytes(), Ownership::own(0o600))?;
    if is_member {
        // It holds all that the cluster's secrets are.
        atomic::remove_if_there(&staging::place_of(root, &restore.snapshot))?;
        remove_directory(&place)?;
    }
    Ok(())
}

/// The two change places in one go: there is no moment at which the member has no
/// data, and would begin a cluster of its own if its host were switched on then.
/// The prepared one is told by its inode, wherever it is.
fn put_in_place(root: &Root, place: &Utf8Path, token: &str, notices: &NoticeSender) -> Result<()> {
    let directory = root.path(layout::ETCD);
    let (data, other) = (directory.join(DATA), place.join(DATA));
    let Ok(wanted) = fs::read_to_string(place.join(IDENTITY)) else {
        bail!(
            "{} is not there, though it was made in this run; run the same command again",
            root.name_of(place)
        );
    };
    let found = identity(&data)?;
    if found.map(|found| found.to_string()).as_ref() != Some(&wanted) {
        match found {
            Some(_) => renameat_with(
                CWD,
                other.as_str(),
                CWD,
                data.as_str(),
                RenameFlags::EXCHANGE,
            )
            .with_context(|| format!("putting {other} in place of {data}"))?,
            None => fs::rename(&other, &data)?,
        }
        atomic::sync_directories([place, directory.as_path()])?;
    }
    let kept = directory.join(format!("{KEPT}{token}"));
    if other.exists() {
        match kept.exists() {
            true => remove_directory(&other)?,
            false => fs::rename(&other, &kept)?,
        }
        atomic::sync_directories([place, directory.as_path()])?;
    }
    for kept in entries(&directory, KEPT)? {
        let name = root.name_of(&kept);
        let line = format!("etcd: what the member had before is kept as {name}");
        notices.send_lossy(Notice::Log { line });
    }
    Ok(())
}

/// What tells a directory, whatever it is called; none if it is not there.
fn identity(place: &Utf8Path) -> Result<Option<u64>> {
    match fs::symlink_metadata(place) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the prepared data is there: still beside the member's, or in its place.
fn is_prepared(directory: &Utf8Path, place: &Utf8Path) -> Result<bool> {
    let Ok(wanted) = fs::read_to_string(place.join(IDENTITY)) else {
        return Ok(false);
    };
    for data in [place.join(DATA), directory.join(DATA)] {
        if identity(&data)?.map(|found| found.to_string()).as_ref() == Some(&wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Entries of a directory whose names begin so.
fn entries(directory: &Utf8Path, prefix: &str) -> Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for entry in directory.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name().starts_with(prefix) {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

fn prepared(directory: &Utf8Path, token: &str) -> Utf8PathBuf {
    directory.join(format!("{PREPARED}{token}"))
}

fn owner(root: &Root) -> Result<Ownership> {
    let accounts = Accounts::load(root);
    let (user, group) = (accounts.user(USER), accounts.group(USER));
    let (Some(user), Some(group)) = (user, group) else {
        bail!("there is no user {USER}");
    };
    Ok(Ownership {
        mode: DIRECTORY_MODE,
        user,
        group,
    })
}

/// Gives all that is in a directory to whom it is to belong.
fn give(directory: &Utf8Path, owner: Ownership) -> Result<()> {
    std::os::unix::fs::lchown(directory, Some(owner.user), Some(owner.group))
        .with_context(|| format!("giving {directory} to {USER}"))?;
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Ok(());
    }
    for entry in directory.read_dir_utf8()? {
        give(entry?.path(), owner)?;
    }
    Ok(())
}

fn remove_directory(place: &Utf8Path) -> Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::test_host::TestHost;
    use crate::digest::Digest;

    fn restore() -> EtcdRestore {
        EtcdRestore {
            token: "t1".to_owned(),
            snapshot: Digest::of("snapshot"),
            size: 8,
        }
    }

    /// etcdutl makes data of what is in the snapshot.
    fn host(old: Option<&str>) -> TestHost {
        let host = TestHost::new();
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        let line = |id: u32| format!("etcd:x:{id}:{id}::/:/bin/false\n");
        host.write("/etc/passwd", &line(user.as_raw()));
        host.write("/etc/group", &format!("etcd:x:{}:\n", group.as_raw()));
        let calls = host.root.path("/run/calls").to_string();
        host.write("/run/calls", "");
        host.binary(
            "etcdutl",
            &format!(
                r#"echo "$*" >> {calls}
place=${{4#--data-dir=}}
mkdir -p "$place/member/snap" && cp "$3" "$place/member/snap/db""#
            ),
        );
        host.program("systemctl", "echo ActiveState=inactive");
        host.program("journalctl", "true");
        let staged = format!("{}/{}", layout::STAGING, Digest::of("snapshot").hex());
        host.write(&staged, "snapshot");
        if let Some(old) = old {
            host.write("/var/lib/etcd/member/snap/db", old);
        }
        host
    }

    async fn prepare_on(host: &TestHost) -> Result<()> {
        let urls = [
            ("m1", "https://10.0.0.1:2380"),
            ("m2", "https://10.0.0.2:2380"),
        ];
        let members = urls.map(|(name, url)| (name.to_owned(), url.to_owned()));
        prepare(&host.root, &restore(), "m2", &members.into()).await
    }

    async fn switch_on(host: &TestHost) -> Result<()> {
        let (notices, _heard) = notice_channel();
        switch(&host.root, &restore(), &[], true, &notices).await
    }

    fn is_there(host: &TestHost, path: &str) -> bool {
        host.root.path(path).exists()
    }

    #[tokio::test]
    async fn the_data_is_made_beside_and_the_old_one_is_kept() {
        let host = host(Some("old"));
        host.write("/var/lib/etcd/before-restore-t0/snap/db", "older");
        for _ in 0..2 {
            prepare_on(&host).await.unwrap();
        }
        assert_eq!(host.read("/var/lib/etcd/member/snap/db"), "old");
        let calls = host.read("/run/calls");
        assert_eq!(calls.lines().count(), 1, "{calls}");
        assert!(
            calls.contains(
                "--name=m2 --initial-cluster=m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380 --initial-cluster-token=t1 --initial-advertise-peer-urls=https://10.0.0.2:2380 --bump-revision=1000000000 --mark-compacted"
            ),
            "{calls}"
        );
        switch_on(&host).await.unwrap();
        assert_eq!(host.read("/var/lib/etcd/member/snap/db"), "snapshot");
        assert_eq!(host.read("/var/lib/etcd/before-restore-t1/snap/db"), "old");
        // Only people know whether they need it.
        assert!(is_there(&host, "/var/lib/etcd/before-restore-t0"));
        assert!(!is_there(&host, "/var/lib/etcd/restored-t1"));
        assert_eq!(host.read(layout::ETCD_RESTORED), "t1");
        let staged = staging::place_of(&host.root, &restore().snapshot);
        assert!(!staged.exists());
    }

    #[tokio::test]
    async fn whatever_was_done_already_is_not_done_again() {
        let host = host(Some("old"));
        let path = |name: &str| host.root.path(format!("/var/lib/etcd/{name}"));
        prepare_on(&host).await.unwrap();
        // As a power cut leaves it after the exchange.
        let [place, data] = [path("restored-t1/member"), path("member")];
        renameat_with(
            CWD,
            place.as_str(),
            CWD,
            data.as_str(),
            RenameFlags::EXCHANGE,
        )
        .unwrap();
        prepare_on(&host).await.unwrap();
        switch_on(&host).await.unwrap();
        assert_eq!(host.read("/var/lib/etcd/member/snap/db"), "snapshot");
        assert_eq!(host.read("/var/lib/etcd/before-restore-t1/snap/db"), "old");

        // As it leaves it after the old data was moved away.
        let host = self::host(None);
        prepare_on(&host).await.unwrap();
        let path = |name: &str| host.root.path(format!("/var/lib/etcd/{name}"));
        fs::rename(path("restored-t1/member"), path("member")).unwrap();
        host.write("/var/lib/etcd/before-restore-t1/snap/db", "old");
        switch_on(&host).await.unwrap();
        assert_eq!(host.read("/var/lib/etcd/member/snap/db"), "snapshot");
        assert_eq!(host.read("/var/lib/etcd/before-restore-t1/snap/db"), "old");
        assert!(!is_there(&host, "/var/lib/etcd/restored-t1"));
    }

    #[tokio::test]
    async fn nothing_half_made_is_left_nor_what_was_given_up() {
        let host = host(Some("old"));
        host.write("/var/lib/etcd/restored-t0/member/snap/db", "given up");
        host.write("/var/lib/etcd/restored-t1/member/snap/db", "half removed");
        prepare_on(&host).await.unwrap();
        assert!(!is_there(&host, "/var/lib/etcd/restored-t0"));
        assert_eq!(
            host.read("/var/lib/etcd/restored-t1/member/snap/db"),
            "snapshot"
        );
        remove_directory(&host.root.path("/var/lib/etcd/restored-t1")).unwrap();
        host.binary("etcdutl", "mkdir -p \"${4#--data-dir=}/member\"; exit 1");
        prepare_on(&host).await.unwrap_err();
        let left = entries(&host.root.path(layout::ETCD), "").unwrap();
        let left: Vec<Option<&str>> = left.iter().map(|path| path.file_name()).collect();
        assert_eq!(left, [Some("member")]);
    }

    #[tokio::test]
    async fn a_new_host_has_nothing_to_keep() {
        let host = host(None);
        prepare_on(&host).await.unwrap();
        switch_on(&host).await.unwrap();
        assert_eq!(host.read("/var/lib/etcd/member/snap/db"), "snapshot");
        assert!(!is_there(&host, "/var/lib/etcd/before-restore-t1"));
    }

    #[tokio::test]
    async fn an_api_server_without_etcd_is_not_waited_for_and_etcd_is() {
        let host = host(Some("old"));
        let calls = host.root.path("/run/calls").to_string();
        host.program(
            "systemctl",
            &format!("case $1 in show) echo MainPID=7 ;; *) echo \"$*\" >> {calls} ;; esac"),
        );
        prepare_on(&host).await.unwrap();
        host.write("/run/calls", "");
        let (notices, _heard) = notice_channel();
        for unit in ["kube-apiserver.service", ETCD] {
            let stop = [unit.to_owned()];
            let switched = switch(&host.root, &restore(), &stop, false, &notices).await;
            switched.unwrap();
        }
        let calls = host.read("/run/calls");
        let calls: Vec<&str> = calls.lines().collect();
        assert_eq!(
            calls,
            [
                "stop --no-block kube-apiserver.service",
                "kill --signal=SIGKILL kube-apiserver.service",
                "stop kube-apiserver.service",
                "stop etcd.service",
            ]
        );
    }

    #[tokio::test]
    async fn nothing_is_moved_where_nothing_was_prepared() {
        let host = host(Some("old"));
        let error = switch_on(&host).await.unwrap_err().to_string();
        assert!(error.contains("/var/lib/etcd/restored-t1"), "{error}");
        assert_eq!(host.read("/var/lib/etcd/member/snap/db"), "old");
        assert!(!is_there(&host, layout::ETCD_RESTORED));
    }
}
