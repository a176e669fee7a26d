//! Packages that a distribution put into an image, out of its own database.

use serde::{Deserialize, Serialize};

/// A distribution's package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub kind: PackageKind,
    pub name: String,
    pub version: String,
    /// The distribution's word, such as `amd64` or `x86_64`.
    pub architecture: String,
    /// As the database says it; Debian's says nothing.
    pub licence: Option<String>,
}

/// Whose package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    Debian,
    Alpine,
}

/// Whose database a path in an image is, if it is one: dpkg's status, the pieces of it
/// that Debian images without dpkg have, or apk's list.
pub fn database(path: &str) -> Option<PackageKind> {
    let is_piece = |path: &str| {
        let name = path.strip_prefix("var/lib/dpkg/status.d/");
        name.is_some_and(|name| !name.is_empty() && !name.ends_with(".md5sums"))
    };
    match path {
        "var/lib/dpkg/status" => Some(PackageKind::Debian),
        "lib/apk/db/installed" | "usr/lib/apk/db/installed" => Some(PackageKind::Alpine),
        path if is_piece(path) => Some(PackageKind::Debian),
        _ => None,
    }
}

/// The packages of a database. Paragraphs without name or version are passed over,
/// and so are packages that Debian has removed.
pub fn packages(kind: PackageKind, text: &str) -> Vec<Package> {
    let paragraphs = text.split("\n\n");
    let mut found: Vec<Package> = paragraphs
        .filter_map(|paragraph| package(kind, paragraph))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn package(kind: PackageKind, paragraph: &str) -> Option<Package> {
    let keys = match kind {
        PackageKind::Debian => ["Package: ", "Version: ", "Architecture: ", "License: "],
        PackageKind::Alpine => ["P:", "V:", "A:", "L:"],
    };
    let value = |key: &str| {
        let mut lines = paragraph.lines();
        let value = lines.find_map(|line| line.strip_prefix(key))?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let status = value("Status: ");
    let is_installed = status.is_none_or(|status| status.ends_with(" installed"));
    let [name, version, architecture, licence] = keys.map(value);
    Some(Package {
        kind,
        name: name.filter(|_| is_installed)?,
        version: version?,
        architecture: architecture.unwrap_or_default(),
        licence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "\
Package: base-files
Status: install ok installed
Architecture: amd64
Version: 12.4+deb12u11
Description: files
 more of them

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: netbase
Architecture: all
Version: 6.4
";

    const INSTALLED: &str = "\
C:Q1abc=
P:busybox
V:1.37.0-r12
A:x86_64
L:GPL-2.0-only
F:bin
R:busybox

P:musl
V:1.2.5-r9
A:x86_64
L:MIT
";

    #[test]
    fn packages_of_both_databases() {
        let line = |package: &Package| {
            format!(
                "{} {} {} {}",
                package.name,
                package.version,
                package.architecture,
                package.licence.as_deref().unwrap_or("?")
            )
        };
        let debian = packages(PackageKind::Debian, STATUS);
        let lines: Vec<String> = debian.iter().map(line).collect();
        assert_eq!(
            lines,
            ["base-files 12.4+deb12u11 amd64 ?", "netbase 6.4 all ?"]
        );
        let alpine = packages(PackageKind::Alpine, INSTALLED);
        let lines: Vec<String> = alpine.iter().map(line).collect();
        let expected = [
            "busybox 1.37.0-r12 x86_64 GPL-2.0-only",
            "musl 1.2.5-r9 x86_64 MIT",
        ];
        assert_eq!(lines, expected);
        assert_eq!(packages(PackageKind::Debian, "rubbish\n\n\n"), []);
    }

    #[test]
    fn databases_are_known_by_their_place() {
        for (path, expected) in [
            ("var/lib/dpkg/status", Some(PackageKind::Debian)),
            ("var/lib/dpkg/status.d/tzdata", Some(PackageKind::Debian)),
            ("var/lib/dpkg/status.d/tzdata.md5sums", None),
            ("lib/apk/db/installed", Some(PackageKind::Alpine)),
            ("usr/lib/apk/db/installed", Some(PackageKind::Alpine)),
            ("home/var/lib/dpkg/status", None),
        ] {
            assert_eq!(database(path), expected, "{path}");
        }
    }
}
