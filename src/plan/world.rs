//! What is known of hosts and cluster when a plan is made, and what to ask
//! them for it.

use super::diff::is_running;
use super::membership::{self, Standing, standing};
use crate::desired::{
    Condition, Content, Desired, DesiredHost, DigestKey, FileKind, RegistryContent, Stage,
};
use crate::digest::Digest;
use crate::facts::{ClusterFacts, HostFacts, ObserveRequest};
use crate::host::Request;
use std::collections::BTreeMap;

const API_SERVER: &str = "kube-apiserver.service";

/// Facts of all hosts, and of the cluster where there is one.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// By inventory name. A host that is missing here is left out: nothing is
    /// planned for it.
    pub hosts: BTreeMap<String, HostFacts>,
    /// None where no API server answers, so also before the first install.
    pub cluster: Option<ClusterFacts>,
    /// The master on which kubectl runs, see [`cluster_host`].
    pub cluster_host: String,
}

/// The master on which kubectl runs: the first one whose API server runs, else
/// the first one that was reached and is not still to join etcd. None if no
/// host that was reached is to be a master.
pub fn cluster_host<'a>(
    desired: &'a Desired,
    seen: &BTreeMap<String, HostFacts>,
) -> Option<&'a str> {
    let members = membership::members(seen.values());
    let masters = desired.hosts.iter().filter_map(|(name, host)| {
        let is_master = host
            .units
            .iter()
            .any(|unit| unit.stage == Stage::ControlPlane);
        let facts = seen.get(name).filter(|_| is_master)?;
        let is_running = facts.units.get(API_SERVER).is_some_and(is_running);
        let joins = !matches!(
            standing(host, Some(facts), members),
            None | Some(Standing::Voter)
        );
        Some((!is_running, joins, name.as_str()))
    });
    masters.min().map(|(_, _, name)| name)
}

/// What to ask each host, so that a plan can be made from the answers. Where
/// no decisions are recorded yet, ask a second time with the desired state
/// that they lead to.
pub fn observe_requests(
    desired: &Desired,
    key: Option<&DigestKey>,
) -> BTreeMap<String, ObserveRequest> {
    desired
        .hosts
        .iter()
        .map(|(name, host)| (name.clone(), observe_request(host, key)))
        .collect()
}

/// What to ask a master about the cluster.
pub fn observe_cluster_request(desired: &Desired) -> Request {
    Request::ObserveCluster {
        manifests: desired
            .manifests
            .iter()
            .map(|set| (set.name.clone(), set.yaml.clone()))
            .collect(),
        conditions: cluster_conditions(desired).collect(),
    }
}

/// Whether only a master can tell if the condition holds.
pub fn is_asked_on_a_master(condition: &Condition) -> bool {
    match condition {
        Condition::NodeReady { .. }
        | Condition::WorkloadsAvailable { .. }
        | Condition::NodeHasPodAddresses { .. }
        | Condition::DeploymentAvailable { .. }
        | Condition::ControllerManagerLeads
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
