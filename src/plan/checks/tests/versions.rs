//! From which versions to which.

use super::*;
use crate::facts::{Entry, FileFacts, Generation, Pod, RemovedApi};

/// The good world with programs installed and desired on `w1`, each given as
/// `NAME FROM TO`.
fn world(intent: Intent, programs: &[&str]) -> World {
    let mut world = good_world();
    world.intent = intent;
    for facts in world.facts.values_mut() {
        facts.generation = Some(Generation {
            number: 1,
            versions: [("nft".to_owned(), "1.0.0".to_owned())].into(),
            ..Generation::default()
        });
    }
    let facts = world.facts.get_mut("w1").unwrap();
    let desired = world.desired.hosts.get_mut("w1").unwrap();
    for program in programs {
        let [name, from, to] = program.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{program}");
        };
        let digest = |version: &str| Digest::of(format!("{name} {version}"));
        let binary = Binary {
            digest: digest(to),
            version: to.to_owned(),
            ..desired.binaries["kubelet"].clone()
        };
        desired.binaries.insert(name.to_owned(), binary);
        let generation = facts.generation.as_mut().unwrap();
        generation.binaries.insert(name.to_owned(), digest(from));
        generation.versions.insert(name.to_owned(), from.to_owned());
        let link = FileFacts {
            entry: Entry::Link {
                target: layout::stored_target(&digest(from)),
            },
            mode: 0o777,
            user: "root".to_owned(),
            group: "root".to_owned(),
        };
        facts.files.insert(format!("{}/{name}", layout::BIN), link);
    }
    world
}

/// A node that is left out stays as it is, which API servers must stand.
#[test]
fn kubelets_that_are_left_out_stay_within_their_skew() {
    for (kubelet, expected) in [
        ("v1.36.0", None),
        ("v1.34.2", None),
        (
            "v1.33.9",
            Some(
                "Fatal kubelets-left-out: w1: its kubelet stays at 1.33.9, and API servers of \
                 1.37.0 serve none before 1.34; bring it back and upgrade it first, or take it \
                 out of the cluster and the inventory",
            ),
        ),
    ] {
        let mut world = world(Intent::Upgrade, &["kube-apiserver 1.36.0 1.37.0"]);
        world.facts.remove("w1");
        let node = crate::facts::NodeFacts {
            kubelet_version: kubelet.to_owned(),
            ready: false,
            message: "Kubelet stopped posting node status.".to_owned(),
            pod_cidr: None,
            unschedulable: false,
            cordoned_by_us: false,
            labels: BTreeMap::new(),
        };
        world.cluster = Some(crate::facts::ClusterFacts {
            nodes: [("w1".to_owned(), node)].into(),
            ..crate::facts::ClusterFacts::default()
        });
        let told: Vec<String> = results(&world)
            .into_iter()
            .filter(|line| line.contains("kubelets-left-out"))
            .collect();
        assert_eq!(told.first().map(String::as_str), expected, "{kubelet}");
    }
}

#[test]
fn an_upgrade_goes_from_where_it_can_to_where_it_may() {
    use Intent::{Install, Upgrade};
    let cases: [(Intent, &[&str], &[&str]); 14] = [
        (Install, &["kubelet 1.36.0 1.36.0"], &[]),
        (
            Install,
            &[
                "kubelet 1.36.0 1.37.0",
                "kube-proxy 1.36.0 1.37.0",
                "runc 1.4.3 1.5.2",
            ],
            &[
                "Fatal versions: w1: it has runc 1.4.3, the bundle 1.5.2; Kubernetes 1.36.0, the bundle 1.37.0; `cofferdam upgrade` changes versions; to install, give the bundle of what runs",
            ],
        ),
        (Upgrade, &["kubelet 1.36.0 1.37.0"], &[]),
        (Upgrade, &["kubelet 1.36.0 1.36.4"], &[]),
        (
            Upgrade,
            &["kubelet 1.37.0 1.36.0"],
            &[
                "Fatal downgrade: w1: it has kubelet 1.37.0, the bundle 1.36.0; an upgrade never goes back: give a bundle with these or later versions",
            ],
        ),
        (
            Upgrade,
            &[
                "a 2.0.0 1.0.0",
                "b 2.0.0 1.0.0",
                "c 2.0.0 1.0.0",
                "d 2.0.0 1.0.0",
            ],
            &[
                "Fatal downgrade: w1: it has a, b, c and 1 more 2.0.0, the bundle 1.0.0; an upgrade never goes back: give a bundle with these or later versions",
            ],
        ),
        (
            Upgrade,
            &["kube-apiserver 1.35.3 1.37.0"],
            &[
                "Fatal one-minor: w1: it has kube-apiserver 1.35.3, the bundle 1.37.0; upgrade to Kubernetes 1.36 first",
            ],
        ),
        // Three minors behind is what an API server puts up with.
        (Upgrade, &["kubelet 1.34.0 1.37.0"], &[]),
        (
            Upgrade,
            &["kubelet 1.33.0 1.37.0"],
            &[
                "Fatal one-minor: w1: it has kubelet 1.33.0, the bundle 1.37.0; upgrade to Kubernetes 1.34 first",
            ],
        ),
        (Upgrade, &["etcd 3.6.16 3.7.3"], &[]),
        (Upgrade, &["etcd 3.5.20 3.5.26"], &[]),
        (
            Upgrade,
            &["etcd 3.6.10 3.7.3"],
            &[
                "Fatal etcd-path: w1: it has etcd 3.6.10, the bundle 3.7.3; only etcd 3.6.11 or later may go on to 3.7: upgrade to one with that first",
            ],
        ),
        (
            Upgrade,
            &["etcd 3.5.20 3.6.16"],
            &[
                "Fatal etcd-path: w1: it has etcd 3.5.20, the bundle 3.6.16; only etcd 3.5.26 or later may go on to 3.6: upgrade to one with that first",
            ],
        ),
        (
            Upgrade,
            &["etcd 3.5.26 3.7.3"],
            &[
                "Fatal etcd-path: w1: it has etcd 3.5.26, the bundle 3.7.3; etcd goes on one minor at a time: upgrade to one with etcd 3.6 first",
            ],
        ),
    ];
    for (intent, programs, expected) in cases {
        let found = results(&world(intent, programs));
        assert_eq!(found, expected, "{intent:?} {programs:?}");
    }
}

#[test]
fn an_install_that_never_came_to_its_end_may_be_given_up_for_another_bundle() {
    let mut world = world(Intent::Install, &["kubelet 1.36.0 1.37.0"]);
    world.facts.get_mut("w1").unwrap().generation = None;
    assert_eq!(results(&world), [""; 0]);
    world.intent = Intent::Upgrade;
    assert_eq!(
        results(&world),
        [
            "Fatal installed: w1: no install has come to its end here; bring it in with `cofferdam install` and the bundle of what runs elsewhere, then upgrade"
        ]
    );
}

#[test]
fn etcd_is_healthy_before_it_is_upgraded() {
    let complaint = |change: fn(&mut EtcdFacts)| {
        let mut world = world(Intent::Upgrade, &[]);
        let mut etcd = EtcdFacts::default();
        change(&mut etcd);
        world.facts.get_mut("m1").unwrap().etcd = Some(etcd);
        results(&world)
    };
    assert_eq!(complaint(|_| ()), [""; 0]);
    assert_eq!(
        complaint(|etcd| etcd.alarms.push("NOSPACE on m2".to_owned())),
        [
            "Fatal etcd-settled: m1: etcd has an alarm: NOSPACE on m2; see what raised it; NOSPACE wants `etcdctl compact`, `defrag` and `alarm disarm`; then upgrade"
        ]
    );
    assert_eq!(
        complaint(|etcd| etcd.unhealthy = Some("m2 knows no leader".to_owned())),
        [
            "Fatal etcd-settled: m1: etcd is not healthy: m2 knows no leader; look at `journalctl -u etcd` there, and upgrade once `cofferdam status` is fine"
        ]
    );
}

#[test]
fn what_an_upgrade_would_break_is_named() {
    let usage = UsageFacts {
        moving: Vec::new(),
        removed: vec![RemovedApi {
            group: "storage.k8s.io".to_owned(),
            version: "v1beta1".to_owned(),
            resource: "volumeattributesclasses".to_owned(),
            removed_in: "1.37".to_owned(),
            clients: ["helm".to_owned()].into(),
        }],
        bare_pods: vec![Pod {
            name: "default/debug".to_owned(),
            node: "w1".to_owned(),
        }],
        local_data: ["shop/cache", "kube-system/metrics-server"]
            .map(|name| Pod {
                name: name.to_owned(),
                node: "w1".to_owned(),
            })
            .into(),
        budgets: vec![(
            "shop/web".to_owned(),
            "2 of its 2 pods have to be healthy at any time".to_owned(),
        )],
    };
    let found = |intent: Intent, to: &str| {
        let kubelet = format!("kubelet 1.36.0 {to}");
        let server = format!("kube-apiserver 1.36.0 {to}");
        let mut world = world(intent, &[&kubelet, &server]);
        world.usage = [("m1".to_owned(), usage.clone())].into();
        let node = crate::desired::Node {
            health_port: None,
            name: "w1".to_owned(),
            zone: "a".to_owned(),
            is_tainted: false,
        };
        let other = crate::desired::Node {
            health_port: None,
            name: "m2".to_owned(),
            ..node.clone()
        };
        world.desired.hosts.get_mut("w1").unwrap().node = Some(node);
        world.desired.hosts.get_mut("m2").unwrap().node = Some(other);
        results(&world)
    };
    let api = "m1: since its API server started, clients asked for volumeattributesclasses.storage.k8s.io/v1beta1, which Kubernetes 1.37 no longer has: written by helm; have them ask for a newer version of that API, then restart kube-apiserver on each master, one after the other";
    let drained = [
        "Fatal bare-pods: w1: pod default/debug has no controller that would start it elsewhere; delete it, or let a Deployment have it; its node is drained",
        "Fatal budgets: m1: PodDisruptionBudget shop/web allows no eviction: 2 of its 2 pods have to be healthy at any time; add a replica, or let the budget allow one to be away",
        "Warning local-data: w1: pod shop/cache loses its emptyDir volumes when its node is drained; copy what is to last elsewhere before",
    ];
    assert_eq!(
        found(Intent::Finish, "1.37.0"),
        [
            &format!("Fatal removed-apis: {api}")[..],
            drained[0],
            drained[1],
            drained[2]
        ]
    );
    assert_eq!(
        found(Intent::Upgrade, "1.37.0"),
        [
            drained[0],
            drained[1],
            &format!("Warning removed-at-finish: {api}"),
            drained[2]
        ]
    );
    // A patch release drains nothing, and has all APIs.
    assert_eq!(found(Intent::Upgrade, "1.36.4"), [""; 0]);
}

#[test]
fn certificates_outlive_an_upgrade() {
    let ends_in = |days: i64| {
        let mut world = world(Intent::Upgrade, &[]);
        for facts in world.facts.values_mut() {
            facts.clock = 1e9;
        }
        let end = 1_000_000_000 + days * 86_400;
        world.certificates = [("apiserver m1".to_owned(), end)].into();
        results(&world)
    };
    assert_eq!(ends_in(8), [""; 0]);
    assert_eq!(
        ends_in(3),
        [
            "Fatal certificates: m1: 1 of the site's certificates ends within 7 days, the first (apiserver m1) in 3.0; move their files out of the site's `pki`, then run the same command again: it issues them anew"
        ]
    );
}
