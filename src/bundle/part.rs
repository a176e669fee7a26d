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
/// Labels larger than this are refused; they have some 310 bytes.
pub const PART_LIMIT_BYTES: u64 = 512;
/// No bundle is cut into more parts: labels are not signed, and each number takes
/// memory where parts are missing.
pub const PARTS_LIMIT: u32 = 10_000;
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
    /// Over the checksums of all parts: those of one and the same cut belong
    /// together.
    pub cut: Digest,
}

impl Part {
    /// The labels of files with these blobs, in their order, with sizes in bytes.
    pub fn cut(delta: bool, files: &[Vec<(Digest, u64)>]) -> Vec<Self> {
        let parts = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let labels = (1..).zip(files).map(|(part, blobs)| {
            let blobs = blobs.iter().copied();
            Self::new((part, parts), delta, Digest::of(""), blobs)
        });
        let mut labels: Vec<Self> = labels.collect();
        let checksums = labels.iter().map(|label| label.checksum.to_string());
        let cut = Digest::of(checksums.collect::<String>());
        labels.iter_mut().for_each(|label| label.cut = cut);
        labels
    }

    fn new(
        (part, parts): (u32, u32),
        delta: bool,
        cut: Digest,
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
            cut,
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
        if part.parts > PARTS_LIMIT {
            return Err(format!(
                "it is of {} parts; at most {PARTS_LIMIT} are read",
                part.parts
            ));
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
        *self == Self::new((self.part, self.parts), self.delta, self.cut, blobs)
    }

    /// Whether another file's label is of the same cut.
    pub fn belongs_to(&self, other: &Self) -> bool {
        (self.parts, self.delta, self.cut) == (other.parts, other.delta, other.cut)
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
        let files = [vec![], blobs().collect(), vec![]];
        let part = Part::cut(true, &files).remove(1);
        let bytes = part.render();
        assert!(bytes.len() as u64 <= PART_LIMIT_BYTES);
        assert_eq!(Part::parse(&bytes).unwrap(), part);
        assert!(part.is_of(blobs()) && !part.is_of(blobs().take(1)));
        let text = String::from_utf8(bytes).unwrap();
        for (from, to, expected) in [
            ("\"schema\":1", "\"schema\":2", "use a newer one"),
            ("\"part\":2", "\"part\":4", "no part 4 of 3"),
            ("\"part\":2", "\"part\":0", "no part 0 of 3"),
            (
                "\"parts\":3",
                "\"parts\":4294967295",
                "at most 10000 are read",
            ),
            ("{", "{ ", "differs"),
            ("\"part\":2", "\"part\":2,\"x\":1", "unknown field"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = Part::parse(changed.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_parts_of_one_cut_belong_together() {
        let blobs: Vec<_> = ["a", "b", "c"].map(|name| (Digest::of(name), 1)).into();
        let one = Part::cut(false, &[blobs[..1].to_vec(), blobs[1..].to_vec()]);
        let other = Part::cut(false, &[blobs[..2].to_vec(), blobs[2..].to_vec()]);
        let delta = Part::cut(true, &[blobs[..1].to_vec(), blobs[1..].to_vec()]);
        assert!(one[0].belongs_to(&one[1]));
        assert!(!one[0].belongs_to(&other[1]) && !one[0].belongs_to(&delta[1]));
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
            cut: Digest::of(""),
        };
        assert!(part.render().len() as u64 <= PART_LIMIT_BYTES);
    }
}
