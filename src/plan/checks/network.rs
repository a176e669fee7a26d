//! Addresses, ports and networks.

use super::{Finding, Question, Subject, finding};
use crate::facts::{HostFacts, ListeningSocket};
use crate::inventory::{Host, Role};
use crate::owned::owned_units;
use crate::plan::decisions::{VXLAN_OVERHEAD, interface_of};
use crate::ports::numbers::*;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) fn identity(question: &Question) -> Vec<Finding> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for subject in question.subjects() {
        let machine = subject.facts.system.machine_id.as_str();
        if machine.is_empty() {
            continue;
        }
        let Some(other) = known.insert(machine, &subject.host.name) else {
            continue;
        };
        let found = format!("it has the machine id of {other}: a clone, or the same machine");
        let remedy = "check both addresses; give a clone its own id: remove /etc/machine-id, run \
                      `systemd-machine-id-setup`, and reboot";
        findings.push(finding(&subject, found, remedy));
    }
    findings
}

pub(super) fn addresses(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        let address = IpAddr::V4(subject.host.address);
        if interface_of(subject.facts, address).is_none() {
            let found = format!("none of its interfaces that are up holds {address}");
            let remedy = "name the address that the host itself has in `address`; the one that SSH \
                          goes to may differ: `ssh = { address = … }`";
            findings.push(finding(&subject, found, remedy));
        }
        for other in question.subjects() {
            let is_other = other.host.name != subject.host.name;
            if is_other && interface_of(other.facts, address).is_some() {
                let found = format!("its address {address} is held by {} too", other.host.name);
                findings.push(finding(
                    &subject,
                    found,
                    "give each host an address of its own",
                ));
            }
        }
    }
    findings
}

pub(super) fn networks(question: &Question) -> Vec<Finding> {
    let cluster = &question.inventory.cluster;
    let ours = [
        ("pods", "pod_cidr", IpNet::V4(cluster.pod_cidr)),
        ("Services", "service_cidr", IpNet::V4(cluster.service_cidr)),
    ];
    let mut findings = Vec::new();
    for subject in question.subjects() {
        for (whose, key, network) in ours {
            let mut taken: Vec<String> = Vec::new();
            for interface in &subject.facts.interfaces {
                let inside = interface
                    .addresses
                    .iter()
                    .filter(|net| overlap(net, &network));
                taken.extend(inside.map(|net| format!("{net} on {}", interface.name)));
            }
            // Wider routes, such as a default route, are no claim.
            let routes = subject.facts.routes.iter().filter(|route| {
                !route.ours
                    && !is_made_by_overlay(&route.interface)
                    && network.contains(&route.destination)
            });
            taken.extend(
                routes.map(|route| {
                    format!("a route to {} by {}", route.destination, route.interface)
                }),
            );
            if let Some(first) = taken.first() {
                let found = format!("addresses of {whose} ({network}) are in use there: {first}");
                let remedy = format!("choose another `cluster.{key}`");
                findings.push(finding(&subject, found, remedy));
            }
        }
    }
    findings
}

pub(super) fn mtu(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let pods = question.decisions.pod_mtu?;
        let interface = interface_of(subject.facts, IpAddr::V4(subject.host.address))?;
        let needed = pods + VXLAN_OVERHEAD;
        let found = format!(
            "{} has an MTU of {}, and pods' packets of {pods} bytes need {needed} with their tunnel",
            interface.name, interface.mtu
        );
        let largest = interface.mtu.saturating_sub(VXLAN_OVERHEAD);
        let remedy = format!("raise it, or set `cluster.mtu` to {largest} or less");
        (subject.host.is_node() && interface.mtu < needed).then_some((found, remedy))
    })
}

pub(super) fn ports(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        for need in port_needs(subject.host) {
            let mut sockets = subject.facts.listening.iter();
            let taken = sockets.find(|socket| need.conflicts(socket) && !is_ours(&subject, socket));
            let Some(socket) = taken else {
                continue;
            };
            let who = match (&socket.process, &socket.unit) {
                (Some(process), Some(unit)) => format!("{process} ({unit})"),
                (Some(name), None) | (None, Some(name)) => name.clone(),
                (None, None) => "the kernel".to_owned(),
            };
            let found = format!(
                "port {}/{} is taken by {who}, {} needs it",
                need.port, need.protocol, need.component
            );
            findings.push(finding(&subject, found, "stop what listens there"));
        }
    }
    findings
}

/// A port that a component listens on.
struct PortNeed {
    protocol: &'static str,
    port: u16,
    component: &'static str,
    /// None: on all addresses.
    addresses: Option<Vec<IpAddr>>,
}

fn port_needs(host: &Host) -> Vec<PortNeed> {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let own = IpAddr::V4(host.address);
    let need = |port, component, addresses: &[IpAddr]| PortNeed {
        protocol: "tcp",
        port,
        component,
        addresses: (!addresses.is_empty()).then(|| addresses.to_vec()),
    };
    let mut needs = Vec::new();
    if host.has(Role::Etcd) {
        needs.push(need(ETCD_CLIENT_PORT, "etcd", &[own, loopback]));
        needs.push(need(ETCD_PEER_PORT, "etcd", &[own]));
    }
    if host.has(Role::ControlPlane) {
        needs.push(need(API_SERVER_PORT, "kube-apiserver", &[]));
        needs.push(need(
            CONTROLLER_MANAGER_PORT,
            "kube-controller-manager",
            &[loopback],
        ));
        needs.push(need(SCHEDULER_PORT, "kube-scheduler", &[loopback]));
    }
    if host.has(Role::Registry) {
        needs.push(need(REGISTRY_PORT, "the registry", &[own]));
    }
    if host.is_node() {
        needs.push(need(API_PROXY_PORT, "the API proxy", &[loopback]));
        needs.push(need(KUBELET_PORT, "kubelet", &[own]));
        needs.push(need(KUBELET_HEALTH_PORT, "kubelet", &[loopback]));
        needs.push(need(KUBE_PROXY_HEALTH_PORT, "kube-proxy", &[loopback]));
        needs.push(need(KUBE_PROXY_METRICS_PORT, "kube-proxy", &[loopback]));
        needs.push(PortNeed {
            protocol: "udp",
            ..need(VXLAN_PORT, "flannel", &[])
        });
    }
    needs
}

impl PortNeed {
    fn conflicts(&self, socket: &ListeningSocket) -> bool {
        let same_address = match &self.addresses {
            None => true,
            Some(addresses) => {
                socket.address.is_unspecified() || addresses.contains(&socket.address)
            }
        };
        socket.protocol == self.protocol && socket.port == self.port && same_address
    }
}

/// Whether one of our units listens, or what they left in the kernel.
fn is_ours(subject: &Subject, socket: &ListeningSocket) -> bool {
    let was_here = has_been_here(subject.facts);
    let desired = subject.desired.iter().flat_map(|host| &host.units);
    let facts = subject.facts;
    let owned = owned_units(facts.generation.as_ref(), &facts.pending);
    let mut units = desired.map(|unit| unit.name.as_str()).chain(owned);
    match (&socket.process, &socket.unit) {
        // A VXLAN interface, or a socket whose process could not be found.
        (None, None) => was_here,
        // A listener of a socket unit is held by systemd itself.
        (Some(process), _) if process == "systemd" => was_here,
        (_, Some(unit)) => was_here && units.any(|known| known == unit),
        (Some(_), None) => false,
    }
}

/// Whether an earlier run, finished or not, wrote to this host.
fn has_been_here(facts: &HostFacts) -> bool {
    facts.generation.is_some() || !facts.pending.is_empty() || !facts.trust.is_empty()
}

/// Interfaces of the pod network, whose routes flanneld and the bridge make.
fn is_made_by_overlay(interface: &str) -> bool {
    let names = ["cni0", "flannel.", "veth"];
    names.iter().any(|name| interface.starts_with(name))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}
