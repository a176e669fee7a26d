//! Takes single files out of tar archives, straight into the cache.

use crate::bundle::cache::Cache;
use crate::bundle::hash::COPY_BUFFER_BYTES;
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use flate2::read::MultiGzDecoder;
use fs_err::File;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write as _};

/// Archives that unpack to more than this are refused. Release archives have some
/// hundred megabytes.
const UNPACKED_LIMIT_BYTES: u64 = 16 << 30;
/// Number of names that an error lists.
const NAMES_SHOWN: usize = 10;

/// Takes members (by name, with or without a leading `./`) out of a tar, compressed
/// with gzip or not, in one pass. Gives the digest and size in bytes of each, by the
/// name asked for.
pub fn extract(
    archive: &Utf8Path,
    members: &BTreeSet<String>,
    cache: &Cache,
) -> Result<BTreeMap<String, (Digest, u64)>> {
    let mut file = BufReader::with_capacity(COPY_BUFFER_BYTES, File::open(archive)?);
    let mut magic = [0; 2];
    file.read_exact(&mut magic)
        .context("reading the archive's first bytes")?;
    let file = magic.as_slice().chain(file);
    if magic == [0x1f, 0x8b] {
        unpack(MultiGzDecoder::new(file), members, cache)
    } else {
        unpack(file, members, cache)
    }
}

fn unpack(
    stream: impl Read,
    members: &BTreeSet<String>,
    cache: &Cache,
) -> Result<BTreeMap<String, (Digest, u64)>> {
    let mut archive = tar::Archive::new(stream.take(UNPACKED_LIMIT_BYTES));
    let mut found = BTreeMap::new();
    let mut seen = Vec::new();
    let reading = "reading the archive (a tar, compressed with gzip or not, is expected)";
    for entry in archive.entries().context(reading)? {
        let mut entry = entry.context(reading)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let wanted = members.iter().find(|member| plain(member) == plain(&path));
        let Some(member) = wanted else {
            if seen.len() < NAMES_SHOWN {
                seen.push(path);
            }
            continue;
        };
        if !entry.header().entry_type().is_file() {
            bail!("`{path}` in the archive is not a regular file");
        }
        if found.contains_key(member) {
            bail!("`{path}` is in the archive twice");
        }
        let mut writer = cache.writer()?;
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            let read = entry.read(&mut buffer).context(reading)?;
            if read == 0 {
                break;
            }
            writer
                .write_all(&buffer[..read])
                .context("writing to the cache")?;
        }
        found.insert(member.clone(), writer.commit()?);
    }
    if let Some(missing) = members.iter().find(|member| !found.contains_key(*member)) {
        bail!(
            "`{missing}` is not in the archive; it holds {}",
            seen.join(", ")
        );
    }
    Ok(found)
}

fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::TestDirectory;
    use flate2::write::GzEncoder;

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn run(content: &[u8], members: &[&str]) -> Result<BTreeMap<String, (Digest, u64)>> {
        let directory = TestDirectory::new();
        let path = directory.path.join("archive");
        fs_err::write(&path, content)?;
        let cache = Cache::open(&directory.path.join("cache"))?;
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        extract(&path, &members, &cache)
    }

    #[test]
    fn takes_members_out_of_both_kinds() {
        let tar = archive(&[("./bin/a", "one"), ("bin/b", "two"), ("c", "three")]);
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        for content in [gzip.finish().unwrap(), tar] {
            let found = run(&content, &["bin/a", "./bin/b"]).unwrap();
            assert_eq!(found["bin/a"], (Digest::of("one"), 3));
            assert_eq!(found["./bin/b"], (Digest::of("two"), 3));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let twice = archive(&[("a", "1"), ("./a", "2")]);
        let other = archive(&[("x", "1"), ("y", "2")]);
        let long = "z".repeat(4000);
        for (content, expected) in [
            (twice.as_slice(), "twice"),
            (other.as_slice(), "`a` is not in the archive; it holds x, y"),
            (long.as_bytes(), "reading the archive"),
            (b"\x1f\x8b broken".as_slice(), "reading the archive"),
        ] {
            let error = format!("{:#}", run(content, &["a"]).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
