//! Addresses, networks, options and overrides that can't be.

use super::*;

#[test]
fn addresses() {
    let address =
        |address: &str| complaint(&format!("{CLUSTER}{ZONE}{MASTER}").replace("10.0.0.1", address));
    insta::assert_snapshot!(address("fd00::1"), @r#"
    checking `i.toml`: 1 problem

    i.toml:6:11: `hosts.m1.address`: `fd00::1` is an IPv6 address
      |
    6 | address = "fd00::1"
      |           ^^^^^^^^^
      = write an IPv4 address; IPv6 is not supported yet
    "#);
    insta::assert_snapshot!(address("10.0.0.256"), @r#"
    checking `i.toml`: 1 problem

    i.toml:6:11: `hosts.m1.address`: `10.0.0.256` is no IPv4 address
      |
    6 | address = "10.0.0.256"
      |           ^^^^^^^^^^^^
      = write an address such as 10.0.0.5; names are not looked up
    "#);
    insta::assert_snapshot!(address("10.0.0.1/24"), @r#"
    checking `i.toml`: 1 problem

    i.toml:6:11: `hosts.m1.address`: `10.0.0.1/24` is no address
      |
    6 | address = "10.0.0.1/24"
      |           ^^^^^^^^^^^^^
      = leave out the slash and what is behind it
    "#);
    insta::assert_snapshot!(address("m1.example.com"), @r#"
    checking `i.toml`: 1 problem

    i.toml:6:11: `hosts.m1.address`: `m1.example.com` is no IPv4 address
      |
    6 | address = "m1.example.com"
      |           ^^^^^^^^^^^^^^^^
      = write an address such as 10.0.0.5; names are not looked up
    "#);
    insta::assert_snapshot!(address("127.0.0.1"), @r#"
    checking `i.toml`: 1 problem

    i.toml:6:11: `hosts.m1.address`: 127.0.0.1 is a loopback address, which no other host can reach
      |
    6 | address = "127.0.0.1"
      |           ^^^^^^^^^^^
      = write the address that other hosts use
    "#);
    let cluster =
        "dns_upstreams = [\"127.0.0.53\", \"10.9.9.9\", \"10.9.9.9\"]\nntp_servers = [\"ntp\"]";
    insta::assert_snapshot!(complaint_about_cluster(cluster), @r#"
    checking `i.toml`: 3 problems

    i.toml:3:18: `cluster.dns_upstreams`: 127.0.0.53 is a loopback address, which no other host can reach
      |
    3 | dns_upstreams = ["127.0.0.53", "10.9.9.9", "10.9.9.9"]
      |                  ^^^^^^^^^^^^
      = write the address that other hosts use

    i.toml:3:44: `cluster.dns_upstreams`: 10.9.9.9 is listed twice
      |
    3 | dns_upstreams = ["127.0.0.53", "10.9.9.9", "10.9.9.9"]
      |                                            ^^^^^^^^^^
      = leave one of them out

    i.toml:4:16: `cluster.ntp_servers`: `ntp` is no IPv4 address
      |
    4 | ntp_servers = ["ntp"]
      |                ^^^^^
      = write an address such as 10.0.0.5; names are not looked up
    "#);
}

#[test]
fn networks() {
    insta::assert_snapshot!(complaint_about_cluster("pod_cidr = \"10.244.1.0/16\"\nservice_cidr = \"fd00::/108\""), @r#"
    checking `i.toml`: 2 problems

    i.toml:3:12: `cluster.pod_cidr`: 10.244.1.0/16 has bits set behind its prefix
      |
    3 | pod_cidr = "10.244.1.0/16"
      |            ^^^^^^^^^^^^^^^
      = write 10.244.0.0/16

    i.toml:4:16: `cluster.service_cidr`: `fd00::/108` is an IPv6 network
      |
    4 | service_cidr = "fd00::/108"
      |                ^^^^^^^^^^^^
      = write an IPv4 network; IPv6 is not supported yet
    "#);
    insta::assert_snapshot!(complaint_about_cluster("pod_cidr = \"10.1.0.0\"\nservice_cidr = \"127.0.0.0/16\""), @r#"
    checking `i.toml`: 2 problems

    i.toml:3:12: `cluster.pod_cidr`: `10.1.0.0` is no IPv4 network
      |
    3 | pod_cidr = "10.1.0.0"
      |            ^^^^^^^^^^
      = write address and prefix length, such as 10.244.0.0/16

    i.toml:4:16: `cluster.service_cidr`: 127.0.0.0/16 overlaps 127.0.0.0/8, which can't be routed
      |
    4 | service_cidr = "127.0.0.0/16"
      |                ^^^^^^^^^^^^^^
      = choose a private network, such as 10.244.0.0/16
    "#);
    insta::assert_snapshot!(complaint_about_cluster("service_cidr = \"10.32.0.0/11\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:16: `cluster.service_cidr`: 10.32.0.0/11 is too large: kube-apiserver takes 20 host bits at most
      |
    3 | service_cidr = "10.32.0.0/11"
      |                ^^^^^^^^^^^^^^
      = choose a prefix length of 12 or more, such as /16
    "#);
    insta::assert_snapshot!(complaint_about_cluster("service_cidr = \"10.96.0.0/29\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:16: `cluster.service_cidr`: 10.96.0.0/29 is too small: the cluster's DNS has its tenth address
      |
    3 | service_cidr = "10.96.0.0/29"
      |                ^^^^^^^^^^^^^^
      = choose a prefix length of 28 or less, such as /16
    "#);
    insta::assert_snapshot!(complaint_about_cluster("pod_mask = 30"), @r"
    checking `i.toml`: 1 problem

    i.toml:3:12: `cluster.pod_mask`: 30 is no pod mask
      |
    3 | pod_mask = 30
      |            ^^
      = write a number from 8 to 28
    ");
    let two = format!("{CLUSTER}pod_cidr = \"10.244.0.0/24\"\n{ZONE}{MASTER}{WORKER}");
    insta::assert_snapshot!(complaint(&two), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:12: `cluster.pod_cidr`: 10.244.0.0/24 has room for 1 node with a /24 each (`pod_mask`), not for 2
      |
    3 | pod_cidr = "10.244.0.0/24"
      |            ^^^^^^^^^^^^^^^
      = choose a larger `pod_cidr`, or a longer `pod_mask` (fewer pods on a node)
    "#);
    assert!(parse(&two.replace("/24\"", "/23\""), file()).is_ok());
    insta::assert_snapshot!(complaint_about_cluster("pod_mask = 15"), @r"
    checking `i.toml`: 1 problem

    i.toml:3:12: `cluster.pod_cidr`: 10.244.0.0/16 has room for 0 nodes with a /15 each (`pod_mask`), not for 1
      |
    3 | pod_mask = 15
      |            ^^
      = choose a larger `pod_cidr`, or a longer `pod_mask` (fewer pods on a node)
    ");
}

#[test]
fn overlaps() {
    insta::assert_snapshot!(complaint_about_cluster("pod_cidr = \"10.96.0.0/12\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:12: `cluster.pod_cidr`: 10.96.0.0/12 overlaps `service_cidr` 10.96.0.0/16, the default
      |
    3 | pod_cidr = "10.96.0.0/12"
      |            ^^^^^^^^^^^^^^
      = choose two networks that share no address
    "#);
    insta::assert_snapshot!(complaint_about_cluster("pod_cidr = \"10.128.0.0/9\"\nservice_cidr = \"10.244.0.0/16\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:4:16: `cluster.service_cidr`: 10.244.0.0/16 overlaps `pod_cidr` 10.128.0.0/9 in line 3
      |
    4 | service_cidr = "10.244.0.0/16"
      |                ^^^^^^^^^^^^^^^
      = choose two networks that share no address
    "#);
    let text = format!(
        "{CLUSTER}pod_cidr = \"10.0.0.0/16\"\ndns_upstreams = [\"10.0.0.53\"]\nntp_servers = [\"10.96.3.4\"]\n\
         [ssh]\njump_host = \"10.0.7.7\"\n{ZONE}{MASTER}ssh = {{ address = \"10.96.0.9\" }}\n"
    );
    insta::assert_snapshot!(complaint(&text), @r#"
    checking `i.toml`: 5 problems

    i.toml:4:18: `cluster.dns_upstreams`: 10.0.0.53 lies in `pod_cidr` 10.0.0.0/16 in line 3
      |
    4 | dns_upstreams = ["10.0.0.53"]
      |                  ^^^^^^^^^^^
      = choose a `pod_cidr` that no host or server has an address in

    i.toml:5:16: `cluster.ntp_servers`: 10.96.3.4 lies in `service_cidr` 10.96.0.0/16, the default
      |
    5 | ntp_servers = ["10.96.3.4"]
      |                ^^^^^^^^^^^
      = choose a `service_cidr` that no host or server has an address in

    i.toml:7:13: `ssh.jump_host`: 10.0.7.7 lies in `pod_cidr` 10.0.0.0/16 in line 3
      |
    7 | jump_host = "10.0.7.7"
      |             ^^^^^^^^^^
      = choose a `pod_cidr` that no host or server has an address in

    i.toml:11:11: `hosts.m1.address`: 10.0.0.1 lies in `pod_cidr` 10.0.0.0/16 in line 3
       |
    11 | address = "10.0.0.1"
       |           ^^^^^^^^^^
       = choose a `pod_cidr` that no host or server has an address in

    i.toml:14:19: `hosts.m1.ssh.address`: 10.96.0.9 lies in `service_cidr` 10.96.0.0/16, the default
       |
    14 | ssh = { address = "10.96.0.9" }
       |                   ^^^^^^^^^^^
       = choose a `service_cidr` that no host or server has an address in
    "#);
}

#[test]
fn options_of_the_cluster() {
    insta::assert_snapshot!(complaint_about_cluster("swap = \"on\"\nmtu = 90000\napi_names = [\"K8s\", \"10.0.0.300\", \"::1\", \"a\", \"a\"]"), @r#"
    checking `i.toml`: 6 problems

    i.toml:3:8: `cluster.swap`: `on` is neither `off` nor `keep`
      |
    3 | swap = "on"
      |        ^^^^
      = known values: off, keep

    i.toml:4:7: `cluster.mtu`: 90000 is no usable MTU
      |
    4 | mtu = 90000
      |       ^^^^^
      = write a number from 1200 to 9166

    i.toml:5:14: `cluster.api_names`: `K8s` is no DNS name or address: it has an upper-case letter
      |
    5 | api_names = ["K8s", "10.0.0.300", "::1", "a", "a"]
      |              ^^^^^
      = write a lower-case DNS name, or an IPv4 address

    i.toml:5:21: `cluster.api_names`: `10.0.0.300` is no DNS name or address: it ends with a number, but is no IPv4 address
      |
    5 | api_names = ["K8s", "10.0.0.300", "::1", "a", "a"]
      |                     ^^^^^^^^^^^^
      = write a lower-case DNS name, or an IPv4 address

    i.toml:5:35: `cluster.api_names`: `::1` is neither a DNS name nor an IPv4 address
      |
    5 | api_names = ["K8s", "10.0.0.300", "::1", "a", "a"]
      |                                   ^^^^^
      = leave out ports; IPv6 is not supported yet

    i.toml:5:47: `cluster.api_names`: `a` is listed twice
      |
    5 | api_names = ["K8s", "10.0.0.300", "::1", "a", "a"]
      |                                               ^^^
      = leave one of them out
    "#);
}

#[test]
fn overrides() {
    let text = format!(
        "{CLUSTER}{ZONE}{MASTER}overrides = {{ kubelt = {{}} }}\n\
         [overrides.kube-apiserver]\nconfig = {{ a = 1 }}\nflags = {{ \"--v\" = \"2\", \"x=1\" = \"\", y = \"a\\nb\" }}\n\
         [overrides.kubelet]\nconfig = {{ since = 2026-01-01, list = [{{ size = inf }}] }}\n"
    );
    insta::assert_snapshot!(complaint(&text), @r#"
    checking `i.toml`: 7 problems

    i.toml:9:15: `hosts.m1.overrides.kubelt`: unknown component `kubelt`
      |
    9 | overrides = { kubelt = {} }
      |               ^^^^^^
      = did you mean `kubelet`?

    i.toml:11:12: `overrides.kube-apiserver.config`: kube-apiserver has no configuration file to merge into
       |
    11 | config = { a = 1 }
       |            ^
       = write `flags` instead

    i.toml:12:11: `overrides.kube-apiserver.flags`: `--v` is no flag: it is written with its dashes; leave them out
       |
    12 | flags = { "--v" = "2", "x=1" = "", y = "a\nb" }
       |           ^^^^^
       = write `v = "…"`

    i.toml:12:24: `overrides.kube-apiserver.flags`: `x=1` is no flag: it holds `=`; the value belongs behind the key
       |
    12 | flags = { "--v" = "2", "x=1" = "", y = "a\nb" }
       |                        ^^^^^
       = write `x = "…"`

    i.toml:12:40: `overrides.kube-apiserver.flags.y`: the value holds a control character, such as a line's end
       |
    12 | flags = { "--v" = "2", "x=1" = "", y = "a\nb" }
       |                                        ^^^^^^
       = write it on one line, without tabs

    i.toml:14:20: `overrides.kubelet.config.since`: the value holds a date or a time, which the file's format can't express
       |
    14 | config = { since = 2026-01-01, list = [{ size = inf }] }
       |                    ^^^^^^^^^^
       = write it in quotes, or leave it out

    i.toml:14:39: `overrides.kubelet.config.list`: the value holds an infinite number or none, which the file's format can't express
       |
    14 | config = { since = 2026-01-01, list = [{ size = inf }] }
       |                                       ^^^^^^^^^^^^^^^^
       = write it in quotes, or leave it out
    "#);
}

#[test]
fn settings_that_are_not_the_inventorys() {
    let text = format!(
        "{CLUSTER}{ZONE}{MASTER}overrides = {{ kubelet = {{ config = {{ clusterDNS = [\"10.0.0.10\"] }} }} }}\n\
         [overrides.containerd]\nflags = {{ log-level = \"debug\" }}\n\
         [overrides.containerd.config.plugins.\"io.containerd.cri.v1.images\"]\nmax_concurrent_downloads = 5\n\
         registry = {{ config_path = \"/etc/certs.d\" }}\n\
         [overrides.registry]\nconfig = {{ log = \"debug\" }}\n"
    );
    insta::assert_snapshot!(complaint(&text), @r#"
    checking `i.toml`: 4 problems

    i.toml:9:38: `hosts.m1.overrides.kubelet.config.clusterDNS`: `clusterDNS` of kubelet is not to be overridden: it follows from `service_cidr` in [cluster]
      |
    9 | overrides = { kubelet = { config = { clusterDNS = ["10.0.0.10"] } } }
      |                                      ^^^^^^^^^^
      = leave it out

    i.toml:11:11: `overrides.containerd.flags`: containerd is started with its configuration file alone
       |
    11 | flags = { log-level = "debug" }
       |           ^^^^^^^^^
       = write `config` instead, which is merged into that file

    i.toml:14:1: `overrides.containerd.config.plugins.io.containerd.cri.v1.images.registry`: `plugins.io.containerd.cri.v1.images.registry` of containerd is not to be overridden: images come from the zones' registries, or from [registry], alone
       |
    14 | registry = { config_path = "/etc/certs.d" }
       | ^^^^^^^^
       = leave it out

    i.toml:16:12: `overrides.registry.config.log`: `log` of registry has another form
       |
    16 | config = { log = "debug" }
       |            ^^^
       = write a table
    "#);
}

#[test]
fn what_may_be_away_and_how_long() {
    let zone = |value: &str| {
        let zone = format!("{ZONE}max_unavailable = {value}\n");
        complaint(&format!("{CLUSTER}{zone}{MASTER}"))
    };
    for value in ["0", "-1", "\"0%\"", "\"100%\"", "\"many\"", "\"%\"", "true"] {
        let told = zone(value);
        assert!(
            told.contains("`zones.a.max_unavailable`") && told.contains("write a count such as 2"),
            "{value}: {told}"
        );
    }
    let drain = |text: &str| complaint(&format!("{CLUSTER}{ZONE}{MASTER}[drain]\n{text}"));
    for (text, expected) in [
        (
            "timeout_seconds = 0",
            "`drain.timeout_seconds`: 0 is no number of seconds",
        ),
        (
            "[[drain.pods]]\nselector = \"app=db; rm\"",
            "`drain.pods[0].selector`: `app=db; rm` is no label selector",
        ),
        (
            "[[drain.pods]]\nselector = \" \"",
            "`drain.pods[0].selector`: ` ` is no label selector",
        ),
        (
            "[[drain.pods]]\nselector = \"a\"\n[[drain.pods]]\nselector = \"b\"\ngrace_seconds = -1",
            "`drain.pods[1].grace_seconds`: -1 is no number of seconds",
        ),
        (
            "[[drain.pods]]\nselector = \"app in db\"",
            "`app in db` is no label selector",
        ),
        (
            "[[drain.pods]]\nselector = \"(app\"",
            "`(app` is no label selector",
        ),
        (
            "[[drain.pods]]\nselector = \"=db\"",
            "`=db` is no label selector",
        ),
        (
            "[[drain.pods]]\nselector = \"a in (b,c),\"",
            "is no label selector",
        ),
        (
            "[[drain.pods]]\nselector = \"a\"\ngrace_seconds = 9\ntimeout_seconds = 8",
            "8 s are over before the pods' 9 s of grace",
        ),
        ("[[drain.pods]]\ngrace_seconds = 1", "selector"),
        ("grace = 1", "grace"),
    ] {
        let told = drain(text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}
