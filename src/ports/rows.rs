//! The rows themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Endpoint, Group, Matrix, Protocol, Row, Scope, numbers};
use crate::inventory::{Host, Inventory, Role};

/// A connection that every host of one group opens to every host of another.
struct Flow {
    from: Group,
    to: Group,
    protocol: Protocol,
    port: u16,
    /// At most 128 bytes without double quotes, since it becomes a comment of nft.
    why: &'static str,
}

/// Everything that hosts of a cluster say to each other.
///
/// Controller-manager and scheduler use their own host's API server, and an API server its own
/// host's etcd member, so that they have no rows; the API server's way to webhooks and aggregated
/// APIs, and pods' way to each other, is VXLAN.
const FLOWS: [Flow; 6] = [
    Flow {
        // Hosts that are no nodes are here too: their binaries come from a registry as well.
        from: Group::Hosts,
        to: Group::Registries,
        protocol: Protocol::Tcp,
        port: numbers::REGISTRY_PORT,
        why: "binaries and images; other zones' registries when the own one is down",
    },
    Flow {
        from: Group::Etcd,
        to: Group::Etcd,
        protocol: Protocol::Tcp,
        port: numbers::ETCD_PEER_PORT,
        why: "etcd members replicate to each other",
    },
    Flow {
        from: Group::EtcdClients,
        to: Group::Etcd,
        protocol: Protocol::Tcp,
        port: numbers::ETCD_CLIENT_PORT,
        why: "etcdctl on masters and members asks and changes members; API servers without a member of their own",
    },
    Flow {
        from: Group::Nodes,
        to: Group::ControlPlane,
        protocol: Protocol::Tcp,
        port: numbers::API_SERVER_PORT,
        why: "each node's API proxy uses every API server, and so do pods through Service kubernetes",
    },
    Flow {
        from: Group::Nodes,
        to: Group::Nodes,
        protocol: Protocol::Tcp,
        port: numbers::KUBELET_PORT,
        why: "API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on",
    },
    Flow {
        from: Group::Nodes,
        to: Group::Nodes,
        protocol: Protocol::Udp,
        port: numbers::VXLAN_PORT,
        why: "pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs",
    },
];

const SSH_WHY: &str = "cofferdam installs, upgrades and looks after the host";
const REGISTRY_WHY: &str = "binaries and images come from the inventory's registry";
const DNS_WHY: &str = "CoreDNS, on whichever node it is, asks the inventory's resolvers";
const NTP_WHY: &str = "hosts keep their clocks by the inventory's time servers";

impl Matrix {
    /// What the cluster of this inventory needs, and nothing wider.
    pub fn of(inventory: &Inventory) -> Self {
        let mut rows = ssh_rows(inventory);
        for flow in &FLOWS {
            for from in &inventory.zones {
                for to in &inventory.zones {
                    rows.extend(row_between(inventory, flow, (&from.name, &to.name)));
                }
            }
        }
        rows.extend(outside_rows(inventory));
        Self {
            cluster: inventory.cluster.name.clone(),
            rows,
        }
    }
}

/// From the jump host to every host, by zone and port. Hosts' addresses for SSH may be others than
/// they have among each other.
fn ssh_rows(inventory: &Inventory) -> Vec<Row> {
    let jump_host: BTreeSet<Ipv4Addr> = inventory.jump_host.into_iter().collect();
    let mut rows = Vec::new();
    for zone in &inventory.zones {
        let mut by_port: BTreeMap<u16, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        for host in inventory.hosts.iter().filter(|host| host.zone == zone.name) {
            // A jump host that is a host of the cluster doesn't cross a firewall to itself.
            if !jump_host.contains(&host.ssh.address) {
                by_port
                    .entry(host.ssh.port)
                    .or_default()
                    .insert(host.ssh.address);
            }
        }
        rows.extend(by_port.into_iter().map(|(port, addresses)| Row {
            from: Endpoint {
                group: Group::JumpHost,
                zone: None,
                addresses: jump_host.clone(),
            },
            to: Endpoint {
                group: Group::Hosts,
                zone: Some(zone.name.clone()),
                addresses,
            },
            protocol: Protocol::Tcp,
            port,
            scope: Scope::JumpHost,
            why: SSH_WHY,
        }));
    }
    rows
}

/// The row of one flow from one zone to another, or within one; none if a side is empty, or if
/// both are the same single host.
fn row_between(inventory: &Inventory, flow: &Flow, zones: (&str, &str)) -> Option<Row> {
    let from = endpoint(inventory, flow.from, zones.0);
    let to = endpoint(inventory, flow.to, zones.1);
    let is_same_host = from.addresses.len() == 1 && from.addresses == to.addresses;
    if from.addresses.is_empty() || to.addresses.is_empty() || is_same_host {
        return None;
    }
    let scope = if zones.0 == zones.1 {
        Scope::WithinZone
    } else {
        Scope::BetweenZones
    };
    Some(Row {
        from,
        to,
        protocol: flow.protocol,
        port: flow.port,
        scope,
        why: flow.why,
    })
}

/// Rows to servers that the inventory names; none if it names none.
fn outside_rows(inventory: &Inventory) -> Vec<Row> {
    let cluster = &inventory.cluster;
    let targets = [
        (
            Group::Nodes,
            Group::DnsServers,
            Protocol::Udp,
            numbers::DNS_PORT,
            DNS_WHY,
        ),
        (
            Group::Nodes,
            Group::DnsServers,
            Protocol::Tcp,
            numbers::DNS_PORT,
            DNS_WHY,
        ),
        (
            Group::Hosts,
            Group::NtpServers,
            Protocol::Udp,
            numbers::NTP_PORT,
            NTP_WHY,
        ),
    ];
    let registry = inventory.registry.as_ref();
    let registry_target = registry.map(|registry| {
        let (from, to) = (Group::Hosts, Group::Registry);
        (from, to, Protocol::Tcp, registry.port, REGISTRY_WHY)
    });
    let mut rows = Vec::new();
    for (from, to, protocol, port, why) in registry_target.into_iter().chain(targets) {
        let addresses = match to {
            Group::Registry => registry.map(|registry| registry.addresses.clone()),
            Group::DnsServers => Some(cluster.dns_upstreams.iter().copied().collect()),
            _ => Some(cluster.ntp_servers.iter().copied().collect()),
        };
        let to = Endpoint {
            group: to,
            zone: None,
            addresses: addresses.unwrap_or_default(),
        };
        for zone in &inventory.zones {
            let from = endpoint(inventory, from, &zone.name);
            if !from.addresses.is_empty() && !to.addresses.is_empty() {
                let scope = Scope::Outside;
                rows.push(Row {
                    from,
                    to: to.clone(),
                    protocol,
                    port,
                    scope,
                    why,
                });
            }
        }
    }
    rows
}

fn endpoint(inventory: &Inventory, group: Group, zone: &str) -> Endpoint {
    let hosts = inventory
        .hosts
        .iter()
        .filter(|host| host.zone == zone && is_in(host, group));
    Endpoint {
        group,
        zone: Some(zone.to_owned()),
        addresses: hosts.map(|host| host.address).collect(),
    }
}

fn is_in(host: &Host, group: Group) -> bool {
    match group {
        Group::Hosts => true,
        Group::Nodes => host.is_node(),
        Group::ControlPlane => host.has(Role::ControlPlane),
        Group::Etcd => host.has(Role::Etcd),
        Group::EtcdClients => host.has(Role::ControlPlane) || host.has(Role::Etcd),
        Group::Registries => host.has(Role::Registry),
        Group::JumpHost | Group::Registry | Group::DnsServers | Group::NtpServers => false,
    }
}
