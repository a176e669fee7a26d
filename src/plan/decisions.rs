//! Facts that choose configuration, recorded when first met. Desired state
//! reads them instead of facts, so that what we change does not change our
//! mind.

use super::ServiceRoute;
use crate::facts::{HostFacts, InterfaceFacts, ProtocolNames};
use crate::inventory::{Host, Inventory};
use crate::layout::PROTOCOLS_FILE;
use crate::site::{Decisions, HostDecisions};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What VXLAN adds to a packet, in bytes: outer IPv4, UDP and VXLAN headers,
/// and the inner Ethernet header (RFC 7348, section 5).
pub const VXLAN_OVERHEAD: u32 = 50;

/// The decisions that are there, completed for what has none yet; and what
/// is new, a line each, for people. A host without facts stays undecided.
///
/// The MTU that the inventory names wins at any time; everything else, once
/// decided, stays.
pub fn decide(
    existing: &Decisions,
    inventory: &Inventory,
    facts: &BTreeMap<String, HostFacts>,
) -> (Decisions, Vec<String>) {
    let mut decisions = existing.clone();
    let mut new = Vec::new();
    // Hosts may have been renamed before etcd was ever there.
    let is_named = |name: &String| {
        inventory
            .etcd_members()
            .iter()
            .any(|host| host.name == *name)
    };
    let never_was = !facts.is_empty() && facts.values().all(|facts| !facts.etcd_data);
    if never_was && !decisions.etcd_bootstrap.iter().any(is_named) {
        decisions.etcd_bootstrap.clear();
        decisions.etcd_joined.clear();
    }
    if decisions.etcd_bootstrap.is_empty() {
        let members = inventory.etcd_members().into_iter();
        decisions.etcd_bootstrap = members.map(|host| host.name.clone()).collect();
        let members = decisions.etcd_bootstrap.join(", ");
        new.push(format!("etcd starts with the members {members}"));
    }
    for member in inventory.etcd_members() {
        let known = [&decisions.etcd_bootstrap, &decisions.etcd_joined];
        if !known.iter().any(|names| names.contains(&member.name)) {
            new.push(format!("{} joins etcd", member.name));
            decisions.etcd_joined.push(member.name.clone());
        }
    }
    for host in &inventory.hosts {
        if decisions.hosts.contains_key(&host.name) {
            continue;
        }
        let Some(facts) = facts.get(&host.name) else {
            continue;
        };
        let decided = decide_host(inventory, host, facts);
        new.extend(tell(&host.name, &decided, inventory));
        decisions.hosts.insert(host.name.clone(), decided);
    }
    let pod_mtu = match (inventory.cluster.mtu, decisions.pod_mtu) {
        (Some(mtu), _) => Some(mtu),
        (None, Some(mtu)) => Some(mtu),
        (None, None) => least_underlay(inventory, facts).map(|mtu| mtu - VXLAN_OVERHEAD),
    };
    if let Some(mtu) = pod_mtu.filter(|_| pod_mtu != decisions.pod_mtu) {
        new.push(format!("pods get an MTU of {mtu}"));
        decisions.pod_mtu = pod_mtu;
    }
    (decisions, new)
}

/// The interface that holds an address.
pub(super) fn interface_of(facts: &HostFacts, address: IpAddr) -> Option<&InterfaceFacts> {
    let mut interfaces = facts.interfaces.iter();
    interfaces.find(|interface| interface.addresses.iter().any(|net| net.addr() == address))
}

fn decide_host(inventory: &Inventory, host: &Host, facts: &HostFacts) -> HostDecisions {
    let address = IpAddr::V4(host.address);
    let interface = interface_of(facts, address);
    let interface = interface.map_or_else(String::new, |interface| interface.name.clone());
    // kube-proxy rewrites after the route look-up, so some route must cover
    // the addresses of Services.
    let service_cidr = IpNet::V4(inventory.cluster.service_cidr);
    let covered = facts
        .routes
        .iter()
        .any(|route| !route.ours && route.destination.contains(&service_cidr));
    HostDecisions {
        service_route: (!covered).then(|| ServiceRoute {
            interface: interface.clone(),
            source: address,
        }),
        interface,
        protocol_names: facts.system.protocol_names == ProtocolNames::Absent,
        network_manager: facts.system.active_services.contains("NetworkManager"),
        platform: facts.system.platform.clone(),
    }
}

fn tell(host: &str, decided: &HostDecisions, inventory: &Inventory) -> Vec<String> {
    let HostDecisions {
        service_route,
        interface,
        protocol_names,
        network_manager,
        platform,
    } = decided;
    let mut lines = vec![format!(
        "{host} is {platform}, in the cluster by {interface}"
    )];
    if service_route.is_some() {
        let services = inventory.cluster.service_cidr;
        lines.push(format!(
            "{host} gets a route for Services ({services}), since no route of its own covers them"
        ));
    }
    if *protocol_names {
        lines.push(format!(
            "{host} gets names of protocols ({PROTOCOLS_FILE}), which it lacks and kube-proxy needs"
        ));
    }
    if *network_manager {
        lines.push(format!(
            "{host} runs NetworkManager, which is told to leave pod interfaces alone"
        ));
    }
    lines
}

/// The least MTU of the interfaces that carry the overlay; none while a node
/// has no facts.
fn least_underlay(inventory: &Inventory, facts: &BTreeMap<String, HostFacts>) -> Option<u32> {
    let nodes = inventory.nodes().into_iter();
    let mtus: Option<Vec<u32>> = nodes
        .map(|host| {
            let interface = interface_of(facts.get(&host.name)?, IpAddr::V4(host.address))?;
            Some(interface.mtu)
        })
        .collect();
    mtus?.into_iter().filter(|mtu| *mtu > VXLAN_OVERHEAD).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::RouteFacts;

    fn inventory(extra: &str) -> Inventory {
        let text = format!(
            "[cluster]\nname = \"lab\"\n{extra}\n[zones.a]\n\
             [[hosts]]\nname = \"m1\"\naddress = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n\
             [[hosts]]\nname = \"w1\"\naddress = \"10.77.1.21\"\nzone = \"a\"\nroles = [\"worker\"]\n"
        );
        crate::inventory::parse(&text, camino::Utf8Path::new("inventory.toml")).unwrap()
    }

    fn facts(address: &str, mtu: u32, routes: &[(&str, bool)]) -> HostFacts {
        let mut facts = HostFacts::default();
        facts.system.platform = "linux/amd64".to_owned();
        facts.interfaces.push(InterfaceFacts {
            name: "host0".to_owned(),
            addresses: vec![format!("{address}/24").parse().unwrap()],
            mtu,
        });
        let routes = routes.iter().map(|(destination, ours)| RouteFacts {
            destination: destination.parse().unwrap(),
            gateway: None,
            source: None,
            interface: "host0".to_owned(),
            ours: *ours,
        });
        facts.routes = routes.collect();
        facts
    }

    fn world(routes: &[(&str, bool)]) -> BTreeMap<String, HostFacts> {
        [
            ("m1".to_owned(), facts("10.77.1.11", 1500, routes)),
            ("w1".to_owned(), facts("10.77.1.21", 1400, routes)),
        ]
        .into()
    }

    #[test]
    fn a_route_for_services_is_needed_only_where_none_covers_them() {
        for (routes, needed) in [
            (&[("10.77.0.0/16", false)][..], true),
            (&[("0.0.0.0/0", false)], false),
            (&[("10.0.0.0/8", false)], false),
            (&[("10.96.0.0/17", false)], true),
            // Ours does not count as found.
            (&[("10.96.0.0/16", true)], true),
        ] {
            let (decisions, _) = decide(&Decisions::default(), &inventory(""), &world(routes));
            let route = &decisions.hosts["m1"].service_route;
            assert_eq!(route.is_some(), needed, "{routes:?}");
        }
    }

    #[test]
    fn the_least_underlay_decides_the_mtu() {
        let (decisions, new) = decide(&Decisions::default(), &inventory(""), &world(&[]));
        assert_eq!(decisions.pod_mtu, Some(1350));
        assert_eq!(decisions.etcd_bootstrap, ["m1"]);
        assert_eq!(
            new,
            [
                "etcd starts with the members m1",
                "m1 is linux/amd64, in the cluster by host0",
                "m1 gets a route for Services (10.96.0.0/16), since no route of its own covers them",
                "w1 is linux/amd64, in the cluster by host0",
                "w1 gets a route for Services (10.96.0.0/16), since no route of its own covers them",
                "pods get an MTU of 1350",
            ]
        );
    }

    #[test]
    fn what_is_decided_stays() {
        let (decided, _) = decide(&Decisions::default(), &inventory(""), &world(&[]));
        let later = world(&[("10.96.0.0/16", true), ("0.0.0.0/0", false)]);
        let (again, new) = decide(&decided, &inventory(""), &later);
        assert_eq!(again, decided);
        assert_eq!(new, Vec::<String>::new());
        let (named, new) = decide(&decided, &inventory("mtu = 1280"), &later);
        assert_eq!(named.pod_mtu, Some(1280));
        assert_eq!(new, ["pods get an MTU of 1280"]);
    }

    #[test]
    fn names_of_protocols_are_given_to_hosts_without_them() {
        let mut world = world(&[]);
        let w1 = world.get_mut("w1").unwrap();
        w1.system.protocol_names = ProtocolNames::Absent;
        let (decisions, new) = decide(&Decisions::default(), &inventory(""), &world);
        assert!(decisions.hosts["w1"].protocol_names);
        assert!(!decisions.hosts["m1"].protocol_names);
        let told =
            "w1 gets names of protocols (/etc/protocols), which it lacks and kube-proxy needs";
        assert!(new.contains(&told.to_owned()), "{new:?}");
    }

    #[test]
    fn nothing_is_decided_about_a_host_that_was_not_reached() {
        let mut world = world(&[]);
        world.remove("w1");
        let (decisions, _) = decide(&Decisions::default(), &inventory(""), &world);
        assert!(!decisions.hosts.contains_key("w1"));
        assert_eq!(decisions.pod_mtu, None);
    }

    #[test]
    fn hosts_may_be_renamed_until_etcd_was_there() {
        let inventory = |name: &str| {
            let text = format!(
                "[cluster]\nname = \"lab\"\n[zones.a]\n[[hosts]]\nname = \"{name}\"\n\
                 address = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n"
            );
            crate::inventory::parse(&text, "inventory.toml".into()).unwrap()
        };
        let seen = |name: &str, etcd_data| {
            let facts = HostFacts {
                etcd_data,
                ..HostFacts::default()
            };
            BTreeMap::from([(name.to_owned(), facts)])
        };
        let (first, _) = decide(&Decisions::default(), &inventory("m1"), &seen("m1", false));
        assert_eq!(first.etcd_bootstrap, ["m1"]);
        let (renamed, _) = decide(&first, &inventory("master"), &seen("master", false));
        assert_eq!(renamed.etcd_bootstrap, ["master"]);
        assert_eq!(renamed.etcd_joined, [""; 0]);
        let (kept, _) = decide(&first, &inventory("master"), &seen("master", true));
        assert_eq!(kept.etcd_bootstrap, ["m1"]);
        assert_eq!(kept.etcd_joined, ["master"]);
        // What was not looked at is not judged.
        let (kept, _) = decide(&first, &inventory("master"), &BTreeMap::new());
        assert_eq!(kept.etcd_bootstrap, ["m1"]);
    }
}
