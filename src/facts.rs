//! What is true on a host, as one call to its agent returns it.

use crate::desired::{Condition, Content, DigestKey, FileKind, KeptRoute, Part};
use crate::digest::Digest;
use crate::owned::Pending;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What to look at. Everything else in [`HostFacts`] is always returned.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ObserveRequest {
    /// Paths to stat and digest, apart from those in the host's own manifests.
    pub files: BTreeSet<String>,
    /// Those of them whose digest is an HMAC under `digest_key`. Paths that
    /// the host's trust manifest names are always digested so.
    pub secret_files: BTreeSet<String>,
    /// None before the site has one; then secret files have no digest.
    pub digest_key: Option<DigestKey>,
    pub modules: BTreeSet<String>,
    pub sysctls: BTreeSet<String>,
    /// Units with suffix, apart from those in the host's own manifest.
    pub units: BTreeSet<String>,
    /// System users to look for.
    #[serde(default)]
    pub users: BTreeSet<String>,
    /// Conditions to evaluate side by side: once and within about three
    /// seconds each, or a few times where content is asked for too and they
    /// are denied late.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Whether to read all binaries and staged blobs and list those whose
    /// content is right. It takes its time, so only plans are made from it.
    #[serde(default)]
    pub content: bool,
    /// Whether to list the images that containerd holds, where it runs.
    pub images: bool,
    /// Whether to list what the registry's store holds, and which of its blobs
    /// to read, with their sizes in bytes; others are not told.
    pub registry: Option<BTreeMap<Digest, u64>>,
    /// Client URLs of etcd members to ask, on hosts that hold an etcd client
    /// certificate; empty asks nobody.
    pub etcd_endpoints: Vec<String>,
}

/// Everything that the planner may ask about a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    pub system: SystemFacts,
    /// Seconds since the epoch by the host's clock, with fraction.
    pub clock: f64,
    pub filesystems: Vec<FilesystemFacts>,
    /// Active swap devices or files.
    pub swaps: Vec<String>,
    /// Whether `swap.target` is masked, so that none comes back at boot.
    pub swap_masked: bool,
    pub interfaces: Vec<InterfaceFacts>,
    pub routes: Vec<RouteFacts>,
    /// Sockets that listen, TCP and UDP.
    pub listening: Vec<ListeningSocket>,
    /// Traces of other installers, such as `/etc/kubernetes/manifests` or
    /// `/etc/rancher`, each a path or unit name.
    pub remains: Vec<String>,
    /// For the modules asked: loaded, built in, or their feature is there.
    pub modules: BTreeMap<String, bool>,
    /// For the sysctls asked: their value; absent if the kernel has none.
    pub sysctls: BTreeMap<String, String>,
    /// Those of the users asked that exist.
    #[serde(default)]
    pub users: BTreeSet<String>,
    /// Those of the conditions asked that do not hold.
    #[serde(default)]
    pub unmet: Vec<UnmetCondition>,
    /// Existing ones among the paths asked and managed.
    pub files: BTreeMap<String, FileFacts>,
    /// Binaries in the store whose content was read and found to have this
    /// digest, and that may be run, with their size in bytes. None of them
    /// where content wasn't asked for.
    pub store: BTreeMap<Digest, u64>,
    /// Staged compressed blobs, found right in the same way, with their size.
    pub staging: BTreeMap<Digest, u64>,
    pub units: BTreeMap<String, UnitFacts>,
    /// By reference; none if containerd doesn't answer or wasn't asked.
    pub images: Option<BTreeMap<String, ImageFacts>>,
    /// None if there is no store or it wasn't asked for.
    pub registry: Option<RegistryFacts>,
    pub etcd: Option<EtcdFacts>,
    /// Whether the host holds the data of a member of etcd.
    #[serde(default)]
    pub etcd_data: bool,
    /// The token of the last restore of etcd that put its data in place here.
    #[serde(default)]
    pub etcd_restored: Option<String>,
    /// The newest software generation.
    pub generation: Option<Generation>,
    /// Software that the newest generation does not name.
    #[serde(default)]
    pub pending: Pending,
    /// Paths in the trust manifest.
    pub trust: BTreeSet<String>,
    /// The CNI configuration that containerd rendered.
    pub cni: Option<CniFacts>,
}

/// The machine and its system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemFacts {
    pub hostname: String,
    pub machine_id: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// `6.12.0-1-amd64`.
    pub kernel: String,
    /// OCI platform, `linux/amd64`.
    pub platform: String,
    pub systemd_version: u32,
    pub cgroups: Cgroups,
    pub memory_bytes: u64,
    pub cpus: u32,
    /// `1.1.3`; none if `nft` isn't there.
    pub nft_version: Option<String>,
    /// `enforcing`, `permissive`; none without SELinux.
    pub selinux: Option<String>,
    /// Units of interest that are active: `fapolicyd`, `firewalld`,
    /// `NetworkManager`, `systemd-networkd`.
    pub active_services: BTreeSet<String>,
    /// What `/etc/protocols` names.
    #[serde(default)]
    pub protocol_names: ProtocolNames,
    /// User id that the agent runs as; anything but 0 can't install.
    pub user_id: u32,
}

/// Whether a host has names for TCP and UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolNames {
    #[default]
    Complete,
    /// There is no file, as where Debian's `netbase` is left out, or it is one
    /// of ours.
    Absent,
    /// Somebody's file lacks TCP or UDP.
    Incomplete,
}

/// The layout of control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    #[default]
    Unknown,
    V1,
    Hybrid,
    V2,
}

/// The file system under one of the paths that are written to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilesystemFacts {
    /// One of [`crate::layout::PLACES`].
    pub path: String,
    /// Where the file system is mounted that the path is on, or will be once
    /// it is made; the path's own links are followed.
    pub mount_point: String,
    /// Equal for paths on the same file system.
    pub device: u64,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub read_only: bool,
    pub noexec: bool,
}

/// A network interface that is up. Those made by cofferdam or the pod
/// network (`cni0`, `flannel.*`, `veth*`) and loopback are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceFacts {
    pub name: String,
    /// With prefix length.
    pub addresses: Vec<ipnet::IpNet>,
    pub mtu: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFacts {
    /// `0.0.0.0/0` for a default route.
    pub destination: ipnet::IpNet,
    pub gateway: Option<IpAddr>,
    pub interface: String,
    /// The address that packets of the host itself leave with, where the route
    /// names one.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Whether cofferdam made it (its protocol number).
    pub ours: bool,
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListeningSocket {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub address: IpAddr,
    pub port: u16,
    /// Command name of the process, and its systemd unit, where found.
    pub process: Option<String>,
    pub unit: Option<String>,
}

/// A file, directory or link as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    pub entry: Entry,
    pub mode: u32,
    pub user: String,
    pub group: String,
}

impl FileFacts {
    /// The digest of a regular file, where it is known.
    pub fn digest(&self) -> Option<Digest> {
        match &self.entry {
            Entry::File { digest, .. } => *digest,
            _ => None,
        }
    }
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "entry")]
pub enum Entry {
    /// `digest` is none for a secret file while no key was given.
    File {
        size: u64,
        digest: Option<Digest>,
    },
    Directory,
    Link {
        target: String,
    },
    Other,
}

/// A condition that does not hold, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmetCondition {
    pub condition: Condition,
    pub reason: String,
}

/// What systemd says of a unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitFacts {
    /// `loaded`, `not-found`, `masked`.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`.
    pub active: String,
    /// `running`, `exited`, `dead`, `auto-restart`.
    pub sub: String,
    /// Whether it starts at boot: enabled, or with nothing to enable.
    pub enabled: bool,
    /// Whether the unit file changed since systemd read it.
    pub needs_reload: bool,
    /// [`crate::layout::INPUTS_VARIABLE`] of the main process, or, for a unit
    /// whose process has ended (oneshot), of its last start as systemd knows.
    /// None for a process of ours whose binary is no longer in the store.
    /// For NetworkManager: of the file that it was last told to read, none if
    /// that was written again since.
    pub inputs: Option<Digest>,
    /// The stored binary that the main process was started from, by its name.
    #[serde(default)]
    pub executable: Option<Digest>,
    pub main_pid: u32,
    /// What `--emulated-version` its process was started with, or would be.
    #[serde(default)]
    pub emulated: Option<String>,
    /// Seconds since it became active.
    pub active_seconds: Option<f64>,
}

/// An image in containerd's `k8s.io` namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    pub digest: Digest,
    /// Whether its digest is pinned against kubelet's collector.
    pub pinned: bool,
    /// Whether all its content for this platform is there and unpacked, and
    /// containerd's Kubernetes part knows it under this name and by digest.
    pub complete: bool,
}

/// What a registry's store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryFacts {
    /// Blobs and manifests whose content was read and found to have this
    /// digest, with their size in bytes.
    pub blobs: BTreeMap<Digest, u64>,
    /// `repository@sha256:…` for every blob and manifest linked into one.
    pub links: BTreeSet<String>,
    /// `repository:tag` to the manifest's digest.
    pub tags: BTreeMap<String, Digest>,
}

/// etcd as this host's client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdFacts {
    /// Name to member; members that never started have an empty name.
    pub members: Vec<EtcdMember>,
    /// Why it is not healthy as a whole: who of its voting members does not
    /// answer, or sees things otherwise than the rest.
    #[serde(default)]
    pub unhealthy: Option<String>,
    pub leader: Option<String>,
    pub version: Option<String>,
    pub alarms: Vec<String>,
    /// Why nothing could be learned.
    pub error: Option<String>,
}

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    pub id: String,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub learner: bool,
    /// None for a member that does not answer.
    #[serde(default)]
    pub status: Option<EtcdMemberStatus>,
}

/// What a member of etcd says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMemberStatus {
    pub version: String,
    /// Index of the newest raft entry that it knows of.
    pub raft_index: u64,
    /// Index of the newest raft entry that it has applied.
    pub applied_index: u64,
    /// Size of its database in bytes, what is free in it included.
    pub database_bytes: u64,
}

/// A snapshot of etcd that a host keeps, proven when it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was saved, in seconds since 1970 by the host's clock.
    pub saved: i64,
}

/// A numbered manifest of software on a host. Holds all that is needed to go
/// back to it, so that it can stand in for a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub number: u64,
    /// Name and version of the bundle.
    pub bundle: String,
    pub files: BTreeMap<String, GenerationFile>,
    /// Name to digest in the store.
    pub binaries: BTreeMap<String, Digest>,
    /// Name to version, as the bundle had it.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// With suffix, in start order.
    pub units: Vec<String>,
    /// Digests of the images that its node keeps pinned; none where nobody
    /// noted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<BTreeSet<Digest>>,
    /// What its registry is to hold, `repository:tag@digest` of each manifest that a tag
    /// names; not set where that wasn't known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<BTreeSet<String>>,
}

/// A generation with the bytes of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredGeneration {
    pub generation: Generation,
    /// Base64, by digest.
    contents: BTreeMap<Digest, String>,
    /// Sizes in bytes of those of its binaries that are in the host's store.
    pub binaries: BTreeMap<Digest, u64>,
}

impl StoredGeneration {
    /// One without bytes.
    pub fn of(generation: Generation) -> Self {
        Self {
            generation,
            ..Self::default()
        }
    }

    /// Adds the bytes of a file.
    pub fn put(&mut self, bytes: &[u8]) {
        let text = STANDARD.encode(bytes);
        self.contents.insert(Digest::of(bytes), text);
    }

    /// The bytes of a file; none if they didn't come, or aren't what they should
    /// be.
    pub fn bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(self.contents.get(digest)?).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }
}

/// A software file in a generation; its bytes lie in the generations'
/// `content/<hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationFile {
    /// None for a directory.
    pub digest: Option<Digest>,
    pub mode: u32,
    pub user: String,
    pub group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// The rendered CNI configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniFacts {
    pub digest: Digest,
    /// The subnet that it carries.
    pub subnet: Option<ipnet::IpNet>,
}

/// The cluster as a master sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    pub nodes: BTreeMap<String, NodeFacts>,
    /// For each manifest set asked: whether a server-side dry run would
    /// change anything.
    pub manifests: BTreeMap<String, ManifestState>,
    /// Git version of the API server, `v1.36.0`.
    pub version: Option<String>,
    /// Conditions that were asked for and don't hold.
    #[serde(default)]
    pub unmet: Vec<UnmetCondition>,
    /// Workloads that have fewer available replicas than they are to have, with
    /// how many: `deployment default/web`.
    #[serde(default)]
    pub unavailable: BTreeMap<String, String>,
}

/// Who uses the cluster, and how, as far as an upgrade has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageFacts {
    /// APIs that were asked for since the API server started, and that a later
    /// release no longer has.
    pub removed: Vec<RemovedApi>,
    /// Pods that a drain of their node ends, and whose they are.
    #[serde(default)]
    pub moving: Vec<MovingPod>,
    /// Pods that no controller would start again.
    pub bare_pods: Vec<Pod>,
    /// Pods with emptyDir volumes.
    pub local_data: Vec<Pod>,
    /// PodDisruptionBudgets, `namespace/name`, that allow no eviction even while
    /// all is healthy, and why.
    pub budgets: Vec<(String, String)>,
}

/// An API that is still asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedApi {
    pub group: String,
    pub version: String,
    pub resource: String,
    /// `1.37`
    pub removed_in: String,
    /// Field managers that wrote objects by it.
    pub clients: BTreeSet<String>,
}

/// A pod of a workload, `deployment default/web`, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovingPod {
    pub workload: String,
    pub node: String,
}

/// A pod, `namespace/name`, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub name: String,
    pub node: String,
}

/// A node object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub ready: bool,
    /// Message of the Ready condition.
    pub message: String,
    pub pod_cidr: Option<ipnet::IpNet>,
    pub kubelet_version: String,
    pub unschedulable: bool,
    /// Whether a drain of ours made it so.
    #[serde(default)]
    pub cordoned_by_us: bool,
    pub labels: BTreeMap<String, String>,
}

/// How a manifest set compares to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ManifestState {
    InSync,
    /// Names of the objects that would change or be made.
    Differs {
        objects: Vec<String>,
    },
    Unknown {
        reason: String,
    },
}

impl RouteFacts {
    /// Whether this route does for one that a unit is there to keep. One to the
    /// same addresses that is somebody else's does as well.
    pub fn does_for(&self, kept: &KeptRoute) -> bool {
        let is_as_kept = self.interface == kept.interface
            && self.source == Some(kept.source)
            && self.gateway.is_none();
        self.destination == kept.destination && (!self.ours || is_as_kept)
    }
}

impl FileFacts {
    /// Whether the file is as desired. A content still pending never is.
    /// Trust is compared by HMAC even where it isn't secret, as hosts report
    /// it so.
    pub fn matches(&self, desired: &crate::desired::File, key: Option<&DigestKey>) -> bool {
        let content = match (&self.entry, &desired.content) {
            (Entry::Directory, Content::Directory) => true,
            (Entry::File { digest, .. }, content) => match key {
                Some(key) => match (content, desired.kind) {
                    (Content::Plain(bytes), FileKind::Trust) => *digest == Some(key.digest(bytes)),
                    _ => digest.is_some() && *digest == content.digest(key),
                },
                None => match (content, desired.kind) {
                    (Content::Plain(bytes), FileKind::Software) => {
                        *digest == Some(Digest::of(bytes))
                    }
                    _ => false,
                },
            },
            _ => false,
        };
        content
            && self.mode == desired.mode
            && self.user == desired.user
            && self.group == desired.group
    }
}
