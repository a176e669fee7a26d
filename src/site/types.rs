//! What a site holds, as values that the desired state reads.

use crate::desired::{DigestKey, Held};
use crate::plan::ServiceRoute;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A site's content as a value.
#[derive(Clone, Debug, Default)]
pub struct SiteView {
    /// Keys, certificates and secrets by name: `ca/etcd`, `etcd-server@m1`,
    /// `service-account`, `encryption`.
    pub materials: BTreeMap<String, Material>,
    pub decisions: Decisions,
    /// None before the first minting.
    pub digest_key: Option<DigestKey>,
    /// By host: what a rollback brought back, until the next upgrade.
    pub held: BTreeMap<String, Held>,
}

/// What is to be minted under a name. Its equality decides whether what the
/// site holds still fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum MaterialSpec {
    /// A self-signed CA.
    Authority { common_name: String },
    /// A leaf certificate with its key.
    Certificate(CertificateSpec),
    /// An ECDSA P-256 key pair without certificate (service accounts).
    KeyPair,
    /// Random bytes.
    Secret { bytes: usize },
}

/// A leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// Name of the CA's material: `ca/cluster`.
    pub authority: String,
    pub common_name: String,
    /// `O=`, the groups of a Kubernetes user.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub usage: Usage,
}

/// Extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    Client,
    Server,
    /// etcd's peers and servers are both.
    Both,
}

/// What the site holds under a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// What it was minted for.
    pub spec: MaterialSpec,
    /// PEM, for authorities and certificates.
    pub certificate: Option<String>,
    /// PEM (PKCS#8) of the private key, or the secret's bytes.
    pub secret: Vec<u8>,
    /// PEM of the public key, for key pairs.
    pub public_key: Option<String>,
    /// End of validity, seconds since the epoch.
    pub not_after: Option<i64>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Material")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

/// Facts that chose configuration when they were first met. Desired state
/// reads these, not facts, so that what we change does not change our mind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// Names of the etcd members that started together.
    #[serde(default)]
    pub etcd_bootstrap: Vec<String>,
    /// Names of the etcd members that joined after that, in the order in
    /// which they did.
    #[serde(default)]
    pub etcd_joined: Vec<String>,
    /// MTU of pod interfaces, in bytes: the least of the hosts' underlays
    /// less 50 for VXLAN.
    #[serde(default)]
    pub pod_mtu: Option<u32>,
    #[serde(default)]
    pub hosts: BTreeMap<String, HostDecisions>,
}

/// Decisions about one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDecisions {
    /// Set where no route covered the service CIDR.
    #[serde(default)]
    pub service_route: Option<ServiceRoute>,
    /// The interface that holds the host's inventory address.
    pub interface: String,
    /// Set where the host has no names of protocols of its own.
    #[serde(default)]
    pub protocol_names: bool,
    /// Whether NetworkManager runs there.
    #[serde(default)]
    pub network_manager: bool,
    /// OCI platform, `linux/amd64`.
    pub platform: String,
}
