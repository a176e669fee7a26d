//! The inventory once it is checked: every default is resolved.
//!
//! Only [`super::parse`] makes an [`Inventory`], since its overrides have no public constructor;
//! whoever holds one may rely on all that `parse` checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use camino::Utf8PathBuf;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, Serializer};

use super::foreign::ForeignRegistry;
use super::overrides::Overrides;
use super::problem::Problem;
use crate::trusted_key::TrustedKey;

/// Pods may take minutes to end, and budgets minutes to allow it.
const DRAIN_SECONDS: u32 = 600;

/// A cluster as its operator wants it.
///
/// Serialization is for snapshots: its order is fixed, and places in the text are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inventory {
    /// The file this was read from, for messages.
    #[serde(skip)]
    pub file: Utf8PathBuf,
    pub cluster: Cluster,
    /// Address that hosts see the jump host as, where the inventory tells it.
    pub jump_host: Option<Ipv4Addr>,
    /// The site's directory: absolute, or relative to the working directory.
    pub site_path: Utf8PathBuf,
    /// In the order of the file; at least one.
    pub zones: Vec<Zone>,
    /// In the order of the file; at least one, with a control-plane host among them.
    pub hosts: Vec<Host>,
    #[serde(skip_serializing_if = "Drain::is_default")]
    pub drain: Drain,
    /// Where binaries and images come from, if not from registries of cofferdam's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<ForeignRegistry>,
    /// Whose signature a bundle may bear; what is given on the command line is added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_keys: Vec<NamedKey>,
    /// What the author should know, though it is no error.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
    pub(super) overrides: Overrides,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// RFC 1123 label.
    pub name: String,
    /// DNS domain of Services, such as `cluster.local`.
    pub domain: String,
    pub pod_cidr: Ipv4Net,
    /// Prefix length of each node's share of `pod_cidr`.
    pub pod_mask: u8,
    pub service_cidr: Ipv4Net,
    /// Further names and addresses in API servers' certificates.
    pub api_names: Vec<ApiName>,
    /// Resolvers that CoreDNS forwards to; empty: it forwards nowhere.
    pub dns_upstreams: Vec<Ipv4Addr>,
    /// For the port matrix alone.
    pub ntp_servers: Vec<Ipv4Addr>,
    pub survive: Survive,
    pub swap: Swap,
    /// Bytes in a packet of the pod network; `None`: decided from hosts' interfaces when first met.
    pub mtu: Option<u32>,
}

/// A key that signs bundles, and what people call it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedKey {
    /// Serialized as its id.
    #[serde(serialize_with = "key_id")]
    pub key: TrustedKey,
    /// Empty if there is none.
    pub comment: String,
}

fn key_id<S: Serializer>(key: &TrustedKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&key.id())
}

/// A subject alternative name of API servers' certificates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiName {
    Dns(String),
    Address(Ipv4Addr),
}

/// Which loss the API is to outlive. A single master is not asked to outlive any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Survive {
    /// Any one zone's.
    Zone,
    /// Any one host's.
    Host,
    Nothing,
}

/// What becomes of hosts' swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Swap {
    /// Turned off, and kept off over reboots.
    Off,
    /// Left as it is.
    Keep,
}

/// A failure zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// RFC 1123 label.
    pub name: String,
    /// Zones that have a registry, in the order in which this zone's hosts use them.
    pub registry_order: Vec<String>,
    /// How many of its nodes may be away at once, for an upgrade.
    #[serde(skip_serializing_if = "MaxUnavailable::is_default")]
    pub max_unavailable: MaxUnavailable,
}

/// A count of nodes, or a share of a zone's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MaxUnavailable {
    Count(usize),
    Percent(usize),
}

impl MaxUnavailable {
    /// How many of so many nodes; at least one, or nothing would ever change.
    pub fn of(self, nodes: usize) -> usize {
        match self {
            Self::Count(count) => count.max(1),
            Self::Percent(percent) => (nodes * percent / 100).max(1),
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for MaxUnavailable {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// How pods are taken off a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// For all pods that no rule is for.
    pub timeout_seconds: u32,
    /// In the order in which they are followed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<DrainRule>,
}

impl Drain {
    /// How long a node's drain may take in all.
    pub fn most_seconds(&self) -> u32 {
        let rules = self.pods.iter();
        let rules = rules.map(|rule| rule.timeout_seconds.unwrap_or(self.timeout_seconds));
        self.timeout_seconds + rules.sum::<u32>()
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout_seconds: DRAIN_SECONDS,
            pods: Vec::new(),
        }
    }
}

/// How some of them are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRule {
    /// Labels of pods, as kubectl takes them: `app=db`.
    pub selector: String,
    /// None: as the pods themselves have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u32>,
    /// None: as for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// RFC 1123 label, also the node's name.
    pub name: String,
    /// Address that other hosts use.
    pub address: Ipv4Addr,
    pub zone: String,
    /// With the roles that follow from others: see [`Role`].
    pub roles: BTreeSet<Role>,
    /// Node labels from the inventory alone.
    pub labels: BTreeMap<String, String>,
    pub ssh: SshAccess,
    #[serde(skip_serializing_if = "Overrides::is_empty")]
    pub(super) overrides: Overrides,
}

/// What a host does.
///
/// Where no host names `etcd`, every control-plane host has it. Where no host of a zone names
/// `registry`, the zone's first control-plane host has it, if there is one; none has it where
/// the inventory names a registry that is not cofferdam's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    ControlPlane,
    Etcd,
    Registry,
    Worker,
}

/// How the jump host reaches a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SshAccess {
    pub user: String,
    pub port: u16,
    /// Private key file: absolute, or relative to the working directory. `None`: ssh-agent.
    pub key: Option<Utf8PathBuf>,
    /// The host's own address, unless the inventory names another for SSH.
    pub address: Ipv4Addr,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::ControlPlane, Self::Etcd, Self::Registry, Self::Worker];

    /// The role's name in the inventory.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Etcd => "etcd",
            Self::Registry => "registry",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Host {
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether the host runs a kubelet.
    pub fn is_node(&self) -> bool {
        self.has(Role::ControlPlane) || self.has(Role::Worker)
    }
}

impl fmt::Display for ApiName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

impl Serialize for ApiName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
