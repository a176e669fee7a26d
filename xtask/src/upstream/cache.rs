//! The cache of builds: directories named by the digest of what went into
//! them, filled beside their place and then renamed, so that a killed run
//! leaves nothing half.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::{Duration, Instant};

use crate::shell::say;

/// Another run may be building everything from nothing, which takes tens of
/// minutes on a small machine.
const LOCK_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
const LOCK_INTERVAL: Duration = Duration::from_secs(1);

/// Directories that are being filled. A killed run leaves them; the next run
/// removes them.
const PARTIAL_PREFIX: &str = ".partial-";

/// How many hexadecimal digits of a key name a directory.
const KEY_LENGTH: usize = 16;

/// The cache, held by this process alone until dropped.
pub struct Cache {
    root: Utf8PathBuf,
    _lock: fs_err::File,
}

impl Cache {
    /// Opens the cache, waiting for another run that holds it.
    pub fn open(root: Utf8PathBuf) -> Result<Self> {
        fs_err::create_dir_all(&root)?;
        let lock = fs_err::File::create(root.join("lock"))?;
        let started = Instant::now();
        let mut told = false;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if started.elapsed() > LOCK_LIMIT => bail!(
                    "waiting for {root}/lock: another `cargo xtask` has held it for {} minutes",
                    LOCK_LIMIT.as_secs() / 60
                ),
                Err(Errno::WOULDBLOCK) if !told => {
                    say(&format!("another run is filling {root}: waiting for it"));
                    told = true;
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error).with_context(|| format!("locking {root}/lock")),
            }
            std::thread::sleep(LOCK_INTERVAL);
        }
        for entry in root.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_name().starts_with(PARTIAL_PREFIX) {
                fs_err::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { root, _lock: lock })
    }

    /// Where the directory for a key is or will be.
    pub fn place(&self, name: &str, key: &str) -> Utf8PathBuf {
        self.root.join(format!("{name}-{}", &key[..KEY_LENGTH]))
    }

    /// Fills a new directory with `fill` and moves it to its place. When
    /// `fill` fails, what it left is removed.
    pub fn fill(&self, place: &Utf8Path, fill: impl FnOnce(&Utf8Path) -> Result<()>) -> Result<()> {
        let partial = tempfile::Builder::new()
            .prefix(PARTIAL_PREFIX)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&self.root)
            .with_context(|| format!("making a directory in {}", self.root))?;
        let path = Utf8Path::from_path(partial.path()).context("the cache's path is not UTF-8")?;
        fill(path)?;
        fs_err::rename(path, place)?;
        Ok(())
    }
}

/// A key: the digest of named inputs in order.
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds one input. Lengths are part of what is hashed, so that moving a
    /// byte from one input to the next is another key.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        for part in [name.as_bytes(), content] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

/// SHA-256 of some bytes in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// SHA-256 of a file in hexadecimal.
pub fn sha256_of_file(path: &Utf8Path) -> Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hexadecimal(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(directory: &tempfile::TempDir) -> Cache {
        let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        Cache::open(root).unwrap()
    }

    #[test]
    fn digests_are_sha256() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_key_tells_where_one_input_ends() {
        let key = |parts: [&str; 2]| {
            let mut key = KeyBuilder::new();
            key.add("a", parts[0].as_bytes());
            key.add("b", parts[1].as_bytes());
            key.finish()
        };
        assert_ne!(key(["xy", "z"]), key(["x", "yz"]));
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory);
        let place = cache.place("thing", &sha256(b""));
        let result = cache.fill(&place, |path| {
            fs_err::write(path.join("half"), "")?;
            bail!("killed")
        });
        assert!(result.is_err());
        let left: Vec<_> = cache.root.read_dir_utf8().unwrap().collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let partial = directory.path().join(".partial-abc");
        fs_err::create_dir(&partial).unwrap();
        fs_err::write(partial.join("half"), "").unwrap();
        let cache = cache(&directory);
        assert!(!partial.exists());

        let place = cache.place("thing", &sha256(b""));
        cache
            .fill(&place, |path| Ok(fs_err::write(path.join("whole"), "")?))
            .unwrap();
        assert!(place.join("whole").exists());
    }
}
