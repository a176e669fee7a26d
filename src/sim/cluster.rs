//! What the model knows of Kubernetes: who is ready when, and which conditions
//! hold. One rule, one function.

use super::etcd::Members;
use super::machine::unit_path;
use super::machine::{DiskContent, Machine, ROUTE_UNIT, is_systems};
use super::world::World;
use crate::desired::Condition;
use crate::digest::Digest;
use crate::layout;
use crate::plan::world::is_asked_on_a_master;
use crate::ports::numbers::{API_SERVER_PORT, KUBE_PROXY_HEALTH_PORT, KUBELET_HEALTH_PORT};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const ETCD: &str = "etcd.service";
const API_SERVER: &str = "kube-apiserver.service";
const CONTROLLER_MANAGER: &str = "kube-controller-manager.service";
const CONTAINERD: &str = "containerd.service";
const KUBELET: &str = "kubelet.service";
const KUBE_PROXY: &str = "kube-proxy.service";
const FLANNELD: &str = "flanneld.service";
const REGISTRY: &str = "registry.service";

/// What is in etcd.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    /// Who belongs to etcd itself.
    pub members: Members,
    pub leader: Option<String>,
    /// Which restore it began from; none if it never was restored.
    pub restored: Option<String>,
    /// Whose members have data of it, or had.
    pub had_data: BTreeSet<String>,
    /// Who was told to hand its leadership over since it was started.
    pub handed_over: BTreeSet<String>,
    /// Applied sets, name to text.
    pub manifests: BTreeMap<String, String>,
    /// Nodes that registered, with their share of the pod addresses.
    pub nodes: BTreeMap<String, Option<IpNet>>,
    /// Nodes that we cordoned.
    pub cordoned: BTreeSet<String>,
}

impl World {
    /// Lets everything that can become ready become ready.
    pub(super) fn settle(&mut self) {
        // Readiness of one thing makes that of the next possible.
        for _ in 0..4 {
            self.join_etcd_members();
            self.elect_etcd_leader();
            self.activate_units();
            self.register_nodes();
            self.render_pod_networks();
        }
        self.forget_disruptions();
    }

    pub(super) fn api_is_ready(&self, host: &str) -> bool {
        self.is_active(host, API_SERVER) && self.etcd_serves(host)
    }

    /// Hosts whose API server reads and writes.
    pub(super) fn ready_api_servers(&self) -> BTreeSet<String> {
        let hosts = self.machines.keys();
        hosts
            .filter(|name| self.api_is_ready(name))
            .cloned()
            .collect()
    }

    /// Whether the host finds one of those, in whichever zone.
    fn reaches_api(&self, host: &str, servers: &BTreeSet<String>) -> bool {
        servers.iter().any(|server| self.reaches(host, server))
    }

    pub(super) fn ready_nodes(&self) -> BTreeSet<String> {
        let nodes = self.cluster.nodes.keys();
        nodes
            .filter(|name| self.node_is_ready(name))
            .cloned()
            .collect()
    }

    /// Whether the cluster has the node as ready, which its kubelet has to
    /// tell an API server again and again.
    pub(super) fn node_is_ready(&self, name: &str) -> bool {
        let machine = self.machines.get(name);
        self.cluster.nodes.contains_key(name)
            && self.is_active(name, CONTAINERD)
            && self.is_active(name, KUBELET)
            && machine.is_some_and(|machine| machine.disk.cni.is_some())
            && self.reaches_api(name, &self.ready_api_servers())
    }

    /// None if the condition holds, as the host sees it; else why not.
    pub(super) fn why_unmet(&mut self, host: &str, condition: &Condition) -> Option<String> {
        if self.is_delayed(condition) {
            return Some("it takes its time".to_owned());
        }
        if let Some(path) = self.missing_to_ask(host, condition) {
            return Some(format!("{path} is not there"));
        }
        if is_asked_on_a_master(condition) && !self.api_is_ready(host) {
            return Some("the API server does not answer".to_owned());
        }
        let any_node = || {
            let ready = self.ready_nodes();
            ready.iter().any(|node| self.reaches(host, node))
        };
        let holds = match condition {
            Condition::UnitActive { unit } => self.is_active(host, unit),
            Condition::RegistryServing { .. } => self.is_active(host, REGISTRY),
            Condition::EtcdHealthy { endpoints } => {
                self.why_etcd_unhealthy(host, endpoints).is_none()
            }
            Condition::ApiReady { address } => {
                debug_assert!(address.ends_with(&API_SERVER_PORT.to_string()));
                self.api_is_ready(host)
            }
            Condition::HealthEndpoint { port } => match *port {
                KUBE_PROXY_HEALTH_PORT => self.is_active(host, KUBE_PROXY),
                KUBELET_HEALTH_PORT => self.is_active(host, KUBELET),
                _ => true,
            },
            Condition::NodeReady { name } => self.node_is_ready(name),
            Condition::ControllerManagerLeads => {
                let servers = self.ready_api_servers();
                let mut servers = servers.iter();
                servers.any(|name| self.is_active(name, CONTROLLER_MANAGER))
            }
            // The model has no workloads but those that are applied.
            Condition::WorkloadsAvailable { .. } => true,
            Condition::NodeHasPodAddresses { name } => {
                matches!(self.cluster.nodes.get(name), Some(Some(_)))
            }
            Condition::OverlayUp => {
                let machine = self.machines.get(host);
                self.is_active(host, FLANNELD)
                    && machine.is_some_and(|machine| machine.disk.cni.is_some())
            }
            // A node that is gone takes its replicas along, for as long as
            // nobody replaces them.
            Condition::DeploymentAvailable { .. } => {
                let mut nodes = self.cluster.nodes.keys();
                let all_there =
                    nodes.all(|node| !self.off.contains(node) && self.reaches(host, node));
                self.is_applied(condition) && any_node() && all_there
            }
            Condition::ApiServiceAvailable { .. } | Condition::DnsAnswers { .. } => {
                self.is_applied(condition) && any_node()
            }
        };
        (!holds).then(|| format!("{condition:?} does not hold yet"))
    }

    /// What the host's agent lacks to ask whether a condition holds.
    fn missing_to_ask(&self, host: &str, condition: &Condition) -> Option<String> {
        let binary = |name: &str| format!("{}/{name}", layout::BIN);
        let needed = match condition {
            Condition::RegistryServing { .. } => registry_client(),
            Condition::ApiReady { .. } => vec!["/etc/kubernetes/pki/ca.crt".to_owned()],
            Condition::EtcdHealthy { .. } => vec![
                binary("etcdctl"),
                "/etc/etcd/pki/ca.crt".to_owned(),
                "/etc/etcd/pki/client.crt".to_owned(),
                "/etc/etcd/pki/client.key".to_owned(),
            ],
            Condition::NodeReady { .. }
            | Condition::WorkloadsAvailable { .. }
            | Condition::NodeHasPodAddresses { .. }
            | Condition::DeploymentAvailable { .. }
            | Condition::ControllerManagerLeads
            | Condition::ApiServiceAvailable { .. } => {
                vec![binary("kubectl"), layout::ADMIN_KUBECONFIG.to_owned()]
            }
            Condition::UnitActive { .. }
            | Condition::HealthEndpoint { .. }
            | Condition::OverlayUp
            | Condition::DnsAnswers { .. } => Vec::new(),
        };
        self.first_missing(host, &needed)
    }

    /// The first of some paths that the host lacks.
    pub(super) fn first_missing(&self, host: &str, paths: &[String]) -> Option<String> {
        let files = &self.machines.get(host)?.disk.files;
        paths
            .iter()
            .find(|path| !files.contains_key(*path))
            .cloned()
    }

    /// Why a unit would fail if it were started now.
    pub(super) fn why_not_startable(&self, host: &str, unit: &str) -> Option<String> {
        let machine = self.machines.get(host)?;
        if is_systems(unit) {
            return None;
        }
        if !machine.disk.files.contains_key(&unit_path(unit)) {
            return Some(format!("unit {unit} not found"));
        }
        let desired = self.desired.hosts.get(host)?;
        let known = desired.units.iter().find(|known| known.name == unit)?;
        let files = known.needs.files.iter();
        let missing = files
            .clone()
            .find(|path| !machine.disk.files.contains_key(*path));
        if let Some(path) = missing {
            return Some(format!("{unit}: {path} is not there"));
        }
        let not_there = known
            .needs
            .binaries
            .iter()
            .find(|name| !is_runnable(machine, name));
        if let Some(name) = not_there {
            return Some(format!("{unit}: {name} is not installed"));
        }
        if unit == KUBELET && !machine.runs(CONTAINERD) {
            return Some("kubelet: containerd does not run".to_owned());
        }
        None
    }

    /// Rules that a step of ours must keep when it starts a unit.
    pub(super) fn check_start(&mut self, host: &str, unit: &str) {
        if unit == ETCD {
            self.check_etcd_start(host);
        }
        let Some(desired) = self.desired.hosts.get(host) else {
            return;
        };
        if unit == KUBELET {
            let Some(machine) = self.machines.get(host) else {
                return;
            };
            let images = &machine.disk.images;
            let missing = desired.images.keys().find(|name| {
                let image = images.get(*name);
                !image.is_some_and(|image| image.pinned && image.complete)
            });
            if let Some(image) = missing {
                self.violations.push(format!(
                    "{host}: kubelet was started before {image} was there"
                ));
            }
            if !self.cluster.manifests.contains_key("rbac") {
                self.violations.push(format!(
                    "{host}: kubelet was started before its rights were there"
                ));
            }
        }
    }

    pub(super) fn is_active(&self, host: &str, unit: &str) -> bool {
        let machine = self.machines.get(host);
        machine.is_some_and(|machine| machine.is_active(unit))
    }

    fn is_applied(&self, condition: &Condition) -> bool {
        let sets = self.desired.manifests.iter();
        let mut asked = sets.filter(|set| set.ready.contains(condition));
        asked.any(|set| self.cluster.manifests.contains_key(&set.name))
    }

    /// Everything else is ready a while after its start, an API server once
    /// its etcd serves, and flanneld once it has its lease from an API server.
    fn activate_units(&mut self) {
        let now = self.now;
        let names: Vec<String> = self.machines.keys().cloned().collect();
        let servers = self.ready_api_servers();
        let (mut served, mut reached) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            if self.reaches_api(&name, &servers) {
                reached.insert(name.clone());
            }
            if self.etcd_serves(&name) {
                served.insert(name);
            }
        }
        for machine in self.machines.values_mut() {
            let has_etcd = served.contains(&machine.name);
            let has_api = reached.contains(&machine.name);
            for (unit, process) in &mut machine.memory.processes {
                let is_ready = match unit.as_str() {
                    ETCD => continue,
                    API_SERVER => has_etcd,
                    FLANNELD => has_api,
                    _ => true,
                };
                if is_ready && now >= process.ready_at && !process.is_active {
                    process.is_active = true;
                    machine.memory.has_service_route |= unit == ROUTE_UNIT;
                }
            }
        }
    }

    pub(super) fn activate(&mut self, host: &str, unit: &str) {
        if let Some(machine) = self.machines.get_mut(host)
            && let Some(process) = machine.memory.processes.get_mut(unit)
        {
            process.is_active = true;
        }
    }

    /// A kubelet registers its node, and a controller-manager, which uses the
    /// API server beside it, gives it addresses.
    fn register_nodes(&mut self) {
        let servers = self.ready_api_servers();
        if servers.is_empty() {
            return;
        }
        let names: Vec<String> = self.desired.hosts.keys().cloned().collect();
        let allots = servers
            .iter()
            .any(|name| self.is_active(name, CONTROLLER_MANAGER));
        for (index, name) in names.iter().enumerate() {
            if self.is_active(name, KUBELET) && self.reaches_api(name, &servers) {
                self.cluster.nodes.entry(name.clone()).or_default();
            }
            if allots && let Some(node) = self.cluster.nodes.get_mut(name) {
                node.get_or_insert(pod_cidr(index));
            }
        }
    }

    /// containerd renders the CNI configuration once it is told the node's
    /// addresses, if there is none.
    fn render_pod_networks(&mut self) {
        let servers = self.ready_api_servers();
        let nodes: Vec<(String, IpNet)> = self
            .cluster
            .nodes
            .iter()
            .filter_map(|(name, pod_cidr)| Some((name.clone(), (*pod_cidr)?)))
            .collect();
        for (name, pod_cidr) in nodes {
            let is_told = self.is_active(&name, CONTAINERD)
                && self.is_active(&name, KUBELET)
                && self.reaches_api(&name, &servers);
            let Some(machine) = self.machines.get_mut(&name).filter(|_| is_told) else {
                continue;
            };
            if machine.disk.cni.is_none()
                && let Some(file) = machine.disk.files.get(layout::CNI_TEMPLATE)
                && let DiskContent::Bytes(template) = &file.content
            {
                let template = String::from_utf8_lossy(template);
                machine.disk.cni = Some((render(&template, pod_cidr), pod_cidr));
            }
        }
    }
}

/// What a host needs to read from registries.
pub(super) fn registry_client() -> Vec<String> {
    [
        layout::REGISTRY_CA,
        layout::REGISTRY_CLIENT_CERTIFICATE,
        layout::REGISTRY_CLIENT_KEY,
    ]
    .map(str::to_owned)
    .into()
}

/// What containerd makes of the template that cofferdam writes.
fn render(template: &str, pod_cidr: IpNet) -> Digest {
    let rendered = template
        .replace("{{.PodCIDR}}", &pod_cidr.to_string())
        .replace(
            "{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}",
            "",
        )
        .replace("{{$range}}", &pod_cidr.to_string())
        .replace("{{end}}", "");
    Digest::of(rendered)
}

fn pod_cidr(index: usize) -> IpNet {
    let third = u8::try_from(index % 250).unwrap_or_default();
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, third, 0), 24))
}

fn is_runnable(machine: &Machine, name: &str) -> bool {
    let binary = machine.linked(name);
    binary.is_some_and(|digest| machine.is_stored(&digest))
}
