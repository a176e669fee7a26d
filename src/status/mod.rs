//! How a cluster stands: a pure function of the inventory and what was seen of
//! hosts and cluster. It needs no bundle and changes nothing.

mod judge;
mod render;
#[cfg(test)]
mod tests;

pub use judge::judge;
pub use render::text;

use crate::desired::Condition;
use crate::facts::{ClusterFacts, HostFacts, ObserveRequest};
use crate::inventory::{Host, Inventory, Role};
use crate::ports::numbers::{API_SERVER_PORT, ETCD_CLIENT_PORT, REGISTRY_PORT};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of each host of the inventory, or why nothing could be learned.
    pub hosts: BTreeMap<String, Result<HostFacts, Unreached>>,
    /// None where no API server answered.
    pub cluster: Option<ClusterFacts>,
}

/// Why a host told nothing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreached {
    pub reason: String,
    pub hint: Option<String>,
}

/// A cluster as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub cluster: String,
    pub health: Health,
    /// Git version of the API server that was asked, `v1.36.0`.
    pub version: Option<String>,
    /// In the inventory's order, those of a zone one after another.
    pub hosts: Vec<HostStatus>,
    /// What is not as it should be, the worst first.
    pub problems: Vec<Problem>,
}

/// The verb's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Health {
    /// All is as the inventory has it.
    Fine = 0,
    /// Something is down, but the API answers and takes writes.
    Degraded = 1,
    /// No API server is ready, or etcd has no majority.
    Broken = 2,
}

/// A host and its parts in the cluster; none for a role that it does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    pub name: String,
    pub zone: String,
    pub address: String,
    pub reached: bool,
    /// Name and version of the bundle that it was set up from last.
    pub bundle: Option<String>,
    pub etcd: Option<EtcdStatus>,
    pub api_server: Option<Part>,
    /// The older minor that its API server behaves as, `1.36`, while an upgrade
    /// soaks.
    pub emulated: Option<String>,
    pub registry: Option<Part>,
    pub node: Option<NodeStatus>,
}

/// Whether something serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Up,
    Down,
    /// Its host, or whoever could tell, was not reached.
    Unknown,
}

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EtcdStatus {
    pub state: Part,
    pub leader: bool,
    pub learner: bool,
    pub version: Option<String>,
    /// Raft entries that it has still to apply, by the newest that any member
    /// knows of.
    pub entries_behind: Option<u64>,
    /// Size of its database in bytes.
    pub database_bytes: Option<u64>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    pub state: Part,
    pub kubelet_version: Option<String>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// None for what concerns the cluster as a whole.
    pub host: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

/// What to ask a host, so that its status can be told.
pub fn observe_request(inventory: &Inventory, host: &Host) -> ObserveRequest {
    let mut request = ObserveRequest::default();
    if host.has(Role::ControlPlane) {
        request.conditions.push(api_ready(host));
    }
    if host.has(Role::Registry) {
        request.conditions.push(registry_serving(host));
    }
    if host.has(Role::Etcd) {
        request.etcd_endpoints = etcd_endpoints(inventory);
    }
    request
}

/// What to ask a master for its API server alone.
pub fn api_request(master: &Host) -> ObserveRequest {
    ObserveRequest {
        conditions: vec![api_ready(master)],
        ..ObserveRequest::default()
    }
}

/// Client URLs of all members of etcd.
pub fn etcd_endpoints(inventory: &Inventory) -> Vec<String> {
    let members = inventory.etcd_members().into_iter();
    members
        .map(|member| format!("https://{}:{ETCD_CLIENT_PORT}", member.address))
        .collect()
}

fn api_ready(host: &Host) -> Condition {
    Condition::ApiReady {
        address: format!("{}:{API_SERVER_PORT}", host.address),
    }
}

fn registry_serving(host: &Host) -> Condition {
    Condition::RegistryServing {
        address: format!("{}:{REGISTRY_PORT}", host.address),
    }
}

/// Whether the host's API server said that it is ready.
pub fn has_ready_api_server(host: &Host, facts: &HostFacts) -> bool {
    host.has(Role::ControlPlane) && holds(facts, &api_ready(host))
}

/// Whether a condition that was asked for holds.
fn holds(facts: &HostFacts, condition: &Condition) -> bool {
    let mut unmet = facts.unmet.iter();
    !unmet.any(|unmet| unmet.condition == *condition)
}
