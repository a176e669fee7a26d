//! Names software before it is written, so that it is known to be ours also if
//! the run is killed before it commits a generation and the next run wants
//! something else.

use crate::agent::atomic::{self, Ownership};
use crate::agent::observe::{read_generation, read_pending};
use crate::agent::root::Root;
use crate::desired::Binary;
use crate::layout;
use crate::owned::Pending;
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// Only root reads what it owns.
const MANIFEST_MODE: u32 = 0o600;

/// Adds paths that are about to be written, but for those that the newest
/// generation names.
///
/// # Errors
/// If the manifest can't be written.
pub(super) fn add_files<'a>(root: &Root, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let known = read_generation(root).unwrap_or_default().files;
    let new = paths.into_iter().filter(|path| !known.contains_key(*path));
    let new: Vec<String> = new.map(str::to_owned).collect();
    extend(root, |pending| pending.files.extend(new))
}

/// Adds binaries that are about to be installed, but for those that the newest
/// generation has.
///
/// # Errors
/// If the manifest can't be written.
pub(super) fn add_binaries(root: &Root, binaries: &BTreeMap<String, Binary>) -> Result<()> {
    let known = read_generation(root).unwrap_or_default().binaries;
    let new = binaries
        .iter()
        .filter(|(name, binary)| known.get(*name) != Some(&binary.digest));
    let new: Vec<(&String, &Binary)> = new.collect();
    extend(root, |pending| {
        for (name, binary) in new {
            pending.binaries.insert(name.clone());
            pending
                .versions
                .insert(binary.digest, binary.version.clone());
        }
    })
}

/// Forgets everything, once a generation was committed.
///
/// # Errors
/// If the manifest can't be removed.
pub(super) fn clear(root: &Root) -> Result<()> {
    let place = root.path(layout::PENDING_MANIFEST);
    atomic::remove_if_there(&place)?;
    atomic::sync_directories(place.parent())
}

fn extend(root: &Root, add: impl FnOnce(&mut Pending)) -> Result<()> {
    let before = read_pending(root);
    let mut pending = before.clone();
    add(&mut pending);
    if pending == before {
        return Ok(());
    }
    let text = serde_json::to_vec(&pending).context("writing the manifest of what is pending")?;
    let place = root.path(layout::PENDING_MANIFEST);
    atomic::write_and_sync(&place, &text, Ownership::own(MANIFEST_MODE))
}
