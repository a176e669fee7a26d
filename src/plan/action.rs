//! The smallest things that are done to one host. An action is a value
//! without secrets: contents of files are looked up in the desired state, by
//! host and path, when it is executed.

use crate::desired::{Binary, BlobReference, Change, Condition, EtcdRestore, FileKind, Stage};
use crate::digest::Digest;
use crate::inventory::DrainRule;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub stage: Stage,
    /// Inventory name, or `site` for what happens on the jump host.
    pub host: String,
    /// For people, short: `restart kube-apiserver`.
    pub title: String,
    /// What stops serving for a moment. Whether that is safe is asked when
    /// the plan is made, and again on fresh facts right before the step.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub disrupts: BTreeSet<Disruption>,
    pub action: Action,
}

/// What of a running cluster a step interrupts on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disruption {
    /// The host's etcd member.
    EtcdMember,
    /// The host's API server.
    ApiServer,
    /// The host's registry.
    Registry,
    /// Its container runtime, kubelet, service proxy or overlay: pods go on,
    /// but the node may be unready for a moment.
    Node,
}

/// What a step does. Every action is idempotent: done twice it ends in the
/// same state, and done again after a crash in its middle it finishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Action {
    /// Mints keys and certificates and records decisions in the site.
    Mint {
        materials: Vec<String>,
        decisions: Vec<String>,
    },
    /// Makes system users by systemd-sysusers from the given file, which was
    /// written before.
    CreateUsers {
        file: String,
        users: Vec<String>,
    },
    /// Writes files (each to a temporary name, synced, renamed, with owner
    /// and mode set before it has its name) and removes others that are no
    /// longer desired. Software's bytes go to the generations' content too;
    /// the trust manifest is extended before, and shrunk after.
    WriteFiles {
        files: Vec<FileChange>,
        remove: Vec<String>,
        kind: FileKind,
    },
    LoadModules {
        modules: Vec<String>,
    },
    SetSysctls {
        sysctls: BTreeMap<String, String>,
    },
    /// Masks `swap.target` and turns all swap off.
    SwapOff,
    /// Streams blobs from the bundle to the host's staging directory.
    PutBlobs {
        blobs: Vec<BlobReference>,
    },
    /// Fills the host's registry through its short-lived writable instance.
    Seed {
        artifacts: Vec<SeedArtifact>,
    },
    /// Fills the host's registry in the same way, from the first of other
    /// registries that answers.
    CopyArtifacts {
        artifacts: Vec<SeedArtifact>,
        registries: Vec<String>,
    },
    /// Puts binaries into the store (from staging, else from the first
    /// registry that answers), proves their digest, and sets their links.
    InstallBinaries {
        binaries: BTreeMap<String, Binary>,
        registries: Vec<String>,
    },
    /// Puts binaries into the store in the same way, and leaves their links as
    /// they are: what runs goes on with what it has.
    FetchBinaries {
        binaries: BTreeMap<String, Binary>,
        registries: Vec<String>,
    },
    /// Pulls images into containerd by digest, tags and pins them.
    PullImages {
        images: BTreeMap<String, Digest>,
        registries: Vec<String>,
    },
    /// `systemctl daemon-reload`, then for each unit: enable, write its inputs
    /// file, start or restart or reload. With `wait`, one after the other and
    /// active before the next; without, all jobs are queued (`--no-block`).
    StartUnits {
        units: Vec<UnitChange>,
        wait: bool,
    },
    /// Changes units that run to other software, in one go that is brought to its
    /// end even if nobody is there any more: stops `stop` in that order, writes
    /// files, sets the links of binaries that the store has, then does as
    /// [`Action::StartUnits`]. Until then a unit that fails and is started again
    /// comes up with all that it had before.
    SwitchUnits {
        stop: Vec<String>,
        files: Vec<FileChange>,
        binaries: BTreeMap<String, Binary>,
        units: Vec<UnitChange>,
        wait: bool,
    },
    /// Saves a snapshot of etcd from the member at `endpoint`, with its hash,
    /// restores it into a directory of its own and reads it back, and keeps it as
    /// `name` with the one before it.
    SnapshotEtcd {
        name: String,
        endpoint: String,
    },
    /// Makes the data of the host's member of etcd from a staged snapshot, beside
    /// what it has, which goes on meanwhile.
    PrepareEtcdData {
        restore: EtcdRestore,
        /// What the member is called.
        name: String,
        /// Members by name, with their peer URLs.
        members: BTreeMap<String, String>,
    },
    /// Stops `stop` in that order, and puts what was prepared in place of the
    /// member's data, which is kept beside it; on a host without a member, only
    /// stops.
    SwitchEtcdData {
        restore: EtcdRestore,
        stop: Vec<String>,
        is_member: bool,
    },
    /// On a master: cordons a node, with a mark that it was us, and evicts its pods
    /// but for those of DaemonSets, as `kubectl drain` does: first those of each
    /// rule, then all others within `limit_seconds`. What fails takes the cordon
    /// back.
    Drain {
        node: String,
        limit_seconds: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rules: Vec<DrainRule>,
    },
    /// On a master: lets pods come to a node that we cordoned.
    Uncordon {
        node: String,
    },
    /// Stops and disables units that are no longer desired.
    StopUnits {
        units: Vec<String>,
    },
    /// Waits until a condition holds, at most `limit_seconds`.
    Wait {
        condition: Condition,
        limit_seconds: u32,
    },
    /// Makes the host known to etcd as a learner, by asking members at
    /// `endpoints` (client URLs) for at most `limit_seconds`.
    AddEtcdLearner {
        /// What the member will be called.
        name: String,
        peer_url: String,
        endpoints: Vec<String>,
        limit_seconds: u32,
    },
    /// Gives the host's member of etcd its vote as soon as it is in step.
    PromoteEtcdLearner {
        peer_url: String,
        endpoints: Vec<String>,
        limit_seconds: u32,
    },
    /// Server-side apply of a manifest set.
    Apply {
        set: String,
    },
    /// Kills the node's pods all at once, without asking disruption budgets,
    /// deletes its rendered CNI configuration and bridge, and restarts its
    /// kubelet, which starts the pods again with addresses of the node's new
    /// range. The kubelet's start is queued whatever fails before.
    ResetCni {
        node: String,
    },
    /// Writes a new software generation and collects what none of the last
    /// two needs, in the host's registry too.
    Commit {
        generation: u64,
    },
}

/// How one file differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    pub path: String,
    pub change: FileChangeKind,
}

/// What is different about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileChangeKind {
    Create,
    Update,
    /// Only mode or owner.
    Attributes,
}

/// A tagged artifact with what the registry lacks of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedArtifact {
    pub repository: String,
    pub tag: String,
    pub blobs: Vec<BlobReference>,
    /// In push order. The last one is what the tag names, and gets the tag.
    pub manifests: Vec<BlobReference>,
}

impl SeedArtifact {
    /// Manifests in push order, each with the tag that it gets.
    pub fn tagged_manifests(&self) -> impl Iterator<Item = (&BlobReference, Option<String>)> {
        let last = self.manifests.len().saturating_sub(1);
        let each = self.manifests.iter().enumerate();
        each.map(move |(index, manifest)| (manifest, (index == last).then(|| self.tag.clone())))
    }
}

/// How one unit is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitChange {
    pub name: String,
    pub verb: UnitVerb,
}

/// What is done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitVerb {
    /// It does not run.
    Start,
    /// It runs with other inputs.
    Restart,
    Reload,
    /// It runs as it should but would not at the next boot.
    Enable,
}

impl From<Change> for UnitVerb {
    fn from(change: Change) -> Self {
        match change {
            Change::Restart => Self::Restart,
            Change::Reload => Self::Reload,
        }
    }
}

/// The route that makes ClusterIPs reachable from a host without a default
/// route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoute {
    pub interface: String,
    pub source: IpAddr,
}
