//! Checksum files as upstreams publish them.

use crate::digest::Digest;
use anyhow::{Context, Result, bail};

/// Finds the sha256 of a file in the text of a checksum file: bare hex, or lines of
/// `hex  name` or `hex *name`. `file_name` is the last part of the download's
/// address.
pub fn published_digest(text: &str, file_name: &str) -> Result<Digest> {
    let mut named = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (hex, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let name = name.trim_start().trim_start_matches('*');
        let name = name.rsplit('/').next().unwrap_or(name);
        if name == file_name || name.is_empty() {
            return parse(hex);
        }
        named.push(name.to_owned());
    }
    if named.is_empty() {
        bail!("the checksum file is empty");
    }
    named.truncate(10);
    bail!(
        "the checksum file has no line for {file_name}; it names {}",
        named.join(", ")
    )
}

fn parse(hex: &str) -> Result<Digest> {
    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && matches!(hex.len(), 32 | 40 | 96 | 128) {
        bail!("the checksum file holds sums of another kind; only sha256 is accepted");
    }
    Digest::from_hex(&hex.to_ascii_lowercase())
        .with_context(|| "the checksum file is not a list of sha256 sums")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_forms() {
        let digest = Digest::of("content");
        let other = Digest::of("other").hex();
        let hex = digest.hex();
        let texts = [
            hex.clone(),
            format!("{hex}\n"),
            hex.to_uppercase(),
            format!("{other}  first.tar.gz\n{hex}  file.tar.gz\n"),
            format!("{other} *first.tar.gz\n{hex} *file.tar.gz\n"),
            format!("# sums\n\n{hex}  ./release/file.tar.gz"),
        ];
        for text in texts {
            assert_eq!(
                published_digest(&text, "file.tar.gz").unwrap(),
                digest,
                "{text}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let hex = Digest::of("x").hex();
        for (text, expected) in [
            (String::new(), "is empty"),
            (
                format!("{hex}  a\n{hex}  b"),
                "no line for file; it names a, b",
            ),
            ("ab".repeat(64), "only sha256 is accepted"),
            ("<html>not found</html>".to_owned(), "no line for file"),
            ("zz  file".to_owned(), "not a list of sha256 sums"),
        ] {
            let error = published_digest(&text, "file").unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
