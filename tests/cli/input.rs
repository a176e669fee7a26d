//! Bad inventories, and what needs no host.

use crate::world::World;
use std::io::Read;
use std::process::Stdio;

/// Everything is told at once, with file, line and column, before anything
/// else is looked at.
#[test]
fn what_is_wrong_with_an_inventory_is_told_by_every_verb() {
    let world = World::new();
    let bad = world
        .read("inventory.toml")
        .replace("zone = \"a\"", "zone = \"b\"")
        .replace("192.0.2.11", "10.244.1.1");
    world.write("inventory.toml", &bad);
    for verb in [
        "ports",
        "plan --bundle no.tar --trusted-key no.pub",
        "install --yes --bundle no.tar --trusted-key no.pub",
        "kubectl -- get nodes",
        "etcdctl -- member list",
        "etcd snapshot",
        "etcd snapshots",
        "etcd restore --yes --bundle no.tar --trusted-key no.pub --from no.db",
        "hosts trust --yes",
    ] {
        let outcome = world.run(verb);
        outcome.expect(
            2,
            &[
                "error: checking `inventory.toml`",
                "inventory.toml:12:11",
                "inventory.toml:13:8",
            ],
        );
        assert_eq!(outcome.stdout, "", "{verb}");
        assert!(!world.exists("site-lab"), "{verb} made a site");
    }
}

#[test]
fn every_class_of_bad_inventory_has_its_own_error() {
    let world = World::new();
    let good = world.read("inventory.toml");
    let host = &good[good.find("[[hosts]]").unwrap()..];
    let cases: [(String, &str); 9] = [
        (good.replace("roles", "rolls"), "rolls"),
        (good.replace("port = 1", "port = \"ssh\""), "port"),
        (format!("{good}\n{host}"), "m1"),
        (
            format!("{good}\n{}", host.replace("\"m1\"", "\"m2\"")),
            "192.0.2.11",
        ),
        (good.replace("\"m1\"", "\"M_1\""), "M_1"),
        (
            good.replace("[zones.a]", "[zones.a]\n[zones.empty]"),
            "empty",
        ),
        (
            good.replace(
                "name = \"lab\"",
                "name = \"lab\"\npod_cidr = \"10.96.0.0/14\"",
            ),
            "10.96.0.0",
        ),
        (good.replace("control-plane", "master"), "master"),
        ("not toml".to_owned(), "inventory.toml:1:"),
    ];
    for (text, named) in cases {
        world.write("inventory.toml", &text);
        let outcome = world.run("ports");
        outcome.expect(2, &["inventory.toml:", named]);
    }
}

#[test]
fn a_missing_inventory_says_how_to_name_one() {
    let world = World::new();
    world
        .run("ports -i nowhere.toml")
        .expect(2, &["nowhere.toml", "hint: name it with `-i FILE`"]);
}

#[test]
fn ports_are_data_in_every_format() {
    let world = World::new();
    for (format, beginning) in [
        ("table", "FROM"),
        ("csv", "from"),
        ("markdown", "|"),
        ("json", "{"),
        ("nft", "#"),
    ] {
        let outcome = world.run(&format!("ports --format {format}"));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{format}");
        let first = outcome.stdout.trim_start().to_lowercase();
        assert!(
            first.starts_with(&beginning.to_lowercase()),
            "{}",
            outcome.text()
        );
    }
    assert!(!world.exists("site-lab"), "looking makes no site");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let world = World::new();
    let mut child = world
        .command("ports --format nft")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said, "");
}

#[test]
fn color_is_for_whoever_asks() {
    let world = World::new();
    let plain = world.run("ports -i no.toml");
    let colored = world.run("--color always ports -i no.toml");
    assert!(!plain.stderr.contains('\u{1b}'));
    assert!(
        colored.stderr.starts_with("\u{1b}[1;31merror:\u{1b}[0m"),
        "{colored:?}"
    );
}

#[test]
fn a_site_of_another_cluster_is_not_used() {
    let world = World::new();
    fs_err::create_dir(world.path.join("site-lab")).unwrap();
    world.write("site-lab/site.toml", "schema = 1\ncluster = \"prod\"\n");
    world.run("kubectl -- get nodes").expect(
        2,
        &["site-lab is the site of cluster `prod`, the inventory is that of `lab`"],
    );
}
