//! What is applied in the cluster, server-side.

use super::builder::{Inputs, render};
use super::error::DesiredError;
use super::types::{Condition, ManifestSet, Stage};
use crate::inventory::{Host, Role};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// CoreDNS's share of nodes: two where there are two to stand on. It stands on
/// masters too, so that one worker's loss leaves DNS to the others.
const DNS_REPLICAS: usize = 2;

/// What manifests of a bundle may name: `{{ cluster.domain }}`,
/// `{{ images["registry.k8s.io/pause"] }}`.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestContext {
    pub cluster: ClusterContext,
    /// Repository to reference with tag and digest.
    pub images: BTreeMap<String, String>,
}

/// The cluster's values in manifests.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterContext {
    pub name: String,
    pub domain: String,
    pub pod_cidr: String,
    pub service_cidr: String,
    pub dns_address: String,
    pub dns_upstreams: Vec<String>,
    /// How many replicas add-ons that spread run.
    pub replicas: usize,
    /// Number of zones that have nodes.
    pub zones: usize,
}

/// What manifests may name beside images, for each choice that an inventory can
/// make: with and without resolvers, on one node or several, in one zone or several.
/// A bundle proves its manifests for all of them.
pub fn every_choice() -> Vec<BTreeMap<String, Value>> {
    let upstreams: [&[&str]; 3] = [&[], &["192.0.2.53"], &["192.0.2.53", "192.0.2.54"]];
    let choices = upstreams.into_iter().flat_map(|upstreams| {
        let replicas = (1..=DNS_REPLICAS).map(move |replicas| (upstreams, replicas));
        replicas.flat_map(|(upstreams, replicas)| {
            [1, 3].map(move |zones| ClusterContext {
                name: "example".to_owned(),
                domain: "cluster.local".to_owned(),
                pod_cidr: "10.244.0.0/16".to_owned(),
                service_cidr: "10.96.0.0/16".to_owned(),
                dns_address: "10.96.0.10".to_owned(),
                dns_upstreams: upstreams.iter().map(|text| (*text).to_owned()).collect(),
                replicas,
                zones,
            })
        })
    });
    choices
        .map(|cluster| BTreeMap::from([("cluster".to_owned(), json!(cluster))]))
        .collect()
}

/// All manifest sets in the order in which they are applied.
///
/// # Errors
/// When a template of the bundle names a value that isn't there.
pub fn manifests(inputs: Inputs<'_>) -> Result<Vec<ManifestSet>, DesiredError> {
    let context = context(inputs);
    let mut sets = vec![ManifestSet {
        name: "rbac".to_owned(),
        stage: Stage::ControlPlane,
        yaml: include_str!("../../templates/kubernetes/rbac.yaml").to_owned(),
        ready: Vec::new(),
    }];
    sets.push(ManifestSet {
        name: "nodes".to_owned(),
        stage: Stage::AddOns,
        yaml: nodes(inputs),
        ready: Vec::new(),
    });
    for (name, template) in &inputs.software.whole.manifests {
        let yaml = render(name, template, minijinja::value::Serde(&context))?;
        let ready = readiness(&yaml).map_err(|reason| DesiredError::Render {
            what: format!("manifest {name}"),
            reason,
        })?;
        sets.push(ManifestSet {
            name: name.clone(),
            stage: Stage::AddOns,
            yaml,
            ready,
        });
    }
    if let Some(coredns) = sets.iter_mut().find(|set| set.name == "coredns") {
        coredns.ready.push(Condition::DnsAnswers {
            address: context.cluster.dns_address.clone(),
            domain: context.cluster.domain.clone(),
        });
    }
    Ok(sets)
}

fn context(inputs: Inputs<'_>) -> ManifestContext {
    let inventory = inputs.inventory;
    let cluster = &inventory.cluster;
    let zones: BTreeSet<&str> = inventory
        .nodes()
        .iter()
        .map(|host| host.zone.as_str())
        .collect();
    ManifestContext {
        cluster: ClusterContext {
            name: cluster.name.clone(),
            domain: cluster.domain.clone(),
            pod_cidr: cluster.pod_cidr.to_string(),
            service_cidr: cluster.service_cidr.to_string(),
            dns_address: inventory.cluster_dns_ip().to_string(),
            dns_upstreams: cluster
                .dns_upstreams
                .iter()
                .map(ToString::to_string)
                .collect(),
            replicas: inventory.nodes().len().clamp(1, DNS_REPLICAS),
            zones: zones.len(),
        },
        images: inputs
            .software
            .whole
            .images
            .iter()
            .filter_map(|image| {
                Some((image.artifact.repository.clone(), image.pinned_reference()?))
            })
            .collect(),
    }
}

/// A manifest is in effect when its Deployments are available and its
/// aggregated APIs answer.
fn readiness(yaml: &str) -> Result<Vec<Condition>, String> {
    let mut ready = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value: Value = serde::Deserialize::deserialize(document)
            .map_err(|error: serde_yaml_ng::Error| error.to_string())?;
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let Some(name) = text("/metadata/name") else {
            continue;
        };
        match text("/kind") {
            Some("Deployment") => {
                let namespace = text("/metadata/namespace").unwrap_or("default");
                ready.push(Condition::DeploymentAvailable {
                    name: format!("{namespace}/{name}"),
                });
            }
            Some("APIService") => {
                ready.push(Condition::ApiServiceAvailable {
                    name: name.to_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(ready)
}

/// Labels of nodes, each a fragment of the object that kubelet registers.
fn nodes(inputs: Inputs<'_>) -> String {
    let hosts = inputs.inventory.nodes();
    let documents: Vec<String> = hosts
        .into_iter()
        .filter_map(|host| serde_yaml_ng::to_string(&node_labels(host)).ok())
        .collect();
    documents.join("---\n")
}

fn node_labels(host: &Host) -> Value {
    let mut labels = host.labels.clone();
    labels.insert("topology.kubernetes.io/zone".to_owned(), host.zone.clone());
    for (role, label) in [
        (Role::ControlPlane, "control-plane"),
        (Role::Worker, "worker"),
    ] {
        if host.has(role) {
            labels.insert(format!("node-role.kubernetes.io/{label}"), String::new());
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name, "labels": labels},
    })
}
