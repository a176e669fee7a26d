//! A directory that stands in for a host's file tree, with programs that are
//! small shell scripts.

use super::root::Root;
use camino::Utf8Path;
use std::os::unix::fs::PermissionsExt;

pub(crate) struct TestHost {
    pub(crate) root: Root,
    _directory: tempfile::TempDir,
}

impl TestHost {
    /// An empty host whose only user, `tester`, is the one who runs this.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        let host = Self {
            root,
            _directory: directory,
        };
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        host.write(
            "/etc/passwd",
            &format!("tester:x:{user}:{group}::/:/bin/sh\n"),
        );
        host.write("/etc/group", &format!("tester:x:{group}:\n"));
        host
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let place = self.root.path(path);
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        fs_err::write(place, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs_err::read_to_string(self.root.path(path)).unwrap()
    }

    /// Puts a program of the host's own in its place.
    pub(crate) fn program(&self, name: &str, script: &str) {
        self.script(&format!("/usr/bin/{name}"), script);
    }

    /// Puts a program in the place of one of cofferdam's binaries.
    pub(crate) fn binary(&self, name: &str, script: &str) {
        self.script(&format!("{}/{name}", crate::layout::BIN), script);
    }

    fn script(&self, path: &str, script: &str) {
        self.write(path, &format!("#!/bin/sh\n{script}\n"));
        let mode = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(self.root.path(path), mode).unwrap();
    }
}
