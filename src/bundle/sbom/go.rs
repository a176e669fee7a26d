//! The modules that a Go program was built from, as the linker notes them in it:
//! `debug/buildinfo` of Go 1.18 and later.

use serde::{Deserialize, Serialize};
use std::io::{self, Read};

/// Begins the note, which lies at a multiple of [`ALIGNMENT`] in the file.
const MAGIC: &[u8] = b"\xff Go buildinf:";
const ALIGNMENT: usize = 16;
/// From the note's begin to its two texts.
const HEADER_BYTES: usize = 32;
/// Where the note says that its texts follow it.
const FLAGS_OFFSET: usize = 15;
const INLINE_FLAG: u8 = 2;
/// The list of modules stands between two marks of this size.
const MARK_BYTES: usize = 16;
/// How much of a program is looked at in one go, in bytes; a multiple of
/// [`ALIGNMENT`].
const PIECE: usize = 1 << 20;
/// No list of modules is longer; Kubernetes' have some 20 kB.
const LONGEST: usize = 4 << 20;

/// What a Go program was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoProgram {
    /// Of the compiler and standard library, such as `go1.26.0`.
    pub go: String,
    /// The program's own module; none for one that was built from loose files.
    pub main: Option<GoModule>,
    /// Sorted by path.
    pub modules: Vec<GoModule>,
}

/// A module at a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GoModule {
    pub path: String,
    pub version: String,
}

/// Reads the note out of a program; none if it has none, as programs in other
/// languages. It is read once, front to back.
///
/// # Errors
/// When the program can't be read.
pub fn read_program(mut program: impl Read) -> io::Result<Option<GoProgram>> {
    let mut window: Vec<u8> = Vec::new();
    loop {
        let read = fill(&mut program, &mut window, PIECE)?;
        let mut at = 0;
        while at + HEADER_BYTES <= window.len() {
            if window[at..].starts_with(MAGIC) {
                // All of the note that there can be, and nothing before it.
                window.drain(..at);
                at = 0;
                let needed = HEADER_BYTES + 2 * LONGEST;
                let missing = needed.saturating_sub(window.len());
                fill(&mut program, &mut window, missing)?;
                if let Some(found) = parse(&window) {
                    return Ok(Some(found));
                }
            }
            at += ALIGNMENT;
        }
        if read == 0 {
            return Ok(None);
        }
        // What is left is less than a header, and begins at a multiple too.
        window.drain(..at);
    }
}

/// Appends up to so many bytes, and says how many there were.
fn fill(program: &mut impl Read, window: &mut Vec<u8>, bytes: usize) -> io::Result<usize> {
    program.by_ref().take(bytes as u64).read_to_end(window)
}

/// The note, if that is what begins here.
fn parse(note: &[u8]) -> Option<GoProgram> {
    if note.get(FLAGS_OFFSET)? & INLINE_FLAG == 0 {
        return None;
    }
    let mut rest = note.get(HEADER_BYTES..)?;
    let go = text(&mut rest)?;
    let go = std::str::from_utf8(go).ok()?;
    if !(go.starts_with("go") || go.starts_with("devel")) {
        return None;
    }
    let list = text(&mut rest)?;
    let list = list.get(MARK_BYTES..list.len().checked_sub(MARK_BYTES)?);
    let list = list.map_or(Ok(""), std::str::from_utf8).ok()?;
    let (main, modules) = modules(list);
    Some(GoProgram {
        go: go.to_owned(),
        main,
        modules,
    })
}

/// A text with its length before it, in groups of seven bits, the lowest first.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0_usize;
    for shift in (0..28).step_by(7) {
        let (byte, others) = rest.split_first()?;
        *rest = others;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (text, others) = rest.split_at_checked(length)?;
            *rest = others;
            return (length <= LONGEST).then_some(text);
        }
    }
    None
}

/// Lines of `mod`, `dep` and `=>`, which replaces the one before it. What is replaced
/// by a directory of the builder keeps its name.
fn modules(list: &str) -> (Option<GoModule>, Vec<GoModule>) {
    let (mut main, mut modules) = (None, Vec::new());
    for line in list.lines() {
        let mut fields = line.split('\t');
        let kind = fields.next().unwrap_or_default();
        let (Some(path), Some(version)) = (fields.next(), fields.next()) else {
            continue;
        };
        let module = GoModule {
            path: path.to_owned(),
            version: version.to_owned(),
        };
        match kind {
            "mod" => main = Some(module),
            "dep" => modules.push(module),
            "=>" => {
                if let Some(last) = modules.last_mut() {
                    let is_directory = module.path.starts_with(['.', '/']);
                    match is_directory {
                        true => last.version = module.version,
                        false => *last = module,
                    }
                }
            }
            _ => {}
        }
    }
    modules.sort();
    modules.dedup();
    (main, modules)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const LIST: &str = "path\tk8s.io/kubernetes/cmd/kubelet\n\
        mod\tk8s.io/kubernetes\tv1.36.0\t\n\
        dep\tk8s.io/api\tv0.0.0\n\
        =>\t./staging/src/k8s.io/api\t(devel)\t\n\
        dep\tgithub.com/a/b\tv1.2.3+incompatible\th1:sum=\n\
        build\t-compiler=gc\n";

    /// A program with such a note.
    pub(in crate::bundle) fn program(go: &str, list: &str) -> Vec<u8> {
        let mut note = MAGIC.to_vec();
        note.extend([8, INLINE_FLAG]);
        note.resize(HEADER_BYTES, 0);
        let marked = format!("{}{list}{}", "0".repeat(MARK_BYTES), "1".repeat(MARK_BYTES));
        for text in [go, &marked] {
            let mut length = text.len();
            while length >= 0x80 {
                note.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            note.push(length as u8);
            note.extend_from_slice(text.as_bytes());
        }
        note
    }

    fn module(path: &str, version: &str) -> GoModule {
        GoModule {
            path: path.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn modules_are_read_wherever_the_note_lies() {
        let note = program("go1.26.0", LIST);
        for before in [0, 16, 4096, PIECE - 16, PIECE, 3 * PIECE - 32] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(&note);
            bytes.extend_from_slice(&[0; 5000]);
            let found = read_program(bytes.as_slice()).unwrap().unwrap();
            assert_eq!(found.go, "go1.26.0", "{before}");
            assert_eq!(found.main, Some(module("k8s.io/kubernetes", "v1.36.0")));
            let expected = [
                module("github.com/a/b", "v1.2.3+incompatible"),
                module("k8s.io/api", "(devel)"),
            ];
            assert_eq!(found.modules, expected);
        }
    }

    /// Programs that read such notes themselves hold the magic as a text.
    #[test]
    fn what_only_looks_like_a_note_is_none() {
        let note = program("go1.26.0", LIST);
        let mut bytes = MAGIC.to_vec();
        bytes.resize(64, 0);
        bytes.extend_from_slice(&note);
        assert!(read_program(bytes.as_slice()).unwrap().is_some());
        for length in [0, 10, 33, 40, note.len() - 1] {
            let found = read_program(&note[..length]).unwrap();
            assert_eq!(found, None, "{length}");
        }
        let mut shifted = vec![0; 8];
        shifted.extend_from_slice(&note);
        assert_eq!(read_program(shifted.as_slice()).unwrap(), None);
        let other = program("rust1.90", LIST);
        assert_eq!(read_program(other.as_slice()).unwrap(), None);
        let mut endless = note[..HEADER_BYTES].to_vec();
        endless.extend([0xff; 64]);
        assert_eq!(read_program(endless.as_slice()).unwrap(), None);
    }

    /// Memory does not grow with a file that is nothing but begins of notes.
    #[test]
    fn a_file_of_notes_is_read_piece_by_piece() {
        struct Notes(usize, usize);
        impl Read for Notes {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                // No caller asks for more than a note takes at once.
                self.1 = self.1.max(buffer.len());
                let length = buffer.len().min(self.0);
                for (place, byte) in buffer[..length].iter_mut().enumerate() {
                    *byte = MAGIC.get(place % ALIGNMENT).copied().unwrap_or(2);
                }
                self.0 -= length;
                Ok(length)
            }
        }
        let mut notes = Notes(8 << 20, 0);
        assert_eq!(read_program(&mut notes).unwrap(), None);
        assert_eq!(notes.0, 0);
    }

    #[test]
    fn a_program_of_loose_files_has_no_modules() {
        let found = read_program(program("go1.26.0", "").as_slice()).unwrap();
        let found = found.unwrap();
        assert_eq!((found.main, found.modules), (None, Vec::new()));
    }
}
