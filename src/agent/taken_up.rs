//! What NetworkManager was last told to read. Its process stays when it is
//! reloaded, so that its environment can't tell; a record does. It names the
//! drop-in as it lay there right before, by inode and time of change, so that
//! no reload is lost where the file was written since. A process that starts
//! reads what lies there, which is the same as long as the record holds.

use super::atomic::{self, Ownership};
use super::observe::parse_inputs;
use super::root::Root;
use crate::digest::Digest;
use crate::layout;
use anyhow::Result;
use std::os::linux::fs::MetadataExt;

/// The name of the drop-in's version in the record.
const VERSION: &str = "COFFERDAM_VERSION";

/// Which file lies there now; none if there is none.
pub(crate) fn version(root: &Root) -> Option<String> {
    let metadata = fs_err::metadata(root.path(layout::NETWORK_MANAGER_FILE)).ok()?;
    Some(format!(
        "{}-{}.{:09}",
        metadata.st_ino(),
        metadata.st_ctime(),
        metadata.st_ctime_nsec()
    ))
}

/// Records that the daemon has read a version of the file.
///
/// # Errors
/// When the record can't be written.
pub(crate) fn record(root: &Root, inputs: Digest, version: &str) -> Result<()> {
    let text = format!(
        "{}={inputs}\n{VERSION}={version}\n",
        layout::INPUTS_VARIABLE
    );
    let place = root.path(layout::inputs_file(layout::NETWORK_MANAGER));
    atomic::write_and_sync(&place, text.as_bytes(), Ownership::own(0o644))
}

/// The inputs that the daemon runs with; none if the file was written since it
/// was told to read it, or if it never was.
pub(crate) fn recorded(root: &Root) -> Option<Digest> {
    let place = root.path(layout::inputs_file(layout::NETWORK_MANAGER));
    let text = fs_err::read_to_string(place).ok()?;
    let version = format!("{VERSION}={}", version(root)?);
    text.lines().find(|line| *line == version)?;
    parse_inputs(text.lines())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    #[test]
    fn a_record_holds_for_the_file_that_was_read_alone() {
        let host = TestHost::new();
        let inputs = Digest::of("inputs");
        assert_eq!(recorded(&host.root), None);
        host.write(layout::NETWORK_MANAGER_FILE, "one");
        assert_eq!(recorded(&host.root), None);
        record(&host.root, inputs, &version(&host.root).unwrap()).unwrap();
        assert_eq!(recorded(&host.root), Some(inputs));
        // The very same bytes, but nobody was told to read these.
        let place = host.root.path(layout::NETWORK_MANAGER_FILE);
        atomic::write_and_sync(&place, b"one", Ownership::own(0o644)).unwrap();
        assert_eq!(recorded(&host.root), None);
        record(&host.root, inputs, &version(&host.root).unwrap()).unwrap();
        fs_err::remove_file(&place).unwrap();
        assert_eq!(recorded(&host.root), None);
    }
}
