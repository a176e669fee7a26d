//! The file systems under the paths that are written to.

use crate::agent::root::Root;
use crate::facts::FilesystemFacts;
use crate::layout::PLACES;
use camino::Utf8Path;
use rustix::fs::StatVfsMountFlags;
use std::os::linux::fs::MetadataExt;

pub(super) fn observe(root: &Root) -> Vec<FilesystemFacts> {
    let mountinfo = fs_err::read_to_string(root.path("/proc/self/mountinfo")).unwrap_or_default();
    PLACES
        .iter()
        .filter_map(|path| observe_path(root, path, &mountinfo))
        .collect()
}

fn observe_path(root: &Root, path: &str, mountinfo: &str) -> Option<FilesystemFacts> {
    // A directory that is not there yet will be made on its parent's file
    // system. A link (`/opt` elsewhere) is followed, as writes are.
    let existing = Utf8Path::new(path)
        .ancestors()
        .find(|ancestor| root.path(ancestor).exists())?;
    let place = root.path(existing);
    let metadata = fs_err::metadata(&place).ok()?;
    let status = rustix::fs::statvfs(place.as_std_path()).ok()?;
    let canonical = place.canonicalize_utf8().unwrap_or(place);
    Some(FilesystemFacts {
        path: path.to_owned(),
        mount_point: mount_point_of(mountinfo, &root.name_of(&canonical)),
        device: metadata.st_dev(),
        total_bytes: status.f_blocks * status.f_frsize,
        free_bytes: status.f_bavail * status.f_frsize,
        read_only: status.f_flag.contains(StatVfsMountFlags::RDONLY),
        noexec: status.f_flag.contains(StatVfsMountFlags::NOEXEC),
    })
}

/// The longest mount point that is a prefix of the path.
fn mount_point_of(mountinfo: &str, path: &str) -> String {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| Utf8Path::new(path).starts_with(point))
        .max_by_key(String::len)
        .unwrap_or_else(|| "/".to_owned())
}

/// The kernel writes blanks in mount points as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_mount() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                         2 1 8:2 / /var rw - ext4 /dev/b rw\n\
                         3 2 8:3 / /var/lib rw - ext4 /dev/c rw\n\
                         4 1 8:4 / /opt\\040two rw - ext4 /dev/d rw\n";
        let cases = [
            ("/var/lib", "/var/lib"),
            ("/var/lib/etcd", "/var/lib"),
            ("/var/library", "/var"),
            ("/opt", "/"),
            ("/opt two/x", "/opt two"),
        ];
        for (path, point) in cases {
            assert_eq!(mount_point_of(mountinfo, path), point, "{path}");
        }
        assert_eq!(mount_point_of("", "/opt"), "/");
    }

    #[test]
    fn falls_back_to_the_parent_of_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(camino::Utf8Path::from_path(directory.path()).unwrap());
        let facts = observe(&root);
        assert_eq!(facts.len(), PLACES.len());
        assert!(facts.iter().all(|facts| facts.total_bytes > 0));
    }
}
