//! Ends a change of software: a new numbered manifest, and nothing left that
//! neither it nor the one before it needs.

use super::{images, pending};
use crate::agent::atomic::{self, Ownership};
use crate::agent::channel::NoticeSender;
use crate::agent::observe::{by_digest, generation_numbers, read_numbered_generation};
use crate::agent::root::Root;
use crate::agent::seed::{Removed, remove_leftovers, remove_surplus};
use crate::digest::Digest;
use crate::facts::Generation;
use crate::host::Notice;
use crate::layout;
use crate::plan::title::{count, size};
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use std::collections::BTreeSet;

/// The newest generation, and the one to go back to.
const KEPT: usize = 2;
const MANIFEST_MODE: u32 = 0o600;

pub(super) async fn commit(
    root: &Root,
    (number, generation): (u64, Option<Generation>),
    notices: &NoticeSender,
) -> Result<()> {
    let Some(generation) = generation.filter(|generation| generation.number == number) else {
        bail!("committing generation {number}: the request does not carry it");
    };
    has_binaries(root, &generation)?;
    // What is elsewhere goes first, since nobody would see a commit that was cut short
    // before it.
    let kept = kept_then(root, &generation);
    if let Some(needed) = kept.as_deref().and_then(needed_images) {
        images::unpin_others(root, &needed).await?;
    }
    let needed = kept.as_deref().and_then(needed_artifacts);
    let (root, notices) = (root.clone(), notices.clone());
    let rest = move || {
        if let Err(error) = tidy_registry(&root, needed.as_ref(), &notices) {
            // One that keeps too much holds nobody up.
            let line = format!("registry: old content stays: {error:#}");
            notices.send_lossy(Notice::Log { line });
        }
        write_and_collect(&root, &generation)
    };
    tokio::task::spawn_blocking(rest)
        .await
        .context("committing a generation")?
}

/// The generations that are kept once this one is the newest; none if one can't be read,
/// so that nobody knows what it needs.
fn kept_then(root: &Root, generation: &Generation) -> Option<Vec<Generation>> {
    let mut numbers = generation_numbers(root);
    numbers.retain(|number| *number != generation.number);
    numbers.sort_unstable_by(|left, right| right.cmp(left));
    let others = numbers.into_iter().take(KEPT - 1);
    let others = others.map(|number| read_numbered_generation(root, number));
    let newest = std::iter::once(Some(generation.clone()));
    newest.chain(others).collect()
}

fn tidy_registry(
    root: &Root,
    needed: Option<&BTreeSet<String>>,
    notices: &NoticeSender,
) -> Result<()> {
    // A run that was killed after the last blob left these.
    remove_leftovers(root)?;
    let Some(needed) = needed else {
        return Ok(());
    };
    let removed = remove_surplus(root, needed)?;
    if removed != Removed::default() {
        let blobs = count(removed.blobs, "blob", "blobs");
        let line = format!(
            "registry: {blobs} of older bundles removed, {}",
            size(removed.bytes)
        );
        notices.send_lossy(Notice::Log { line });
    }
    Ok(())
}

/// Digests of the images of all kept generations; none where one didn't note
/// its own.
fn needed_images(kept: &[Generation]) -> Option<BTreeSet<Digest>> {
    let each = kept.iter().map(|generation| generation.images.as_ref());
    let each: Option<Vec<_>> = each.collect();
    Some(each?.into_iter().flatten().copied().collect())
}

/// What a registry is to hold for all kept generations; none where one didn't note its
/// own.
fn needed_artifacts(kept: &[Generation]) -> Option<BTreeSet<String>> {
    let each = kept.iter().map(|generation| generation.artifacts.as_ref());
    let each: Option<Vec<_>> = each.collect();
    Some(each?.into_iter().flatten().cloned().collect())
}

fn has_binaries(root: &Root, generation: &Generation) -> Result<()> {
    for (name, digest) in &generation.binaries {
        let place = root.path(layout::STORE).join(digest.hex());
        if !place.is_file() {
            bail!(
                "committing generation {}: {name} is not in {}",
                generation.number,
                layout::STORE
            );
        }
    }
    Ok(())
}

fn write_and_collect(root: &Root, generation: &Generation) -> Result<()> {
    keep_whole(root, generation)?;
    let directory = root.path(layout::GENERATIONS);
    let text = serde_json::to_vec_pretty(generation).context("writing a generation")?;
    let place = directory.join(format!("{}.json", generation.number));
    atomic::write_and_sync(&place, &text, Ownership::own(MANIFEST_MODE))?;
    let kept = prune_generations(root)?;
    collect(root, &kept)?;
    remove_stale_links(root, generation)?;
    // Last, since it is the only trace of a commit that was cut short.
    pending::clear(root)
}

/// Keeps anew what a disk lost or damaged of the content that the generation goes
/// back to, from the files in place.
fn keep_whole(root: &Root, generation: &Generation) -> Result<()> {
    for (path, file) in &generation.files {
        let Some(digest) = file.digest else {
            continue;
        };
        let right = |place: &Utf8Path| {
            let bytes = fs_err::read(place).ok()?;
            (Digest::of(&bytes) == digest).then_some(bytes)
        };
        let place = root.path(layout::GENERATIONS).join("content");
        let place = place.join(digest.hex());
        if right(&place).is_none()
            && let Some(bytes) = right(&root.path(path))
        {
            atomic::write_and_sync(&place, &bytes, Ownership::own(MANIFEST_MODE))?;
        }
    }
    Ok(())
}

/// Removes manifests other than the newest ones, and returns those.
fn prune_generations(root: &Root) -> Result<Vec<Generation>> {
    let mut numbers = generation_numbers(root);
    numbers.sort_unstable_by(|left, right| right.cmp(left));
    let mut kept = Vec::new();
    for number in numbers {
        match read_numbered_generation(root, number) {
            Some(generation) if kept.len() < KEPT => kept.push(generation),
            _ => {
                let name = format!("{number}.json");
                atomic::remove_if_there(&root.path(layout::GENERATIONS).join(name))?;
            }
        }
    }
    Ok(kept)
}

/// Removes content that no kept generation needs, and all that is staged.
fn collect(root: &Root, kept: &[Generation]) -> Result<()> {
    let binaries: BTreeSet<Digest> = kept
        .iter()
        .flat_map(|generation| generation.binaries.values().copied())
        .collect();
    let contents: BTreeSet<Digest> = kept
        .iter()
        .flat_map(|generation| generation.files.values())
        .filter_map(|file| file.digest)
        .collect();
    let content = format!("{}/content", layout::GENERATIONS);
    for (directory, needed) in [
        (layout::STORE, &binaries),
        (content.as_str(), &contents),
        (layout::STAGING, &BTreeSet::new()),
    ] {
        for file in by_digest(root, directory) {
            if !needed.contains(&file.digest) {
                atomic::remove_if_there(&file.place)?;
            }
        }
        remove_halves(&root.path(directory))?;
    }
    Ok(())
}

/// Removes what a crash left of files on their way to their names.
fn remove_halves(directory: &Utf8Path) -> Result<()> {
    let Ok(entries) = directory.read_dir_utf8() else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_name().starts_with('.') || entry.file_name().ends_with(".part") {
            atomic::remove_if_there(entry.path())?;
        }
    }
    Ok(())
}

fn remove_stale_links(root: &Root, generation: &Generation) -> Result<()> {
    let Ok(entries) = root.path(layout::BIN).read_dir_utf8() else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.path().is_symlink() && !generation.binaries.contains_key(entry.file_name()) {
            atomic::remove_if_there(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::observe::blob_place;
    use crate::agent::test_host::TestHost;
    use crate::facts::GenerationFile;

    fn generation(number: u64, binary: &str, content: &str) -> Generation {
        Generation {
            number,
            binaries: [("kubelet".to_owned(), Digest::of(binary))].into(),
            files: [(
                "/etc/x".to_owned(),
                GenerationFile {
                    digest: Some(Digest::of(content)),
                    mode: 0o644,
                    user: "root".to_owned(),
                    group: "root".to_owned(),
                    part: None,
                },
            )]
            .into(),
            ..Generation::default()
        }
    }

    fn notices() -> NoticeSender {
        notice_channel().0
    }

    fn put(host: &TestHost, directory: &str, text: &str) {
        host.write(&format!("{directory}/{}", Digest::of(text).hex()), text);
    }

    #[tokio::test]
    async fn keeps_what_the_last_two_generations_need() {
        let host = TestHost::new();
        let content = format!("{}/content", layout::GENERATIONS);
        host.write(&format!("{}/.abc.cofferdam", layout::STORE), "half");
        host.write(&format!("{}/abc.part", layout::STAGING), "half");
        for name in ["kubelet", "gone"] {
            let link = host.root.path(layout::BIN).join(name);
            atomic::set_link(&link, "../store/x").unwrap();
        }
        for (number, text) in [(1, "one"), (2, "two"), (3, "three")] {
            for directory in [layout::STORE, &content, layout::STAGING] {
                put(&host, directory, text);
            }
            pending::add_files(&host.root, ["/etc/x"]).unwrap();
            commit(
                &host.root,
                (number, Some(generation(number, text, text))),
                &notices(),
            )
            .await
            .unwrap();
        }
        assert!(!host.root.path(layout::PENDING_MANIFEST).exists());
        let mut numbers = generation_numbers(&host.root);
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 3]);
        let kept: BTreeSet<Digest> = [Digest::of("two"), Digest::of("three")].into();
        let found = |directory: &str| {
            let files = by_digest(&host.root, directory).into_iter();
            files.map(|file| file.digest).collect()
        };
        let store: BTreeSet<Digest> = found(layout::STORE);
        assert_eq!(store, kept);
        let contents: BTreeSet<Digest> = found(&content);
        assert_eq!(contents, kept);
        let staged: BTreeSet<Digest> = found(layout::STAGING);
        assert!(staged.is_empty());
        let names = |directory: &str| fs_err::read_dir(host.root.path(directory)).unwrap().count();
        assert_eq!(names(layout::STORE), 2);
        assert_eq!(names(layout::STAGING), 0);
        assert_eq!(names(layout::BIN), 1);
    }

    #[tokio::test]
    async fn content_that_a_disk_damaged_is_kept_anew() {
        let host = TestHost::new();
        host.write("/etc/x", "one");
        put(&host, layout::STORE, "one");
        let place = format!(
            "{}/content/{}",
            layout::GENERATIONS,
            Digest::of("one").hex()
        );
        host.write(&place, "oNe");
        commit(
            &host.root,
            (1, Some(generation(1, "one", "one"))),
            &notices(),
        )
        .await
        .unwrap();
        assert_eq!(host.read(&place), "one");
    }

    #[test]
    fn images_are_needed_by_any_kept_generation_and_unknown_if_one_is_silent() {
        let of = |images: Option<&[&str]>| Generation {
            images: images.map(|images| images.iter().map(Digest::of).collect()),
            ..generation(1, "kubelet", "x")
        };
        let [old, new] = [of(Some(&["a", "b"])), of(Some(&["b", "c"]))];
        let expected = ["a", "b", "c"].map(Digest::of).into();
        assert_eq!(needed_images(&[old.clone(), new]), Some(expected));
        assert_eq!(needed_images(&[old, of(None)]), None);
    }

    #[tokio::test]
    async fn a_registry_keeps_what_the_last_two_generations_need() {
        let host = TestHost::new();
        let place = |text: &str| {
            let place = blob_place(&Digest::of(text));
            format!("{}/{place}", layout::REGISTRY)
        };
        let texts = ["{\"a\": 1}", "{\"a\": 2}", "{\"a\": 3}", "{\"a\": 4}"];
        for (number, text) in (1..).zip(texts) {
            host.write(&place(text), text);
            put(&host, layout::STORE, "kubelet");
            let artifacts = [format!("site/app:v1@{}", Digest::of(text))];
            let generation = Generation {
                // The second didn't note it, so that nobody knows what it needs.
                artifacts: (number != 2).then(|| artifacts.into()),
                ..generation(number, "kubelet", "x")
            };
            commit(&host.root, (number, Some(generation)), &notices())
                .await
                .unwrap();
            let is_there = |text: &&str| host.root.path(place(text)).exists();
            let held = texts.iter().filter(|text| is_there(text)).count();
            assert_eq!(held, [1, 2, 3, 2][number as usize - 1], "{number}");
        }
        // A store that can't be told from what is needed holds nobody up.
        let generation = Generation {
            artifacts: Some([format!("site/app:v1@{}", Digest::of("lost"))].into()),
            ..generation(5, "kubelet", "x")
        };
        let (notices, mut told) = notice_channel();
        commit(&host.root, (5, Some(generation)), &notices)
            .await
            .unwrap();
        assert!(host.root.path(place(texts[3])).exists());
        let Some(Notice::Log { line }) = told.recv().await else {
            panic!("nothing was told");
        };
        assert!(
            line.starts_with("registry: old content stays: site/app:v1@"),
            "{line}"
        );
    }

    #[tokio::test]
    async fn a_generation_whose_binary_is_missing_is_refused() {
        let host = TestHost::new();
        let error = commit(
            &host.root,
            (1, Some(generation(1, "none", "none"))),
            &notices(),
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("kubelet"), "{error}");
        assert!(generation_numbers(&host.root).is_empty());
    }
}
