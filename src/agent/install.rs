//! How the agent comes to its one path, and how a newer one replaces it.

use crate::digest::Digest;
use crate::layout;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use sha2::{Digest as _, Sha256};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

/// Name of a new agent until it is proven.
pub const NEW_AGENT: &str = "/opt/cofferdam/.agent.new";
/// Larger than any agent, in bytes; what goes on and on is no agent.
const LARGEST: u64 = 256 << 20;

/// Run as [`NEW_AGENT`]: proves by its own bytes that it is what the signed
/// bundle holds, and takes the agent's name.
///
/// # Errors
/// When its digest is another; then the file is removed.
pub fn install_self(expected: &Digest) -> Result<()> {
    let own = fs::read("/proc/self/exe").context("reading this program")?;
    let found = Digest::of(&own);
    if found != *expected {
        fs::remove_file(NEW_AGENT)?;
        bail!("what arrived is {found}, the bundle holds {expected}; run the same command again");
    }
    take_name(Utf8Path::new(NEW_AGENT))
}

/// Run as the agent in place: reads its successor, proves it, and puts it in
/// its own place. Running agents keep their file.
///
/// # Errors
/// When the digest is another or the disk is full; the agent in place stays.
pub fn replace(expected: &Digest, input: &mut dyn Read) -> Result<()> {
    let path = Utf8Path::new(NEW_AGENT);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o700)
        .open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
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
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
    let found = Digest::from_bytes(hasher.finalize().into());
    if found != *expected {
        fs::remove_file(path)?;
        bail!("what arrived is {found}, the bundle holds {expected}; run the same command again");
    }
    drop(file);
    take_name(path)
}

fn take_name(path: &Utf8Path) -> Result<()> {
    fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    fs::File::open(path)?.sync_all()?;
    fs::rename(path, layout::AGENT)?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}
