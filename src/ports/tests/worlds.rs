//! Random inventories that are valid.

use std::collections::BTreeSet;
use std::fmt::Write;

use camino::Utf8Path;
use proptest::prelude::*;

use crate::inventory::{Inventory, Role, parse};

/// A host of a random inventory: its zone and roles as written.
#[derive(Debug, Clone)]
struct RandomHost {
    zone: usize,
    roles: BTreeSet<Role>,
    ssh_port: u16,
}

pub(super) fn parsed(text: &str) -> Inventory {
    match parse(text, Utf8Path::new("inventory.toml")) {
        Ok(inventory) => inventory,
        Err(problems) => panic!("{problems}\n\nin\n\n{text}"),
    }
}

/// One to four zones, one to nine hosts, any roles, with a control-plane host among them;
/// some with a registry that is not cofferdam's.
pub(super) fn inventories() -> impl Strategy<Value = Inventory> {
    texts().prop_map(|text| parsed(&text))
}

pub(super) fn texts() -> impl Strategy<Value = String> {
    let role = prop::sample::select(Role::ALL.to_vec());
    let host = (
        0..4_usize,
        prop::collection::btree_set(role, 1..3),
        22..24_u16,
    )
        .prop_map(|(zone, roles, ssh_port)| RandomHost {
            zone,
            roles,
            ssh_port,
        });
    let hosts = prop::collection::vec(host, 1..10);
    let outside = (any::<bool>(), any::<bool>());
    (hosts, 0..9_usize, outside).prop_map(|(mut hosts, master, (has_servers, has_registry))| {
        let master = master % hosts.len();
        hosts[master].roles.insert(Role::ControlPlane);
        if has_registry {
            for host in &mut hosts {
                host.roles.remove(&Role::Registry);
                if host.roles.is_empty() {
                    host.roles.insert(Role::Worker);
                }
            }
        }
        text_of(&hosts, has_servers, has_registry)
    })
}

fn text_of(hosts: &[RandomHost], has_servers: bool, has_registry: bool) -> String {
    let mut text = "[cluster]\nname = \"random\"\nsurvive = \"nothing\"\n".to_owned();
    if has_servers {
        text.push_str("dns_upstreams = [\"192.0.2.1\", \"192.0.2.2\"]\n");
        text.push_str("ntp_servers = [\"192.0.2.3\"]\n[ssh]\njump_host = \"192.0.2.9\"\n");
    }
    if has_registry {
        text.push_str("[registry]\naddress = \"r.example.org:5443/k8s\"\nca_file = \"ca.crt\"\n");
        text.push_str("addresses = [\"192.0.2.20\", \"192.0.2.21\"]\n");
    }
    let zones: BTreeSet<usize> = hosts.iter().map(|host| host.zone).collect();
    for zone in &zones {
        writeln!(text, "[zones.z{zone}]").unwrap();
    }
    for (index, host) in hosts.iter().enumerate() {
        let roles: Vec<String> = host
            .roles
            .iter()
            .map(|role| format!("\"{role}\""))
            .collect();
        writeln!(
            text,
            "[[hosts]]\nname = \"h{index}\"\naddress = \"10.0.{}.{}\"\nzone = \"z{}\"\n\
             roles = [{}]\nssh = {{ port = {} }}",
            host.zone,
            index + 1,
            host.zone,
            roles.join(", "),
            host.ssh_port,
        )
        .unwrap();
    }
    text
}
