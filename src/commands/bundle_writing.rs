//! `cofferdam bundle sign` and `bundle split`: a bundle that is there, written anew.
//! Its index, and so its identity, stays.

use super::bundle_making::{signing_key, written_text};
use super::fault::{Exit, Fault};
use crate::bundle::sign::Signature;
use crate::bundle::write::{self, Layout, Shape};
use crate::bundle::{Bundle, Source, tar_format};
use crate::cli::{KeyArgs, Size};
use crate::output::{Style, TransferProgress};
use camino::Utf8Path;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

/// Signs a bundle; the signatures that it has are replaced unless they are kept.
pub(super) fn sign(
    source: &Source,
    key: &KeyArgs,
    keeps: bool,
    to: &Utf8Path,
    style: Style,
) -> Result<ExitCode, Fault> {
    let key = signing_key(key)?;
    let bundle = Bundle::open_unverified(source).map_err(Fault::bundle)?;
    let comment = format!("cofferdam bundle {} {}", bundle.name(), bundle.version());
    let signature = key.sign(bundle.index(), &comment)?;
    let kept = bundle.signatures().iter();
    let kept = kept.filter(|known| keeps && known.key_id() != key.id());
    let signatures: Vec<&Signature> = kept.chain([&signature]).collect();
    // What is new in each part.
    let more = tar_format::entry_bytes(signature.render().len() as u64);
    let part_bytes = largest_part(&bundle).map(|largest| largest + more);
    let told = write_anew(&bundle, &signatures, part_bytes, to, style)?;
    super::output(style).say(&format!("{told}, signed by {}", key.id()));
    Ok(ExitCode::SUCCESS)
}

/// Writes a bundle in parts, or as one file.
pub(super) fn split(
    source: &Source,
    size: Option<Size>,
    to: &Utf8Path,
    style: Style,
) -> Result<ExitCode, Fault> {
    let bundle = Bundle::open_unverified(source).map_err(Fault::bundle)?;
    let signatures: Vec<&Signature> = bundle.signatures().iter().collect();
    let told = write_anew(&bundle, &signatures, size.map(|size| size.0), to, style)?;
    super::output(style).say(&told);
    Ok(ExitCode::SUCCESS)
}

/// The size in bytes of the largest part; none for one file.
fn largest_part(bundle: &Bundle) -> Option<u64> {
    let lengths = bundle.lengths();
    (lengths.len() > 1).then(|| lengths.into_iter().max().unwrap_or_default())
}

fn write_anew(
    bundle: &Bundle,
    signatures: &[&Signature],
    part_bytes: Option<u64>,
    to: &Utf8Path,
    style: Style,
) -> Result<String, Fault> {
    let output = super::output(style);
    let signatures: Vec<String> = signatures.iter().map(|known| known.render()).collect();
    if signatures.len() > tar_format::SIGNATURES_LIMIT {
        let message = format!("{} bears as many signatures as fit", bundle.path());
        return Err(Fault::new(Exit::Input, message).hint("leave out --add"));
    }
    let shape = Shape {
        part_bytes,
        // A delta stays one, with all that it has, unless its base made it whole.
        had: bundle.left_out().next().is_some().then(BTreeSet::new),
    };
    let layout = Layout::of(bundle);
    let planned = write::plan(to, &layout, &signatures, &shape).map_err(|error| {
        let least = error.least;
        Fault::input(error).hint(format!("ask for parts of {least} bytes or more"))
    })?;
    let inode = |path: &Utf8Path| {
        let metadata = fs_err::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    // Renamed over, one after the other, they could not be gone back to.
    let sources: Vec<_> = bundle.paths().filter_map(inode).collect();
    let is_source = |path: &Utf8Path| inode(path).is_some_and(|found| sources.contains(&found));
    if let Some(file) = planned.iter().find(|file| is_source(&file.path)) {
        let message = format!("{} is what is read", file.path);
        return Err(Fault::new(Exit::Input, message).hint("name another output"));
    }
    let progress = TransferProgress::begin(&output);
    let files = write::write_files(&planned, &layout, &signatures, progress.as_ref())
        .map_err(|error| Fault::of(Exit::Failed, &error.into()))?;
    progress.end();
    let what = format!("{} {}", bundle.name(), bundle.version());
    written_text(to, &files, &what)
}
