//! Which versions of programs a host has, and which it is to have.

use super::diff::linked;
use crate::desired::DesiredHost;
use crate::facts::HostFacts;
use semver::Version;

/// Kubernetes' programs: those of one release belong together.
pub const KUBERNETES: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// A program of a host that is to have another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionChange<'a> {
    pub program: &'a str,
    pub from: Version,
    pub to: Version,
}

impl VersionChange<'_> {
    /// Whether major or minor differ.
    pub fn is_of_minor(&self) -> bool {
        (self.from.major, self.from.minor) != (self.to.major, self.to.minor)
    }
}

/// The version that a program has on a host, by what its link leads to: that of
/// the newest generation, or one that was put in place since. None where it
/// isn't there, or is nobody's.
pub fn version_of(program: &str, desired: &DesiredHost, facts: &HostFacts) -> Option<Version> {
    let found = linked(program, facts)?;
    if let Some(binary) = desired.binaries.get(program)
        && binary.digest == found
    {
        return Version::parse(&binary.version).ok();
    }
    let generation = facts.generation.as_ref();
    let generation = generation.filter(|known| known.binaries.get(program) == Some(&found));
    let version = match generation {
        Some(generation) => generation.versions.get(program),
        None => facts.pending.versions.get(&found),
    };
    Version::parse(version?).ok()
}

/// Programs of a host whose version is to change, by name. Versions that don't
/// read as such are left out.
pub fn changes<'a>(
    desired: &'a DesiredHost,
    facts: &'a HostFacts,
) -> impl Iterator<Item = VersionChange<'a>> {
    desired.binaries.iter().filter_map(|(program, binary)| {
        let from = version_of(program, desired, facts)?;
        let to = Version::parse(&binary.version).ok()?;
        (from != to).then_some(VersionChange { program, from, to })
    })
}

/// A kubelet and a container runtime of another minor want an empty node:
/// <https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/upgrading-linux-nodes/>.
const EMPTY_FOR: [&str; 2] = ["kubelet", "containerd"];

/// Whether the host's pods are to be elsewhere while it changes.
pub fn wants_empty_node(desired: &DesiredHost, facts: &HostFacts) -> bool {
    changes(desired, facts)
        .any(|change| EMPTY_FOR.contains(&change.program) && change.is_of_minor())
}
