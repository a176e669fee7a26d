//! What is found in an image's layers: Go programs, and databases of packages.

use super::go::{GoProgram, read_program};
use super::packages::{Package, database, packages};
use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufReader, Read};

/// Layers that unpack to more than this are refused.
const UNPACKED_LIMIT_BYTES: u64 = 64 << 30;
/// Databases larger than this are read no further: Debian's largest have some MB.
const DATABASE_LIMIT_BYTES: u64 = 64 << 20;
/// Layers with more entries are refused; the largest images have some 200,000.
const ENTRIES_LIMIT: usize = 2_000_000;
/// Of a name that is longer than a header has room for.
const NAME_LIMIT_BYTES: u64 = 64 << 10;
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Before a file's name: the file is not there from this layer on.
const WHITEOUT: &str = ".wh.";
/// In a directory: nothing of the layers below is in it.
const OPAQUE: &str = ".wh..wh..opq";

/// What one layer puts and takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// By path, without a leading slash.
    pub found: BTreeMap<String, Found>,
    /// Paths that are gone or something else now, with all below them.
    pub removed: Vec<String>,
}

/// What lies under a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    Go(GoProgram),
    Packages(Vec<Package>),
    /// Another file in the place of a program or database.
    Other,
}

/// Reads a layer: a tar, compressed with gzip or zstd or not.
///
/// # Errors
/// When it is none.
pub fn read_layer(layer: impl Read) -> Result<Layer> {
    let mut layer = BufReader::new(layer);
    let mut magic = Vec::new();
    layer.by_ref().take(4).read_to_end(&mut magic)?;
    let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    let whole = magic.as_slice().chain(layer);
    match (is_gzip, is_zstd) {
        (true, _) => read_tar(MultiGzDecoder::new(whole)),
        (_, true) => read_tar(zstd::Decoder::new(whole)?),
        _ => read_tar(whole),
    }
}

fn read_tar(stream: impl Read) -> Result<Layer> {
    let reading = "reading a layer as a tar";
    let mut archive = tar::Archive::new(stream.take(UNPACKED_LIMIT_BYTES));
    let mut layer = Layer::default();
    // Names that don't fit a header come in an entry before theirs, of any length; so
    // these are read here, and not by the library.
    let mut long_name: Option<String> = None;
    for (number, entry) in (0..).zip(archive.entries().context(reading)?.raw(true)) {
        let mut entry = entry.context(reading)?;
        if number > ENTRIES_LIMIT {
            bail!("it has more than {ENTRIES_LIMIT} entries");
        }
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            let mut text = Vec::new();
            entry
                .by_ref()
                .take(NAME_LIMIT_BYTES)
                .read_to_end(&mut text)
                .context(reading)?;
            let named = match kind.is_gnu_longname() {
                true => Some(String::from_utf8_lossy(&text).into_owned()),
                false => pax_path(&text),
            };
            long_name = named.or(long_name);
            continue;
        }
        if kind.is_gnu_longlink() || kind.is_pax_global_extensions() {
            continue;
        }
        let path = long_name
            .take()
            .unwrap_or_else(|| String::from_utf8_lossy(&entry.header().path_bytes()).into_owned());
        let path = path.trim_end_matches('\0');
        let path = path.trim_start_matches("./").trim_start_matches('/');
        add_entry(&mut layer, path, &mut entry).context(reading)?;
    }
    Ok(layer)
}

/// The path in extended attributes: lines of `LENGTH KEY=VALUE`.
fn pax_path(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let path = lines.find_map(|line| line.split_once(' ')?.1.strip_prefix("path="));
    path.map(str::to_owned)
}

fn add_entry<R: Read>(layer: &mut Layer, path: &str, entry: &mut tar::Entry<'_, R>) -> Result<()> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let kind = entry.header().entry_type();
    if name == OPAQUE {
        layer.removed.push(directory.to_owned());
    } else if let Some(gone) = name.strip_prefix(WHITEOUT) {
        layer.removed.push(match directory {
            "" => gone.to_owned(),
            directory => format!("{directory}/{gone}"),
        });
    } else if kind.is_file() {
        match look_into(path, entry)? {
            Some(found) => {
                layer.found.insert(path.to_owned(), found);
            }
            None => layer.removed.push(path.to_owned()),
        }
    } else if !kind.is_dir() {
        // A link, in the place of whatever was there.
        layer.removed.push(path.to_owned());
    }
    Ok(())
}

fn look_into(path: &str, file: &mut impl Read) -> Result<Option<Found>> {
    if let Some(kind) = database(path) {
        let mut text = Vec::new();
        file.take(DATABASE_LIMIT_BYTES).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        return Ok(Some(Found::Packages(packages(kind, &text))));
    }
    let mut magic = Vec::new();
    file.take(ELF_MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != ELF_MAGIC {
        return Ok(None);
    }
    let program = read_program(magic.as_slice().chain(file))?;
    Ok(Some(program.map_or(Found::Other, Found::Go)))
}

/// What an image holds, from its layers in their order, the lowest first.
pub fn merge(layers: impl IntoIterator<Item = Layer>) -> BTreeMap<String, Found> {
    let mut image: BTreeMap<String, Found> = BTreeMap::new();
    for layer in layers {
        for gone in &layer.removed {
            if gone.is_empty() {
                image.clear();
            }
            image.remove(gone);
            // `0` follows the slash.
            let below = image.range(format!("{gone}/")..format!("{gone}0"));
            let below: Vec<String> = below.map(|(path, _)| path.clone()).collect();
            for path in &below {
                image.remove(path);
            }
        }
        image.extend(layer.found);
    }
    image.retain(|_, found| *found != Found::Other);
    image
}

#[cfg(test)]
mod tests {
    use super::super::go::tests::program;
    use super::*;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn elf() -> Vec<u8> {
        let mut bytes = ELF_MAGIC.to_vec();
        bytes.resize(64, 0);
        bytes.extend(program("go1.26.0", "mod\texample.org/tool\tv1.0.0\n"));
        bytes
    }

    #[test]
    fn layers_of_every_compression_are_read() {
        let elf = elf();
        let tar = tar_of(&[
            ("usr/bin/tool", &elf),
            ("usr/bin/script", b"#!/bin/sh\n"),
            ("lib/apk/db/installed", b"P:musl\nV:1\nA:x86_64\n"),
        ]);
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let zstd = zstd::bulk::compress(&tar, 3).unwrap();
        for bytes in [tar, gzip.finish().unwrap(), zstd] {
            let layer = read_layer(bytes.as_slice()).unwrap();
            let paths: Vec<&str> = layer.found.keys().map(String::as_str).collect();
            assert_eq!(paths, ["lib/apk/db/installed", "usr/bin/tool"]);
            let Found::Go(program) = &layer.found["usr/bin/tool"] else {
                panic!("{:?}", layer.found);
            };
            assert_eq!(program.main.as_ref().unwrap().path, "example.org/tool");
        }
        let error = read_layer(b"\x1f\x8b broken".as_slice()).unwrap_err();
        assert!(error.to_string().contains("reading a layer"), "{error}");
    }

    #[test]
    fn long_names_are_read() {
        let elf = elf();
        let name = format!("opt/{}tool", "long/".repeat(40));
        let gnu = tar_of(&[(&name, &elf)]);
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("path", name.as_bytes())])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(elf.len() as u64);
        pax.append_data(&mut header, "short", elf.as_slice())
            .unwrap();
        for bytes in [gnu, pax.into_inner().unwrap()] {
            let layer = read_layer(bytes.as_slice()).unwrap();
            let found: Vec<&String> = layer.found.keys().collect();
            assert_eq!(found, [&name]);
        }
    }

    #[test]
    fn what_a_later_layer_removes_or_replaces_is_not_in_the_image() {
        let elf = elf();
        let layer = |entries: &[(&str, &[u8])]| read_layer(tar_of(entries).as_slice()).unwrap();
        let base = || {
            layer(&[
                ("bin/a", &elf),
                ("opt/x/b", &elf),
                ("opt/xy", &elf),
                ("var/lib/dpkg/status", b"Package: old\nVersion: 1\n"),
            ])
        };
        let paths = |upper: Layer| -> Vec<String> { merge([base(), upper]).into_keys().collect() };
        let all = ["bin/a", "opt/x/b", "opt/xy", "var/lib/dpkg/status"];
        assert_eq!(paths(Layer::default()), all);
        assert_eq!(
            paths(layer(&[("opt/.wh.x", b"")])),
            [all[0], all[2], all[3]]
        );
        assert_eq!(paths(layer(&[("opt/.wh..wh..opq", b"")])), [all[0], all[3]]);
        // Its program is no longer one in Go.
        assert_eq!(paths(layer(&[("bin/a", b"\x7fELF of C")])), all[1..]);
        assert_eq!(paths(layer(&[("bin/a", b"#!/bin/sh\n")])), all[1..]);
        let mut link = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        link.append_link(&mut header, "bin/a", "b").unwrap();
        let link = read_layer(link.into_inner().unwrap().as_slice()).unwrap();
        assert_eq!(paths(link), all[1..]);
        let status: (&str, &[u8]) = ("var/lib/dpkg/status", b"Package: new\nVersion: 2\n");
        let image = merge([base(), layer(&[status])]);
        let Found::Packages(packages) = &image["var/lib/dpkg/status"] else {
            panic!("{image:?}");
        };
        assert_eq!((packages.len(), packages[0].name.as_str()), (1, "new"));
    }
}
