//! The front of a bundle file: is it one at all, and who signed it.

use super::error::BundleError;
use super::scan::Scanner;
use crate::bundle::sign::{KeyId, Signature, SignatureProblem, TrustedKey};
use crate::bundle::tar_format;
use camino::Utf8Path;
use fs_err::File;
use std::os::unix::fs::FileExt as _;

/// What is needed of a bundle's signatures.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// One of these keys must have signed it.
    Required(&'a [TrustedKey]),
    /// If one of these keys has signed it, that must be right; it may have none.
    UnsignedToo(&'a [TrustedKey]),
    /// They are not looked at.
    Ignored,
}

pub(super) fn not_a_bundle(path: &Utf8Path, found: impl Into<String>) -> BundleError {
    BundleError::NotABundle {
        path: path.to_owned(),
        found: found.into(),
    }
}

/// Tells other kinds of files from bundles by their first block, so that the
/// message says what was given.
pub(super) fn check_start(file: &File, path: &Utf8Path, length: u64) -> Result<(), BundleError> {
    let mut start = [0; tar_format::BLOCK_BYTES as usize];
    let available = (length as usize).min(start.len());
    file.file()
        .read_exact_at(&mut start[..available], 0)
        .map_err(|source| BundleError::Io {
            path: path.to_owned(),
            source,
        })?;
    let start = &start[..available];
    const KINDS: [(&[u8], &str); 6] = [
        (
            b"\x1f\x8b",
            "it is compressed with gzip (bundles are not compressed as a whole)",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "it is compressed with zstd (bundles are not compressed as a whole)",
        ),
        (
            b"\xfd7zXZ",
            "it is compressed with xz (bundles are not compressed as a whole)",
        ),
        (b"PK\x03\x04", "it is a zip archive"),
        (b"\x7fELF", "it is a program"),
        (b"untrusted comment:", "it is a minisign key or signature"),
    ];
    if length == 0 {
        return Err(not_a_bundle(path, "it is empty"));
    }
    for (magic, found) in KINDS {
        if start.starts_with(magic) {
            return Err(not_a_bundle(path, found));
        }
    }
    let name = tar_format::OCI_LAYOUT_NAME.as_bytes();
    if start.starts_with(name) {
        return Ok(());
    }
    if start.get(257..262) == Some(b"ustar") {
        return Err(not_a_bundle(
            path,
            "it is a tar, but does not begin with `oci-layout`",
        ));
    }
    let is_text = start
        .iter()
        .all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    Err(not_a_bundle(
        path,
        if is_text {
            "it is a text file"
        } else {
            "it is no tar"
        },
    ))
}

/// Reads one of the files at the front. `None` if the next entry is another: the
/// scanner then stays where it is.
pub(super) fn fixed_entry(
    scanner: &mut Scanner<'_>,
    file: &File,
    path: &Utf8Path,
    name: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, BundleError> {
    let Some(extent) = scanner.next_named(name)? else {
        return Ok(None);
    };
    if extent.size > limit {
        let problem = format!("it has {} bytes; at most {limit} are read", extent.size);
        return Err(scanner.entry_error(name, extent.offset, problem));
    }
    let mut content = vec![0; extent.size as usize];
    file.file()
        .read_exact_at(&mut content, extent.offset)
        .map_err(|source| BundleError::Io {
            path: path.to_owned(),
            source,
        })?;
    Ok(Some(content))
}

/// The signatures, and the number of the key whose was found to be right.
pub(super) fn check_signatures(
    path: &Utf8Path,
    index: &[u8],
    signatures: &[Vec<u8>],
    trust: Trust<'_>,
) -> Result<(Vec<Signature>, Option<KeyId>), BundleError> {
    let problem = |problem| BundleError::Signature {
        path: path.to_owned(),
        problem,
    };
    let parse = |bytes: &Vec<u8>| {
        std::str::from_utf8(bytes)
            .map_err(|_| SignatureProblem::Malformed("it is not text"))
            .and_then(Signature::parse)
            .map_err(problem)
    };
    let signatures = signatures.iter().map(parse);
    let signatures: Vec<Signature> = signatures.collect::<Result<_, _>>()?;
    let (keys, may_be_unsigned) = match trust {
        Trust::Ignored => return Ok((signatures, None)),
        Trust::Required(keys) => (keys, false),
        Trust::UnsignedToo(keys) => (keys, true),
    };
    let is_trusted = |signature: &&Signature| keys.iter().any(|key| key.id() == signature.key_id());
    let mut verified = None;
    for signature in signatures.iter().filter(is_trusted) {
        signature.verify(index, keys).map_err(problem)?;
        verified = verified.or(Some(signature.key_id()));
    }
    if verified.is_none() && !may_be_unsigned {
        return Err(match signatures.first() {
            None => BundleError::Unsigned {
                path: path.to_owned(),
            },
            Some(_) => problem(SignatureProblem::untrusted(&signatures, keys)),
        });
    }
    Ok((signatures, verified))
}
