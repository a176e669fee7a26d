//! `{version}` and the like in addresses.

use crate::bundle::platform::Platform;

/// Values for the placeholders of a file's addresses.
#[derive(Debug, Clone, Copy)]
pub struct Placeholders<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub platform: &'a Platform,
    /// The file's own address, once that is known: for the address of its checksum.
    pub url: Option<&'a str>,
}

impl Placeholders<'_> {
    /// Puts the values into a template. Unknown placeholders stay as they are; the
    /// definition's check refuses them.
    pub fn expand(&self, template: &str) -> String {
        // The address goes last: what it holds is no template any more.
        let expanded = template
            .replace("{name}", self.name)
            .replace("{version}", self.version)
            .replace("{os}", &self.platform.os)
            .replace("{arch}", &self.platform.architecture);
        match self.url {
            Some(url) => expanded.replace("{url}", url),
            None => expanded,
        }
    }
}

/// The first placeholder of a template that is not among the known ones, or an
/// unclosed brace.
pub(super) fn unknown_placeholder<'a>(template: &'a str, known: &[&str]) -> Option<&'a str> {
    let mut rest = template;
    while let Some(start) = rest.find(['{', '}']) {
        let inner = &rest[start..];
        let Some(end) = inner.find('}').filter(|_| inner.starts_with('{')) else {
            return Some(inner);
        };
        if !known.contains(&&inner[1..end]) {
            return Some(&inner[..=end]);
        }
        rest = &inner[end + 1..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_all_placeholders() {
        let platform = Platform::linux("arm64");
        let values = Placeholders {
            name: "etcd",
            version: "3.6.1",
            platform: &platform,
            url: None,
        };
        let url = values.expand("https://x/{name}-v{version}-{os}-{arch}.tar.gz");
        assert_eq!(url, "https://x/etcd-v3.6.1-linux-arm64.tar.gz");
        let checksum = Placeholders {
            url: Some(&url),
            ..values
        }
        .expand("{url}.sha256");
        assert_eq!(checksum, "https://x/etcd-v3.6.1-linux-arm64.tar.gz.sha256");
    }

    #[test]
    fn finds_unknown_placeholders() {
        for (template, expected) in [
            ("https://x/{version}", None),
            ("https://x", None),
            ("{version}{os}", Some("{os}")),
            ("{versoin}/x", Some("{versoin}")),
            ("a{version", Some("{version")),
            ("a}", Some("}")),
        ] {
            assert_eq!(
                unknown_placeholder(template, &["version"]),
                expected,
                "{template}"
            );
        }
    }
}
