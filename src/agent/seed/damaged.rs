//! Blobs of the registry's store whose bytes are not what their names say.

use crate::agent::atomic;
use crate::agent::observe::{Named, blob_place, is_right};
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
    let (place, digest) = (blob_place(root, digest), *digest);
    let look = move || -> Result<()> {
        let Ok(metadata) = place.symlink_metadata() else {
            return Ok(());
        };
        let named = Named {
            size: metadata.len(),
            digest,
            place,
        };
        if is_right(&named) {
            return Ok(());
        }
        atomic::remove_if_there(&named.place)?;
        atomic::sync_directories(named.place.parent())
    };
    tokio::task::spawn_blocking(look)
        .await
        .context("reading a blob of the registry")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    #[tokio::test]
    async fn what_is_right_stays() {
        let host = TestHost::new();
        let digest = Digest::of("layer");
        remove_if_damaged(&host.root, &digest).await.unwrap();
        let place = blob_place(&host.root, &digest);
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        for (text, stays) in [("layer", true), ("Layer", false), ("lay", false)] {
            fs_err::write(&place, text).unwrap();
            remove_if_damaged(&host.root, &digest).await.unwrap();
            assert_eq!(place.exists(), stays, "{text}");
        }
    }
}
