//! How the agent comes to its one path, and how a newer one replaces it.
//!
//! - A new agent has a name of its own until it is proven: two uploads at once
//!   must not write into one file.
//! - What is proven is what was written, not what came.
//! - It gets the agent's name under the host's lock: no run's agent is
//!   replaced while it changes the host.

use super::host_lock;
use super::root::Root;
use crate::digest::Digest;
use crate::layout;
use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use sha2::{Digest as _, Sha256};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

/// Beginning of a new agent's name until it is proven; the number of the
/// process that brings it follows, so that leftovers are known as such.
pub const NEW_AGENT: &str = "/opt/cofferdam/.agent.";
/// Larger than any agent, in bytes; what goes on and on is no agent.
const LARGEST: u64 = 256 << 20;
/// Read and hashed in pieces of this size, in bytes.
const PIECE: usize = 1 << 20;
/// Whom others find holding the lock.
const HOLDER: &str = "whoever brings another agent";

/// The name under which the process brings an agent.
pub fn new_agent(root: &Root, process: u32) -> Utf8PathBuf {
    root.path(format!("{NEW_AGENT}{process}"))
}

/// Run as a new agent: proves that it is what the signed bundle holds, and
/// takes the agent's name.
///
/// # Errors
/// When its digest is another, or another run holds the host; then the file is
/// removed.
pub async fn install_self(root: &Root, own: &Utf8Path, expected: &Digest) -> Result<()> {
    let result = take_name(root, own, expected).await;
    if result.is_err() {
        // What went wrong first is what people need to know.
        let _ = fs::remove_file(own);
    }
    clear_leftovers(root);
    result
}

/// Run as the agent in place: reads its successor, proves it, and puts it in
/// its own place. Running agents keep their file.
///
/// # Errors
/// When the digest is another, another run holds the host or the disk is full;
/// the agent in place stays.
pub async fn replace(root: &Root, expected: &Digest, input: &mut dyn Read) -> Result<()> {
    // Before anything is written: they may be what fills the disk.
    clear_leftovers(root);
    let beginning = new_agent(root, std::process::id());
    let (directory, name) = (directory(root), beginning.file_name().unwrap_or_default());
    // Removed when dropped without its name.
    let new = tempfile::Builder::new()
        .prefix(&format!("{name}."))
        .tempfile_in(&directory)
        .with_context(|| format!("making a file in {directory}"))?;
    let mut file = new.as_file();
    let mut buffer = vec![0; PIECE];
    let mut total = 0_u64;
    loop {
        let read = input.read(&mut buffer).context("reading the new agent")?;
        if read == 0 {
            break;
        }
        total += read as u64;
        if total > LARGEST {
            bail!("the new agent is larger than {LARGEST} bytes");
        }
        file.write_all(&buffer[..read])
            .with_context(|| format!("writing the new agent into {directory}"))?;
    }
    // A file that is open for writing can't be run.
    let path = new.into_temp_path();
    let place = Utf8Path::from_path(&path).context("the new agent's name is no UTF-8")?;
    take_name(root, place, expected).await
}

/// Proves what was written, and gives it the agent's name.
async fn take_name(root: &Root, new: &Utf8Path, expected: &Digest) -> Result<()> {
    fs::File::open(new)?.sync_all()?;
    let found = digest_of(new)?;
    if found != *expected {
        bail!("what arrived is {found}, the bundle holds {expected}; run the same command again");
    }
    fs::set_permissions(new, std::fs::Permissions::from_mode(0o755))?;
    let taken = host_lock::take(root, HOLDER, host_lock::LIMIT, |_| ()).await;
    let _lock = taken.map_err(|error| {
        anyhow!("replacing the agent: {error}; let it end, then run the same command again")
    })?;
    fs::rename(new, root.path(layout::AGENT))?;
    fs::File::open(directory(root))?.sync_all()?;
    Ok(())
}

fn directory(root: &Root) -> Utf8PathBuf {
    let agent = root.path(layout::AGENT);
    agent.parent().map_or(agent.clone(), Utf8Path::to_owned)
}

fn digest_of(path: &Utf8Path) -> Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Removes what uploads left that were cut off. What a living process brings
/// stays. An error is no reason not to bring an agent.
fn clear_leftovers(root: &Root) {
    let beginning = NEW_AGENT.rsplit('/').next().unwrap_or(NEW_AGENT);
    for entry in fs::read_dir(directory(root))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(beginning)) else {
            continue;
        };
        let process = rest.split('.').next().unwrap_or(rest).parse::<u32>();
        let is_in_use = process.is_ok_and(|id| Utf8Path::new(&format!("/proc/{id}")).exists());
        if !is_in_use {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_host::TestHost;
    use super::*;
    use std::time::Duration;

    fn host() -> TestHost {
        let host = TestHost::new();
        host.write(layout::AGENT, "old");
        host
    }

    /// Names in the agent's directory.
    fn names(host: &TestHost) -> Vec<String> {
        let entries = directory(&host.root).read_dir_utf8().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Gives its bytes one piece at a time, and does something before the last.
    struct Interrupted<'a> {
        pieces: Vec<&'static str>,
        between: Option<Box<dyn FnOnce() + 'a>>,
    }

    impl Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.pieces.len() == 1
                && let Some(between) = self.between.take()
            {
                between();
            }
            let Some(piece) = self.pieces.first().copied() else {
                return Ok(0);
            };
            self.pieces.remove(0);
            buffer[..piece.len()].copy_from_slice(piece.as_bytes());
            Ok(piece.len())
        }
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(work)
    }

    #[test]
    fn two_that_are_brought_at_once_never_mix() {
        let host = host();
        let second = || {
            let digest = Digest::of("second");
            block_on(replace(&host.root, &digest, &mut "second".as_bytes())).unwrap();
            assert_eq!(host.read(layout::AGENT), "second");
        };
        let mut first = Interrupted {
            pieces: vec!["first, ", "which is longer"],
            // On a thread of its own, as another process would be.
            between: Some(Box::new(|| {
                std::thread::scope(|scope| scope.spawn(second).join().unwrap());
            })),
        };
        let digest = Digest::of("first, which is longer");
        block_on(replace(&host.root, &digest, &mut first)).unwrap();
        assert_eq!(host.read(layout::AGENT), "first, which is longer");
        assert_eq!(names(&host), ["agent"]);
        let mode = fs::metadata(host.root.path(layout::AGENT)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_is_cut_off_or_damaged_never_becomes_the_agent() {
        let host = host();
        for arrived in ["", "ne", "nev", "new."] {
            let expected = Digest::of("new");
            let mut input = arrived.as_bytes();
            let error = block_on(replace(&host.root, &expected, &mut input)).unwrap_err();
            assert!(error.to_string().contains("what arrived is sha256:"));
            let own = new_agent(&host.root, std::process::id());
            fs::write(&own, arrived).unwrap();
            block_on(install_self(&host.root, &own, &expected)).unwrap_err();
            assert_eq!(host.read(layout::AGENT), "old");
            assert_eq!(names(&host), ["agent"]);
        }
    }

    #[test]
    fn leftovers_go_but_not_what_is_being_brought() {
        let host = host();
        let others = format!(".agent.{}", std::process::id());
        // No system has so many processes.
        for name in [
            others.as_str(),
            ".agent.4294967295",
            ".agent.4294967295.x",
            ".agent.new",
        ] {
            fs::write(directory(&host.root).join(name), "cut").unwrap();
        }
        let digest = Digest::of("new");
        block_on(replace(&host.root, &digest, &mut "new".as_bytes())).unwrap();
        assert_eq!(names(&host), [others.as_str(), "agent"]);
        let own = new_agent(&host.root, std::process::id());
        fs::write(&own, "newer").unwrap();
        block_on(install_self(&host.root, &own, &Digest::of("newer"))).unwrap();
        assert_eq!(host.read(layout::AGENT), "newer");
        assert_eq!(names(&host), ["agent"]);
    }

    #[test]
    fn nothing_is_replaced_while_a_run_holds_the_host() {
        let host = host();
        block_on(async {
            let run = host_lock::take(&host.root, "ops@jump", Duration::ZERO, |_| ());
            let run = run.await.unwrap();
            let expected = Digest::of("new");
            let mut input = "new".as_bytes();
            let replaced = replace(&host.root, &expected, &mut input);
            tokio::pin!(replaced);
            // It waits for the run, whose agent stays.
            tokio::select! {
                result = &mut replaced => panic!("{result:?}"),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            assert_eq!(host.read(layout::AGENT), "old");
            drop(run);
            replaced.await.unwrap();
            assert_eq!(host.read(layout::AGENT), "new");
        });
    }
}
