//! What a writable instance that was killed leaves in the store: uploads that
//! nobody takes up again, and files that never got their names. They do no
//! harm, but they are the size of image layers.

use crate::agent::inside::Inside;
use crate::agent::root::Root;
use crate::layout;
use anyhow::{Context, Result};
use camino::Utf8Path;
use std::io;

/// Directory of unfinished uploads in a repository of the distribution
/// server's file system driver.
const UPLOADS: &str = "_uploads";
/// Suffix of files that are about to be renamed, by the same driver.
const UNNAMED: &str = ".tmp";
/// The driver's own directories around those of the longest repository.
const DEPTH_LIMIT: usize = 20;

/// Removes them. Nothing else may write to the store meanwhile: the agent
/// holds the host's lock. The store is the registry's own: no link is followed.
///
/// # Errors
/// If one can't be removed; the path is named.
pub fn remove_leftovers(root: &Root) -> Result<()> {
    match Inside::open(&root.path(layout::REGISTRY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        store => clean(
            &store.context("opening the registry's store")?,
            ".".into(),
            0,
        ),
    }
}

fn clean(store: &Inside, directory: &Utf8Path, depth: usize) -> Result<()> {
    let is_uploads = directory.file_name() == Some(UPLOADS);
    for name in store.names(directory) {
        let path = directory.join(&name);
        if is_uploads || name.ends_with(UNNAMED) {
            store
                .remove_tree(&path)
                .with_context(|| format!("removing {path} of the registry's store"))?;
        } else if depth < DEPTH_LIMIT {
            clean(store, &path, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;
    use fs_err as fs;

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
        // What the registry's user may have made of an upload.
        host.write("/etc/kubernetes/data", "x");
        let etc = host.root.path("/etc");
        fs::os::unix::fs::symlink(&etc, repository.join("_uploads/etc")).unwrap();
        let deeper = repository.join("deeper");
        fs::create_dir_all(&deeper).unwrap();
        fs::os::unix::fs::symlink(&etc, deeper.join("_uploads")).unwrap();
        remove_leftovers(&host.root).unwrap();
        assert!(etc.join("kubernetes/data").exists());
        assert!(kept.exists());
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(repository.join("_uploads").exists());
    }
}
