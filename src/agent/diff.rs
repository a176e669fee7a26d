//! Compares two directories for `kubectl diff`, so that a host needs no
//! `diff` of its own.

use anyhow::Result;
use camino::Utf8Path;
use std::collections::BTreeSet;
use std::io::Write;

/// The exit status that `kubectl diff` takes for "the same".
pub const SAME: i32 = 0;
/// The exit status that `kubectl diff` takes for "they differ".
pub const DIFFERS: i32 = 1;

/// Prints the names of files that differ or that only one directory has, one
/// on each line, and returns [`SAME`] or [`DIFFERS`].
///
/// # Errors
/// If a directory or file can't be read, or the output written.
pub fn diff_directories(old: &Utf8Path, new: &Utf8Path, output: &mut dyn Write) -> Result<i32> {
    let mut names = file_names(old)?;
    names.extend(file_names(new)?);
    let mut status = SAME;
    for name in names {
        let read = |directory: &Utf8Path| fs_err::read(directory.join(&name)).ok();
        if read(old) != read(new) {
            status = DIFFERS;
            writeln!(output, "{name}")?;
        }
    }
    Ok(status)
}

fn file_names(directory: &Utf8Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_differs() {
        let directory = tempfile::tempdir().unwrap();
        let top = Utf8Path::from_path(directory.path()).unwrap();
        let (old, new) = (top.join("LIVE"), top.join("MERGED"));
        for (name, before, after) in [
            ("v1.Same", Some("x"), Some("x")),
            ("v1.Changed", Some("x"), Some("y")),
            ("v1.Made", None, Some("x")),
        ] {
            for (side, text) in [(&old, before), (&new, after)] {
                fs_err::create_dir_all(side).unwrap();
                if let Some(text) = text {
                    fs_err::write(side.join(name), text).unwrap();
                }
            }
        }
        let mut output = Vec::new();
        assert_eq!(diff_directories(&old, &new, &mut output).unwrap(), DIFFERS);
        assert_eq!(String::from_utf8(output).unwrap(), "v1.Changed\nv1.Made\n");
        let mut output = Vec::new();
        assert_eq!(diff_directories(&old, &old, &mut output).unwrap(), SAME);
        assert!(output.is_empty());
        assert!(diff_directories(&top.join("none"), &new, &mut Vec::new()).is_err());
    }
}
