//! Disks of their own under some of the directories.

use super::*;
use crate::desired::{Change, Unit};

/// Gives a directory, and what is below it, a file system of its own.
fn mount(facts: &mut HostFacts, path: &str, free_bytes: u64) {
    let below = facts
        .filesystems
        .iter_mut()
        .filter(|filesystem| camino::Utf8Path::new(&filesystem.path).starts_with(path));
    for filesystem in below {
        filesystem.mount_point = path.to_owned();
        filesystem.device = 3;
        filesystem.free_bytes = free_bytes;
    }
}

fn start(world: &mut World, host: &str, name: &str, stage: Stage) {
    world.desired.hosts.get_mut(host).unwrap().units.push(Unit {
        name: name.to_owned(),
        stage,
        inputs: None,
        pending: false,
        needs: Needs::default(),
        change: Change::Restart,
        ready: None,
    });
}

#[test]
fn each_mount_must_hold_what_comes_onto_it() {
    let half = GIGABYTE / 2;
    let cases: [(&str, u64, &[&str]); 7] = [
        (
            "/var/lib/containerd",
            half,
            &[
                "Fatal free-space: w1: /var/lib/containerd has 500 MB free, 1.0 GB are needed (images)",
                "Warning eviction: w1: /var/lib/containerd will have 0 B left of 20 GB, and kubelet evicts pods below 15 %",
            ],
        ),
        (
            "/var/lib/containerd",
            3_200_000_000,
            &[
                "Warning eviction: w1: /var/lib/containerd will have 2.7 GB left of 20 GB, and kubelet evicts pods below 15 %",
            ],
        ),
        (
            "/opt/cofferdam",
            half,
            &["Fatal free-space: w1: /opt/cofferdam has 500 MB free, 936 MB are needed (programs)"],
        ),
        (
            "/opt/cofferdam/store",
            half,
            &[
                "Fatal free-space: w1: /opt/cofferdam/store has 500 MB free, 936 MB are needed (programs)",
            ],
        ),
        (
            "/var/lib/kubelet",
            half,
            &[
                "Warning eviction: w1: /var/lib/kubelet will have 500 MB left of 20 GB, and kubelet evicts pods below 10 %",
            ],
        ),
        // Nothing comes there, or not on this host.
        ("/var/log", 0, &[]),
        ("/var/lib/etcd", 0, &[]),
    ];
    for (path, free, expected) in cases {
        let found = results(&with(|facts| mount(facts, path, free)));
        let fits = found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(found, expected)| found.starts_with(expected));
        assert!(fits, "{path}: {found:#?}");
    }
}

#[test]
fn a_new_member_of_etcd_needs_room_and_one_that_is_there_has_it() {
    let full = |is_there: bool| {
        let mut world = good_world();
        start(&mut world, "m1", "etcd.service", Stage::Etcd);
        let facts = world.facts.get_mut("m1").unwrap();
        mount(facts, "/var/lib/etcd", GIGABYTE / 2);
        if is_there {
            let unit = crate::facts::UnitFacts {
                load: "loaded".to_owned(),
                ..Default::default()
            };
            facts.units.insert("etcd.service".to_owned(), unit);
        }
        results(&world)
    };
    assert_eq!(
        full(false),
        [
            "Fatal free-space: m1: /var/lib/etcd has 500 MB free, 805 MB are needed (etcd's data); free or add space on /var/lib/etcd"
        ]
    );
    assert_eq!(full(true), Vec::<String>::new());
}

#[test]
fn mount_flags_matter_where_something_is_run_or_written() {
    let noexec = |path: &str| results(&with(|facts| at(facts, path).noexec = true));
    let read_only = |path: &str| results(&with(|facts| at(facts, path).read_only = true));
    for path in layout::PLACES {
        let run = [
            layout::ROOT,
            layout::STORE,
            layout::CONTAINERD,
            layout::KUBELET,
        ];
        let is_run = run.contains(&path);
        assert_eq!(noexec(path).len(), usize::from(is_run), "{path}");
        // A worker has neither etcd nor a registry.
        let is_used = ![layout::ETCD, layout::REGISTRY].contains(&path);
        assert_eq!(read_only(path).len(), usize::from(is_used), "{path}");
    }
    let mut world = good_world();
    at(world.facts.get_mut("m1").unwrap(), layout::ETCD).read_only = true;
    assert!(results(&world)[0].starts_with(
        "Fatal mounts: m1: /var is mounted read-only, and must be written to: /var/lib/etcd; mount it with"
    ));
}

#[test]
fn one_mount_under_several_directories_is_told_once() {
    let found = results(&with(|facts| {
        mount(facts, "/var/lib", 10 * GIGABYTE);
        for path in [layout::CONTAINERD, layout::KUBELET] {
            at(facts, path).noexec = true;
        }
    }));
    assert_eq!(
        found,
        [
            "Fatal mounts: w1: /var/lib is mounted noexec, so that what is there does not run: programs in images' volumes (/var/lib/containerd), programs in pods' volumes (/var/lib/kubelet); mount it with `mount -o remount,exec /var/lib`, and so in /etc/fstab"
        ]
    );
}

#[test]
fn space_is_counted_only_for_what_is_missing() {
    let mut world = with(|facts| {
        facts.store.insert(Digest::of("kubelet"), 400_000_000);
        leave(facts, 1, GIGABYTE / 2);
    });
    let file = File {
        content: Content::Plain(vec![0; 1000]),
        mode: 0o644,
        user: "root".to_owned(),
        group: "root".to_owned(),
        kind: FileKind::Software,
        part: None,
    };
    assert_eq!(results(&world), Vec::<String>::new());
    let host = world.desired.hosts.get_mut("w1").unwrap();
    host.files.insert("/etc/kubernetes/large".to_owned(), file);
    assert!(results(&world)[0].contains("/ has 500 MB free, 536 MB are needed"));
}

#[test]
fn a_full_disk_is_no_hindrance_where_all_is_there() {
    let mut world = with(|facts| {
        facts.store.insert(Digest::of("kubelet"), 400_000_000);
        leave(facts, 1, GIGABYTE / 2);
        let there = crate::facts::FileFacts {
            entry: crate::facts::Entry::File {
                size: 1000,
                digest: None,
            },
            mode: 0o400,
            user: "root".to_owned(),
            group: "root".to_owned(),
        };
        let key = "/etc/kubernetes/pki/kubelet.key".to_owned();
        facts.files.insert(key, there);
    });
    let key = File {
        content: Content::Secret(vec![0; 1000]),
        mode: 0o400,
        user: "root".to_owned(),
        group: "root".to_owned(),
        kind: FileKind::Trust,
        part: None,
    };
    let host = world.desired.hosts.get_mut("w1").unwrap();
    let path = "/etc/kubernetes/pki/kubelet.key".to_owned();
    host.files.insert(path, key);
    assert_eq!(results(&world), Vec::<String>::new());
}
