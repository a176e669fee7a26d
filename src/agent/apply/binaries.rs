//! Puts binaries into the store and sets their links.

use super::download::{self, Counter};
use super::pending;
use super::registries::{QUIET_LIMIT, Registries, not_to_be_had};
use crate::agent::atomic;
use crate::agent::channel::NoticeSender;
use crate::agent::observe::is_stored;
use crate::agent::root::Root;
use crate::desired::Binary;
use crate::host::Notice;
use crate::layout;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::OnceCell;

/// Unpacking is bound by a core, and small hosts have two.
const PARALLEL: usize = 2;
/// Progress is told in steps of this size.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Puts binaries into the store and sets their links.
pub(super) async fn install(
    root: &Root,
    binaries: &BTreeMap<String, Binary>,
    registries: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    fetch(root, binaries, registries, notices).await?;
    link(root, binaries).await
}

/// Reads binaries in the store, which must have them whole.
///
/// # Errors
/// With the name of one that it lacks.
pub(super) async fn prove(root: &Root, binaries: &BTreeMap<String, Binary>) -> Result<()> {
    let (root, binaries) = (root.clone(), binaries.clone());
    let read = move || -> Result<()> {
        for (name, binary) in &binaries {
            if !is_stored(&root, &binary.digest, binary.size) {
                bail!(
                    "putting {name} in place: the store does not have it whole; run the same \
                     command again, which fetches it anew"
                );
            }
        }
        Ok(())
    };
    let read = tokio::task::spawn_blocking(read);
    read.await.context("reading the store")?
}

/// Sets the links of binaries that the store has.
///
/// # Errors
/// If one can't be set.
pub(super) async fn link(root: &Root, binaries: &BTreeMap<String, Binary>) -> Result<()> {
    let (root, binaries) = (root.clone(), binaries.clone());
    let set = move || -> Result<()> {
        pending::add_binaries(&root, &binaries)?;
        let directory = root.path(layout::BIN);
        for (name, binary) in &binaries {
            let target = layout::stored_target(&binary.digest);
            atomic::set_link(&directory.join(name), &target)?;
        }
        atomic::sync_directories([directory.as_path()])
    };
    tokio::task::spawn_blocking(set)
        .await
        .context("setting links")?
}

/// Puts binaries into the store. They are named before, so that they are
/// collected if no run ever sets their links.
pub(super) async fn fetch(
    root: &Root,
    binaries: &BTreeMap<String, Binary>,
    registries: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    let add = {
        let (root, binaries) = (root.clone(), binaries.clone());
        tokio::task::spawn_blocking(move || pending::add_binaries(&root, &binaries))
    };
    add.await.context("naming the binaries")??;
    let installer = Installer {
        root,
        registries,
        notices,
        reader: OnceCell::new(),
    };
    // Futures first: a closure inside the stream would be too narrow in its
    // lifetimes for a spawned task.
    let work: Vec<_> = binaries
        .iter()
        .map(|(name, binary)| installer.install(name, binary))
        .collect();
    stream::iter(work)
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await
}

struct Installer<'a> {
    root: &'a Root,
    registries: &'a [String],
    notices: &'a NoticeSender,
    reader: OnceCell<Registries<'a>>,
}

impl Installer<'_> {
    async fn install(&self, name: &str, binary: &Binary) -> Result<()> {
        self.provide(name, binary)
            .await
            .with_context(|| format!("installing {name}"))
    }

    /// Makes sure that the store has a binary.
    async fn provide(&self, name: &str, binary: &Binary) -> Result<()> {
        if self.is_stored(binary).await? {
            return Ok(());
        }
        let place = self.root.path(layout::STORE).join(binary.digest.hex());
        let mut tried = Vec::new();
        let staged = self.root.path(layout::STAGING).join(binary.blob.hex());
        if staged.is_file() {
            match self.unpack_staged(name, binary, &staged, &place).await {
                Ok(()) => return Ok(()),
                Err(error) => tried.push(format!("staging: {error:#}")),
            }
        }
        if self.registries.is_empty() {
            tried.push("no registry to ask".to_owned());
            return Err(not_to_be_had(&tried));
        }
        let registries = self.reader().await?;
        let mut tries = registries.tries(name);
        while let Some(registry) = tries.next().await {
            let path = format!("{}/blobs/{}", binary.repository, binary.blob);
            let request = registries.client().request(Method::GET, registry, &path);
            let counter = self.counter(name, binary);
            match download::fetch(request, binary, &place, counter).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    registries.avoid(registry).await;
                    tries.failed(registry, &error);
                }
            }
        }
        tried.extend(tries.tried());
        Err(not_to_be_had(&tried))
    }

    /// Made when it is needed first: before any registry serves there is no
    /// certificate for them either.
    async fn reader(&self) -> Result<&Registries<'_>> {
        let make = async || Registries::new(self.root, self.registries, self.notices, QUIET_LIMIT);
        self.reader.get_or_try_init(make).await
    }

    async fn is_stored(&self, binary: &Binary) -> Result<bool> {
        let (root, digest, size) = (self.root.clone(), binary.digest, binary.size);
        tokio::task::spawn_blocking(move || is_stored(&root, &digest, size))
            .await
            .context("reading the store")
    }

    async fn unpack_staged(
        &self,
        name: &str,
        binary: &Binary,
        staged: &Utf8Path,
        place: &Utf8Path,
    ) -> Result<()> {
        let file = fs_err::File::open(staged)?;
        let (binary, place) = (binary.clone(), place.to_owned());
        let counter = self.counter(name, &binary);
        tokio::task::spawn_blocking(move || download::unpack(file, &binary, &place, counter))
            .await
            .context("unpacking")?
    }

    fn counter(&self, name: &str, binary: &Binary) -> Counter {
        let (notices, item, total) = (self.notices.clone(), name.to_owned(), binary.blob_size);
        let told = AtomicU64::new(0);
        Box::new(move |done| {
            let last = told.load(Ordering::Relaxed);
            if done >= last + PROGRESS_BYTES || (done == total && done > last) {
                told.store(done, Ordering::Relaxed);
                notices.send_lossy(Notice::Progress {
                    item: item.clone(),
                    done,
                    total,
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::failure::failure_of;
    use crate::agent::observe::read_pending;
    use crate::agent::test_host::TestHost;
    use crate::digest::Digest;

    fn binary(text: &[u8]) -> (Binary, Vec<u8>) {
        let blob = zstd::encode_all(text, 3).unwrap();
        let binary = Binary {
            digest: Digest::of(text),
            size: text.len() as u64,
            blob: Digest::of(&blob),
            blob_size: blob.len() as u64,
            repository: "cofferdam/file/kubelet".to_owned(),
            version: "1".to_owned(),
        };
        (binary, blob)
    }

    fn stage(host: &TestHost, blob: &[u8], name: &Digest) {
        let place = host.root.path(layout::STAGING).join(name.hex());
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        fs_err::write(place, blob).unwrap();
    }

    #[tokio::test]
    async fn takes_from_staging_and_mends_a_damaged_store() {
        let host = TestHost::new();
        let (kubelet, blob) = binary(b"kubelet 1");
        stage(&host, &blob, &kubelet.blob);
        let binaries = BTreeMap::from([("kubelet".to_owned(), kubelet.clone())]);
        let (notices, _receiver) = notice_channel();
        let link = host.root.path(layout::BIN).join("kubelet");
        install(&host.root, &binaries, &[], &notices).await.unwrap();
        assert_eq!(fs_err::read(&link).unwrap(), b"kubelet 1");
        let stored = host.root.path(layout::STORE).join(kubelet.digest.hex());
        // Same size, other bytes: as a disk might do it.
        fs_err::write(&stored, "kubelet X").unwrap();
        install(&host.root, &binaries, &[], &notices).await.unwrap();
        assert_eq!(fs_err::read(&link).unwrap(), b"kubelet 1");
        // No generation has it yet.
        assert!(read_pending(&host.root).binaries.contains("kubelet"));
        // Once proven, nothing else is needed.
        fs_err::remove_dir_all(host.root.path(layout::STAGING)).unwrap();
        install(&host.root, &binaries, &[], &notices).await.unwrap();
    }

    #[tokio::test]
    async fn an_error_names_all_that_was_tried() {
        let host = TestHost::new();
        let (kubelet, mut blob) = binary(b"kubelet 1");
        blob[5] ^= 1;
        stage(&host, &blob, &kubelet.blob);
        let binaries = BTreeMap::from([("kubelet".to_owned(), kubelet)]);
        let (notices, _receiver) = notice_channel();
        let error = install(&host.root, &binaries, &[], &notices)
            .await
            .unwrap_err();
        let message = failure_of(&error).message;
        assert!(message.starts_with("installing kubelet"), "{message}");
        assert!(message.contains("staging: "), "{message}");
        assert!(message.contains("no registry"), "{message}");
        assert!(!host.root.path(layout::BIN).join("kubelet").exists());
    }
}
