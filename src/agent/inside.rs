//! A directory that a service of its own user may write to, looked at by root:
//! no link in it is ever followed, and no pipe waited for.

use camino::Utf8Path;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// A directory, itself reached as any path is.
pub(crate) struct Inside(OwnedFd);

impl Inside {
    /// Opens the directory.
    ///
    /// # Errors
    /// If it is not there, or no directory.
    pub(crate) fn open(top: &Utf8Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let none = ResolveFlags::empty();
        Ok(Self(openat2(
            CWD,
            top.as_std_path(),
            flags,
            Mode::empty(),
            none,
        )?))
    }

    /// A regular file.
    ///
    /// # Errors
    /// If it is not there or something else, or a part of its path is a link.
    pub(crate) fn file(&self, path: &Utf8Path) -> io::Result<File> {
        let file = File::from(self.reach(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("no regular file")),
        }
    }

    /// A small regular file's text.
    ///
    /// # Errors
    /// See [`Self::file`]; also if it is longer than `limit` bytes, or no text.
    pub(crate) fn short_text(&self, path: &Utf8Path, limit: u64) -> io::Result<String> {
        let mut text = String::new();
        self.file(path)?.take(limit + 1).read_to_string(&mut text)?;
        match text.len() as u64 <= limit {
            true => Ok(text),
            false => Err(io::Error::other("too long")),
        }
    }

    /// What a directory holds; nothing if it can't be read. Names that are no
    /// UTF-8 are none of ours.
    pub(crate) fn names(&self, path: &Utf8Path) -> Vec<String> {
        let Ok(entries) = self
            .reach(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|directory| Ok(Dir::read_from(directory)?))
        else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect()
    }

    /// Removes a file and sees to it that this lasts.
    ///
    /// # Errors
    /// If it is not there, or the directory can't be changed.
    pub(crate) fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        unlinkat(&parent, name, AtFlags::empty())?;
        Ok(rustix::fs::fsync(&parent)?)
    }

    /// Removes whatever is there, a directory with all that is in it, a link without what
    /// it leads to; nothing there is fine.
    ///
    /// # Errors
    /// If it can't be removed, or a directory on the way is a link.
    pub(crate) fn remove_tree(&self, path: &Utf8Path) -> io::Result<()> {
        let (parent, name) = match self.parent(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            parent => parent?,
        };
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        // The library follows no link below a path, and nobody can change this one.
        let path = format!("/proc/self/fd/{}/{name}", parent.as_raw_fd());
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a directory if nothing is in it.
    ///
    /// # Errors
    /// If something is, or it is not there, or a directory on the way is a link.
    pub(crate) fn remove_empty(&self, path: &Utf8Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Sees to it that what was removed from a directory stays so; one that is not there
    /// is fine.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn sync(&self, path: &Utf8Path) -> io::Result<()> {
        match self.reach(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            directory => Ok(rustix::fs::fsync(directory?)?),
        }
    }

    /// The directory that a path's last name is in, and the name.
    fn parent<'a>(&self, path: &'a Utf8Path) -> io::Result<(OwnedFd, &'a str)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_str().is_empty());
        let parent = parent.unwrap_or(Utf8Path::new("."));
        let parent = self.reach(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok((parent, name))
    }

    fn reach(&self, path: &Utf8Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::CLOEXEC;
        Ok(openat2(
            &self.0,
            path.as_std_path(),
            flags,
            Mode::empty(),
            resolve,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    #[test]
    fn links_and_pipes_lead_nowhere() {
        let host = TestHost::new();
        host.write("/outside/data", "secret");
        host.write("/top/a/data", "text");
        let top = host.root.path("/top");
        let link = |to: &str, name: &str| {
            fs_err::os::unix::fs::symlink(host.root.path(to), top.join(name)).unwrap();
        };
        link("/outside", "b");
        link("/outside/data", "a/link");
        let pipe = top.join("a/pipe");
        rustix::fs::mknodat(
            CWD,
            pipe.as_std_path(),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let inside = Inside::open(&top).unwrap();
        let read = |path: &str| inside.short_text(path.into(), 4).ok();
        assert_eq!(read("a/data").as_deref(), Some("text"));
        assert!(inside.short_text("a/data".into(), 3).is_err());
        for path in ["b/data", "a/link", "a/pipe", "a", "../outside/data", "none"] {
            assert_eq!(read(path), None, "{path}");
            assert!(
                inside.names(path.into()).is_empty() || path == "a",
                "{path}"
            );
        }
        let mut names = inside.names("a".into());
        names.sort();
        assert_eq!(names, ["data", "link", "pipe"]);
        assert!(inside.remove("b/data".into()).is_err());
        assert!(host.root.path("/outside/data").exists());
        inside.remove("a/data".into()).unwrap();
        assert!(!top.join("a/data").exists());
    }

    #[test]
    fn trees_go_and_what_links_lead_to_stays() {
        let host = TestHost::new();
        for path in ["/outside/deep/data", "/top/a/b/data", "/top/c/data"] {
            host.write(path, "text");
        }
        let top = host.root.path("/top");
        for name in ["link", "a/b/link"] {
            fs_err::os::unix::fs::symlink(host.root.path("/outside"), top.join(name)).unwrap();
        }
        let inside = Inside::open(&top).unwrap();
        assert!(inside.remove_tree("link/deep".into()).is_err());
        assert!(inside.remove_empty("a".into()).is_err());
        host.write("/top/file", "text");
        for path in ["a/b", "none", "none/none", "file"] {
            inside.remove_tree(path.into()).unwrap();
        }
        inside.remove_empty("a".into()).unwrap();
        inside.remove_tree("c".into()).unwrap();
        inside.sync(".".into()).unwrap();
        inside.sync("none".into()).unwrap();
        assert!(host.root.path("/outside/deep/data").exists());
        assert_eq!(inside.names(".".into()), ["link"]);
        inside.remove_tree("link".into()).unwrap();
        assert!(host.root.path("/outside/deep/data").exists());
    }

    #[test]
    fn a_top_that_is_a_link_is_the_operators() {
        let host = TestHost::new();
        host.write("/disk/data", "text");
        let top = host.root.path("/top");
        fs_err::os::unix::fs::symlink(host.root.path("/disk"), &top).unwrap();
        let inside = Inside::open(&top).unwrap();
        assert_eq!(inside.short_text("data".into(), 9).unwrap(), "text");
        assert!(Inside::open(&host.root.path("/none")).is_err());
    }
}
