//! Interfaces and routes.

use crate::agent::netlink;
use crate::facts::{InterfaceFacts, RouteFacts};
use crate::layout::ROUTE_PROTOCOL;
use std::collections::BTreeMap;

/// Interfaces that are up, but for loopback and those of the pod network.
pub(super) fn interfaces() -> Vec<InterfaceFacts> {
    let links = netlink::links().unwrap_or_default();
    let addresses = netlink::addresses().unwrap_or_default();
    links
        .into_iter()
        .filter(|link| link.up && !is_left_out(&link.name))
        .map(|link| InterfaceFacts {
            addresses: addresses
                .iter()
                .filter(|address| address.link_index == link.index)
                .map(|address| address.network)
                .collect(),
            name: link.name,
            mtu: link.mtu,
        })
        .collect()
}

/// Unicast routes of the main table.
pub(super) fn routes() -> Vec<RouteFacts> {
    let names: BTreeMap<u32, String> = netlink::links()
        .unwrap_or_default()
        .into_iter()
        .map(|link| (link.index, link.name))
        .collect();
    netlink::routes()
        .unwrap_or_default()
        .into_iter()
        .map(|route| RouteFacts {
            destination: route.destination,
            gateway: route.gateway,
            source: route.source,
            interface: names.get(&route.link_index).cloned().unwrap_or_default(),
            ours: route.protocol == ROUTE_PROTOCOL,
        })
        .collect()
}

fn is_left_out(name: &str) -> bool {
    name == "lo" || name == "cni0" || name.starts_with("flannel.") || name.starts_with("veth")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_is_not_the_hosts_own() {
        for name in ["lo", "cni0", "flannel.1", "veth0a1b2c3d"] {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["eth0", "host0", "ens192", "bond0", "cni1"] {
            assert!(!is_left_out(name), "{name}");
        }
        assert!(interfaces().iter().all(|interface| interface.name != "lo"));
    }
}
