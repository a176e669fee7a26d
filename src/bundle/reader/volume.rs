//! One file of a bundle: its front, its label, and where its blobs lie.

use super::error::BundleError;
use super::front::{Trust, check_signatures, check_start, fixed_entry, not_a_bundle};
use super::scan::{Extent, Scanner};
use crate::bundle::part::{PART_LIMIT_BYTES, PART_NAME, Part};
use crate::bundle::sign::{KeyId, Signature};
use crate::bundle::tar_format;
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `index.json` larger than this is refused: it has about 500 bytes per artifact.
const INDEX_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// A signature has some 300 bytes.
const SIGNATURE_LIMIT_BYTES: u64 = 16 * 1024;

/// What is the same in all files of a bundle: the index, and the texts of its
/// signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Front {
    pub index: Vec<u8>,
    pub signatures: Vec<Vec<u8>>,
}

/// An open file whose headers were read.
#[derive(Debug)]
pub(super) struct Volume {
    pub path: Utf8PathBuf,
    pub file: Arc<File>,
    /// Size in bytes.
    pub length: u64,
    pub front: Front,
    pub signatures: Vec<Signature>,
    /// The key whose signature was checked, where that was asked for.
    pub signed_by: Option<KeyId>,
    pub label: Option<Part>,
    pub blobs: BTreeMap<Digest, Extent>,
}

impl Volume {
    /// Opens a file. The signature is checked before what follows it is looked at.
    pub(super) fn open(path: &Utf8Path, trust: Trust<'_>) -> Result<Self, BundleError> {
        let (file, length) = open(path)?;
        let mut scanner = Scanner::new(&file, path, length);
        let front = read_front(&mut scanner, &file, path)?;
        let (signatures, signed_by) =
            check_signatures(path, &front.index, &front.signatures, trust)?;
        let label = read_label(&mut scanner, &file, path)?;
        let start = scanner.position();
        let blobs = scanner.blobs()?;
        let sizes = blobs.iter().map(|(digest, extent)| (*digest, extent.size));
        if label.as_ref().is_some_and(|label| !label.is_of(sizes)) {
            let problem = "what follows is not what the label says";
            return Err(scanner.entry_error(PART_NAME, start, problem));
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            length,
            front,
            signatures,
            signed_by,
            label,
            blobs,
        })
    }

    /// The label of a file, if it is a part of the bundle with this front. Files of
    /// whatever other kind are none, and so are those that can't be read.
    pub(super) fn label_in(path: &Utf8Path, front: &Front) -> Option<Part> {
        // Pipes and devices are not even opened.
        if !fs_err::metadata(path).ok()?.is_file() {
            return None;
        }
        let (file, length) = open(path).ok()?;
        let mut scanner = Scanner::new(&file, path, length);
        let found = read_front(&mut scanner, &file, path).ok()?;
        if found != *front {
            return None;
        }
        read_label(&mut scanner, &file, path).ok()?
    }
}

fn open(path: &Utf8Path) -> Result<(File, u64), BundleError> {
    let io = |source| BundleError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(not_a_bundle(path, "it is not a regular file"));
    }
    check_start(&file, path, metadata.len())?;
    Ok((file, metadata.len()))
}

fn read_front(
    scanner: &mut Scanner<'_>,
    file: &File,
    path: &Utf8Path,
) -> Result<Front, BundleError> {
    let layout = fixed_entry(scanner, file, path, tar_format::OCI_LAYOUT_NAME, 4096)?;
    if layout.as_deref() != Some(tar_format::OCI_LAYOUT_CONTENT.as_bytes()) {
        let problem = "its content is not that of an OCI layout 1.0.0";
        return Err(scanner.entry_error(tar_format::OCI_LAYOUT_NAME, 0, problem));
    }
    let index = fixed_entry(
        scanner,
        file,
        path,
        tar_format::INDEX_NAME,
        INDEX_LIMIT_BYTES,
    )?
    .ok_or_else(|| not_a_bundle(path, "it has no index.json after oci-layout"))?;
    let mut signatures = Vec::new();
    for number in 1..=tar_format::SIGNATURES_LIMIT {
        let name = tar_format::signature_name(number);
        match fixed_entry(scanner, file, path, &name, SIGNATURE_LIMIT_BYTES)? {
            Some(signature) => signatures.push(signature),
            None => break,
        }
    }
    Ok(Front { index, signatures })
}

fn read_label(
    scanner: &mut Scanner<'_>,
    file: &File,
    path: &Utf8Path,
) -> Result<Option<Part>, BundleError> {
    let start = scanner.position();
    let Some(bytes) = fixed_entry(scanner, file, path, PART_NAME, PART_LIMIT_BYTES)? else {
        return Ok(None);
    };
    let part = Part::parse(&bytes);
    part.map(Some)
        .map_err(|problem| scanner.entry_error(PART_NAME, start, problem))
}
