//! Invariants over random inventories.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::worlds;
use crate::inventory::{Host, Inventory, Role, parse};
use crate::ports::{Format, Matrix, Protocol, Scope, render};

/// One connection: source, destination, protocol, destination port.
type Connection = (Ipv4Addr, Ipv4Addr, Protocol, u16);

/// Every connection that the rows cover, but for those of a host with itself. Each must be
/// covered by one row only.
fn covered(matrix: &Matrix) -> BTreeSet<Connection> {
    let mut covered = BTreeSet::new();
    for row in &matrix.rows {
        for from in &row.from.addresses {
            for to in row.to.addresses.iter().filter(|to| *to != from) {
                assert!(row.covers(*from, *to));
                let connection = (*from, *to, row.protocol, row.port);
                assert!(covered.insert(connection), "two rows for {connection:?}");
            }
        }
    }
    covered
}

/// The same, told host by host: what the components of each host open.
fn needed(inventory: &Inventory) -> BTreeSet<Connection> {
    let mut needed = BTreeSet::new();
    let mut need = |from: &Host, to: &Host, protocol: Protocol, port: u16| {
        if from.name != to.name {
            needed.insert((from.address, to.address, protocol, port));
        }
    };
    for host in &inventory.hosts {
        // containerd's and the agent's pulls.
        for registry in inventory.registries_for(host) {
            need(host, registry, Protocol::Tcp, 5000);
        }
        if host.has(Role::Etcd) {
            for member in inventory.etcd_members() {
                need(host, member, Protocol::Tcp, 2380);
            }
        }
        if host.has(Role::ControlPlane) || host.has(Role::Etcd) {
            // etcdctl, and API servers without a member on their own host.
            for member in inventory.etcd_members() {
                need(host, member, Protocol::Tcp, 2379);
            }
        }
        if host.is_node() {
            // The API proxy.
            for server in inventory.api_servers_for(host) {
                need(host, server, Protocol::Tcp, 6443);
            }
            // metrics-server, flanneld.
            for node in inventory.nodes() {
                need(host, node, Protocol::Tcp, 10250);
                need(host, node, Protocol::Udp, 8472);
            }
        }
    }
    for host in &inventory.hosts {
        for server in &inventory.cluster.dns_upstreams {
            if host.is_node() {
                needed.insert((host.address, *server, Protocol::Udp, 53));
                needed.insert((host.address, *server, Protocol::Tcp, 53));
            }
        }
        if let Some(registry) = &inventory.registry {
            for address in &registry.addresses {
                needed.insert((host.address, *address, Protocol::Tcp, 5443));
            }
        }
        for server in &inventory.cluster.ntp_servers {
            needed.insert((host.address, *server, Protocol::Udp, 123));
        }
        if let Some(jump_host) = &inventory.jump_host {
            needed.insert((*jump_host, host.ssh.address, Protocol::Tcp, host.ssh.port));
        }
    }
    needed
}

proptest! {
    #[test]
    fn rows_cover_what_is_needed_and_nothing_else(inventory in worlds::inventories()) {
        let matrix = Matrix::of(&inventory);
        prop_assert_eq!(covered(&matrix), needed(&inventory));
    }

    #[test]
    fn scopes_tell_where_rows_lead(inventory in worlds::inventories()) {
        for row in &Matrix::of(&inventory).rows {
            let expected = match (&row.from.zone, &row.to.zone) {
                (None, Some(_)) => Scope::JumpHost,
                (Some(_), None) => Scope::Outside,
                (Some(from), Some(to)) if from == to => Scope::WithinZone,
                _ => Scope::BetweenZones,
            };
            prop_assert_eq!(row.scope, expected);
            let sides = [(&row.from.zone, &row.from.addresses), (&row.to.zone, &row.to.addresses)];
            for (zone, addresses) in sides {
                let hosts = inventory.hosts.iter().filter(|host| addresses.contains(&host.address));
                for host in hosts {
                    prop_assert_eq!(Some(&host.zone), zone.as_ref());
                }
            }
        }
    }

    #[test]
    fn every_host_finds_registries_and_api_servers(inventory in worlds::inventories()) {
        let count = |role| inventory.hosts.iter().filter(|host| host.has(role)).count();
        for host in &inventory.hosts {
            let registries = inventory.registries_for(host);
            prop_assert_eq!(registries.is_empty(), inventory.registry.is_some());
            prop_assert_eq!(registries.len(), count(Role::Registry));
            let servers = inventory.api_servers_for(host);
            prop_assert!(!servers.is_empty());
            prop_assert_eq!(servers.len(), count(Role::ControlPlane));
            prop_assert!(!inventory.etcd_members_for(host).is_empty());
            // One's own zone comes first, and once left is not met again.
            for found in [registries, servers] {
                let is_near: Vec<bool> = found.iter().map(|other| other.zone == host.zone).collect();
                prop_assert!(is_near.is_sorted_by(|first, second| first >= second));
            }
        }
        prop_assert!(inventory.nodes().iter().any(|node| !inventory.is_tainted(node)));
    }

    #[test]
    fn the_same_text_gives_the_same_value(text in worlds::texts()) {
        let (first, second) = (worlds::parsed(&text), worlds::parsed(&text));
        let serialized = serde_json::to_string(&first).unwrap();
        prop_assert_eq!(serialized, serde_json::to_string(&second).unwrap());
        let nft = render(&Matrix::of(&first), Format::Nft).unwrap();
        prop_assert_eq!(nft, render(&Matrix::of(&second), Format::Nft).unwrap());
    }

    /// Damaged text is refused or accepted, but never makes the parser or its messages panic.
    #[test]
    fn damaged_text_gives_a_message(
        text in worlds::texts(),
        place in any::<prop::sample::Index>(),
        length in 0..12_usize,
        patch in "[\\[\\]{}\"=.a-z0-9\nöé\u{1F980} ]{0,6}",
    ) {
        let start = text.floor_char_boundary(place.index(text.len() + 1));
        let end = text.floor_char_boundary((start + length).min(text.len()));
        let mut damaged = text;
        damaged.replace_range(start..end, &patch);
        if let Err(problems) = parse(&damaged, "i.toml".into()) {
            prop_assert!(problems.has_errors());
            prop_assert!(problems.to_string().starts_with("checking `i.toml`: "));
        }
    }
}
