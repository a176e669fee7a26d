//! What one file of a bundle in several says of itself.
//!
//! A bundle is one file, or several parts with the same index and signature, each
//! with some of the blobs. A delta leaves out what the site has already. Both bear
//! `part.json`, a label: it says what is in the file and what else there is, so that
//! a missing part can be named. It is not signed, and nothing is believed for it:
//! blobs are what their digests say, and digests are under the index's signature.

use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Name of the label in the tar.
pub const PART_NAME: &str = "part.json";
/// Labels larger than this are refused; they have some 220 bytes.
pub const PART_LIMIT_BYTES: u64 = 512;
/// The only schema of labels so far.
const SCHEMA: u32 = 1;

/// A file's label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    schema: u32,
    /// Counted from 1.
    pub part: u32,
    pub parts: u32,
    /// Whether content that a site has already is left out, in all parts together.
    pub delta: bool,
    /// Number of the blobs in this file, and their bytes.
    pub blobs: u64,
    pub bytes: u64,
    /// Over the digests and sizes of the blobs in this file, in their order.
    pub checksum: Digest,
}

impl Part {
    /// The label of a file with these blobs, in their order, with sizes in bytes.
    pub fn new(
        (part, parts): (u32, u32),
        delta: bool,
        blobs: impl Iterator<Item = (Digest, u64)>,
    ) -> Self {
        let mut lines = String::new();
        let (mut count, mut bytes) = (0, 0);
        for (digest, size) in blobs {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{digest} {size}");
            count += 1;
            bytes += size;
        }
        Self {
            schema: SCHEMA,
            part,
            parts,
            delta,
            blobs: count,
            bytes,
            checksum: Digest::of(&lines),
        }
    }

    /// Parses a label, which must be exactly what [`Self::render`] writes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let part: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if part.schema != SCHEMA {
            return Err(format!(
                "it has schema {}, this cofferdam knows {SCHEMA}; use a newer one",
                part.schema
            ));
        }
        if part.part == 0 || part.part > part.parts {
            return Err(format!("there is no part {} of {}", part.part, part.parts));
        }
        if part.render() != bytes {
            return Err("it differs from what cofferdam writes".to_owned());
        }
        Ok(part)
    }

    /// The label's bytes.
    pub fn render(&self) -> Vec<u8> {
        // A structure of numbers and one text has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether this is the label of a file with these blobs.
    pub fn is_of(&self, blobs: impl Iterator<Item = (Digest, u64)>) -> bool {
        *self == Self::new((self.part, self.parts), self.delta, blobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> impl Iterator<Item = (Digest, u64)> {
        [(Digest::of("a"), 1), (Digest::of("b"), u64::from(u32::MAX))].into_iter()
    }

    #[test]
    fn labels_round_trip_and_nothing_else_is_one() {
        let part = Part::new((2, 3), true, blobs());
        let bytes = part.render();
        assert!(bytes.len() as u64 <= PART_LIMIT_BYTES);
        assert_eq!(Part::parse(&bytes).unwrap(), part);
        assert!(part.is_of(blobs()) && !part.is_of(blobs().take(1)));
        let text = String::from_utf8(bytes).unwrap();
        for (from, to, expected) in [
            ("\"schema\":1", "\"schema\":2", "use a newer one"),
            ("\"part\":2", "\"part\":4", "no part 4 of 3"),
            ("\"part\":2", "\"part\":0", "no part 0 of 3"),
            ("{", "{ ", "differs"),
            ("\"part\":2", "\"part\":2,\"x\":1", "unknown field"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = Part::parse(changed.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// The largest numbers fit.
    #[test]
    fn labels_are_small() {
        let part = Part {
            schema: SCHEMA,
            part: u32::MAX,
            parts: u32::MAX,
            delta: false,
            blobs: u64::MAX,
            bytes: u64::MAX,
            checksum: Digest::of(""),
        };
        assert!(part.render().len() as u64 <= PART_LIMIT_BYTES);
    }
}
