//! Files that are named by the sha256 of their content. A name is taken for
//! true only once the content was read: a disk may flip a bit of a file that
//! nobody has written to since, so that neither name, size nor times tell. For
//! the same reason no digest is remembered from one look to the next. What a
//! host holds is read by threads that go after all others, still several times
//! as fast as most disks; what the kernel has cached is judged as it would be
//! run.

use super::files::{digest_of, open};
use crate::agent::channel::NoticeSender;
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::host::Notice;
use crate::layout;
use camino::{Utf8Path, Utf8PathBuf};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// Everybody may run a stored binary, and nobody but root may change it.
pub(crate) const BINARY_MODE: u32 = 0o755;

/// A file that its name gives a digest.
pub(crate) struct Named {
    pub(crate) place: Utf8PathBuf,
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
}

/// Regular files of a directory with a digest for a name, whatever is in
/// them.
pub(crate) fn by_digest(root: &Root, directory: &str) -> Vec<Named> {
    let directory = root.path(directory);
    let Ok(entries) = fs_err::read_dir(&directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let metadata = entry.metadata().ok()?;
            metadata.is_file().then_some(())?;
            Some(Named {
                digest: Digest::from_hex(&name).ok()?,
                place: directory.join(name),
                size: metadata.len(),
            })
        })
        .collect()
}

/// How much has been read, told about once a second, so that a long look is
/// not taken for a host that hangs.
pub(super) struct Told {
    notices: NoticeSender,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Bytes read, and to be read as far as is known.
    done: u64,
    total: u64,
    said: Instant,
}

const TELL_EVERY: Duration = Duration::from_secs(1);

impl Told {
    pub(super) fn new(notices: NoticeSender) -> Self {
        let progress = Progress {
            done: 0,
            total: 0,
            said: Instant::now(),
        };
        Self {
            notices,
            progress: Mutex::new(progress),
        }
    }

    fn expect(&self, bytes: u64) {
        self.lock().total += bytes;
    }

    fn has_read(&self, bytes: u64) {
        let mut progress = self.lock();
        progress.done += bytes;
        if progress.said.elapsed() < TELL_EVERY {
            return;
        }
        progress.said = Instant::now();
        self.notices.send_lossy(Notice::Progress {
            item: "stored content".to_owned(),
            done: progress.done,
            total: progress.total.max(progress.done),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binaries whose content is what their name says and which may be run, with
/// their sizes in bytes.
pub(super) fn binaries(root: &Root, told: &Told) -> BTreeMap<Digest, u64> {
    let mut stored = by_digest(root, layout::STORE);
    stored.retain(is_runnable);
    right_ones(stored, open, told)
}

/// Staged blobs whose content is what their name says, with their sizes.
pub(super) fn staged(root: &Root, told: &Told) -> BTreeMap<Digest, u64> {
    right_ones(by_digest(root, layout::STAGING), open, told)
}

/// Whether a binary is in the store, whole, right and runnable.
pub(crate) fn is_stored(root: &Root, digest: &Digest, size: u64) -> bool {
    let named = Named {
        place: root.path(layout::STORE).join(digest.hex()),
        digest: *digest,
        size,
    };
    is_runnable(&named) && is_right(&named)
}

/// Whether a file is there with the size and content that it should have.
pub(crate) fn is_right(named: &Named) -> bool {
    open(&named.place).is_ok_and(|file| has_content(file, named, |_| ()))
}

/// Whether an open file has the size and content that it should have.
pub(crate) fn has_content(file: File, named: &Named, has_read: impl FnMut(u64)) -> bool {
    let metadata = file.metadata();
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == named.size)
        && digest_of(file, has_read).is_ok_and(|found| found == named.digest)
}

/// Looking must not take processors away from what serves: the least priority
/// that there is.
const LEAST_PRIORITY: i32 = 19;

/// Those of the files whose content has the digest of their name, read by
/// threads that leave a core to others, and go after all others.
pub(super) fn right_ones(
    mut files: Vec<Named>,
    open: impl Fn(&Utf8Path) -> io::Result<File> + Sync,
    told: &Told,
) -> BTreeMap<Digest, u64> {
    told.expect(files.iter().map(|file| file.size).sum());
    // The largest first, so that no thread is left with one at the end.
    files.sort_by_key(|file| Reverse(file.size));
    let cores = available_parallelism().map_or(1, usize::from);
    let threads = cores.saturating_sub(1).max(1);
    let next = AtomicUsize::new(0);
    let prove = || {
        // Of this thread alone, as Linux has it. It is only kinder, so that it
        // may fail.
        let _ = rustix::process::nice(LEAST_PRIORITY);
        let mut right = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let opened = open(&file.place);
            if opened.is_ok_and(|opened| has_content(opened, file, |bytes| told.has_read(bytes))) {
                right.push((file.digest, file.size));
            }
        }
        right
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.min(files.len()))
            .map(|_| scope.spawn(prove))
            .collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_default())
            .collect()
    })
}

fn is_runnable(named: &Named) -> bool {
    let own = rustix::process::geteuid().as_raw();
    named
        .place
        .symlink_metadata()
        .is_ok_and(|found| found.st_mode() & 0o7777 == BINARY_MODE && found.st_uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::test_host::TestHost;
    use std::os::unix::fs::PermissionsExt;

    fn told() -> Told {
        Told::new(notice_channel().0)
    }

    fn put(host: &TestHost, directory: &str, digest: &Digest, text: &str) {
        let path = format!("{directory}/{}", digest.hex());
        host.write(&path, text);
        let mode = std::fs::Permissions::from_mode(BINARY_MODE);
        fs_err::set_permissions(host.root.path(path), mode).unwrap();
    }

    #[test]
    fn only_what_is_what_its_name_says_is_held() {
        let host = TestHost::new();
        assert!(binaries(&host.root, &told()).is_empty() && staged(&host.root, &told()).is_empty());
        let digest = Digest::of("content");
        for (text, is_held) in [
            ("content", true),
            // Same size: as a disk or a hand might do it.
            ("Content", false),
            ("conten", false),
            ("", false),
        ] {
            for directory in [layout::STORE, layout::STAGING] {
                put(&host, directory, &digest, text);
            }
            let expected: BTreeMap<Digest, u64> =
                is_held.then_some((digest, 7)).into_iter().collect();
            assert_eq!(binaries(&host.root, &told()), expected, "{text}");
            assert_eq!(staged(&host.root, &told()), expected, "{text}");
            assert_eq!(is_stored(&host.root, &digest, 7), is_held, "{text}");
        }
    }

    #[test]
    fn halves_links_and_what_may_not_be_run_are_not_held() {
        let host = TestHost::new();
        let (whole, link, locked) = (
            Digest::of("whole"),
            Digest::of("link"),
            Digest::of("locked"),
        );
        put(&host, layout::STORE, &whole, "whole");
        put(&host, layout::STORE, &locked, "locked");
        let store = host.root.path(layout::STORE);
        host.write(&format!("{}/{}.part", layout::STORE, link.hex()), "link");
        fs_err::os::unix::fs::symlink(
            store.join(format!("{}.part", link.hex())),
            store.join(link.hex()),
        )
        .unwrap();
        for mode in [0o644, 0o777] {
            let mode = std::fs::Permissions::from_mode(mode);
            fs_err::set_permissions(store.join(locked.hex()), mode).unwrap();
            assert_eq!(binaries(&host.root, &told()), BTreeMap::from([(whole, 5)]));
            assert!(!is_stored(&host.root, &locked, 6));
        }
        assert_eq!(by_digest(&host.root, layout::STORE).len(), 2);
    }

    #[test]
    fn many_files_are_each_judged_by_themselves() {
        let host = TestHost::new();
        let texts: Vec<String> = (0..50).map(|number| "x".repeat(number * 999)).collect();
        for (number, text) in texts.iter().enumerate() {
            let damaged = text.replace('x', "y");
            let content = if number % 7 == 3 { &damaged } else { text };
            put(&host, layout::STORE, &Digest::of(text), content);
        }
        let expected: BTreeMap<Digest, u64> = texts
            .iter()
            .enumerate()
            .filter(|(number, _)| number % 7 != 3)
            .map(|(_, text)| (Digest::of(text), text.len() as u64))
            .collect();
        assert_eq!(binaries(&host.root, &told()), expected);
    }
}
