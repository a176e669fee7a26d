//! What the rest of the program asks an inventory.

use std::net::Ipv4Addr;

use super::model::{Host, Inventory, Role, Zone};

/// kubeadm's choice, which many tools expect: the tenth address of the service CIDR.
const CLUSTER_DNS_INDEX: u32 = 10;
/// The API server gives the `kubernetes` Service the first address of the service CIDR.
const KUBERNETES_SERVICE_INDEX: u32 = 1;

impl Inventory {
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.name == name)
    }

    /// Hosts that have the role, in the inventory's order.
    pub fn hosts_with(&self, role: Role) -> Vec<&Host> {
        self.hosts.iter().filter(|host| host.has(role)).collect()
    }

    /// Hosts that run API server, controller-manager and scheduler; never empty.
    pub fn control_plane(&self) -> Vec<&Host> {
        self.hosts_with(Role::ControlPlane)
    }

    /// Hosts that run etcd; never empty.
    pub fn etcd_members(&self) -> Vec<&Host> {
        self.hosts_with(Role::Etcd)
    }

    /// Hosts that run a zone registry; empty only where the inventory names another.
    pub fn registries(&self) -> Vec<&Host> {
        self.hosts_with(Role::Registry)
    }

    /// Hosts that run a kubelet: those with the role control-plane or worker.
    pub fn nodes(&self) -> Vec<&Host> {
        self.hosts.iter().filter(|host| host.is_node()).collect()
    }

    /// Whether ordinary pods are kept off the host: a control-plane host that is no worker too,
    /// where there are workers.
    pub fn is_tainted(&self, host: &Host) -> bool {
        let has_workers = self.hosts.iter().any(|host| host.has(Role::Worker));
        host.has(Role::ControlPlane) && !host.has(Role::Worker) && has_workers
    }

    /// Registries in the order in which `host` uses them: its zone's choice of zones, and within
    /// a zone the host itself, then the inventory's order. Every registry is in it, once.
    pub fn registries_for(&self, host: &Host) -> Vec<&Host> {
        let order = self
            .zone(&host.zone)
            .map(|zone| zone.registry_order.as_slice());
        let order = order.unwrap_or_default();
        let mut registries = self.registries();
        registries.sort_by_key(|registry| {
            let rank = order.iter().position(|zone| *zone == registry.zone);
            (rank.unwrap_or(order.len()), registry.name != host.name)
        });
        registries
    }

    /// API servers in the order in which `host`'s proxy prefers them: its own zone's, then the
    /// other zones'. Every API server is in it, once.
    pub fn api_servers_for(&self, host: &Host) -> Vec<&Host> {
        self.near_first(host, self.control_plane())
    }

    /// etcd members that the API server on `host` uses: its own host's alone, so that one member's
    /// stop touches one API server; all of them, its own zone's first, where the host has none.
    pub fn etcd_members_for(&self, host: &Host) -> Vec<&Host> {
        let members = self.etcd_members();
        match members.iter().find(|member| member.name == host.name) {
            Some(own) => vec![*own],
            None => self.near_first(host, members),
        }
    }

    fn near_first<'a>(&'a self, host: &Host, mut hosts: Vec<&'a Host>) -> Vec<&'a Host> {
        hosts.sort_by_key(|other| {
            let zone = self.zones.iter().position(|zone| zone.name == other.zone);
            (other.zone != host.zone, zone)
        });
        hosts
    }
}

impl Inventory {
    /// Address of the cluster's DNS Service.
    pub fn cluster_dns_ip(&self) -> Ipv4Addr {
        nth_address(self.cluster.service_cidr, CLUSTER_DNS_INDEX)
    }

    /// Address of the `kubernetes` Service; API servers' certificates carry it.
    pub fn kubernetes_service_ip(&self) -> Ipv4Addr {
        nth_address(self.cluster.service_cidr, KUBERNETES_SERVICE_INDEX)
    }
}

/// The address `index` places behind the network's own; the parser has seen to it that the
/// network is large enough.
fn nth_address(network: ipnet::Ipv4Net, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.network().to_bits().saturating_add(index))
}
