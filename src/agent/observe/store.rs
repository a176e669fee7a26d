//! Directories whose files are named by the sha256 of their content.

use crate::agent::root::Root;
use crate::digest::Digest;
use std::collections::BTreeMap;

/// Regular files with a digest for a name, and their sizes in bytes. Their
/// content was proven when they got their names.
pub(crate) fn by_digest(root: &Root, directory: &str) -> BTreeMap<Digest, u64> {
    let Ok(entries) = fs_err::read_dir(root.path(directory)) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digest = Digest::from_hex(&name).ok()?;
            let metadata = entry.metadata().ok()?;
            metadata.is_file().then_some((digest, metadata.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn lists_whole_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        assert!(by_digest(&root, "/store").is_empty());
        fs_err::create_dir(root.path("/store")).unwrap();
        let digest = Digest::of("content");
        fs_err::write(root.path("/store").join(digest.hex()), "content").unwrap();
        let part = root
            .path("/store")
            .join(format!("{}.part", Digest::of("x").hex()));
        fs_err::write(part, "half").unwrap();
        assert_eq!(by_digest(&root, "/store"), BTreeMap::from([(digest, 7)]));
    }
}
