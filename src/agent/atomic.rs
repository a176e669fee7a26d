//! Files that have their name only once they are whole: written beside it,
//! synced, with owner and mode set, then renamed.

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Gid, Mode, Uid};
use std::collections::BTreeSet;
use std::io::Write;

/// Owner and permission bits of a file on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub user: u32,
    pub group: u32,
    pub mode: u32,
}

impl Ownership {
    /// Owned by whoever runs this: root, or a test's user.
    pub fn own(mode: u32) -> Self {
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            mode,
        }
    }
}

/// Permission bits of directories that nobody asked for by name.
const PARENT_MODE: u32 = 0o755;

/// Name that a file has on its way to its own.
pub fn temporary_name(name: &str) -> String {
    format!(".{name}.cofferdam")
}

/// Writes a file. The caller syncs the directory, for several files at once.
///
/// # Errors
/// If the disk refuses, or the path is a directory.
pub fn write_file(place: &Utf8Path, bytes: &[u8], ownership: Ownership) -> Result<()> {
    let (directory, name) = split(place)?;
    if place.is_dir() && !place.is_symlink() {
        bail!("writing {place}: it is a directory; move it away");
    }
    make_parents(directory)?;
    let temporary = directory.join(temporary_name(name));
    // A crash may have left one.
    remove_if_there(&temporary)?;
    let result = write_temporary(&temporary, bytes, ownership).and_then(|()| {
        fs_err::rename(&temporary, place)?;
        Ok(())
    });
    if result.is_err() {
        // The first error is the one to tell.
        let _ = fs_err::remove_file(&temporary);
    }
    result.with_context(|| format!("writing {place}"))
}

fn write_temporary(temporary: &Utf8Path, bytes: &[u8], ownership: Ownership) -> Result<()> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    let mut file = fs_err::OpenOptions::new()
        .write(true)
        .create_new(true)
        // Nobody else may read it before it has its owner.
        .mode(0o600)
        .open(temporary)?;
    file.write_all(bytes)?;
    let (user, group) = identifiers(ownership);
    rustix::fs::fchown(&file, user, group).context("setting the owner")?;
    // After the owner, since a change of owner drops some bits.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(ownership.mode)).context("setting the mode")?;
    file.sync_all()?;
    Ok(())
}

/// Makes a directory, or sets owner and mode of the one that is there.
///
/// # Errors
/// If the disk refuses, or the path is something else.
pub fn make_directory(place: &Utf8Path, ownership: Ownership) -> Result<()> {
    let (directory, _) = split(place)?;
    make_parents(directory)?;
    match fs_err::create_dir(place) {
        Ok(()) => {}
        Err(_) if place.is_dir() => {}
        Err(error) => return Err(error).context("making a directory"),
    }
    set_ownership(place, ownership)
}

/// Sets owner and mode of what is there; links are not followed.
///
/// # Errors
/// If it is missing or a link, or the disk refuses.
pub fn set_ownership(place: &Utf8Path, ownership: Ownership) -> Result<()> {
    let file = rustix::fs::open(
        place.as_std_path(),
        rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK,
        Mode::empty(),
    )
    .with_context(|| format!("opening {place}"))?;
    let (user, group) = identifiers(ownership);
    rustix::fs::fchown(&file, user, group)
        .with_context(|| format!("setting the owner of {place}"))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(ownership.mode))
        .with_context(|| format!("setting the mode of {place}"))?;
    rustix::fs::fsync(&file).with_context(|| format!("syncing {place}"))?;
    Ok(())
}

/// Makes a link, or points the one that is there elsewhere, in one step.
///
/// # Errors
/// If the disk refuses.
pub fn set_link(place: &Utf8Path, target: &str) -> Result<()> {
    if fs_err::read_link(place).is_ok_and(|found| found.as_os_str() == target) {
        return Ok(());
    }
    let (directory, name) = split(place)?;
    make_parents(directory)?;
    let temporary = directory.join(temporary_name(name));
    remove_if_there(&temporary)?;
    fs_err::os::unix::fs::symlink(target, &temporary)?;
    fs_err::rename(&temporary, place)?;
    Ok(())
}

/// Makes missing parents.
///
/// # Errors
/// If the disk refuses.
pub fn make_parents(directory: &Utf8Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let (parent, _) = split(directory)?;
    make_parents(parent)?;
    match fs_err::create_dir(directory) {
        Ok(()) => {
            set_ownership(directory, Ownership::own(PARENT_MODE))?;
            sync_directories([parent])
        }
        // Somebody else was quicker.
        Err(_) if directory.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a file or link, if there is one.
///
/// # Errors
/// If the disk refuses.
pub fn remove_if_there(place: &Utf8Path) -> Result<()> {
    match fs_err::remove_file(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Syncs directories, so that names survive a power cut.
///
/// # Errors
/// If the disk refuses.
pub fn sync_directories<'a>(directories: impl IntoIterator<Item = &'a Utf8Path>) -> Result<()> {
    let directories: BTreeSet<&Utf8Path> = directories.into_iter().collect();
    for directory in directories {
        if directory.is_dir() {
            fs_err::File::open(directory)?
                .sync_all()
                .with_context(|| format!("syncing {directory}"))?;
        }
    }
    Ok(())
}

/// Writes a file and syncs its directory.
///
/// # Errors
/// As [`write_file`].
pub fn write_and_sync(place: &Utf8Path, bytes: &[u8], ownership: Ownership) -> Result<()> {
    write_file(place, bytes, ownership)?;
    sync_directories(place.parent())
}

fn identifiers(ownership: Ownership) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(ownership.user)),
        Some(Gid::from_raw(ownership.group)),
    )
}

fn split(place: &Utf8Path) -> Result<(&Utf8Path, &str)> {
    place
        .parent()
        .zip(place.file_name())
        .ok_or_else(|| anyhow!("writing {place}: it is not the path of a file"))
}

/// The directory that a place is in, for syncing what was made there.
pub fn parent_of(place: &Utf8Path) -> Utf8PathBuf {
    place.parent().unwrap_or(place).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode_of(place: &Utf8Path) -> u32 {
        let metadata = fs_err::symlink_metadata(place).unwrap();
        metadata.permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let top = Utf8Path::from_path(directory.path()).unwrap();
        let place = top.join("a/b/file");
        write_file(&place, b"one", Ownership::own(0o640)).unwrap();
        assert_eq!(mode_of(&place), 0o640);
        assert_eq!(mode_of(&top.join("a/b")), 0o755);
        // What a crash left behind is no obstacle.
        let temporary = top.join("a/b").join(temporary_name("file"));
        fs_err::write(&temporary, "half").unwrap();
        write_file(&place, b"two", Ownership::own(0o400)).unwrap();
        assert_eq!(fs_err::read(&place).unwrap(), b"two");
        assert_eq!(mode_of(&place), 0o400);
        assert!(!temporary.exists());
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_its_target_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let top = Utf8Path::from_path(directory.path()).unwrap();
        fs_err::write(top.join("target"), "theirs").unwrap();
        fs_err::os::unix::fs::symlink("target", top.join("file")).unwrap();
        write_file(&top.join("file"), b"ours", Ownership::own(0o644)).unwrap();
        assert_eq!(fs_err::read(top.join("target")).unwrap(), b"theirs");
        assert!(set_ownership(&top.join("file"), Ownership::own(0o600)).is_ok());
        fs_err::os::unix::fs::symlink("target", top.join("link")).unwrap();
        assert!(set_ownership(&top.join("link"), Ownership::own(0o600)).is_err());
    }

    #[test]
    fn a_directory_in_the_way_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let top = Utf8Path::from_path(directory.path()).unwrap();
        let error = write_file(top, b"", Ownership::own(0o644)).unwrap_err();
        assert!(format!("{error:#}").contains("is a directory"), "{error:#}");
        make_directory(&top.join("new"), Ownership::own(0o700)).unwrap();
        make_directory(&top.join("new"), Ownership::own(0o750)).unwrap();
        assert_eq!(mode_of(&top.join("new")), 0o750);
    }

    #[test]
    fn links_move_in_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let link = Utf8Path::from_path(directory.path())
            .unwrap()
            .join("bin/kubelet");
        for target in ["../store/a", "../store/b", "../store/b"] {
            set_link(&link, target).unwrap();
            assert_eq!(fs_err::read_link(&link).unwrap().as_os_str(), target);
        }
    }
}
