//! Which placements of masters and etcd members are refused, and which are fine.

use super::{cluster, file};
use crate::inventory::parse;

/// What is said of hosts of the form `NAME ZONE ROLE,ROLE`, with `survive`: errors as they are,
/// warnings so marked, without the excerpt of the text.
fn said(survive: &str, hosts: &str) -> String {
    let text = cluster(hosts).replace(
        "[cluster]\n",
        &format!("[cluster]\nsurvive = {survive:?}\n"),
    );
    let problems = match parse(&text, file()) {
        Ok(inventory) => inventory.warnings,
        Err(problems) => problems.problems,
    };
    let lines = problems.iter().map(|problem| {
        let shown = problem.display(file());
        let first = shown.lines().next().unwrap_or_default();
        let (_, message) = first.split_once(": ").unwrap();
        format!("{message}\n  = {}", problem.remedy)
    });
    lines.collect::<Vec<_>>().join("\n")
}

const M: &str = "control-plane";

fn masters(zones: &str) -> String {
    let each = zones.chars().enumerate();
    let lines = each.map(|(number, zone)| format!("m{} {zone} {M}", number + 1));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn placements_that_outlive_a_zone() {
    for hosts in [
        // One master alone is asked nothing.
        masters("a"),
        masters("a") + "\nw1 b worker",
        masters("abc"),
        masters("abcab"),
        // Two rooms and a witness.
        "m1 a control-plane,etcd\nm2 b control-plane,etcd\ne1 c etcd".to_owned(),
        "m1 a control-plane,etcd\nm2 a control-plane,etcd\nm3 b control-plane,etcd\n\
         m4 b control-plane,etcd\ne1 c etcd"
            .to_owned(),
        // etcd on hosts of its own.
        "m1 a control-plane\nm2 b control-plane\ne1 a etcd\ne2 b etcd\ne3 c etcd".to_owned(),
    ] {
        assert_eq!(said("zone", &hosts), "", "{hosts}");
        assert_eq!(said("host", &hosts), "", "{hosts}");
        assert_eq!(said("nothing", &hosts), "", "{hosts}");
    }
}

#[test]
fn placements_that_do_not() {
    insta::assert_snapshot!(said("zone", &masters("aaa")), @r#"
    `hosts.m3.roles`: all 3 etcd members are in zone `a`: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "host"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", &masters("aab")), @r#"
    `hosts.m2.roles`: zone `a` holds 2 of 3 etcd members: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "host"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", &masters("ab")), @r#"
    `hosts.m2.roles`: 2 etcd members survive the loss of none, just as 1 would; zone `b` holds 1: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "nothing"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", &masters("aa")), @r#"
    `hosts.m2.roles`: all 2 etcd members are in zone `a`: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "nothing"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", &masters("aabb")), @r#"
    `hosts.m4.roles`: 4 etcd members survive the loss of 1, just as 3 would; zone `b` holds 2: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "host"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", &masters("aabc")), @r#"
    `hosts.m2.roles`: 4 etcd members survive the loss of 1, just as 3 would; zone `a` holds 2: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "host"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", &masters("aaabc")), @r#"
    `hosts.m3.roles`: zone `a` holds 3 of 5 etcd members: its loss stops the API
      = spread them over three zones (two, and a witness with the role `etcd` alone in a third, will do); or accept it by `survive = "host"` in [cluster]
    "#);
    // Members are spread, but the API servers are not.
    let hosts = "m1 a control-plane\nm2 a control-plane\ne1 a etcd\ne2 b etcd\ne3 c etcd";
    insta::assert_snapshot!(said("zone", hosts), @r#"
    `hosts.m2.roles`: all 2 control-plane hosts are in zone `a`: its loss stops the API
      = give the role `control-plane` to a host of another zone too; or accept it by `survive = "host"` in [cluster]
    "#);
    let hosts = "m1 a control-plane\ne1 a etcd\ne2 b etcd\ne3 c etcd";
    insta::assert_snapshot!(said("zone", hosts), @r#"
    `hosts.m1.roles`: the only control-plane host is in zone `a`: its loss stops the API
      = give the role `control-plane` to a host of another zone too; or accept it by `survive = "nothing"` in [cluster]
    "#);
    insta::assert_snapshot!(said("zone", "m1 a control-plane\ne1 b etcd"), @r#"
    `hosts.e1.roles`: the only etcd member is not on the only control-plane host: the loss of either stops the API
      = leave the role `etcd` out, and each control-plane host is a member; or accept it by `survive = "nothing"` in [cluster]
    "#);
    let hosts = "m1 a control-plane,etcd\nm2 b control-plane\nm3 c control-plane";
    insta::assert_snapshot!(said("zone", hosts), @r#"
    `hosts.m1.roles`: the only etcd member serves 3 control-plane hosts: its loss stops the API
      = leave the role `etcd` out, and each control-plane host is a member; or accept it by `survive = "nothing"` in [cluster]
    "#);
}

#[test]
fn placements_that_outlive_a_host() {
    assert_eq!(said("host", &masters("aaa")), "");
    assert_eq!(said("host", &masters("aab")), "");
    insta::assert_snapshot!(said("host", &masters("ab")), @r#"
    `hosts.m2.roles`: 2 etcd members survive the loss of none, just as 1 would
      = make it three; or accept it by `survive = "nothing"` in [cluster]
    "#);
    let hosts = "m1 a control-plane\ne1 a etcd\ne2 b etcd\ne3 c etcd";
    insta::assert_snapshot!(said("host", hosts), @r#"
    `hosts.m1.roles`: the only control-plane host has 3 etcd members: its loss stops the API
      = give the role `control-plane` to another host too; or accept it by `survive = "nothing"` in [cluster]
    "#);
    let hosts = "m1 a control-plane,etcd\nm2 b control-plane";
    insta::assert_snapshot!(said("host", hosts), @r#"
    `hosts.m1.roles`: the only etcd member serves 2 control-plane hosts: its loss stops the API
      = leave the role `etcd` out, and each control-plane host is a member; or accept it by `survive = "nothing"` in [cluster]
    "#);
}

#[test]
fn what_is_accepted_is_still_worth_a_word_if_a_member_helps_nobody() {
    insta::assert_snapshot!(said("nothing", &masters("ab")), @r"
    warning: `hosts.m2.roles`: 2 etcd members survive the loss of none, just as 1 would
      = give the role `etcd` to 1 or 3 hosts by naming it on each
    ");
    insta::assert_snapshot!(said("zone", &masters("abcd")), @r"
    warning: `hosts.m4.roles`: 4 etcd members survive the loss of 1, just as 3 would
      = give the role `etcd` to 3 or 5 hosts by naming it on each
    ");
    assert_eq!(said("nothing", &masters("aaa")), "");
    insta::assert_snapshot!(said("rack", &masters("abc")), @r"
    `cluster.survive`: `rack` is none of `zone`, `host`, `nothing`
      = known values: zone, host, nothing
    ");
}
