//! The software generations that a host keeps, with all that is needed to go
//! back to one.

use super::observe::{generation_numbers, read_numbered_generation};
use super::root::Root;
use crate::digest::Digest;
use crate::facts::StoredGeneration;
use crate::layout;

/// All of them, the newest first. What is missing or damaged of their files is not
/// in them.
pub(super) fn read(root: &Root) -> Vec<StoredGeneration> {
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
            // What a disk lost or damaged may be in place still.
            for place in [&place, &root.path(path)] {
                let bytes = fs_err::read(place).ok();
                if let Some(bytes) = bytes.filter(|bytes| Digest::of(bytes) == digest) {
                    stored.put(&bytes);
                    break;
                }
            }
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
    all
}

#[cfg(test)]
mod tests {
    use super::super::test_host::TestHost;
    use super::*;
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
        assert_eq!(read(&host.root), []);
        for (number, text) in [(9, "old"), (10, "new")] {
            generation(&host, number, text);
            host.write(&content(text), text);
        }
        let stored = format!("{}/{}", layout::STORE, Digest::of("old").hex());
        host.write(&stored, "old");
        let all = read(&host.root);
        let numbers: Vec<u64> = all.iter().map(|known| known.generation.number).collect();
        assert_eq!(numbers, [10, 9]);
        assert_eq!(all[1].bytes(&Digest::of("old")).unwrap(), b"old");
        assert_eq!(all[1].bytes(&Digest::of("new")), None);
        assert_eq!(all[1].binaries, [(Digest::of("old"), 3)].into());
        assert!(all[0].binaries.is_empty());
    }

    #[test]
    fn what_is_lost_or_damaged_is_taken_from_where_it_is_in_place() {
        let host = TestHost::new();
        let old = Digest::of("old");
        generation(&host, 1, "old");
        assert_eq!(read(&host.root)[0].bytes(&old), None);
        host.write(&content("old"), "odd");
        host.write("/etc/x", "new");
        assert_eq!(read(&host.root)[0].bytes(&old), None);
        host.write("/etc/x", "old");
        assert_eq!(read(&host.root)[0].bytes(&old).unwrap(), b"old");
    }
}
