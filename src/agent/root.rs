//! Where a host's file tree begins: `/`, or a directory in tests.

use anyhow::{Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

/// Directories in which a host's own programs are looked for. Fixed, since an
/// SSH session's `PATH` often lacks the `sbin` ones.
const PROGRAM_DIRECTORIES: [&str; 7] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/lib/systemd",
];

/// The root of a host's file tree. Every path that the agent touches, also
/// those of programs, goes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(Utf8PathBuf);

impl Root {
    /// The machine's own root.
    pub fn host() -> Self {
        Self(Utf8PathBuf::from("/"))
    }

    /// A directory that stands in for `/`.
    pub fn below(directory: impl Into<Utf8PathBuf>) -> Self {
        Self(directory.into())
    }

    /// Whether this is the machine's own root.
    pub fn is_host(&self) -> bool {
        self.0 == "/"
    }

    /// The place of an absolute path of the host.
    pub fn path(&self, absolute: impl AsRef<str>) -> Utf8PathBuf {
        self.0.join(absolute.as_ref().trim_start_matches('/'))
    }

    /// The host's name of a place below the root.
    pub fn name_of(&self, place: &Utf8Path) -> String {
        match place.strip_prefix(&self.0) {
            Ok(relative) => format!("/{relative}"),
            Err(_) => place.to_string(),
        }
    }

    /// Finds one of the host's own programs.
    ///
    /// # Errors
    /// If none of the usual directories has it.
    pub fn program(&self, name: &str) -> Result<Utf8PathBuf> {
        PROGRAM_DIRECTORIES
            .iter()
            .map(|directory| self.path(directory).join(name))
            .find(|path| path.exists())
            .ok_or_else(|| {
                anyhow!(
                    "looking for `{name}`: it is in none of {}; install the package that has it",
                    PROGRAM_DIRECTORIES.join(", ")
                )
            })
    }

    /// One of the binaries that cofferdam installed.
    ///
    /// # Errors
    /// If its link is missing.
    pub fn binary(&self, name: &str) -> Result<Utf8PathBuf> {
        let path = self.path(crate::layout::BIN).join(name);
        if path.exists() {
            return Ok(path);
        }
        Err(anyhow!(
            "looking for `{}/{name}`: it is not installed on this host",
            crate::layout::BIN
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_absolute_paths_below_the_root_and_back() {
        let root = Root::below("/tmp/host");
        assert_eq!(root.path("/etc/passwd"), "/tmp/host/etc/passwd");
        assert_eq!(root.name_of(&root.path("/etc/passwd")), "/etc/passwd");
        assert_eq!(Root::host().path("/etc/passwd"), "/etc/passwd");
        assert_eq!(
            Root::host().name_of(Utf8Path::new("/etc/passwd")),
            "/etc/passwd"
        );
    }

    #[test]
    fn names_the_program_that_is_missing() {
        let error = Root::below("/nonexistent").program("nft").unwrap_err();
        assert!(error.to_string().contains("`nft`"), "{error}");
    }
}
