//! Free space, asked before anything is written.

use crate::bundle::inspect::human_bytes;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

/// Room left beside what is needed, for file systems' own bookkeeping.
const MARGIN_BYTES: u64 = 16 << 20;

/// Bytes that are to be written into a directory.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    pub directory: &'a Utf8Path,
    pub bytes: u64,
}

/// Fails if a file system has no room. Needs on the same file system add up.
pub fn check_space(needs: &[Need<'_>]) -> Result<()> {
    let mut by_device: BTreeMap<u64, (Utf8PathBuf, u64)> = BTreeMap::new();
    for need in needs {
        let device = fs_err::metadata(need.directory)?.dev();
        let entry = by_device
            .entry(device)
            .or_insert((need.directory.to_owned(), 0));
        entry.1 += need.bytes;
    }
    for (directory, bytes) in by_device.into_values().filter(|(_, bytes)| *bytes > 0) {
        let free = free_bytes(&directory)?;
        if free < bytes + MARGIN_BYTES {
            bail!(
                "checking free space: {} are needed in the file system of {directory}, {} are \
                 free; make room, or pass another --cache or --output",
                human_bytes(bytes + MARGIN_BYTES),
                human_bytes(free)
            );
        }
    }
    Ok(())
}

fn free_bytes(directory: &Utf8Path) -> Result<u64> {
    let status = rustix::fs::statvfs(directory.as_std_path())
        .with_context(|| format!("asking for the free space of {directory}"))?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::TestDirectory;

    #[test]
    fn needs_of_one_file_system_add_up() {
        let directory = TestDirectory::new();
        let path = directory.path.as_path();
        let free = free_bytes(path).unwrap();
        let need = |bytes| Need {
            directory: path,
            bytes,
        };
        assert!(check_space(&[need(1), need(0)]).is_ok());
        let error = check_space(&[need(free), need(free)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("are free; make room"), "{error}");
    }
}
