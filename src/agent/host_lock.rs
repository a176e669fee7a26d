//! The host's exclusive lock: whoever holds it may change the host, or the
//! agent on it. It goes with the process that took it, and its file says who
//! that is.

use super::root::Root;
use crate::host::RunInHand;
use crate::layout;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FlockOperation;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long another's lock is waited for. A step of a run that died may still
/// be in hand: its agent notices within 30 s, and then has 120 s to finish.
pub const LIMIT: Duration = Duration::from_secs(165);
/// Pace of asking for it.
const EVERY: Duration = Duration::from_millis(500);
/// Whoever can open the lock can take it, and keep every run out.
const MODE: u32 = 0o600;
/// What is read of the file at most, in bytes: it holds two short words.
const LARGEST: u64 = 4 << 10;

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct HostLock {
    _file: fs::File,
}

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{0} is changing this host")]
    Held(RunInHand),
    #[error("locking {path}: {0}", path = layout::LOCK)]
    Io(#[from] io::Error),
}

/// Takes the lock, and tells `waiting` whom it waits for meanwhile.
///
/// # Errors
/// When another holds it for as long as the limit, or the disk refuses.
pub async fn take(
    root: &Root,
    by: &str,
    limit: Duration,
    waiting: impl Fn(&RunInHand),
) -> Result<HostLock, LockError> {
    fs::create_dir_all(root.path(layout::RUN))?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(MODE)
        .open(root.path(layout::LOCK))?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    let deadline = Instant::now() + limit;
    while !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        let holder = holder(root);
        if Instant::now() >= deadline {
            return Err(LockError::Held(holder));
        }
        waiting(&holder);
        sleep(EVERY).await;
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
    let run = RunInHand {
        by: by.to_owned(),
        since: now.to_string(),
    };
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(&run).map_err(io::Error::from)?)?;
    Ok(HostLock { _file: file })
}

/// Who holds the lock now. It is not taken for that but for a moment, in which
/// others wait.
pub fn run_in_hand(root: &Root) -> Option<RunInHand> {
    let file = fs::File::open(root.path(layout::LOCK)).ok()?;
    match try_lock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(false) => Some(holder(root)),
        Ok(true) | Err(_) => None,
    }
}

fn try_lock(file: &fs::File, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the file says. It may be empty for a moment after the lock was taken.
fn holder(root: &Root) -> RunInHand {
    let read = || -> Option<RunInHand> {
        let file = fs::File::open(root.path(layout::LOCK)).ok()?;
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    };
    read().unwrap_or_else(|| RunInHand {
        by: "somebody".to_owned(),
        since: "a moment ago".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_host::TestHost;
    use super::*;

    #[tokio::test]
    async fn one_holds_it_and_others_learn_who() {
        let host = TestHost::new();
        assert_eq!(run_in_hand(&host.root), None);
        let held = take(&host.root, "ops@jump", Duration::ZERO, |_| ())
            .await
            .unwrap();
        let mode = fs::metadata(host.root.path(layout::LOCK)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, MODE);
        let run = run_in_hand(&host.root).unwrap();
        assert_eq!(run.by, "ops@jump");
        assert!(run.since.ends_with(" UTC"), "{run}");
        let refused = take(&host.root, "other@jump", Duration::ZERO, |_| ())
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), format!("{run} is changing this host"));
        assert_eq!(run_in_hand(&host.root), Some(run), "its name stays");
        drop(held);
        assert_eq!(run_in_hand(&host.root), None);
    }

    #[tokio::test]
    async fn whoever_waits_says_for_whom_and_gets_it() {
        let host = TestHost::new();
        let held = take(&host.root, "a", LIMIT, |_| ()).await.unwrap();
        let held = std::cell::Cell::new(Some(held));
        // The first word of waiting ends the wait.
        let waited = take(&host.root, "b", LIMIT, |run| {
            assert_eq!(run.by, "a");
            drop(held.take());
        });
        waited.await.unwrap();
        assert_eq!(run_in_hand(&host.root), None);
    }
}
