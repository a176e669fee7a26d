//! Text that is no TOML, or whose keys and types don't fit.

use super::*;

#[test]
fn no_toml() {
    insta::assert_snapshot!(complaint("[cluster\nname = 1"), @r"
    checking `i.toml`: 1 problem

    i.toml:1:9: unclosed table, expected `]`
      |
    1 | [cluster
      |         ^
      = see `inventory.example.toml` for how it is written
    ");
    insta::assert_snapshot!(complaint("[cluster]\nname = \"lab"), @r#"
    checking `i.toml`: 1 problem

    i.toml:2:12: invalid basic string, expected `"`
      |
    2 | name = "lab
      |            ^
      = see `inventory.example.toml` for how it is written
    "#);
    insta::assert_snapshot!(complaint("[cluster]\nname = \"a\"\nname = \"b\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:1: the key is there already
      |
    3 | name = "b"
      | ^^^^
      = write each key and table once
    "#);
    insta::assert_snapshot!(complaint("\u{7f}ELF\u{0}"), @r"
    checking `i.toml`: 1 problem

    i.toml:1:6: key with no value, expected `=`
      |
    1 | �ELF�
      |      ^
      = see `inventory.example.toml` for how it is written
    ");
    insta::assert_snapshot!(complaint(""), @r"
    checking `i.toml`: 1 problem

    i.toml:1:1: key `cluster` is missing
      |
    1 |
      | ^
      = add `cluster = …` to this table
    ");
}

#[test]
fn unknown_keys() {
    insta::assert_snapshot!(complaint_about_cluster("pod_cdir = \"10.1.0.0/16\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:1: `cluster.pod_cdir`: unknown key `pod_cdir`
      |
    3 | pod_cdir = "10.1.0.0/16"
      | ^^^^^^^^
      = did you mean `pod_cidr`?
    "#);
    insta::assert_snapshot!(complaint_about_host("color = 3"), @r"
    checking `i.toml`: 1 problem

    i.toml:9:1: `hosts.m1.color`: unknown key `color`
      |
    9 | color = 3
      | ^^^^^
      = known keys here: name, address, zone, roles, labels, ssh, overrides
    ");
    insta::assert_snapshot!(complaint_about_host("ssh = { adress = \"10.0.0.9\" }"), @r#"
    checking `i.toml`: 1 problem

    i.toml:9:9: `hosts.m1.ssh.adress`: unknown key `adress`
      |
    9 | ssh = { adress = "10.0.0.9" }
      |         ^^^^^^
      = did you mean `address`?
    "#);
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}[clusters]\n{MASTER}")), @r"
    checking `i.toml`: 1 problem

    i.toml:4:2: `clusters`: unknown key `clusters`
      |
    4 | [clusters]
      |  ^^^^^^^^
      = did you mean `cluster`?
    ");
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}{MASTER}[overrides.etcd]\nflag = {{}}")), @r"
    checking `i.toml`: 1 problem

    i.toml:10:1: `overrides.etcd.flag`: unknown key `flag`
       |
    10 | flag = {}
       | ^^^^
       = did you mean `flags`?
    ");
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(complaint("[cluster]\nname = 5"), @r"
    checking `i.toml`: 1 problem

    i.toml:2:8: `cluster.name`: invalid type: integer `5`, expected a string
      |
    2 | name = 5
      |        ^
      = write the value in quotes
    ");
    insta::assert_snapshot!(complaint_about_cluster("pod_mask = \"24\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:12: `cluster.pod_mask`: invalid type: string "24", expected a whole number
      |
    3 | pod_mask = "24"
      |            ^^^^
      = write a number without quotes
    "#);
    insta::assert_snapshot!(complaint_about_cluster("api_names = \"k8s\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:3:13: `cluster.api_names`: invalid type: string "k8s", expected a list
      |
    3 | api_names = "k8s"
      |             ^^^^^
      = write a list, such as ["a", "b"]
    "#);
    insta::assert_snapshot!(complaint("cluster = \"lab\""), @r#"
    checking `i.toml`: 1 problem

    i.toml:1:11: `cluster`: invalid type: string "lab", expected a table
      |
    1 | cluster = "lab"
      |           ^^^^^
      = see `inventory.example.toml`
    "#);
    insta::assert_snapshot!(complaint_about_host("overrides = { etcd = { flags = { v = 1.5 } } }"), @r"
    checking `i.toml`: 1 problem

    i.toml:9:38: `hosts.m1.overrides.etcd.flags.v`: invalid type: floating point `1.5`, expected a string, a whole number or a boolean
      |
    9 | overrides = { etcd = { flags = { v = 1.5 } } }
      |                                      ^^^
      = see `inventory.example.toml` for how it is written
    ");
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}[hosts]\nname = \"m1\"")), @r"
    checking `i.toml`: 1 problem

    i.toml:4:1: `hosts`: invalid type: map, expected a list
      |
    4 | [hosts]
      | ^^^^^^^
      = write `[[hosts]]` for each host
    ");
}

#[test]
fn missing_keys() {
    insta::assert_snapshot!(complaint("[cluster]\ndomain = \"a.b\""), @r"
    checking `i.toml`: 1 problem

    i.toml:1:1: `cluster`: key `name` is missing
      |
    1 | [cluster]
      | ^^^^^^^^^
      = add `name = …` to this table
    ");
    insta::assert_snapshot!(complaint(&format!("{CLUSTER}{ZONE}[[hosts]]\nname = \"m1\"\nzone = \"a\"\n")), @r"
    checking `i.toml`: 1 problem

    i.toml:4:1: `hosts.m1`: key `address` is missing
      |
    4 | [[hosts]]
      | ^^^^^^^^^
      = add `address = …` to this table
    ");
    insta::assert_snapshot!(complaint(CLUSTER), @r"
    checking `i.toml`: 2 problems

    i.toml:1:1: `zones`: there is no zone
      |
    1 | [cluster]
      | ^^^^^^^^^
      = add one for each network area with its own firewall, such as `[zones.a]`

    i.toml:1:1: `hosts`: there is no host
      |
    1 | [cluster]
      | ^^^^^^^^^
      = add at least one `[[hosts]]` with the role `control-plane`
    ");
}
