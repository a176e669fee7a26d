//! Hosts, zones and roles that make no cluster.

use super::*;

#[test]
fn names() {
    let text = "[cluster]\nname = \"Lab_1\"\ndomain = \"cluster..local\"\n[zones.\"zone a\"]\n[[hosts]]\n\
                name = \"m1.example.com\"\naddress = \"10.0.0.1\"\nzone = \"zone a\"\nroles = [\"control-plane\"]\n";
    insta::assert_snapshot!(complaint(text), @r#"
    checking `i.toml`: 4 problems

    i.toml:2:8: `cluster.name`: `Lab_1` is no name: it has an upper-case letter
      |
    2 | name = "Lab_1"
      |        ^^^^^^^
      = write `lab-1`, for one

    i.toml:3:10: `cluster.domain`: `cluster..local` is no DNS name: it has an empty part between dots
      |
    3 | domain = "cluster..local"
      |          ^^^^^^^^^^^^^^^^
      = write a lower-case DNS name, such as cluster.local

    i.toml:4:8: `zones.zone a`: `zone a` is no name: it may hold only lower-case letters, digits and dashes
      |
    4 | [zones."zone a"]
      |        ^^^^^^^^
      = write `zone-a`, for one

    i.toml:6:8: `hosts.m1.example.com.name`: `m1.example.com` is no name: it may hold only lower-case letters, digits and dashes
      |
    6 | name = "m1.example.com"
      |        ^^^^^^^^^^^^^^^^
      = write `m1-example-com`, for one
    "#);
}

#[test]
fn duplicates() {
    let same_name = WORKER.replace("w1", "m1");
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}{MASTER}{same_name}")), @r#"
    checking `i.toml`: 1 problem

    i.toml:10:8: `hosts.m1.name`: a host is called `m1` already, in line 5
       |
    10 | name = "m1"
       |        ^^^^
       = give each host a name of its own
    "#);
    let same_address = WORKER.replace("10.0.0.2", "10.0.0.1");
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}{MASTER}{same_address}")), @r#"
    checking `i.toml`: 1 problem

    i.toml:11:11: `hosts.w1.address`: 10.0.0.1 is the address of host `m1` already, in line 5
       |
    11 | address = "10.0.0.1"
       |           ^^^^^^^^^^
       = give each host the address of its own
    "#);
    let same_ssh = "ssh = { address = \"10.0.0.1\" }";
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}{MASTER}{WORKER}{same_ssh}")), @r#"
    checking `i.toml`: 1 problem

    i.toml:14:19: `hosts.w1.ssh.address`: SSH to 10.0.0.1:22 leads to host `m1` already
       |
    14 | ssh = { address = "10.0.0.1" }
       |                   ^^^^^^^^^^
       = write the address or port that leads to this host
    "#);
    let other_port = "ssh = { address = \"10.0.0.1\", port = 2222 }";
    assert!(
        parse(
            &format!("{CLUSTER}{ZONE}{MASTER}{WORKER}{other_port}"),
            file()
        )
        .is_ok()
    );
}

#[test]
fn zones() {
    let text =
        format!("{CLUSTER}[zones.alpha]\n[zones.beta]\nregistry = \"gamma\"\n{MASTER}{WORKER}")
            .replace(
                "zone = \"a\"\nroles = [\"w",
                "zone = \"alpa\"\nroles = [\"w",
            )
            .replace("zone = \"a\"", "zone = \"alpha\"");
    insta::assert_snapshot!(complaint(&text), @r#"
    checking `i.toml`: 3 problems

    i.toml:4:8: `zones.beta`: zone `beta` has no hosts
      |
    4 | [zones.beta]
      |        ^^^^
      = put a host into it, or leave it out

    i.toml:5:12: `zones.beta.registry`: no zone `gamma` has a registry
      |
    5 | registry = "gamma"
      |            ^^^^^^^
      = known zones with a registry: alpha

    i.toml:14:8: `hosts.w1.zone`: unknown zone `alpa`
       |
    14 | zone = "alpa"
       |        ^^^^^^
       = did you mean `alpha`?
    "#);
    let without_registry = format!(
        "{CLUSTER}{ZONE}[zones.b]\nregistry = \"b\"\n{MASTER}{}",
        WORKER.replace("zone = \"a\"", "zone = \"b\"")
    );
    insta::assert_snapshot!(complaint(&without_registry), @r#"
    checking `i.toml`: 1 problem

    i.toml:5:12: `zones.b.registry`: no zone `b` has a registry
      |
    5 | registry = "b"
      |            ^^^
      = known zones with a registry: a
    "#);
}

#[test]
fn roles() {
    let roles = |roles: &str| {
        complaint(&format!("{CLUSTER}{ZONE}{MASTER}").replace("\"control-plane\"", roles))
    };
    insta::assert_snapshot!(roles("\"controlplane\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:8:10: `hosts.m1.roles`: unknown role `controlplane`
      |
    8 | roles = ["controlplane"]
      |          ^^^^^^^^^^^^^^
      = did you mean `control-plane`?
    "#);
    insta::assert_snapshot!(roles("\"master\", \"loadbalancer\""), @r#"
    checking `i.toml`: 2 problems

    i.toml:8:10: `hosts.m1.roles`: unknown role `master`
      |
    8 | roles = ["master", "loadbalancer"]
      |          ^^^^^^^^
      = did you mean `control-plane`?

    i.toml:8:20: `hosts.m1.roles`: unknown role `loadbalancer`
      |
    8 | roles = ["master", "loadbalancer"]
      |                    ^^^^^^^^^^^^^^
      = known roles: control-plane, etcd, registry, worker
    "#);
    insta::assert_snapshot!(roles("\"control-plane\", \"control-plane\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:8:27: `hosts.m1.roles`: role `control-plane` is listed twice
      |
    8 | roles = ["control-plane", "control-plane"]
      |                           ^^^^^^^^^^^^^^^
      = leave one of them out
    "#);
    insta::assert_snapshot!(roles(""), @r"
    checking `i.toml`: 1 problem

    i.toml:8:9: `hosts.m1.roles`: the host has no role
      |
    8 | roles = []
      |         ^^
      = name at least one of: control-plane, etcd, registry, worker
    ");
    insta::assert_snapshot!(roles("\"worker\", \"etcd\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:8:9: `hosts.m1.roles`: no host has the role `control-plane`
      |
    8 | roles = ["worker", "etcd"]
      |         ^^^^^^^^^^^^^^^^^^
      = give it to one host, or to one in each of three zones
    "#);
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}")), @r"
    checking `i.toml`: 2 problems

    i.toml:1:1: `hosts`: there is no host
      |
    1 | [cluster]
      | ^^^^^^^^^
      = add at least one `[[hosts]]` with the role `control-plane`

    i.toml:3:8: `zones.a`: zone `a` has no hosts
      |
    3 | [zones.a]
      |        ^
      = put a host into it, or leave it out
    ");
}

#[test]
fn ssh() {
    let text = format!(
        "{CLUSTER}[ssh]\nuser = \"-oProxyCommand\"\nport = 70000\nkey = \"~/.ssh/id\"\njump_host = \"jump\"\n\
         [site]\npath = \"\"\n{ZONE}{MASTER}ssh = {{ user = \"a b\", port = 0 }}\n"
    );
    insta::assert_snapshot!(complaint(&text), @r#"
    checking `i.toml`: 7 problems

    i.toml:4:8: `ssh.user`: `-oProxyCommand` is no user name: it begins with a dash
      |
    4 | user = "-oProxyCommand"
      |        ^^^^^^^^^^^^^^^^
      = write root, or a user with sudo but without password

    i.toml:5:8: `ssh.port`: 70000 is no port
      |
    5 | port = 70000
      |        ^^^^^
      = write a number from 1 to 65535

    i.toml:6:7: `ssh.key`: `~` is not expanded
      |
    6 | key = "~/.ssh/id"
      |       ^^^^^^^^^^^
      = write an absolute path, or one relative to the inventory

    i.toml:7:13: `ssh.jump_host`: `jump` is no IPv4 address
      |
    7 | jump_host = "jump"
      |             ^^^^^^
      = write an address such as 10.0.0.5; names are not looked up

    i.toml:9:8: `site.path`: the path is empty
      |
    9 | path = ""
      |        ^^
      = write a path, or leave the key out

    i.toml:16:16: `hosts.m1.ssh.user`: `a b` is no user name: it may hold only letters, digits, dashes, dots and underscores
       |
    16 | ssh = { user = "a b", port = 0 }
       |                ^^^^^
       = write root, or a user with sudo but without password

    i.toml:16:30: `hosts.m1.ssh.port`: 0 is no port
       |
    16 | ssh = { user = "a b", port = 0 }
       |                              ^
       = write a number from 1 to 65535
    "#);
}

#[test]
fn labels() {
    let labels = "labels = { \"topology.kubernetes.io/zone\" = \"z\", \"a b\" = \"x\", rack = \"r 1\", \"k8s.io/x\" = \"\" }";
    insta::assert_snapshot!(complaint_about_host(labels), @r#"
    checking `i.toml`: 4 problems

    i.toml:9:12: `hosts.m1.labels`: `topology.kubernetes.io/zone` is no label to set: it is set by cofferdam or Kubernetes itself
      |
    9 | labels = { "topology.kubernetes.io/zone" = "z", "a b" = "x", rack = "r 1", "k8s.io/x" = "" }
      |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = choose another, such as `example.com/rack`

    i.toml:9:49: `hosts.m1.labels`: `a b` is no label to set: it may hold only letters, digits, dashes, dots and underscores
      |
    9 | labels = { "topology.kubernetes.io/zone" = "z", "a b" = "x", rack = "r 1", "k8s.io/x" = "" }
      |                                                 ^^^^^
      = choose another, such as `example.com/rack`

    i.toml:9:69: `hosts.m1.labels.rack`: `r 1` is no label's value: it may hold only letters, digits, dashes, dots and underscores
      |
    9 | labels = { "topology.kubernetes.io/zone" = "z", "a b" = "x", rack = "r 1", "k8s.io/x" = "" }
      |                                                                     ^^^^^
      = choose another, such as `r1`

    i.toml:9:76: `hosts.m1.labels`: `k8s.io/x` is no label to set: it has a prefix that is reserved for Kubernetes; free ones are node-restriction.kubernetes.io, node-role.kubernetes.io, node.kubernetes.io, topology.kubernetes.io
      |
    9 | labels = { "topology.kubernetes.io/zone" = "z", "a b" = "x", rack = "r 1", "k8s.io/x" = "" }
      |                                                                            ^^^^^^^^^^
      = choose another, such as `example.com/rack`
    "#);
}
