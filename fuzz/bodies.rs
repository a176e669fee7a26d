//! What is done with bytes of others. None of it may panic, hang, or take memory
//! that the bytes are not worth.
#![allow(dead_code, reason = "each fuzz target uses one")]

use camino::{Utf8Path, Utf8PathBuf};
use cofferdam::bundle::definition::Definition;
use cofferdam::bundle::inspect::inspect;
use cofferdam::bundle::lock::Lock;
use cofferdam::bundle::part::Part;
use cofferdam::bundle::reader::Trust;
use cofferdam::bundle::sbom::{licences, read_layer, read_program};
use cofferdam::bundle::tar_format;
use cofferdam::bundle::verify::verify;
use cofferdam::bundle::{Bundle, NoProgress};
use std::io::{Read as _, Write as _};

/// Blobs larger than this are not read whole.
const BLOB_LIMIT: u64 = 1 << 20;

/// A bundle's file: opened, read to its last blob, shown, and verified.
pub fn reader(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("writing a temporary file");
    let path = Utf8PathBuf::from_path_buf(file.path().to_owned()).expect("a path in UTF-8");
    let verified = verify(&path, Trust::Ignored, &NoProgress);
    let Ok(bundle) = Bundle::open_unverified(&path) else {
        return;
    };
    let is_whole = verified.is_ok_and(|verified| verified.damages.is_empty());
    for (digest, _) in bundle.reachable_blobs() {
        let read = bundle.blob_bytes(&digest, BLOB_LIMIT);
        assert!(read.is_ok() || !is_whole || bundle.blob_size(&digest) > Some(BLOB_LIMIT));
    }
    let _ = inspect(&bundle).render();
    let _ = bundle.sbom().map(|sbom| sbom.as_ref().map(licences));
    let _ = read_layer(bytes);
    let _ = read_program(bytes);
}

/// An index, in a file whose other entries are as they should be.
pub fn index(bytes: &[u8]) {
    let mut whole = tar::Archive::new(include_bytes!("corpus/reader/whole.tar").as_slice());
    let mut file = Vec::new();
    for entry in whole.entries().expect("the seed is a tar") {
        let mut entry = entry.expect("the seed is a tar");
        let name = entry.path().expect("the seed has paths");
        let name = name.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("the seed is whole");
        if name == tar_format::INDEX_NAME {
            content = bytes.to_vec();
        }
        let header = tar_format::header(&name, content.len() as u64).expect("a header");
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&content);
        file.resize(
            file.len() + tar_format::padding(content.len() as u64) as usize,
            0,
        );
    }
    file.resize(file.len() + tar_format::TRAILER_BYTES as usize, 0);
    reader(&file);
}

/// A definition's text.
pub fn definition(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err(problems) = Definition::parse(text, Utf8Path::new("x.toml"))
    {
        assert!(!problems.to_string().is_empty());
    }
}

/// A lock's text; what was read is written as it was.
pub fn lock(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(lock) = Lock::parse(text)
    {
        let again = Lock::parse(&lock.render()).expect("what was written is read");
        assert_eq!(again, lock);
    }
}

/// The label of a part.
pub fn label(bytes: &[u8]) {
    if let Ok(part) = Part::parse(bytes) {
        assert_eq!(part.render(), bytes);
    }
}
