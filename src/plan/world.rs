//! What is known of hosts and cluster when a plan is made, and what to ask
//! them for it.

use crate::desired::{
    Condition, Content, Desired, DesiredHost, DigestKey, FileKind, RegistryContent, Stage,
};
use crate::digest::Digest;
use crate::facts::{ClusterFacts, HostFacts, ObserveRequest};
use crate::host::Request;
use std::collections::BTreeMap;

/// Facts of all hosts, and of the cluster where there is one.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// By inventory name. A host that is missing here is planned for as if
    /// nothing were on it.
    pub hosts: BTreeMap<String, HostFacts>,
    /// None where no API server answers, so also before the first install.
    pub cluster: Option<ClusterFacts>,
    /// The master on which kubectl runs, see [`cluster_host`].
    pub cluster_host: String,
}

/// The master on which kubectl runs: the first host with an API server. None
/// if the desired state has no such host.
pub fn cluster_host(desired: &Desired) -> Option<&str> {
    desired
        .hosts
        .iter()
        .find(|(_, host)| {
            host.units
                .iter()
                .any(|unit| unit.stage == Stage::ControlPlane)
        })
        .map(|(name, _)| name.as_str())
}

/// What to ask each host, so that a plan can be made from the answers. Where
/// no decisions are recorded yet, ask a second time with the desired state
/// that they lead to.
pub fn observe_requests(
    desired: &Desired,
    key: Option<&DigestKey>,
) -> BTreeMap<String, ObserveRequest> {
    let master = cluster_host(desired);
    desired
        .hosts
        .iter()
        .map(|(name, host)| {
            let mut request = observe_request(host, key);
            if Some(name.as_str()) == master {
                request.conditions.extend(cluster_conditions(desired));
            }
            (name.clone(), request)
        })
        .collect()
}

/// What to ask the master of [`cluster_host`] about the cluster.
pub fn observe_cluster_request(desired: &Desired) -> Request {
    Request::ObserveCluster {
        manifests: desired
            .manifests
            .iter()
            .map(|set| (set.name.clone(), set.yaml.clone()))
            .collect(),
    }
}

/// Whether only a master can tell if the condition holds.
pub fn is_asked_on_a_master(condition: &Condition) -> bool {
    match condition {
        Condition::NodeReady { .. }
        | Condition::NodeHasPodAddresses { .. }
        | Condition::DeploymentAvailable { .. }
        | Condition::ApiServiceAvailable { .. } => true,
        Condition::UnitActive { .. }
        | Condition::RegistryServing { .. }
        | Condition::EtcdHealthy { .. }
        | Condition::ApiReady { .. }
        | Condition::HealthEndpoint { .. }
        | Condition::OverlayUp
        | Condition::DnsAnswers { .. } => false,
    }
}

/// Whether the file is compared by its HMAC under the site's key.
pub fn is_compared_by_hmac(file: &crate::desired::File) -> bool {
    file.kind == FileKind::Trust || matches!(file.content, Content::Secret(_))
}

/// Client URLs of the etcd cluster that the host is a member of.
pub fn etcd_endpoints(host: &DesiredHost) -> Vec<String> {
    let endpoints = host.units.iter().find_map(|unit| match &unit.ready {
        Some(Condition::EtcdHealthy { endpoints }) => Some(endpoints.clone()),
        _ => None,
    });
    endpoints.unwrap_or_default()
}

fn observe_request(host: &DesiredHost, key: Option<&DigestKey>) -> ObserveRequest {
    let secret = host
        .files
        .iter()
        .filter(|(_, file)| is_compared_by_hmac(file));
    // What is asked on a master is known from the cluster's nodes, or asked
    // of that master.
    let conditions = host.units.iter().filter_map(|unit| unit.ready.clone());
    ObserveRequest {
        files: host.files.keys().cloned().collect(),
        secret_files: secret.map(|(path, _)| path.clone()).collect(),
        digest_key: key.cloned(),
        modules: host.modules.clone(),
        sysctls: host.sysctls.keys().cloned().collect(),
        units: host.units.iter().map(|unit| unit.name.clone()).collect(),
        users: host.users.clone(),
        conditions: conditions
            .filter(|condition| !is_asked_on_a_master(condition))
            .collect(),
        content: true,
        images: !host.images.is_empty(),
        registry: host.registry.as_ref().map(registry_blobs),
        etcd_endpoints: etcd_endpoints(host),
    }
}

/// Blobs that a registry is to hold, with their sizes in bytes.
fn registry_blobs(content: &RegistryContent) -> BTreeMap<Digest, u64> {
    let artifacts = content.artifacts.values();
    artifacts
        .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests))
        .map(|blob| (blob.digest, blob.size))
        .collect()
}

/// Conditions of the cluster that its nodes' facts don't tell.
fn cluster_conditions(desired: &Desired) -> impl Iterator<Item = Condition> {
    let of_sets = desired.manifests.iter().flat_map(|set| set.ready.clone());
    let of_units = desired
        .hosts
        .values()
        .flat_map(|host| &host.units)
        .filter_map(|unit| unit.ready.clone())
        .filter(is_asked_on_a_master);
    let is_told = |condition: &Condition| {
        matches!(
            condition,
            Condition::NodeReady { .. } | Condition::NodeHasPodAddresses { .. }
        )
    };
    of_sets
        .chain(of_units)
        .filter(move |condition| !is_told(condition))
}
