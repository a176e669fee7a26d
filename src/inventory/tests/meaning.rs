//! What good inventories mean.

use std::collections::BTreeMap;

use camino::Utf8Path;

use super::cluster;
use crate::inventory::{ApiName, Component, Host, Inventory, Role, Survive, Swap, load, parse};

const EXAMPLE: &str = include_str!("../../../inventory.example.toml");

fn parsed(text: &str) -> Inventory {
    match parse(text, Utf8Path::new("sites/lab/inventory.toml")) {
        Ok(inventory) => inventory,
        Err(problems) => panic!("{problems}\n\nin\n\n{text}"),
    }
}

fn names(hosts: Vec<&Host>) -> Vec<&str> {
    hosts.into_iter().map(|host| host.name.as_str()).collect()
}

#[test]
fn example_parses() {
    let inventory = parsed(EXAMPLE);
    assert_eq!(inventory.warnings, []);
    assert_eq!(names(inventory.etcd_members()), ["m1", "m2", "m3"]);
    assert_eq!(names(inventory.registries()), ["m1", "m2", "m3"]);
    assert_eq!(inventory.zones[2].registry_order, ["c", "a", "b"]);
}

/// Every option of the example is valid where it stands, and stated defaults are the defaults.
#[test]
fn example_parses_with_every_option() {
    let is_option = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
    assert!(EXAMPLE.lines().filter(is_option).count() > 15);
    let lines = EXAMPLE.lines();
    let lines = lines.map(|line| if is_option(&line) { &line[1..] } else { line });
    // Zones have no registries where the inventory names one for all.
    let own = "registry = \"b\"";
    let without_own: Vec<&str> = lines.clone().filter(|line| *line != own).collect();
    let foreign = parsed(&without_own.join("\n"));
    assert_eq!(names(foreign.registries()), [""; 0]);
    let registry = foreign.registry.unwrap();
    assert_eq!(registry.address.to_string(), "registry.example.com/k8s");
    assert_eq!(registry.port, 443);
    let text: Vec<&str> = lines.collect();
    let text = text.join("\n");
    let (before, registry) = text.split_once("[registry]\n").unwrap();
    let (_, after) = registry.split_once("\n\n").unwrap();
    let full = parsed(&format!("{before}\n{after}"));
    let plain = parsed(EXAMPLE);
    assert_eq!(full.warnings, []);
    assert_eq!(full.zones[2].registry_order, ["b", "c", "a"]);
    assert_eq!(
        full.zones[2].max_unavailable,
        plain.zones[2].max_unavailable
    );
    assert_eq!(full.drain.timeout_seconds, plain.drain.timeout_seconds);
    assert_eq!(full.drain.pods[0].grace_seconds, Some(300));
    assert_eq!(full.cluster.domain, plain.cluster.domain);
    assert_eq!(full.cluster.pod_cidr, plain.cluster.pod_cidr);
    assert_eq!(full.cluster.pod_mask, plain.cluster.pod_mask);
    assert_eq!(full.cluster.service_cidr, plain.cluster.service_cidr);
    assert_eq!(full.cluster.swap, plain.cluster.swap);
    assert_eq!(full.site_path, plain.site_path);
    assert_eq!(
        full.host("m1").unwrap().ssh.port,
        plain.host("m1").unwrap().ssh.port
    );
    assert_eq!(
        full.cluster.api_names[0],
        ApiName::Dns("kubernetes.example.com".to_owned())
    );
    assert_eq!(full.cluster.mtu, Some(1450));
    let worker = full.host("w2").unwrap();
    let kubelet = full.override_config(worker, Component::Kubelet);
    assert_eq!(kubelet["maxPods"].as_integer(), Some(60));
    assert_eq!(
        kubelet["evictionHard"]["nodefs.available"].as_str(),
        Some("5%")
    );
}

#[test]
fn defaults() {
    let inventory = parsed(&cluster("m1 a control-plane"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&inventory).unwrap(), @r#"
    {
      "cluster": {
        "name": "lab",
        "domain": "cluster.local",
        "pod_cidr": "10.244.0.0/16",
        "pod_mask": 24,
        "service_cidr": "10.96.0.0/16",
        "api_names": [],
        "dns_upstreams": [],
        "ntp_servers": [],
        "survive": "zone",
        "swap": "off",
        "mtu": null
      },
      "jump_host": null,
      "site_path": "sites/lab/site-lab",
      "zones": [
        {
          "name": "a",
          "registry_order": [
            "a"
          ]
        }
      ],
      "hosts": [
        {
          "name": "m1",
          "address": "10.0.0.1",
          "zone": "a",
          "roles": [
            "control-plane",
            "etcd",
            "registry"
          ],
          "labels": {},
          "ssh": {
            "user": "root",
            "port": 22,
            "key": null,
            "address": "10.0.0.1"
          }
        }
      ],
      "overrides": {}
    }
    "#);
    assert_eq!(inventory.cluster.survive, Survive::Zone);
    assert_eq!(inventory.cluster.swap, Swap::Off);
    assert_eq!(inventory.cluster_dns_ip().to_string(), "10.96.0.10");
    assert_eq!(inventory.kubernetes_service_ip().to_string(), "10.96.0.1");
}

#[test]
fn roles_that_follow() {
    let cases = [
        // Hosts, then etcd members, registries, tainted nodes, all nodes.
        ("m1 a control-plane", "m1", "m1", "", "m1"),
        (
            "m1 a control-plane\nw1 a worker\nw2 b worker",
            "m1",
            "m1",
            "m1",
            "m1 w1 w2",
        ),
        (
            "m1 a control-plane,worker\nw1 a worker",
            "m1",
            "m1",
            "",
            "m1 w1",
        ),
        (
            "m1 a control-plane,worker\nm2 a control-plane",
            "m1 m2",
            "m1",
            "m2",
            "m1 m2",
        ),
        (
            "m1 a control-plane\nm2 b control-plane\nm3 c control-plane",
            "m1 m2 m3",
            "m1 m2 m3",
            "",
            "m1 m2 m3",
        ),
        (
            "w1 a worker\nm1 a control-plane\nm2 a control-plane,etcd",
            "m2",
            "m1",
            "m1 m2",
            "w1 m1 m2",
        ),
        (
            "m1 a control-plane\nr1 a registry\nr2 b registry",
            "m1",
            "r1 r2",
            "",
            "m1",
        ),
        (
            "m1 a control-plane\ne1 a etcd\nw1 b worker,registry",
            "e1",
            "m1 w1",
            "m1",
            "m1 w1",
        ),
        (
            "m1 a control-plane\nr1 a registry\nr2 a registry",
            "m1",
            "r1 r2",
            "",
            "m1",
        ),
    ];
    for (lines, etcd, registries, tainted, nodes) in cases {
        let text = cluster(lines).replace("[cluster]", "[cluster]\nsurvive = \"nothing\"");
        let inventory = parsed(&text);
        assert_eq!(
            names(inventory.etcd_members()).join(" "),
            etcd,
            "etcd of\n{lines}"
        );
        assert_eq!(
            names(inventory.registries()).join(" "),
            registries,
            "registries of\n{lines}"
        );
        assert_eq!(
            names(inventory.nodes()).join(" "),
            nodes,
            "nodes of\n{lines}"
        );
        let is_tainted = inventory
            .hosts
            .iter()
            .filter(|host| inventory.is_tainted(host))
            .collect();
        assert_eq!(names(is_tainted).join(" "), tainted, "tainted of\n{lines}");
    }
}

#[test]
fn near_hosts_first() {
    let text = cluster(
        "w1 a worker\nm2 b control-plane\nm3 b control-plane,registry\nr1 b registry\n\
         w3 c worker\nm4 d control-plane\ne1 d etcd\ne2 b etcd\ne3 a etcd",
    );
    let inventory = parsed(&text);
    let registries = |name: &str| names(inventory.registries_for(inventory.host(name).unwrap()));
    let servers = |name: &str| names(inventory.api_servers_for(inventory.host(name).unwrap()));
    let members = |name: &str| names(inventory.etcd_members_for(inventory.host(name).unwrap()));
    // Zones a and c have no registry of their own, and use the first zone's that has one.
    assert_eq!(registries("w1"), ["m3", "r1", "m4"]);
    assert_eq!(registries("w3"), ["m3", "r1", "m4"]);
    assert_eq!(registries("r1"), ["r1", "m3", "m4"]);
    assert_eq!(registries("m4"), ["m4", "m3", "r1"]);
    assert_eq!(servers("w1"), ["m2", "m3", "m4"]);
    assert_eq!(servers("m4"), ["m4", "m2", "m3"]);
    assert_eq!(members("m4"), ["e1", "e3", "e2"]);
    assert_eq!(members("e2"), ["e2"]);

    let chosen = text.replace("[zones.c]\n", "[zones.c]\nregistry = \"d\"\n");
    let inventory = parsed(&chosen.replace("[zones.b]\n", "[zones.b]\nregistry = \"d\"\n"));
    let registries = |name: &str| names(inventory.registries_for(inventory.host(name).unwrap()));
    assert_eq!(registries("w3"), ["m4", "m3", "r1"]);
    // Its own comes second where another zone's is named.
    assert_eq!(registries("m2"), ["m4", "m3", "r1"]);
}

#[test]
fn paths_are_relative_to_the_inventory() {
    let text = cluster("m1 a control-plane\nm2 a worker")
        + "ssh = { key = \"/abs/m2\", user = \"ops\", port = 2222, address = \"192.0.2.2\" }\n\
           [ssh]\nkey = \"id\"\nuser = \"admin\"\n[site]\npath = \"../secret\"\n";
    let inventory = parsed(&text);
    assert_eq!(inventory.site_path, "sites/lab/../secret");
    let ssh = &inventory.host("m1").unwrap().ssh;
    assert_eq!(ssh.key.as_deref(), Some(Utf8Path::new("sites/lab/id")));
    assert_eq!((ssh.user.as_str(), ssh.port), ("admin", 22));
    assert_eq!(ssh.address, inventory.host("m1").unwrap().address);
    let ssh = &inventory.host("m2").unwrap().ssh;
    assert_eq!(ssh.key.as_deref(), Some(Utf8Path::new("/abs/m2")));
    assert_eq!((ssh.user.as_str(), ssh.port), ("ops", 2222));
    assert_eq!(ssh.address.to_string(), "192.0.2.2");
}

#[test]
fn overrides_of_hosts_win_key_by_key() {
    let text = cluster("m1 a control-plane\nm2 a worker")
        + "[hosts.overrides.kubelet]\nflags = { v = \"4\" }\n\
           config = { a = { y = 3 }, list = [9] }\n\
           [overrides.kubelet]\nflags = { v = 2, \"node-ip\" = \"10.0.0.1\", x = true }\n\
           config = { a = { x = 1, y = 2 }, list = [1, 2] }\n";
    let inventory = parsed(&text);
    let flags = |name: &str| {
        let flags = inventory.override_flags(inventory.host(name).unwrap(), Component::Kubelet);
        flags
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(flags("m1"), ["node-ip=10.0.0.1", "v=2", "x=true"]);
    assert_eq!(flags("m2"), ["node-ip=10.0.0.1", "v=4", "x=true"]);
    let config = inventory.override_config(inventory.host("m2").unwrap(), Component::Kubelet);
    let expected = "a = { x = 1, y = 3 }\nlist = [9]";
    assert_eq!(config, toml::from_str::<toml::Table>(expected).unwrap());
    let none = inventory.override_config(inventory.host("m2").unwrap(), Component::Containerd);
    assert!(none.is_empty());
}

#[test]
fn flags_are_held_against_the_bundle() {
    let text = cluster("m1 a control-plane")
        + "[hosts.overrides.kubelet]\nflags = { \"max-podz\" = 3 }\n\
           [overrides.kube-apiserver]\nflags = { \"audit-log-maxage\" = 30, \"colour\" = \"red\" }\n\
           [overrides.flanneld]\nflags = { v = 1 }\n";
    let inventory = parsed(&text);
    let list = |flags: &[&str]| {
        flags
            .iter()
            .map(|flag| (*flag).to_owned())
            .collect::<Vec<_>>()
    };
    let known = BTreeMap::from([
        ("kubelet".to_owned(), list(&["max-pods", "v"])),
        ("kube-apiserver".to_owned(), list(&["audit-log-maxage"])),
    ]);
    let problems = inventory.check_flags(&known);
    insta::assert_snapshot!(problems, @r#"
    checking `sites/lab/inventory.toml`: 3 problems

    sites/lab/inventory.toml:10:11: `hosts.m1.overrides.kubelet.flags.max-podz`: kubelet of this bundle has no flag `--max-podz`
       |
    10 | flags = { "max-podz" = 3 }
       |           ^^^^^^^^^^
       = did you mean `max-pods`?

    sites/lab/inventory.toml:12:36: `overrides.kube-apiserver.flags.colour`: kube-apiserver of this bundle has no flag `--colour`
       |
    12 | flags = { "audit-log-maxage" = 30, "colour" = "red" }
       |                                    ^^^^^^^^
       = leave it out, or see `kube-apiserver --help` of this bundle's version

    sites/lab/inventory.toml:14:11: `overrides.flanneld.flags.v`: flags of flanneld can't be set: the bundle lists none for it
       |
    14 | flags = { v = 1 }
       |           ^
       = leave them out, or use a bundle that lists its flags
    "#);
    assert!(problems.into_result().is_err());
    let inventory = parsed(&cluster("m1 a control-plane"));
    assert!(
        inventory
            .check_flags(&BTreeMap::new())
            .into_result()
            .is_ok()
    );
}

#[test]
fn keys_of_configuration_are_held_against_the_bundle() {
    let text = cluster("m1 a control-plane")
        + "[hosts.overrides.kubelet]\nconfig = { maxPods = 3, evictionHart = { any = \"5%\" } }\n\
           [overrides.containerd.config.plugins.\"io.containerd.cri.v1.runtime\"]\n\
           restrict_oom_score_adj = true\nrestrict_oom = true\n\
           [overrides.registry]\nconfig = { catalog = { maxentries = 5 } }\n";
    let inventory = parsed(&text);
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let known = BTreeMap::from([
        ("kubelet".to_owned(), list(&["evictionHard", "maxPods"])),
        (
            "containerd".to_owned(),
            list(&["plugins", "restrict_oom_score_adj"]),
        ),
    ]);
    let problems = inventory.check_fields(&known);
    insta::assert_snapshot!(problems, @r#"
    checking `sites/lab/inventory.toml`: 3 problems

    sites/lab/inventory.toml:10:25: `hosts.m1.overrides.kubelet.config.evictionHart`: the configuration of this bundle's kubelet has no field `evictionHart`
       |
    10 | config = { maxPods = 3, evictionHart = { any = "5%" } }
       |                         ^^^^^^^^^^^^
       = did you mean `evictionHard`?

    sites/lab/inventory.toml:13:1: `overrides.containerd.config.plugins.io.containerd.cri.v1.runtime.restrict_oom`: the configuration of this bundle's containerd has no field `restrict_oom`
       |
    13 | restrict_oom = true
       | ^^^^^^^^^^^^
       = leave it out: containerd would ignore it

    sites/lab/inventory.toml:15:12: `overrides.registry.config.catalog`: configuration of registry can't be checked: the bundle lists no fields of it
       |
    15 | config = { catalog = { maxentries = 5 } }
       |            ^^^^^^^
       = leave it out, or build the bundle from a definition with `fields` for it
    "#);
}

#[test]
fn load_names_the_file_that_it_cannot_read() {
    let error = load(Utf8Path::new("no/such/inventory.toml")).unwrap_err();
    let cause = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    assert!(cause.contains("no/such/inventory.toml"), "{cause}");
}

#[test]
fn loads_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(directory.path())
        .unwrap()
        .join("i.toml");
    fs_err::write(&path, cluster("m1 a control-plane")).unwrap();
    let inventory = load(&path).unwrap();
    assert_eq!(inventory.site_path, path.with_file_name("site-lab"));
    assert!(inventory.host("m1").unwrap().has(Role::Registry));
    assert!(inventory.host("m9").is_none());
}

#[test]
fn shares_of_a_zone_are_at_least_one_node() {
    let zones = |value: &str| {
        let text = EXAMPLE.replace(
            "[zones.a]\n",
            &format!("[zones.a]\nmax_unavailable = {value}\n"),
        );
        parsed(&text).zones[0].max_unavailable
    };
    let counts = |value: &str| [1, 4, 10].map(|nodes| zones(value).of(nodes));
    assert_eq!(counts("1"), [1, 1, 1]);
    assert_eq!(counts("3"), [3, 3, 3]);
    assert_eq!(counts("\"25%\""), [1, 1, 2]);
    assert_eq!(counts("\"99%\""), [1, 3, 9]);
}

#[test]
fn selectors_of_every_kind_are_taken() {
    for selector in [
        "app",
        "!app",
        "app=db",
        "app == db",
        "app!=db",
        "app=",
        "example.com/app=db,tier notin (cache, db),!old",
        "tier in (cache)",
    ] {
        let text = format!("{EXAMPLE}\n[[drain.pods]]\nselector = \"{selector}\"\n");
        assert_eq!(parsed(&text).drain.pods[0].selector, selector);
    }
}
