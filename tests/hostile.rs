//! What reads files of others, over seeds and random mutations of them: nothing
//! panics, whatever the bytes are. The fuzz targets in `fuzz` have the same bodies.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "../fuzz/bodies.rs"]
#[expect(clippy::expect_used, reason = "in tests a panic is the report")]
mod bodies;

use camino::Utf8Path;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Mutations of each seed. Fuzzers run for hours; this is what a commit gets.
const MUTATIONS: u32 = 1500;

/// Runs a body over all seeds, as they are and mutated.
fn over_seeds(target: &str, body: fn(&[u8])) {
    let directory = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut paths: Vec<_> = directory
        .join(target)
        .read_dir_utf8()
        .unwrap()
        .map(|entry| entry.unwrap().into_path())
        .collect();
    paths.sort();
    assert!(paths.len() > 1, "{target} has no seeds");
    let seeds: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| fs_err::read(path).unwrap())
        .collect();
    for (number, seed) in (0..).zip(&seeds) {
        body(seed);
        let mut random = StdRng::seed_from_u64(number);
        for _ in 0..MUTATIONS {
            body(&mutated(seed, &seeds, &mut random));
        }
    }
}

/// A few changes of the kinds that fuzzers make.
fn mutated(seed: &[u8], seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.random_range(0..bytes.len());
        let length = random.random_range(1..64).min(bytes.len() - at);
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => {
                bytes.drain(at..at + length);
            }
            4 => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
            // Numbers and words as large as they get.
            5 => {
                let words: [&[u8]; 6] = [
                    b"99999999999",
                    b"-1",
                    b"\xff\xff\xff\xff",
                    b"\0",
                    b"..",
                    b"/",
                ];
                let word = words[random.random_range(0..words.len())];
                bytes.splice(at..at + length.min(word.len()), word.iter().copied());
            }
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..other.len().max(1));
                let piece = other[from.min(other.len())..].iter().take(length);
                bytes.splice(at..at + length, piece.copied());
            }
        }
    }
    bytes
}

#[test]
fn bundles() {
    over_seeds("reader", bodies::reader);
}

#[test]
fn indexes() {
    over_seeds("index", bodies::index);
}

#[test]
fn definitions() {
    over_seeds("definition", bodies::definition);
}

#[test]
fn locks() {
    over_seeds("lock", bodies::lock);
}

#[test]
fn labels() {
    over_seeds("label", bodies::label);
}
