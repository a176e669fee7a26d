//! Mirrors: other places for the same addresses.

use anyhow::{Result, bail};

/// Prefixes of addresses and what to put in their place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// Longest prefix first.
    pairs: Vec<(String, String)>,
}

impl Mirrors {
    /// Parses values of `--mirror`: `PREFIX=URL`. The first `=` splits.
    pub fn parse(values: &[impl AsRef<str>]) -> Result<Self> {
        let mut pairs = Vec::new();
        for value in values {
            let value = value.as_ref();
            let Some((prefix, url)) = value.split_once('=') else {
                bail!("`--mirror {value}` has no `=`; write PREFIX=URL");
            };
            let known = ["http://", "https://", "oci://", "file:///"];
            if prefix.is_empty() || !known.iter().any(|start| url.starts_with(start)) {
                bail!(
                    "`--mirror {value}` is not PREFIX=URL, such as \
                     `https://=http://127.0.0.1:8000/`; the URL begins with http://, https://, \
                     oci:// or file:///"
                );
            }
            if pairs.iter().any(|(known, _)| known == prefix) {
                bail!("there are two mirrors for `{prefix}`");
            }
            pairs.push((prefix.to_owned(), url.to_owned()));
        }
        pairs.sort_by_key(|(prefix, _): &(String, String)| std::cmp::Reverse(prefix.len()));
        Ok(Self { pairs })
    }

    /// The address to fetch from: the longest matching prefix is replaced.
    pub fn apply(&self, address: &str) -> String {
        for (prefix, url) in &self.pairs {
            if let Some(rest) = address.strip_prefix(prefix) {
                return format!("{url}{rest}");
            }
        }
        address.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mirrors = Mirrors::parse(&[
            "https://=http://127.0.0.1:1/",
            "https://dl.k8s.io/=file:///mirror/",
            "oci://=http://127.0.0.1:2/",
        ])
        .unwrap();
        for (address, expected) in [
            (
                "https://github.com/x?a=b",
                "http://127.0.0.1:1/github.com/x?a=b",
            ),
            ("https://dl.k8s.io/release/x", "file:///mirror/release/x"),
            (
                "oci://registry.k8s.io/pause",
                "http://127.0.0.1:2/registry.k8s.io/pause",
            ),
            ("http://plain/x", "http://plain/x"),
        ] {
            assert_eq!(mirrors.apply(address), expected);
        }
    }

    #[test]
    fn wrong_mirrors_are_refused() {
        for bad in [
            "https://",
            "=http://x/",
            "https://=ftp://x/",
            "https://=/dir",
        ] {
            assert!(Mirrors::parse(&[bad]).is_err(), "{bad}");
        }
        assert!(Mirrors::parse(&["a=http://x/", "a=http://y/"]).is_err());
    }
}
