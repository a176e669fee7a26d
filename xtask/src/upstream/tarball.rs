//! Tars whose bytes depend on nothing but their contents: no times, no
//! owners, and entries in the order given.

use anyhow::{Context, Result, bail};
use camino::Utf8PathBuf;
use flate2::{Compression, GzBuilder};
use std::io::Write;
use tar::{Builder, EntryType, Header};

/// One entry of a tar.
pub struct Entry {
    /// At most 100 bytes, kept byte for byte: some of upstream's archives have
    /// names that begin with `./`.
    pub name: String,
    pub mode: u32,
    pub content: Content,
}

pub enum Content {
    Directory,
    /// A copy of a file of this machine.
    File(Utf8PathBuf),
    Bytes(Vec<u8>),
    SymbolicLink(String),
}

impl Entry {
    pub fn directory(name: &str, mode: u32) -> Self {
        Self {
            name: name.to_owned(),
            mode,
            content: Content::Directory,
        }
    }

    pub fn executable(name: &str, source: Utf8PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            mode: 0o755,
            content: Content::File(source),
        }
    }

    pub fn document(name: &str, source: Utf8PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            mode: 0o644,
            content: Content::File(source),
        }
    }

    pub fn text(name: &str, text: &str) -> Self {
        let content = Content::Bytes(text.as_bytes().to_vec());
        Self {
            name: name.to_owned(),
            mode: 0o644,
            content,
        }
    }

    pub fn link(name: &str, target: &str) -> Self {
        let content = Content::SymbolicLink(target.to_owned());
        Self {
            name: name.to_owned(),
            mode: 0o777,
            content,
        }
    }
}

/// Writes an uncompressed tar.
pub fn write_tar(writer: impl Write, entries: &[Entry]) -> Result<()> {
    let mut builder = Builder::new(writer);
    for entry in entries {
        append(&mut builder, entry).with_context(|| format!("packing {}", entry.name))?;
    }
    builder.into_inner()?.flush()?;
    Ok(())
}

/// Compresses with gzip, with no name and no time in the header.
pub fn gzip<W: Write>(writer: W, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<W> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(writer, Compression::default());
    write(&mut encoder)?;
    Ok(encoder.finish()?)
}

fn append(builder: &mut Builder<impl Write>, entry: &Entry) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_mode(entry.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let field = &mut header.as_old_mut().name;
    let Some(field) = field.get_mut(..entry.name.len()) else {
        bail!("the name is longer than {} bytes", field.len());
    };
    field.copy_from_slice(entry.name.as_bytes());
    let empty = std::io::empty();
    match &entry.content {
        Content::Directory => {
            header.set_entry_type(EntryType::Directory);
            finish(&mut header, 0);
            builder.append(&header, empty)?;
        }
        Content::SymbolicLink(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_link_name_literal(target)?;
            finish(&mut header, 0);
            builder.append(&header, empty)?;
        }
        Content::Bytes(bytes) => {
            finish(&mut header, bytes.len() as u64);
            builder.append(&header, bytes.as_slice())?;
        }
        Content::File(path) => {
            let file = fs_err::File::open(path)?;
            finish(&mut header, file.metadata()?.len());
            builder.append(&header, file)?;
        }
    }
    Ok(())
}

fn finish(header: &mut Header, size: u64) {
    header.set_size(size);
    header.set_cksum();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn entries() -> Vec<Entry> {
        vec![
            Entry::directory("./", 0o755),
            Entry::text("./README.md", "read me"),
            Entry::link("./link", "README.md"),
        ]
    }

    #[test]
    fn names_and_contents_come_back() {
        let mut bytes = Vec::new();
        write_tar(&mut bytes, &entries()).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            found.push((name, text, entry.header().mtime().unwrap()));
        }
        let expected = [("./", ""), ("./README.md", "read me"), ("./link", "")]
            .map(|(name, text)| (name.to_owned(), text.to_owned(), 0));
        assert_eq!(found, expected);
    }

    #[test]
    fn compressed_bytes_are_the_same_every_time() {
        let pack = || gzip(Vec::new(), |writer| write_tar(writer, &entries())).unwrap();
        let packed = pack();
        assert_eq!(packed, pack());
        assert_eq!(packed[4..8], [0; 4], "the header has no time");
    }

    #[test]
    fn long_names_are_refused() {
        let error = write_tar(Vec::new(), &[Entry::text(&"x".repeat(101), "")]).unwrap_err();
        assert!(format!("{error:#}").contains("longer than 100 bytes"));
    }
}
