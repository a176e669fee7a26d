//! The software generations that a host keeps, with all that is needed to go
//! back to one.

use super::observe::{generation_numbers, read_numbered_generation};
use super::root::Root;
use crate::facts::StoredGeneration;
use crate::layout;
use anyhow::{Result, ensure};

/// All of them, the newest first.
///
/// # Errors
/// If a file's content is missing or damaged; its path and generation are named.
pub(super) fn read(root: &Root) -> Result<Vec<StoredGeneration>> {
    let mut numbers = generation_numbers(root);
    numbers.sort_unstable();
    let mut all = Vec::new();
    for number in numbers.into_iter().rev() {
        let Some(generation) = read_numbered_generation(root, number) else {
            continue;
        };
        let mut stored = StoredGeneration::default();
        for (path, file) in &generation.files {
            let Some(digest) = file.digest else {
                continue;
            };
            let place = root
                .path(layout::GENERATIONS)
                .join("content")
                .join(digest.hex());
            stored.put(&fs_err::read(&place)?);
            ensure!(
                stored.bytes(&digest).is_some(),
                "{place} is damaged: it is not what generation {number} has as {path}"
            );
        }
        for digest in generation.binaries.values() {
            let place = root.path(layout::STORE).join(digest.hex());
            if let Ok(metadata) = fs_err::metadata(&place) {
                stored.binaries.insert(*digest, metadata.len());
            }
        }
        stored.generation = generation;
        all.push(stored);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::test_host::TestHost;
    use super::*;
    use crate::digest::Digest;
    use crate::facts::{Generation, GenerationFile};

    fn generation(host: &TestHost, number: u64, text: &str) {
        let file = GenerationFile {
            digest: Some(Digest::of(text)),
            mode: 0o644,
            user: "root".to_owned(),
            group: "root".to_owned(),
            part: None,
        };
        let generation = Generation {
            number,
            files: [("/etc/x".to_owned(), file)].into(),
            binaries: [("kubelet".to_owned(), Digest::of(text))].into(),
            ..Generation::default()
        };
        let place = format!("{}/{number}.json", layout::GENERATIONS);
        host.write(&place, &serde_json::to_string(&generation).unwrap());
    }

    fn content(text: &str) -> String {
        format!("{}/content/{}", layout::GENERATIONS, Digest::of(text).hex())
    }

    #[test]
    fn generations_come_with_their_bytes() {
        let host = TestHost::new();
        assert_eq!(read(&host.root).unwrap(), []);
        for (number, text) in [(9, "old"), (10, "new")] {
            generation(&host, number, text);
            host.write(&content(text), text);
        }
        let stored = format!("{}/{}", layout::STORE, Digest::of("old").hex());
        host.write(&stored, "old");
        let all = read(&host.root).unwrap();
        let numbers: Vec<u64> = all.iter().map(|known| known.generation.number).collect();
        assert_eq!(numbers, [10, 9]);
        assert_eq!(all[1].bytes(&Digest::of("old")).unwrap(), b"old");
        assert_eq!(all[1].bytes(&Digest::of("new")), None);
        assert_eq!(all[1].binaries, [(Digest::of("old"), 3)].into());
        assert!(all[0].binaries.is_empty());
    }

    #[test]
    fn damaged_content_is_named() {
        let host = TestHost::new();
        generation(&host, 1, "old");
        let error = read(&host.root).unwrap_err().to_string();
        assert!(error.contains(&Digest::of("old").hex()), "{error}");
        host.write(&content("old"), "odd");
        let error = read(&host.root).unwrap_err().to_string();
        assert!(error.contains("generation 1 has as /etc/x"), "{error}");
    }
}
