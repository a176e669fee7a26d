//! What a writable instance that was killed leaves in the store: uploads that
//! nobody takes up again, and files that never got their names. They do no
//! harm, but they are the size of image layers.

use crate::agent::root::Root;
use crate::layout;
use anyhow::{Context, Result};
use camino::Utf8Path;
use fs_err as fs;

/// Directory of unfinished uploads in a repository of the distribution
/// server's file system driver.
const UPLOADS: &str = "_uploads";
/// Suffix of files that are about to be renamed, by the same driver.
const UNNAMED: &str = ".tmp";

/// Removes them. Nothing else may write to the store meanwhile: the agent
/// holds the host's lock.
///
/// # Errors
/// If the store can't be read or written; the path is named.
pub fn remove_leftovers(root: &Root) -> Result<()> {
    let store = root.path(layout::REGISTRY);
    if !store.exists() {
        return Ok(());
    }
    clean(&store)
}

fn clean(directory: &Utf8Path) -> Result<()> {
    let entries = directory
        .read_dir_utf8()
        .with_context(|| format!("reading {directory}"))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {directory}"))?;
        let path = entry.path();
        let is_directory = entry
            .file_type()
            .with_context(|| format!("reading {path}"))?
            .is_dir();
        let is_upload = directory.file_name() == Some(UPLOADS);
        match (is_directory, is_upload) {
            (true, true) => fs::remove_dir_all(path)?,
            (true, false) => clean(path)?,
            (false, _) if is_upload || entry.file_name().ends_with(UNNAMED) => {
                fs::remove_file(path)?;
            }
            (false, _) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    #[test]
    fn unfinished_uploads_go_and_everything_else_stays() {
        let host = TestHost::new();
        remove_leftovers(&host.root).unwrap();
        let repository = host
            .root
            .path(layout::REGISTRY)
            .join("docker/registry/v2/repositories/a");
        let kept = repository.join("_layers/sha256/aa/link");
        let gone = [
            repository.join("_uploads/u1/data"),
            repository.join("_layers/link.u.tmp"),
        ];
        for path in gone.iter().chain([&kept]) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        remove_leftovers(&host.root).unwrap();
        assert!(kept.exists());
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(repository.join("_uploads").exists());
    }
}
