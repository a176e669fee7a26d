//! `cofferdam bundle inspect`: what a bundle holds, as data and as text.

use super::oci::Descriptor;
use super::reader::Bundle;
use super::verify::LeftOut;
use crate::digest::Digest;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a bundle holds, for `--json` and for people. Nothing in it is verified
/// unless the bundle was.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    pub name: String,
    pub version: String,
    pub platforms: Vec<String>,
    /// Size of the file in bytes.
    pub size: u64,
    pub index_digest: Digest,
    /// Number of its files.
    pub parts: usize,
    /// Blobs and bytes that a delta leaves out; none for a full bundle.
    pub left_out: Option<LeftOut>,
    /// Ids of the keys that claim to have signed it.
    pub signed_by: Vec<String>,
    pub files: Vec<InspectedFile>,
    pub images: Vec<InspectedImage>,
    pub manifests: Vec<InspectedManifest>,
}

/// A file for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct InspectedFile {
    pub name: String,
    pub version: String,
    pub platform: String,
    pub licence: Option<String>,
    /// Digest and size in bytes of the file itself.
    pub digest: Digest,
    pub size: u64,
    /// Size in bytes in the bundle.
    pub compressed_size: u64,
    /// Number of flags in its list.
    pub flags: Option<usize>,
    /// Number of names of configuration fields in its list.
    pub fields: Option<usize>,
}

/// An image with the platforms carried.
#[derive(Debug, Clone, Serialize)]
pub struct InspectedImage {
    pub reference: String,
    /// Digest of upstream's index or manifest.
    pub digest: Digest,
    /// Manifest digest by platform.
    pub platforms: BTreeMap<String, Digest>,
    /// Bytes of all its blobs in the bundle.
    pub size: u64,
}

/// A Kubernetes manifest.
#[derive(Debug, Clone, Serialize)]
pub struct InspectedManifest {
    pub name: String,
    /// Digest and size in bytes of the template.
    pub digest: Digest,
    pub size: u64,
}

/// Describes an open bundle.
pub fn inspect(bundle: &Bundle) -> Inspection {
    let contents = bundle.contents();
    let files = contents.files.iter().map(|file| InspectedFile {
        name: file.name.clone(),
        version: file.version.clone(),
        platform: file.platform.to_string(),
        licence: file.licence.clone(),
        digest: file.digest,
        size: file.size,
        compressed_size: file.blob.size,
        flags: file.flags.as_ref().map(Vec::len),
        fields: file.fields.as_ref().map(Vec::len),
    });
    let images = contents.images.iter().map(|image| {
        let halves = image.platforms.iter();
        let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
        let mut count = |blob: &Descriptor| blobs.insert(blob.digest, blob.size);
        count(&image.root);
        for half in image.platforms.values() {
            count(&half.manifest);
            half.blobs.iter().for_each(|blob| {
                count(blob);
            });
        }
        InspectedImage {
            reference: image.reference.clone(),
            digest: image.root.digest,
            platforms: halves
                .map(|(platform, half)| (platform.to_string(), half.manifest.digest))
                .collect(),
            size: blobs.values().sum(),
        }
    });
    let manifests = contents
        .manifests
        .values()
        .map(|manifest| InspectedManifest {
            name: manifest.name.clone(),
            digest: Digest::of(&manifest.text),
            size: manifest.text.len() as u64,
        });
    Inspection {
        name: contents.name.clone(),
        version: contents.version.clone(),
        platforms: contents.platforms.iter().map(ToString::to_string).collect(),
        size: bundle.length(),
        index_digest: bundle.index_digest(),
        parts: bundle.parts(),
        left_out: LeftOut::of(bundle),
        signed_by: bundle
            .signatures()
            .iter()
            .map(|signature| signature.key_id().to_string())
            .collect(),
        files: files.collect(),
        images: images.collect(),
        manifests: manifests.collect(),
    }
}

impl Inspection {
    /// Aligned tables for people.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let signed_by = match self.signed_by.is_empty() {
            false => format!("signed by key {}", self.signed_by.join(", ")),
            true => "not signed".to_owned(),
        };
        let parts = match self.parts {
            1 => String::new(),
            parts => format!(" in {parts} parts"),
        };
        let delta = self.left_out.as_ref().map_or(String::new(), |left_out| {
            format!(
                " (a delta without {} {}, {})",
                left_out.blobs,
                if left_out.blobs == 1 { "blob" } else { "blobs" },
                human_bytes(left_out.bytes)
            )
        });
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "bundle {} {} for {}, {}{parts}{delta}, {signed_by}\nindex {}\n",
            self.name,
            self.version,
            self.platforms.join(", "),
            human_bytes(self.size),
            self.index_digest,
        );
        let mut rows = vec![row([
            "FILE",
            "VERSION",
            "PLATFORM",
            "SIZE",
            "IN BUNDLE",
            "SHA256",
        ])];
        rows.extend(self.files.iter().map(|file| {
            row([
                &file.name,
                &file.version,
                &file.platform,
                &human_bytes(file.size),
                &human_bytes(file.compressed_size),
                &file.digest.short(),
            ])
        }));
        text.push_str(&table(&rows));
        text.push('\n');
        let mut rows = vec![row(["IMAGE", "PLATFORMS", "IN BUNDLE", "SHA256"])];
        rows.extend(self.images.iter().map(|image| {
            let platforms: Vec<&str> = image.platforms.keys().map(String::as_str).collect();
            row([
                &image.reference,
                &platforms.join(", "),
                &human_bytes(image.size),
                &image.digest.short(),
            ])
        }));
        text.push_str(&table(&rows));
        if !self.manifests.is_empty() {
            text.push('\n');
            let mut rows = vec![row(["MANIFEST", "SIZE", "SHA256"])];
            rows.extend(self.manifests.iter().map(|manifest| {
                row([
                    &manifest.name,
                    &human_bytes(manifest.size),
                    &manifest.digest.short(),
                ])
            }));
            text.push_str(&table(&rows));
        }
        text
    }
}

/// A number of bytes with a unit of 1000: `26.1 MB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut name = "B";
    for unit in UNITS {
        // Values that would be rounded up to 1000 belong to the next unit.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        name = unit;
    }
    format!("{value:.1} {name}")
}

/// A line of a table. What a file says could move a terminal's cursor.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    let printable = |cell: &str| cell.replace(char::is_control, "\u{fffd}");
    cells.map(printable).to_vec()
}

pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (26_100_000, "26.1 MB"),
            (5_000_000_000_000_000, "5000.0 TB"),
        ] {
            assert_eq!(human_bytes(bytes), expected);
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [row(["A", "B"]), row(["long", "x"])];
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
