//! Where a bundle lies: in one file or in parts, perhaps with the bundle that a
//! delta builds on.

use super::error::{BundleError, Missing};
use super::front::Trust;
use super::volume::Volume;
use crate::bundle::part::Part;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;

/// Files and directories that a bundle is read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The bundle, or any one of its parts.
    pub path: Utf8PathBuf,
    /// Directories with other parts, or such files themselves. The directory of
    /// `path` is always looked through.
    pub parts_in: Vec<Utf8PathBuf>,
    /// Bundles that a delta builds on, or any one part of each.
    pub base: Vec<Utf8PathBuf>,
}

impl From<&Utf8Path> for Source {
    fn from(path: &Utf8Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }
}

impl From<&Utf8PathBuf> for Source {
    fn from(path: &Utf8PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&Self> for Source {
    fn from(source: &Self) -> Self {
        source.clone()
    }
}

/// Open files of one bundle, and those that lend it blobs.
pub(super) struct Opened {
    /// In the order of parts.
    pub own: Vec<Volume>,
    pub base: Vec<Volume>,
}

impl Source {
    pub(super) fn open(&self, trust: Trust<'_>) -> Result<Opened, BundleError> {
        let own = parts(&self.path, &self.parts_in, trust)?;
        let mut base = Vec::new();
        for path in &self.base {
            // Its blobs are believed for their digests alone.
            base.extend(parts(path, &self.parts_in, Trust::Ignored)?);
        }
        Ok(Opened { own, base })
    }
}

/// All parts of the bundle that a file is one of.
fn parts(
    path: &Utf8Path,
    parts_in: &[Utf8PathBuf],
    trust: Trust<'_>,
) -> Result<Vec<Volume>, BundleError> {
    let first = Volume::open(path, trust)?;
    for place in parts_in {
        fs_err::metadata(place).map_err(|source| BundleError::Io {
            path: place.clone(),
            source,
        })?;
    }
    let Some(label) = first.label.clone().filter(|label| label.parts > 1) else {
        return Ok(vec![first]);
    };
    let own_directory = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    };
    let places = std::iter::once(own_directory).chain(parts_in.iter().map(Utf8PathBuf::as_path));
    let places: Vec<&Utf8Path> = places.collect();
    let is_sibling = |found: &Part| found.belongs_to(&label);
    let mut found = BTreeMap::new();
    for candidate in places.iter().flat_map(|place| files_of(place)) {
        if let Some(sibling) = Volume::label_in(&candidate, &first.front).filter(is_sibling) {
            found.entry(sibling.part).or_insert(candidate);
        }
    }
    let missing: Vec<u32> = (1..=label.parts)
        .filter(|part| *part != label.part && !found.contains_key(part))
        .collect();
    if !missing.is_empty() {
        return Err(missing_parts(path, &label, &missing, &places));
    }
    found.remove(&label.part);
    let mut volumes = BTreeMap::from([(label.part, first)]);
    for (part, path) in found {
        // Index and signature are those of the first one, whose were checked.
        volumes.insert(part, Volume::open(&path, Trust::Ignored)?);
    }
    Ok(volumes.into_values().collect())
}

/// Whether two paths lead to one file.
fn is_same(one: &Utf8Path, other: &Utf8Path) -> bool {
    let real = |path: &Utf8Path| path.canonicalize_utf8().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// A file itself, or the files of a directory, by name.
fn files_of(place: &Utf8Path) -> Vec<Utf8PathBuf> {
    if !place.is_dir() {
        return vec![place.to_owned()];
    }
    let entries = place.read_dir_utf8().into_iter().flatten().flatten();
    let mut files: Vec<Utf8PathBuf> = entries.map(|entry| entry.into_path()).collect();
    files.sort();
    files
}

fn missing_parts(
    path: &Utf8Path,
    label: &Part,
    missing: &[u32],
    places: &[&Utf8Path],
) -> BundleError {
    let own_name = path.file_name().unwrap_or_default();
    let mark = |part: u32| format!("part{part}of{}", label.parts);
    let damaged = missing.iter().flat_map(|part| {
        let name = own_name.replace(&mark(label.part), &mark(*part));
        let places = places.iter().map(move |place| place.join(&name));
        places.filter(|place| !is_same(place, path) && place.is_file())
    });
    let numbers: Vec<String> = missing.iter().map(u32::to_string).collect();
    let places: Vec<&str> = places.iter().map(|place| place.as_str()).collect();
    BundleError::MissingParts {
        path: path.to_owned(),
        missing: Box::new(Missing {
            part: label.part,
            parts: label.parts,
            numbers: numbers.join(", "),
            places: places.join(", "),
            damaged: damaged.collect(),
        }),
    }
}
