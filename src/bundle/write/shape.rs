//! Which blob goes into which file: one whole bundle, several parts, or less than
//! all where a site has the rest. Pure.

use super::assemble::Layout;
use crate::bundle::part::{PART_LIMIT_BYTES, PARTS_LIMIT, Part};
use crate::bundle::tar_format;
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeSet;

/// What is asked of the files. A part takes at least the largest blob, and no more
/// than [`PARTS_LIMIT`] are written.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Largest size of a file in bytes; none for one file.
    pub part_bytes: Option<u64>,
    /// Digests of what the site has already, for a delta; others mean nothing.
    pub had: Option<BTreeSet<Digest>>,
}

/// One file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    pub path: Utf8PathBuf,
    /// None for a whole bundle in one file.
    pub label: Option<Part>,
    /// In the order in which they are written.
    pub blobs: Vec<Digest>,
    /// Size of the file in bytes.
    pub size: u64,
}

/// Why a bundle can't be split so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "parts of {part_bytes} bytes are too small: the largest blob and what each part repeats \
     take {least} bytes"
)]
pub struct TooSmall {
    pub part_bytes: u64,
    /// The least size in bytes with which it can be split.
    pub least: u64,
}

/// The files that a bundle is written to.
///
/// # Errors
/// When a blob does not fit a part.
pub fn plan(
    output: &Utf8Path,
    layout: &Layout,
    signatures: &[String],
    shape: &Shape,
) -> Result<Vec<PlannedFile>, TooSmall> {
    let had = |digest: &Digest| shape.had.as_ref().is_some_and(|had| had.contains(digest));
    // What a reader needs to know what a bundle holds is never left out.
    let carried = layout
        .blobs
        .iter()
        .map(|(digest, (size, _))| (*digest, *size))
        .filter(|(digest, _)| layout.read_first.contains(digest) || !had(digest));
    let carried: Vec<(Digest, u64)> = carried.collect();
    let front = front_bytes(layout, signatures);
    let groups = match shape.part_bytes {
        Some(part_bytes) => groups(&carried, front, part_bytes)?,
        None => vec![carried],
    };
    let (parts, delta) = (groups.len(), shape.had.is_some());
    let is_whole = parts == 1 && !delta;
    let labels = Part::cut(delta, &groups);
    let files = groups.into_iter().zip(labels).map(|(blobs, label)| {
        let numbers = (label.part, label.parts);
        let label = (!is_whole).then_some(label);
        let label_bytes = label.as_ref().map_or(0, |label| {
            tar_format::entry_bytes(label.render().len() as u64)
        });
        let content = blobs.iter().map(|(_, size)| tar_format::entry_bytes(*size));
        PlannedFile {
            path: match parts {
                1 => output.to_owned(),
                _ => part_path(output, numbers),
            },
            size: front + label_bytes + content.sum::<u64>(),
            label,
            blobs: blobs.into_iter().map(|(digest, _)| digest).collect(),
        }
    });
    Ok(files.collect())
}

/// `x.part1of3.tar` of `x.tar`.
pub fn part_path(output: &Utf8Path, (part, parts): (u32, u32)) -> Utf8PathBuf {
    let stem = output.file_stem().unwrap_or_default();
    let name = match output.extension() {
        Some(extension) => format!("{stem}.part{part}of{parts}.{extension}"),
        None => format!("{stem}.part{part}of{parts}"),
    };
    output.with_file_name(name)
}

/// Bytes that every file has: layout, index, signature and end.
fn front_bytes(layout: &Layout, signatures: &[String]) -> u64 {
    let signatures = signatures
        .iter()
        .map(|text| tar_format::entry_bytes(text.len() as u64));
    tar_format::entry_bytes(tar_format::OCI_LAYOUT_CONTENT.len() as u64)
        + tar_format::entry_bytes(layout.index.len() as u64)
        + signatures.sum::<u64>()
        + tar_format::TRAILER_BYTES
}

/// Blobs in their order, as many to a part as fit.
fn groups(
    blobs: &[(Digest, u64)],
    front: u64,
    part_bytes: u64,
) -> Result<Vec<Vec<(Digest, u64)>>, TooSmall> {
    let front = front + tar_format::entry_bytes(PART_LIMIT_BYTES);
    let largest = blobs.iter().map(|(_, size)| tar_format::entry_bytes(*size));
    let least = front + largest.max().unwrap_or_default();
    let all: u64 = blobs
        .iter()
        .map(|(_, size)| tar_format::entry_bytes(*size))
        .sum();
    // Each part but the last is more than half full, whatever its blobs are.
    let least = least.max(front + 2 * all / u64::from(PARTS_LIMIT));
    if least > part_bytes {
        return Err(TooSmall { part_bytes, least });
    }
    let mut groups: Vec<Vec<(Digest, u64)>> = vec![Vec::new()];
    let mut filled = front;
    for (digest, size) in blobs {
        let bytes = tar_format::entry_bytes(*size);
        if filled + bytes > part_bytes {
            groups.push(Vec::new());
            filled = front;
        }
        filled += bytes;
        if let Some(group) = groups.last_mut() {
            group.push((*digest, *size));
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::{self, TestDirectory};

    fn layout() -> Layout {
        let directory = TestDirectory::new();
        testing::builder(&directory.path).finish().unwrap()
    }

    fn plan_of(layout: &Layout, shape: &Shape) -> Vec<PlannedFile> {
        plan("out/x.tar".into(), layout, &["signature".to_owned()], shape).unwrap()
    }

    #[test]
    fn one_file_has_all_and_no_label() {
        let layout = layout();
        let files = plan_of(&layout, &Shape::default());
        assert_eq!(files.len(), 1);
        assert_eq!(
            (files[0].path.as_str(), &files[0].label),
            ("out/x.tar", &None)
        );
        assert!(files[0].blobs.iter().eq(layout.blobs.keys()));
    }

    #[test]
    fn parts_share_all_blobs_and_none_is_larger_than_asked() {
        let layout = layout();
        let whole = plan_of(&layout, &Shape::default())[0].size;
        let least = {
            let shape = Shape {
                part_bytes: Some(1000),
                had: None,
            };
            plan("x.tar".into(), &layout, &["signature".to_owned()], &shape).unwrap_err()
        };
        assert_eq!(least.part_bytes, 1000);
        for part_bytes in [least.least, least.least + 5000, whole / 2, whole - 1] {
            let shape = Shape {
                part_bytes: Some(part_bytes),
                had: None,
            };
            let files = plan_of(&layout, &shape);
            assert!(files.len() > 1);
            let blobs: Vec<Digest> = files.iter().flat_map(|file| file.blobs.clone()).collect();
            assert!(blobs.iter().eq(layout.blobs.keys()), "{part_bytes}");
            for (file, part) in files.iter().zip(1..) {
                assert!(file.size <= part_bytes, "{} of {part_bytes}", file.size);
                let label = file.label.as_ref().unwrap();
                assert_eq!((label.part, label.parts as usize), (part, files.len()));
                assert!(!label.delta);
            }
            let expected = format!("out/x.part1of{}.tar", files.len());
            assert_eq!(files[0].path, expected);
        }
        let shape = Shape {
            part_bytes: Some(whole + 2000),
            had: None,
        };
        assert_eq!(
            plan_of(&layout, &shape),
            plan_of(&layout, &Shape::default())
        );
    }

    #[test]
    fn a_delta_leaves_out_content_but_nothing_that_is_read_first() {
        let layout = layout();
        let shape = Shape {
            part_bytes: None,
            had: Some(layout.blobs.keys().copied().collect()),
        };
        let files = plan_of(&layout, &shape);
        let label = files[0].label.as_ref().unwrap();
        assert!(label.delta);
        assert!(files[0].blobs.iter().eq(&layout.read_first));
        assert!(layout.read_first.len() < layout.blobs.len());
        // What a site has of other bundles means nothing.
        let shape = Shape {
            part_bytes: None,
            had: Some([Digest::of("else")].into()),
        };
        assert_eq!(plan_of(&layout, &shape)[0].blobs.len(), layout.blobs.len());
    }
}
