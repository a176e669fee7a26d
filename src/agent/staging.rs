//! Blobs that come over the jump host's link, kept until their host has put
//! them where they belong.

use super::atomic;
use super::channel::BodyReceiver;
use super::observe::{Named, is_right};
use super::root::Root;
use crate::digest::Digest;
use crate::layout;
use anyhow::{Context, Result, bail};
use camino::Utf8PathBuf;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

/// Whether a blob's body was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    AlreadyThere,
    Taken,
}

/// The place of a staged blob.
pub fn place_of(root: &Root, digest: &Digest) -> Utf8PathBuf {
    root.path(layout::STAGING).join(digest.hex())
}

/// Whether the blob is staged whole. It got its name only when it was, but a
/// run may be taken up again long after.
///
/// # Errors
/// Only if the agent itself is broken.
pub async fn is_staged(root: &Root, digest: &Digest, size: u64) -> Result<bool> {
    let named = Named {
        place: place_of(root, digest),
        digest: *digest,
        size,
    };
    tokio::task::spawn_blocking(move || is_right(&named))
        .await
        .context("reading a staged blob")
}

/// Takes a blob in, unless it is there.
///
/// # Errors
/// If the body is cut off or is not what its digest and size say, or the disk
/// refuses; then nothing is left.
pub async fn put(
    root: &Root,
    digest: &Digest,
    size: u64,
    mut body: BodyReceiver,
) -> Result<Stored> {
    if is_staged(root, digest, size).await? {
        return Ok(Stored::AlreadyThere);
    }
    let place = place_of(root, digest);
    let directory = root.path(layout::STAGING);
    atomic::make_parents(&directory)?;
    // Removed when dropped without its name.
    let temporary = tempfile::Builder::new()
        .prefix(&digest.hex())
        .suffix(".part")
        .tempfile_in(&directory)
        .with_context(|| format!("making a file in {directory}"))?;
    let file = temporary.reopen().context("opening the file just made")?;
    let mut file = tokio::fs::File::from_std(file);
    let mut hasher = Sha256::new();
    let mut taken = 0;
    while let Some(piece) = body.next().await? {
        taken += piece.len() as u64;
        if taken > size {
            bail!("taking blob {digest}: it is larger than the {size} bytes announced");
        }
        hasher.update(&piece);
        file.write_all(&piece)
            .await
            .with_context(|| format!("writing {place}"))?;
    }
    file.flush()
        .await
        .with_context(|| format!("writing {place}"))?;
    let found = Digest::from_bytes(hasher.finalize().into());
    if taken != size || found != *digest {
        bail!("taking blob {digest} of {size} bytes: what came is {found} of {taken} bytes");
    }
    file.sync_all()
        .await
        .with_context(|| format!("syncing {place}"))?;
    temporary
        .persist(place.as_std_path())
        .with_context(|| format!("naming {place}"))?;
    atomic::sync_directories([directory.as_path()])?;
    Ok(Stored::Taken)
}

#[cfg(test)]
mod tests {
    use super::super::channel::body_channel;
    use super::super::test_host::TestHost;
    use super::*;
    use bytes::Bytes;

    async fn put_text(host: &TestHost, digest: Digest, size: u64, text: &str) -> Result<Stored> {
        let (sender, receiver) = body_channel();
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let send = async {
            // A reader that needs no body hangs up.
            let _ = sender.send(bytes);
            let _ = sender.finish();
        };
        let (stored, ()) = tokio::join!(put(&host.root, &digest, size, receiver), send);
        stored
    }

    #[tokio::test]
    async fn a_blob_is_taken_once_and_only_if_it_is_right() {
        let host = TestHost::new();
        let digest = Digest::of("blob");
        for (size, text) in [(4, "blub"), (4, "blobs"), (5, "blob"), (4, "blo")] {
            assert!(put_text(&host, digest, size, text).await.is_err());
        }
        let directory = host.root.path(layout::STAGING);
        assert_eq!(fs_err::read_dir(&directory).unwrap().count(), 0);
        let stored = put_text(&host, digest, 4, "blob").await.unwrap();
        assert_eq!(stored, Stored::Taken);
        let stored = put_text(&host, digest, 4, "").await.unwrap();
        assert_eq!(stored, Stored::AlreadyThere);
        assert_eq!(
            fs_err::read(place_of(&host.root, &digest)).unwrap(),
            b"blob"
        );
    }

    #[tokio::test]
    async fn a_staged_blob_that_was_damaged_is_taken_anew() {
        let host = TestHost::new();
        let digest = Digest::of("blob");
        put_text(&host, digest, 4, "blob").await.unwrap();
        fs_err::write(place_of(&host.root, &digest), "blub").unwrap();
        let stored = put_text(&host, digest, 4, "blob").await.unwrap();
        assert_eq!(stored, Stored::Taken);
        assert!(is_staged(&host.root, &digest, 4).await.unwrap());
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_leaves_nothing() {
        let host = TestHost::new();
        let digest = Digest::of("blob");
        let (sender, receiver) = body_channel();
        sender.send(Bytes::from_static(b"blob")).unwrap();
        drop(sender);
        let error = put(&host.root, &digest, 4, receiver).await.unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
        assert!(!is_staged(&host.root, &digest, 4).await.unwrap());
    }
}
