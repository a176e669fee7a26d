//! Names of configuration fields, read off a Go program's struct tags. Kubernetes'
//! components and containerd ignore keys that they don't know, and none of them lists
//! those that it does; but Go decodes files by tags such as `json:"maxPods,omitempty"`,
//! which therefore stand in every program, stripped or not, for whatever platform. What
//! is not among a program's tags it can't read. (What is may belong to another file.)

use crate::bundle::cache::{Cache, RecordKind};
use crate::bundle::definition::FieldTag;
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use fs_err::File;
use std::collections::BTreeSet;
use std::io::{self, Read};

/// How much of a program is looked at in one go, in bytes.
const PIECE: u64 = 1 << 20;
/// No name is longer, in bytes: a tag that a piece's end cuts is whole in the next one.
const LONGEST_NAME: usize = 128;

fn record_kind(tag: FieldTag) -> RecordKind {
    RecordKind(format!("fields-{}-1", tag.name()))
}

/// The list that was read off a program earlier.
pub fn fields_before(cache: &Cache, digest: &Digest, tag: FieldTag) -> Option<Vec<String>> {
    cache.record(&record_kind(tag), digest)
}

/// Reads the names off a program of the cache, sorted.
///
/// # Errors
/// When it can't be read, or has no such tag.
pub fn read_fields(
    cache: &Cache,
    digest: &Digest,
    name: &str,
    tag: FieldTag,
) -> Result<Vec<String>> {
    if let Some(fields) = fields_before(cache, digest, tag) {
        return Ok(fields);
    }
    let file = File::open(cache.blob_path(digest))?;
    let fields = names_in(file, tag).with_context(|| format!("reading fields of {name}"))?;
    if fields.is_empty() {
        bail!(
            "reading fields of {name}: no struct tag `{}` is in it; leave out `fields`",
            tag.name()
        );
    }
    let fields: Vec<String> = fields.into_iter().collect();
    cache.put_record(&record_kind(tag), digest, &fields)?;
    Ok(fields)
}

fn names_in(mut program: impl Read, tag: FieldTag) -> io::Result<BTreeSet<String>> {
    let marker = format!("{}:", tag.name());
    let marker = marker.as_bytes();
    let mut names = BTreeSet::new();
    let mut window: Vec<u8> = Vec::new();
    loop {
        let read = program.by_ref().take(PIECE).read_to_end(&mut window)?;
        let quotes = window
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'"')
            .map(|(index, _)| index);
        let tagged = quotes.filter(|index| window[..*index].ends_with(marker));
        names.extend(tagged.filter_map(|index| name_at(&window[index + 1..])));
        if read == 0 {
            return Ok(names);
        }
        let kept = window.len().min(LONGEST_NAME + marker.len() + 2);
        window.drain(..window.len() - kept);
    }
}

/// The name that a tag's value begins with, if it is whole.
fn name_at(value: &[u8]) -> Option<String> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let end = value
        .iter()
        .take(LONGEST_NAME)
        .position(|byte| !fits(byte))?;
    let is_name = end > 0 && b"\",".contains(&value[end]) && &value[..end] != b"-";
    is_name.then(|| String::from_utf8_lossy(&value[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::TestDirectory;

    const PROGRAM: &[u8] = b"\x7fELF\0\x1ejson:\"maxPods,omitempty\" protobuf:\"bytes,1\"\0\
        Ajson:\"kind\"\0json:\"-\"json:\",inline\"json:\"two words\"toml:\"root\"yaml:\"http,omitempty\"json:\"cut";

    #[test]
    fn reads_names_of_one_kind_of_tag() {
        let cases: [(FieldTag, &[&str]); 3] = [
            (FieldTag::Json, &["kind", "maxPods"]),
            (FieldTag::Toml, &["root"]),
            (FieldTag::Yaml, &["http"]),
        ];
        for (tag, expected) in cases {
            let names: Vec<String> = names_in(PROGRAM, tag).unwrap().into_iter().collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_tag_at_a_pieces_end_is_read_whole() {
        let piece = usize::try_from(PIECE).unwrap();
        for shift in 0..30 {
            let mut program = vec![b'"'; piece - shift];
            program.extend_from_slice(b"json:\"evictionHard,omitempty\"");
            program.resize(2 * piece + 10, b':');
            let names = names_in(program.as_slice(), FieldTag::Json).unwrap();
            assert_eq!(names, ["evictionHard".to_owned()].into(), "{shift}");
        }
    }

    #[test]
    fn a_program_without_tags_is_refused() {
        let directory = TestDirectory::new();
        let cache = Cache::open(&directory.path).unwrap();
        let digest = cache.put(PROGRAM).unwrap();
        let fields = read_fields(&cache, &digest, "kubelet", FieldTag::Json).unwrap();
        assert_eq!(fields, ["kind", "maxPods"]);
        assert_eq!(fields_before(&cache, &digest, FieldTag::Json), Some(fields));
        assert_eq!(fields_before(&cache, &digest, FieldTag::Yaml), None);
        let digest = cache.put(b"#!/bin/sh\n").unwrap();
        let error = read_fields(&cache, &digest, "tool", FieldTag::Json).unwrap_err();
        assert!(error.to_string().contains("leave out `fields`"), "{error}");
    }
}
