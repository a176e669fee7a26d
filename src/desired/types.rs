//! The desired state as a value: for each host every file, binary, unit,
//! image and setting; for the cluster, the manifests that are applied in it.

use crate::digest::Digest;
use crate::inventory::Drain;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the hosts and the cluster should be like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Desired {
    /// Name and version of the bundle that it is made of, for people:
    /// `kubernetes-1.36 1.36.0`.
    pub bundle: String,
    /// By inventory name.
    pub hosts: BTreeMap<String, DesiredHost>,
    /// In the order in which they are applied.
    pub manifests: Vec<ManifestSet>,
    /// Names of the keys, certificates and secrets that the site lacks or
    /// holds for another profile; they are minted before anything else.
    pub to_mint: Vec<String>,
    /// Decisions that are not yet recorded in the site.
    pub to_decide: Vec<String>,
    /// A restore of etcd that is to be brought to its end.
    pub restore: Option<EtcdRestore>,
    /// Names of the hosts that a run is about, where it leaves all else as it
    /// is, the cluster included.
    pub only: Option<BTreeSet<String>>,
    /// How far a run goes.
    pub until: Option<Until>,
    /// By zone: how many nodes may be away at once. One, where a zone is missing.
    pub unavailable: BTreeMap<String, usize>,
    /// How pods are taken off nodes.
    pub drain: Drain,
}

/// The last zone, or the last host of a zone, that a run interrupts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Until {
    pub zone: String,
    pub host: Option<String>,
}

impl Until {
    /// Whether a host's turn comes later. Zones, and hosts within them, have the
    /// order of their names.
    pub fn is_before(&self, zone: &str, host: &str) -> bool {
        match &self.host {
            Some(last) => (self.zone.as_str(), last.as_str()) < (zone, host),
            None => self.zone.as_str() < zone,
        }
    }

    /// Whether it is about the host.
    pub fn names(&self, zone: &str, host: &str) -> bool {
        self.zone == zone && self.host.as_ref().is_none_or(|own| own == host)
    }
}

/// A restore of etcd: all its members begin anew, from one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdRestore {
    /// Tells it from others: when it was begun, `20261129T084501Z`.
    pub token: String,
    /// Digest of the snapshot's file.
    pub snapshot: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What one host should be like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DesiredHost {
    /// The failure zone that it stands in.
    pub zone: String,
    /// Name and version of the bundle that it is of, for people.
    pub bundle: String,
    /// Managed directories and files by absolute path.
    pub files: BTreeMap<String, File>,
    /// Binaries in the store with a link in [`crate::layout::BIN`], by name.
    pub binaries: BTreeMap<String, Binary>,
    /// System users, each with a group of its own name.
    pub users: BTreeSet<String>,
    /// Units in the order in which they start.
    pub units: Vec<Unit>,
    /// Kernel modules that must be loaded or built in.
    pub modules: BTreeSet<String>,
    /// Sysctls by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Whether all swap is to be off, now and after a reboot.
    pub swap: Swap,
    /// Images that are on the node, pinned, before its kubelet starts; by
    /// reference `registry.k8s.io/pause:3.10.2`.
    pub images: BTreeMap<String, NodeImage>,
    /// Digests of the images that it needs beside those, where they are there
    /// still: those of the generation that it keeps; none where nobody noted them.
    pub held_images: Option<BTreeSet<Digest>>,
    /// The registries that this host reads from, nearest first: `10.77.1.11:5000`, or
    /// one that is not cofferdam's with what stands before its repositories,
    /// `harbor.example.org/k8s`.
    pub registries: Vec<String>,
    /// What this host's registry holds; none on hosts without the role.
    pub registry: Option<RegistryContent>,
    /// Whether the host runs a kubelet, and as what.
    pub node: Option<Node>,
    /// The route for Services that one of the units keeps.
    pub service_route: Option<KeptRoute>,
    /// The member of etcd that the host runs.
    pub etcd: Option<EtcdMembership>,
    /// The number of the generation that it keeps parts of.
    pub held: Option<u64>,
}

impl DesiredHost {
    /// Digests of all images that stay pinned on the node; none if that can't be
    /// known.
    pub fn pinned_images(&self) -> Option<BTreeSet<Digest>> {
        let images = self.images.values().map(|image| image.digest);
        match (self.held, &self.held_images) {
            (None, _) => Some(images.collect()),
            (Some(_), held) => Some(images.chain(held.as_ref()?.iter().copied()).collect()),
        }
    }
}

impl DesiredHost {
    /// What the host's registry is needed for, see [`RegistryContent::needed`]; nothing
    /// where the host has no registry.
    pub fn needed_artifacts(&self) -> Option<BTreeSet<String>> {
        match &self.registry {
            Some(content) => content.needed.clone(),
            None => Some(BTreeSet::new()),
        }
    }
}

/// How a host belongs to etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EtcdMembership {
    /// `https://10.77.1.11:2380`; who a member is, is told by it, since one
    /// that has not started has no name yet.
    pub peer_url: String,
    /// `https://10.77.1.11:2379`
    pub client_url: String,
    /// None for members that started together, else the place among those
    /// that joined them one by one, from 0.
    pub joins: Option<usize>,
}

/// A route on a link, and who makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptRoute {
    /// With suffix.
    pub unit: String,
    pub destination: ipnet::IpNet,
    pub interface: String,
    /// The address that packets of the host itself leave with.
    pub source: std::net::IpAddr,
}

/// What a kubelet's host is told in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    pub name: String,
    pub zone: String,
    /// Whether it takes only pods that tolerate a control plane beside them.
    pub is_tainted: bool,
    /// Where its kubelet tells on 127.0.0.1 that it is well, if it does there.
    pub health_port: Option<u16>,
}

/// What is to become of swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Swap {
    #[default]
    Keep,
    Off,
}

/// One managed file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    pub content: Content,
    /// Permission bits, such as `0o640`.
    pub mode: u32,
    pub user: String,
    pub group: String,
    pub kind: FileKind,
    /// What of the host it belongs to; none where that is no part by itself.
    pub part: Option<Part>,
}

/// A part of a host's software that can go back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The member of etcd.
    Etcd,
    /// API server, controller-manager and scheduler.
    ControlPlane,
    /// containerd, kubelet, kube-proxy and flanneld.
    Node,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Etcd => "etcd",
            Self::ControlPlane => "control plane",
            Self::Node => "node",
        })
    }
}

/// Which of the two manifests of a host a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Can go back to an older generation.
    Software,
    /// Keys, certificates, kubeconfigs, encryption configuration: only goes
    /// forward.
    Trust,
}

/// What is in a file. Serialises without its bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    Directory,
    Plain(Vec<u8>),
    /// Compared by HMAC under the site's key and never shown.
    Secret(Vec<u8>),
    /// Known only after keys were minted or decisions were made.
    Pending,
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => formatter.write_str("Directory"),
            Self::Plain(bytes) => write!(formatter, "Plain({} bytes)", bytes.len()),
            Self::Secret(_) => formatter.write_str("Secret"),
            Self::Pending => formatter.write_str("Pending"),
        }
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Directory => serializer.serialize_str("directory"),
            Self::Plain(bytes) => serializer.collect_str(&Digest::of(bytes)),
            Self::Secret(_) => serializer.serialize_str("secret"),
            Self::Pending => serializer.serialize_str("pending"),
        }
    }
}

/// The site's key for digests of secrets (32 bytes). Not serialisable into
/// plans or events; it crosses to agents in requests only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DigestKey(pub [u8; 32]);

impl fmt::Debug for DigestKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DigestKey(…)")
    }
}

impl DigestKey {
    /// HMAC-SHA256 of a secret file's bytes.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            unreachable!("HMAC takes keys of any length")
        };
        mac.update(bytes);
        Digest::from_bytes(mac.finalize().into_bytes().into())
    }
}

impl Content {
    /// The digest by which the file is compared: sha256 of plain bytes, HMAC
    /// of secret ones; none for directories and for what is still pending.
    pub fn digest(&self, key: &DigestKey) -> Option<Digest> {
        match self {
            Self::Plain(bytes) => Some(Digest::of(bytes)),
            Self::Secret(bytes) => Some(key.digest(bytes)),
            Self::Directory | Self::Pending => None,
        }
    }
}

/// A binary out of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binary {
    /// Digest and size in bytes of the file itself.
    pub digest: Digest,
    pub size: u64,
    /// Digest and size in bytes of its zstd-compressed blob.
    pub blob: Digest,
    pub blob_size: u64,
    /// Where the blob is in a zone's registry: `cofferdam/file/kubelet`.
    pub repository: String,
    pub version: String,
}

/// A systemd unit that is enabled and runs, or one of
/// [`crate::layout::SYSTEM_UNITS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// With suffix, `kube-apiserver.service`.
    pub name: String,
    pub stage: Stage,
    /// Digest of what its process reads only at its start; none where the
    /// unit has no process of its own (sockets) or while something that it
    /// reads is still pending (see `pending`).
    pub inputs: Option<Digest>,
    /// Whether `inputs` can't be known before keys are minted.
    pub pending: bool,
    /// Paths of the files and names of the binaries that must be in place
    /// before it starts, whether or not a change of them means a restart.
    pub needs: Needs,
    /// How a change of inputs takes effect.
    pub change: Change,
    /// What must hold after it (re)started.
    pub ready: Option<Condition>,
}

/// What must lie on a host before a unit starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    pub files: BTreeSet<String>,
    /// Those of the files that are read again while it runs.
    pub follows: BTreeSet<String>,
    pub binaries: BTreeSet<String>,
}

/// How a running unit takes up changed inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// `systemctl restart`.
    Restart,
    /// `systemctl reload`: the process hands over to its successor, or, as
    /// NetworkManager, reads its files again.
    Reload,
}

/// The stages of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Keys, certificates and decisions in the site.
    Site,
    /// Makes hosts fit: users, modules, sysctls, swap, route, limits.
    Prepare,
    /// Brings up each zone's registry and fills it.
    Registry,
    /// Binaries, configuration, keys and images onto all hosts.
    Stage,
    Etcd,
    ControlPlane,
    /// API proxy, containerd, kubelet, kube-proxy.
    Nodes,
    /// Overlay between nodes.
    Network,
    AddOns,
    Verify,
}

impl Stage {
    pub const ALL: [Self; 10] = [
        Self::Site,
        Self::Prepare,
        Self::Registry,
        Self::Stage,
        Self::Etcd,
        Self::ControlPlane,
        Self::Nodes,
        Self::Network,
        Self::AddOns,
        Self::Verify,
    ];

    /// For people: `control plane`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Prepare => "prepare",
            Self::Registry => "registry",
            Self::Stage => "stage",
            Self::Etcd => "etcd",
            Self::ControlPlane => "control plane",
            Self::Nodes => "nodes",
            Self::Network => "network",
            Self::AddOns => "add-ons",
            Self::Verify => "verify",
        }
    }
}

/// Something that a step waits for. An agent on the step's host evaluates it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "condition")]
pub enum Condition {
    /// The unit is active and its process carries the inputs digest that lies
    /// in its environment file.
    UnitActive { unit: String },
    /// This host's registry answers over TLS.
    RegistryServing { address: String },
    /// `etcdctl endpoint health` for these client URLs, all of them.
    EtcdHealthy { endpoints: Vec<String> },
    /// `GET https://ADDRESS/readyz` answers 200; `address` is `IP:port`.
    ApiReady { address: String },
    /// `GET http://127.0.0.1:port/healthz` answers 200.
    HealthEndpoint { port: u16 },
    /// The node is registered, Ready, and runs the given kubelet version.
    NodeReady { name: String },
    /// The node is registered, and controller-manager has given it a share of
    /// the pod addresses, without which flanneld fails to start.
    NodeHasPodAddresses { name: String },
    /// flanneld wrote its lease and the CNI configuration is rendered.
    OverlayUp,
    /// `kubectl rollout status` of a deployment; `name` is `namespace/name`.
    DeploymentAvailable { name: String },
    /// Workloads have the replicas that they are to have, but for those that had
    /// not before: `deployment default/web`.
    WorkloadsAvailable { except: Vec<String> },
    /// A controller-manager leads, and was seen to renew that after it took over: until
    /// then nobody tells service proxies of pods that end.
    ControllerManagerLeads,
    /// The aggregated API answers: `v1beta1.metrics.k8s.io`.
    ApiServiceAvailable { name: String },
    /// DNS answers for `kubernetes.default.svc` at this address.
    DnsAnswers { address: String, domain: String },
}

/// An image that a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeImage {
    /// Digest of the index or manifest that the reference names.
    pub digest: Digest,
    /// Sum of its blobs for the host's platform, in bytes.
    pub size: u64,
}

/// What a zone's registry holds: everything in the bundle that hosts of its
/// platforms need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryContent {
    /// By `repository:tag`.
    pub artifacts: BTreeMap<String, RegistryArtifact>,
    /// `repository:tag@digest` of all that hosts may ask for, where two bundles have
    /// different content under one tag too; not set while a host is held to what it was,
    /// since that may be of any bundle.
    pub needed: Option<BTreeSet<String>>,
}

/// One tagged image or file in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryArtifact {
    pub repository: String,
    pub tag: String,
    /// Layers and configurations.
    pub blobs: Vec<BlobReference>,
    /// Manifests in push order: those below an index first, the one that the
    /// tag names last.
    pub manifests: Vec<BlobReference>,
}

/// A blob by digest, size in bytes, and media type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobReference {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// Manifests that are applied together, server-side, as
/// [`crate::layout::FIELD_MANAGER`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestSet {
    /// `rbac`, `coredns`, `nodes`.
    pub name: String,
    pub stage: Stage,
    /// Several YAML documents. Never holds a secret.
    pub yaml: String,
    /// What must hold after it is applied.
    pub ready: Vec<Condition>,
}
