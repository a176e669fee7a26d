//! Reads the tar's headers, and nothing of its contents.
//!
//! The format has one shape only: `oci-layout`, `index.json`, its signatures, the
//! label of a file that is not the whole bundle, then blobs in ascending order, every header as [`tar_format::header`] writes it, zero
//! padding, and two zero blocks at the very end. Whatever differs is refused, with
//! the entry's name.

use super::error::BundleError;
use crate::bundle::part::PART_NAME;
use crate::bundle::tar_format::{self, BLOCK_BYTES};
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

/// Bundles with more blobs than this are refused: each takes memory here. A bundle
/// of Kubernetes has about a hundred.
const ENTRY_LIMIT: usize = 100_000;

/// Where an entry's content lies in its file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub offset: u64,
    pub size: u64,
}

/// Walks the headers of one bundle file, front to back.
pub(super) struct Scanner<'a> {
    file: &'a File,
    path: &'a Utf8Path,
    length: u64,
    position: u64,
}

/// A header that has the one shape.
pub(super) struct Entry {
    pub name: String,
    pub extent: Extent,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(file: &'a File, path: &'a Utf8Path, length: u64) -> Self {
        Self {
            file,
            path,
            length,
            position: 0,
        }
    }

    /// Where the next entry begins, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry; `None` at a complete end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, BundleError> {
        let start = self.position;
        let mut block = [0; BLOCK_BYTES as usize];
        let what = || match start {
            0 => "the first header".to_owned(),
            _ => format!("the header at byte {start}"),
        };
        self.read(start, &mut block, what)?;
        if block.iter().all(|byte| *byte == 0) {
            self.check_end(start)?;
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block);
        let stated_sum = header.cksum().ok();
        if stated_sum != Some(checksum(&block)) {
            return Err(self.entry_error("?", start, "its header is damaged (wrong checksum)"));
        }
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        check_kind_and_name(header, &name)
            .map_err(|problem| self.entry_error(&name, start, problem))?;
        let size = header
            .entry_size()
            .map_err(|_| self.entry_error(&name, start, "its size is not a number"))?;
        let expected = tar_format::header(&name, size).ok();
        if expected.is_none_or(|expected| expected.as_bytes() != &block) {
            return Err(self.entry_error(
                &name,
                start,
                "its header is not as cofferdam writes it: the file was packed anew or damaged",
            ));
        }
        let content = start + BLOCK_BYTES;
        let end = content
            .checked_add(size)
            .and_then(|end| end.checked_add(BLOCK_BYTES));
        let Some(end) = end.map(|end| end - BLOCK_BYTES + tar_format::padding(size)) else {
            return Err(self.entry_error(&name, start, "its size is beyond any file's"));
        };
        self.check_padding(&name, content + size, end)?;
        self.position = end;
        Ok(Some(Entry {
            name,
            extent: Extent {
                offset: content,
                size,
            },
        }))
    }

    /// The content of the next entry if it has this name; else the scanner stays
    /// where it is.
    pub(super) fn next_named(&mut self, name: &str) -> Result<Option<Extent>, BundleError> {
        let start = self.position;
        match self.next()? {
            Some(entry) if entry.name == name => Ok(Some(entry.extent)),
            _ => {
                self.position = start;
                Ok(None)
            }
        }
    }

    /// All remaining entries, which must be blobs in ascending order.
    pub(super) fn blobs(&mut self) -> Result<BTreeMap<Digest, Extent>, BundleError> {
        let mut blobs = BTreeMap::new();
        let mut last: Option<Digest> = None;
        loop {
            let start = self.position;
            let Some(Entry { name, extent }) = self.next()? else {
                return Ok(blobs);
            };
            let Some(digest) = tar_format::blob_digest(&name) else {
                let problem = "it stands after the blobs or twice; the file was packed anew";
                return Err(self.entry_error(&name, start, problem));
            };
            if blobs.contains_key(&digest) {
                return Err(self.entry_error(&name, start, "it is there twice"));
            }
            if last.is_some_and(|last| last > digest) {
                let problem = "it is out of order; the file was packed anew";
                return Err(self.entry_error(&name, start, problem));
            }
            if blobs.len() >= ENTRY_LIMIT {
                return Err(self.entry_error(&name, start, "there are too many entries"));
            }
            last = Some(digest);
            blobs.insert(digest, extent);
        }
    }

    pub(super) fn entry_error(
        &self,
        name: &str,
        offset: u64,
        problem: impl Into<String>,
    ) -> BundleError {
        let (path, entry) = (self.path.to_owned(), name.to_owned());
        BundleError::Entry {
            path,
            entry,
            offset,
            problem: problem.into(),
        }
    }

    fn read(
        &self,
        offset: u64,
        buffer: &mut [u8],
        what: impl FnOnce() -> String,
    ) -> Result<(), BundleError> {
        let needed = offset.saturating_add(buffer.len() as u64);
        if needed > self.length {
            return Err(self.truncated(what(), needed));
        }
        self.file
            .file()
            .read_exact_at(buffer, offset)
            .map_err(|source| BundleError::Io {
                path: self.path.to_owned(),
                source,
            })
    }

    fn truncated(&self, what: String, needed: u64) -> BundleError {
        let path: Utf8PathBuf = self.path.to_owned();
        BundleError::Truncated {
            path,
            what,
            needed,
            length: self.length,
        }
    }

    fn check_padding(&self, name: &str, start: u64, end: u64) -> Result<(), BundleError> {
        if end > self.length {
            return Err(self.truncated(format!("entry `{name}`"), end));
        }
        let mut padding = vec![0; (end - start) as usize];
        self.read(start, &mut padding, || format!("entry `{name}`"))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.entry_error(name, start, "the padding after it is damaged"));
        }
        Ok(())
    }

    fn check_end(&self, start: u64) -> Result<(), BundleError> {
        let mut block = [0; BLOCK_BYTES as usize];
        self.read(start + BLOCK_BYTES, &mut block, || {
            "the end mark".to_owned()
        })?;
        let end = start + tar_format::TRAILER_BYTES;
        if block.iter().any(|byte| *byte != 0) || end != self.length {
            let problem = format!(
                "{} bytes follow the end mark",
                self.length.saturating_sub(end)
            );
            return Err(self.entry_error("end of file", end, problem));
        }
        Ok(())
    }
}

/// The sum of all bytes of a header, its checksum field taken as spaces.
fn checksum(block: &[u8; BLOCK_BYTES as usize]) -> u32 {
    const FIELD: std::ops::Range<usize> = 148..156;
    let sum_of = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum_of(&block[..FIELD.start]) + 8 * u32::from(b' ') + sum_of(&block[FIELD.end..])
}

fn check_kind_and_name(header: &tar::Header, name: &str) -> Result<(), String> {
    use tar::EntryType;
    let kind = match header.entry_type() {
        EntryType::Regular => None,
        EntryType::Symlink | EntryType::Link => Some("a link"),
        EntryType::Directory => Some("a directory"),
        EntryType::XHeader | EntryType::XGlobalHeader => Some("a PAX extension"),
        EntryType::GNULongName | EntryType::GNULongLink | EntryType::GNUSparse => {
            Some("a GNU extension")
        }
        _ => Some("neither file nor anything else that belongs into a bundle"),
    };
    if let Some(kind) = kind {
        return Err(format!("it is {kind}; bundles hold regular files only"));
    }
    if name.starts_with('/') {
        return Err("its path is absolute".to_owned());
    }
    if name.split('/').any(|part| part == "..") {
        return Err("its path leaves the directory".to_owned());
    }
    let fixed = [
        tar_format::OCI_LAYOUT_NAME,
        tar_format::INDEX_NAME,
        PART_NAME,
    ];
    let is_known = fixed.contains(&name) || tar_format::is_signature_name(name);
    if is_known || tar_format::blob_digest(name).is_some() {
        return Ok(());
    }
    if name.starts_with("blobs/") {
        return Err("it is not named by a sha256 digest, the only kind accepted".to_owned());
    }
    Err("no such file belongs into a bundle".to_owned())
}
