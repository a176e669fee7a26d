//! The bundle that a command line gives: read, verified, and held against the
//! inventory.

use super::bundle_content::view;
use super::fault::{Exit, Fault};
use super::phase::Phase;
use crate::bundle::inspect::human_bytes;
use crate::bundle::{Bundle, TrustedKey, verify};
use crate::cli::BundleArgs;
use crate::desired::BundleView;
use crate::inventory::Inventory;
use crate::output::{Output, TransferProgress};
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads the whole bundle: nothing goes to any host before its signature and
/// every digest are known to be right.
pub(super) async fn verify_bundle(
    output: &Arc<Output>,
    args: &BundleArgs,
) -> Result<(Bundle, BundleView), Fault> {
    let phase = Phase::begin(output, "verify", 0);
    let keys = trusted_keys(&args.trusted_key)?;
    let progress = TransferProgress::within(output, "verify");
    let path = args.bundle.clone();
    // On a thread of its own, so that the run can be interrupted meanwhile.
    let work = move || -> Result<(verify::Verification, Bundle), Fault> {
        let found = verify::verify(&path, Some(&keys), progress.as_ref()).map_err(Fault::bundle)?;
        refuse_damages(&path, &found)?;
        let bundle = Bundle::open(&path, &keys).map_err(Fault::bundle)?;
        Ok((found, Bundle::clone(&bundle)))
    };
    let (found, bundle) = tokio::task::spawn_blocking(work)
        .await
        .map_err(anyhow::Error::from)??;
    let view = view(&bundle);
    let files: usize = view.files.values().map(BTreeMap::len).sum();
    let signer = found
        .signed_by
        .map_or(String::new(), |id| format!(", signed by {id}"));
    phase.done(format!(
        "{} {}{signer}, {files} files, {} images, {}",
        view.name,
        view.version,
        view.images.len(),
        human_bytes(bundle.length())
    ));
    Ok((bundle, view))
}

/// Names everything in a bundle that is not what its digest says.
pub(super) fn refuse_damages(
    path: &camino::Utf8Path,
    found: &verify::Verification,
) -> Result<(), Fault> {
    if found.damages.is_empty() {
        return Ok(());
    }
    let damages: Vec<String> = found.damages.iter().map(ToString::to_string).collect();
    let message = format!("the bundle {path} is damaged:\n{}", damages.join("\n"));
    Err(Fault::new(Exit::Input, message)
        .file(path)
        .hint("carry it over again, or build it anew"))
}

pub(super) fn trusted_keys(paths: &[Utf8PathBuf]) -> Result<Vec<TrustedKey>, Fault> {
    paths
        .iter()
        .map(|path| TrustedKey::load(path).map_err(|error| Fault::input(error).file(path)))
        .collect()
}

/// Refuses flags and keys of the inventory that the bundle's programs don't know.
pub(super) fn check_known(inventory: &Inventory, view: &BundleView) -> Result<(), Fault> {
    for platform in view.files.keys() {
        let known = view.flags.get(platform).cloned().unwrap_or_default();
        inventory
            .check_flags(&known)
            .into_result()
            .map_err(Fault::input)?;
        let known = view.fields.get(platform).cloned().unwrap_or_default();
        inventory
            .check_fields(&known)
            .into_result()
            .map_err(Fault::input)?;
    }
    Ok(())
}
