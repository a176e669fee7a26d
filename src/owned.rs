//! What of a host is ours, and so may be removed once it is no longer desired.

use crate::desired::FileKind;
use crate::digest::Digest;
use crate::facts::{Generation, HostFacts};
use crate::layout;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Software that is ours although no generation names it: a run may have been
/// killed before it committed one, and the next run may want something else.
/// Written before what it names, and empty again once a run has committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Paths of files and directories.
    pub files: BTreeSet<String>,
    /// Names of binaries that are, or are about to be, linked to content other
    /// than the generation's.
    pub binaries: BTreeSet<String>,
    /// Versions of the content that they are linked to.
    #[serde(default)]
    pub versions: BTreeMap<Digest, String>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.binaries.is_empty()
    }
}

/// Which manifest a path that is no longer desired was written for.
pub fn owned_paths(facts: &HostFacts) -> BTreeMap<&str, FileKind> {
    let software = facts
        .generation
        .iter()
        .flat_map(|generation| generation.files.keys());
    software
        .chain(&facts.pending.files)
        .map(|path| (path.as_str(), FileKind::Software))
        .chain(
            facts
                .trust
                .iter()
                .map(|path| (path.as_str(), FileKind::Trust)),
        )
        .collect()
}

/// Units that are ours, with suffix: those of the newest generation in their
/// start order, and those of files that no generation names.
pub fn owned_units<'a>(generation: Option<&'a Generation>, pending: &'a Pending) -> Vec<&'a str> {
    let known = generation.map_or(&[][..], |generation| &generation.units);
    let mut units: Vec<&str> = known.iter().map(String::as_str).collect();
    for unit in pending.files.iter().filter_map(|path| unit_of(path)) {
        if !units.contains(&unit) {
            units.push(unit);
        }
    }
    units
}

/// The unit whose own file this is; drop-ins are none.
fn unit_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix(layout::UNITS)?;
    let is_unit = [".service", ".socket"]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    (is_unit && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_a_run_that_never_committed_are_ours_as_well() {
        let generation = Generation {
            units: vec!["kubelet.service".to_owned()],
            ..Generation::default()
        };
        let paths = [
            "/etc/systemd/system/kubelet.service",
            "/etc/systemd/system/registry.service",
            "/etc/systemd/system/cofferdam-api-proxy.socket",
            // The unit itself is the system's own.
            "/etc/systemd/system/systemd-journald.service.d/90-cofferdam.conf",
            "/etc/systemd/journald.conf.d/90-cofferdam.conf",
            "/etc/cofferdam/registry.service",
        ];
        let pending = Pending {
            files: paths.map(str::to_owned).into(),
            ..Pending::default()
        };
        let expected = [
            "kubelet.service",
            "cofferdam-api-proxy.socket",
            "registry.service",
        ];
        assert_eq!(owned_units(Some(&generation), &pending), expected);
        assert_eq!(owned_units(None, &Pending::default()), [""; 0]);
    }
}
