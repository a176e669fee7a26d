//! Blobs of the registry's store whose bytes are not what their names say.

use crate::agent::observe::remove_blob_if_damaged;
use crate::agent::root::Root;
use crate::digest::Digest;
use anyhow::{Context, Result};

/// Removes a blob or manifest if it is there and damaged. The distribution
/// server takes what is there under a digest for right, whoever pushes it:
/// `moveBlob` in its `registry/storage/blobwriter.go` leaves finding damages to
/// others. Meanwhile the serving instance says that it hasn't got the blob,
/// which sends its clients on to the next registry.
///
/// # Errors
/// If the store can't be changed.
pub(super) async fn remove_if_damaged(root: &Root, digest: &Digest) -> Result<()> {
    let (root, digest) = (root.clone(), *digest);
    tokio::task::spawn_blocking(move || remove_blob_if_damaged(&root, &digest))
        .await
        .context("reading a blob of the registry")?
        .with_context(|| format!("removing the damaged blob {digest} of the registry"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::observe::blob_place;
    use crate::agent::test_host::TestHost;
    use crate::layout;

    #[tokio::test]
    async fn what_is_right_stays() {
        let host = TestHost::new();
        let digest = Digest::of("layer");
        remove_if_damaged(&host.root, &digest).await.unwrap();
        let place = host.root.path(layout::REGISTRY).join(blob_place(&digest));
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        for (text, stays) in [("layer", true), ("Layer", false), ("lay", false)] {
            fs_err::write(&place, text).unwrap();
            remove_if_damaged(&host.root, &digest).await.unwrap();
            assert_eq!(place.exists(), stays, "{text}");
        }
        // A link is none of the registry's making, and not followed.
        host.write("/etc/other", "other");
        fs_err::os::unix::fs::symlink(host.root.path("/etc/other"), &place).unwrap();
        remove_if_damaged(&host.root, &digest).await.unwrap();
        assert!(!place.is_symlink() && host.root.path("/etc/other").exists());
    }
}
