//! Which minors run beside each other, and whether they may:
//! <https://kubernetes.io/releases/version-skew-policy/>.

use super::machine::{DiskContent, Machine};
use super::world::World;
use crate::desired::BundleView;
use crate::digest::Digest;
use crate::layout;
use semver::Version;
use std::collections::BTreeMap;

const API_SERVER: &str = "kube-apiserver";
/// What asks its own host's API server.
const BESIDE: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// What asks any of them.
const OF_NODES: [&str; 2] = ["kubelet", "kube-proxy"];

/// What the model knows of versions.
#[derive(Default)]
pub(super) struct Minors {
    by_digest: BTreeMap<Digest, u64>,
    /// Of the kubelet that ran last on each host.
    kubelets: BTreeMap<String, u64>,
}

impl Minors {
    /// Learns the versions of a bundle's programs.
    pub(super) fn learn(&mut self, bundle: &BundleView) {
        let files = bundle.files.values().flatten();
        self.by_digest.extend(files.filter_map(|(_, binary)| {
            let version = Version::parse(&binary.version).ok()?;
            Some((binary.digest, version.minor))
        }));
    }

    fn running(&self, machine: &Machine, program: &str) -> Option<u64> {
        let process = machine
            .memory
            .processes
            .get(&format!("{program}.service"))?;
        self.by_digest.get(&process.executable?).copied()
    }

    /// Of what the host would start.
    fn linked(&self, machine: &Machine, program: &str) -> Option<u64> {
        let link = machine
            .disk
            .files
            .get(&format!("{}/{program}", layout::BIN))?;
        let DiskContent::Link(target) = &link.content else {
            return None;
        };
        let digest = Digest::from_hex(target.rsplit('/').next()?).ok()?;
        self.by_digest.get(&digest).copied()
    }
}

impl World {
    /// Records what is newer than the API server that it may ask, and kubelets
    /// that became another minor under their pods.
    pub(super) fn note_skew(&mut self) {
        let mut broken = Vec::new();
        let minors = &self.minors;
        let oldest = self.machines.values().filter_map(|machine| {
            let linked = minors.linked(machine, API_SERVER)?;
            let running = minors.running(machine, API_SERVER);
            Some(running.map_or(linked, |running| running.min(linked)))
        });
        let oldest = oldest.min();
        let mut kubelets = BTreeMap::new();
        for (name, machine) in &self.machines {
            let own = minors.running(machine, API_SERVER);
            for (programs, server) in [(BESIDE, own), (OF_NODES, oldest)] {
                for program in programs {
                    let (Some(minor), Some(server)) = (minors.running(machine, program), server)
                    else {
                        continue;
                    };
                    if minor > server {
                        broken.push(format!(
                            "{name}: {program} 1.{minor} may ask an API server 1.{server}"
                        ));
                    }
                }
            }
            let Some(minor) = minors.running(machine, "kubelet") else {
                continue;
            };
            let before = minors.kubelets.get(name);
            let is_changed = before.is_some_and(|before| *before != minor);
            if is_changed && !self.cluster.cordoned.contains(name) && self.others_could_take(name) {
                broken.push(format!(
                    "{name}: its kubelet became 1.{minor} under its pods"
                ));
            }
            kubelets.insert(name.clone(), minor);
        }
        self.minors.kubelets.extend(kubelets);
        self.violations.extend(broken);
    }

    fn others_could_take(&self, name: &str) -> bool {
        let node = |host: &str| self.desired.hosts.get(host)?.node.as_ref();
        let is_tainted = node(name).is_some_and(|node| node.is_tainted);
        let mut others = self.desired.hosts.keys().filter(|other| *other != name);
        others.any(|other| node(other).is_some_and(|other| is_tainted || !other.is_tainted))
    }
}
