//! A world in which all is well, and one thing at a time that isn't.

use super::*;
use crate::desired::{
    Binary, Content, EtcdMembership, EtcdRestore, File, FileKind, Needs, NodeImage, Stage,
};
use crate::digest::Digest;
use crate::facts::{
    Cgroups, EtcdFacts, EtcdMember, FilesystemFacts, InterfaceFacts, ListeningSocket, RouteFacts,
};
use crate::layout;

mod disk;
mod versions;

const GIGABYTE: u64 = 1_000_000_000;

struct World {
    inventory: String,
    facts: BTreeMap<String, HostFacts>,
    clock_offsets: BTreeMap<String, f64>,
    platforms: BTreeSet<String>,
    decisions: Decisions,
    desired: Desired,
    intent: Intent,
    usage: BTreeMap<String, UsageFacts>,
    certificates: BTreeMap<String, i64>,
    was_installed: bool,
    cluster: Option<crate::facts::ClusterFacts>,
}

fn good_world() -> World {
    let mut facts = BTreeMap::new();
    let mut desired = Desired::default();
    for (name, address) in [
        ("m1", "10.77.1.11"),
        ("m2", "10.77.2.11"),
        ("w1", "10.77.1.21"),
    ] {
        facts.insert(name.to_owned(), good_facts(name, address));
        let binary = Binary {
            digest: Digest::of("kubelet"),
            size: 400_000_000,
            blob: Digest::of("kubelet.zst"),
            blob_size: 100_000_000,
            repository: "cofferdam/file/kubelet".to_owned(),
            version: "1.36.0".to_owned(),
        };
        let image = NodeImage {
            digest: Digest::of("pause"),
            size: 200_000_000,
        };
        let host = DesiredHost {
            binaries: [("kubelet".to_owned(), binary)].into(),
            images: [("registry.k8s.io/pause:3.10.2".to_owned(), image)].into(),
            ..DesiredHost::default()
        };
        desired.hosts.insert(name.to_owned(), host);
    }
    World {
        inventory: "[cluster]\nname = \"lab\"\nsurvive = \"nothing\"\n[zones.a]\n[zones.b]\n\
            [[hosts]]\nname = \"m1\"\naddress = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n\
            [[hosts]]\nname = \"m2\"\naddress = \"10.77.2.11\"\nzone = \"b\"\nroles = [\"control-plane\"]\n\
            [[hosts]]\nname = \"w1\"\naddress = \"10.77.1.21\"\nzone = \"a\"\nroles = [\"worker\"]\n"
            .to_owned(),
        facts,
        clock_offsets: [("m1", 100.0), ("m2", 100.5), ("w1", -100.0)]
            .map(|(name, offset)| (name.to_owned(), offset))
            .into(),
        platforms: ["linux/amd64".to_owned()].into(),
        decisions: Decisions {
            pod_mtu: Some(1450),
            ..Decisions::default()
        },
        desired,
        intent: Intent::Install,
        usage: BTreeMap::new(),
        certificates: BTreeMap::new(),
        was_installed: false,
        cluster: None,
    }
}

fn good_facts(name: &str, address: &str) -> HostFacts {
    let mut facts = HostFacts::default();
    let system = &mut facts.system;
    system.machine_id = format!("id-of-{name}");
    system.kernel = "6.12.0-1-amd64".to_owned();
    system.platform = "linux/amd64".to_owned();
    system.systemd_version = 257;
    system.cgroups = Cgroups::V2;
    system.memory_bytes = 4 * GIGABYTE;
    system.cpus = 2;
    system.nft_version = Some("1.1.3".to_owned());
    facts.interfaces.push(InterfaceFacts {
        name: "host0".to_owned(),
        addresses: vec![format!("{address}/24").parse().unwrap()],
        mtu: 1500,
    });
    facts.filesystems = layout::PLACES
        .map(|path| {
            let is_var = path.starts_with("/var");
            FilesystemFacts {
                path: path.to_owned(),
                mount_point: if is_var { "/var" } else { "/" }.to_owned(),
                device: if is_var { 2 } else { 1 },
                total_bytes: 20 * GIGABYTE,
                free_bytes: 10 * GIGABYTE,
                read_only: false,
                noexec: false,
            }
        })
        .into();
    facts
}

/// `severity check: host: found; remedy`, a line each.
fn results(world: &World) -> Vec<String> {
    let file = camino::Utf8Path::new("inventory.toml");
    let inventory = crate::inventory::parse(&world.inventory, file).unwrap();
    let question = Question {
        inventory: &inventory,
        facts: &world.facts,
        clock_offsets: &world.clock_offsets,
        platforms: &world.platforms,
        decisions: &world.decisions,
        desired: Some(&world.desired),
        intent: world.intent,
        cluster: world.cluster.as_ref(),
        usage: &world.usage,
        certificates: &world.certificates,
        was_installed: world.was_installed,
    };
    let results = check(&question);
    results
        .iter()
        .map(|result| format!("{:?} {}: {result}", result.severity, result.check))
        .collect()
}

fn with(change: impl FnOnce(&mut HostFacts)) -> World {
    let mut world = good_world();
    change(world.facts.get_mut("w1").unwrap());
    world
}

/// The file system under one of the places.
fn at<'a>(facts: &'a mut HostFacts, path: &str) -> &'a mut FilesystemFacts {
    let mut filesystems = facts.filesystems.iter_mut();
    filesystems
        .find(|filesystem| filesystem.path == path)
        .unwrap()
}

/// Leaves so many bytes on a device.
fn leave(facts: &mut HostFacts, device: u64, bytes: u64) {
    let filesystems = facts.filesystems.iter_mut();
    for filesystem in filesystems.filter(|filesystem| filesystem.device == device) {
        filesystem.free_bytes = bytes;
    }
}

fn socket(port: u16, address: &str, process: Option<&str>, unit: Option<&str>) -> ListeningSocket {
    ListeningSocket {
        protocol: if port == 8472 { "udp" } else { "tcp" }.to_owned(),
        address: address.parse().unwrap(),
        port,
        process: process.map(str::to_owned),
        unit: unit.map(str::to_owned),
    }
}

#[test]
fn a_good_world_passes() {
    assert_eq!(results(&good_world()), Vec::<String>::new());
}

/// A world whose m2 is to join an etcd that has these members, by address.
fn joining(members: &[&str]) -> World {
    let mut world = good_world();
    for (index, name) in ["m1", "m2"].into_iter().enumerate() {
        let host = world.desired.hosts.get_mut(name).unwrap();
        host.etcd = Some(EtcdMembership {
            peer_url: format!("https://10.77.{}.11:2380", index + 1),
            client_url: format!("https://10.77.{}.11:2379", index + 1),
            joins: index.checked_sub(1),
        });
    }
    let member = |address: &&str| EtcdMember {
        id: "8e9e05c52164694d".to_owned(),
        name: format!("at {address}"),
        peer_urls: vec![format!("https://{address}:2380")],
        learner: false,
        status: None,
    };
    let m1 = world.facts.get_mut("m1").unwrap();
    m1.etcd = Some(EtcdFacts {
        members: members.iter().map(member).collect(),
        ..EtcdFacts::default()
    });
    world
}

#[test]
fn etcd_and_inventory_must_agree_on_members() {
    let found = |world: &World| -> Vec<String> {
        let results = results(world).into_iter();
        results
            .map(|line| line.split(';').next().unwrap_or_default().to_owned())
            .collect()
    };
    let stranger = "Fatal etcd-members: m1: etcd has a member that the inventory does not name: \
        at 10.77.3.11 (https://10.77.3.11:2380)";
    let lost = "Fatal etcd-members: m1: it was a member of etcd, which has it no longer";
    for (members, expected) in [
        (&["10.77.1.11"][..], vec![]),
        (&["10.77.1.11", "10.77.2.11"], vec![]),
        // Whether or not somebody joins: ending it would take its vote away.
        (&["10.77.1.11", "10.77.3.11"], vec![stranger]),
        (&["10.77.1.11", "10.77.2.11", "10.77.3.11"], vec![stranger]),
        (&["10.77.2.11"], vec![lost]),
    ] {
        assert_eq!(found(&joining(members)), expected, "{members:?}");
    }
    let mut world = joining(&["10.77.1.11"]);
    world.facts.get_mut("m2").unwrap().etcd_data = true;
    let stale = "Fatal etcd-members: m2: it holds data of a member that etcd does not know";
    assert_eq!(found(&world), [stale]);

    // A voter or an earlier joiner is left out.
    let mut world = joining(&["10.77.1.11"]);
    let mut third = world.desired.hosts["m2"].clone();
    third.etcd = Some(EtcdMembership {
        peer_url: "https://10.77.3.13:2380".to_owned(),
        client_url: "https://10.77.3.13:2379".to_owned(),
        joins: Some(1),
    });
    world.desired.hosts.insert("m3".to_owned(), third);
    let hindered =
        "Fatal etcd-members: m2: it is to join etcd, which takes nobody while m3 is gone";
    assert_eq!(found(&world), [hindered]);
}

#[test]
fn a_member_whose_data_is_gone_begins_no_cluster_of_its_own() {
    let found = |world: &World| -> Vec<String> {
        let results = results(world).into_iter();
        results.filter(|line| line.contains("etcd-data")).collect()
    };
    let mut world = joining(&["10.77.1.11"]);
    world.was_installed = true;
    assert_eq!(found(&world), [""; 0], "all was lost, or nothing was there");
    // m2 is to join, and m1 is known to etcd.
    world.facts.get_mut("m2").unwrap().etcd_data = true;
    let line = found(&world).join("\n");
    assert!(
        line.starts_with("Fatal etcd-data: m1: it is a member of etcd"),
        "{line}"
    );
    assert!(line.contains("member remove"), "{line}");
    // Nobody can be asked for the members.
    world.facts.get_mut("m1").unwrap().etcd = None;
    let line = found(&world).join("\n");
    assert!(line.contains("cofferdam etcd restore"), "{line}");
    // A first install that was cut short, and a restore.
    world.was_installed = false;
    assert_eq!(found(&world), [""; 0]);
    world.was_installed = true;
    world.desired.restore = Some(EtcdRestore {
        token: "t".to_owned(),
        snapshot: Digest::of("x"),
        size: 1,
    });
    assert_eq!(found(&world), [""; 0]);
}

#[test]
fn every_check_finds_its_fault() {
    let cases: Vec<(World, &str)> = vec![
        (
            with(|facts| facts.system.user_id = 1000),
            "Fatal root: w1: the agent runs as user 1000",
        ),
        (
            with(|facts| facts.system.platform = "linux/arm64".to_owned()),
            "Fatal architecture: w1: it is linux/arm64, and the bundle carries linux/amd64",
        ),
        (
            with(|facts| facts.system.kernel = "5.10.0-30-amd64".to_owned()),
            "Fatal kernel: w1: kernel 5.10.0-30-amd64, 5.13 or newer is needed",
        ),
        (
            with(|facts| facts.system.systemd_version = 239),
            "Fatal systemd: w1: systemd 239",
        ),
        (
            with(|facts| facts.system.cgroups = Cgroups::Hybrid),
            "Fatal cgroups: w1: control groups are v1 with a v2 hierarchy beside it",
        ),
        (
            with(|facts| facts.system.memory_bytes = GIGABYTE / 2),
            "Fatal memory: w1: 500 MB of memory, 700 MB are needed",
        ),
        (
            with(|facts| facts.system.nft_version = None),
            "Fatal nft: w1: `nft` is not there",
        ),
        (
            with(|facts| facts.system.nft_version = Some("0.9.8".to_owned())),
            "Fatal nft: w1: nft 0.9.8 is too old",
        ),
        (
            with(|facts| facts.system.machine_id = "id-of-m1".to_owned()),
            "Fatal identity: w1: it has the machine id of m1",
        ),
        (
            with(|facts| facts.interfaces[0].addresses.clear()),
            "Fatal addresses: w1: none of its interfaces that are up holds 10.77.1.21",
        ),
        (
            with(|facts| {
                facts.interfaces[0]
                    .addresses
                    .push("10.77.1.11/24".parse().unwrap())
            }),
            "Fatal addresses: m1: its address 10.77.1.11 is held by w1 too",
        ),
        (
            with(|facts| {
                facts.interfaces[0]
                    .addresses
                    .push("10.96.0.7/24".parse().unwrap())
            }),
            "Fatal networks: w1: addresses of Services (10.96.0.0/16) are in use there: 10.96.0.7/24 on host0",
        ),
        (
            with(|facts| {
                facts.routes.push(RouteFacts {
                    destination: "10.244.7.0/24".parse().unwrap(),
                    gateway: None,
                    source: None,
                    interface: "host0".to_owned(),
                    ours: false,
                });
            }),
            "Fatal networks: w1: addresses of pods (10.244.0.0/16) are in use there: a route to 10.244.7.0/24 by host0",
        ),
        (
            with(|facts| facts.interfaces[0].mtu = 1400),
            "Fatal mtu: w1: host0 has an MTU of 1400, and pods' packets of 1450 bytes need 1500",
        ),
        (
            with(|facts| {
                let nginx = socket(10250, "0.0.0.0", Some("nginx"), Some("nginx.service"));
                facts.listening.push(nginx);
            }),
            "Fatal ports: w1: port 10250/tcp is taken by nginx (nginx.service), kubelet needs it",
        ),
        (
            with(|facts| facts.listening.push(socket(8472, "0.0.0.0", None, None))),
            "Fatal ports: w1: port 8472/udp is taken by the kernel, flannel needs it",
        ),
        (
            with(|facts| facts.remains.push("/etc/rancher".to_owned())),
            "Fatal remains: w1: another installer has been here: /etc/rancher",
        ),
        (
            with(|facts| facts.system.selinux = Some("enforcing".to_owned())),
            "Fatal selinux: w1: SELinux enforces",
        ),
        (
            with(|facts| {
                facts.system.active_services.insert("firewalld".to_owned());
            }),
            "Fatal firewalld: w1: firewalld runs",
        ),
        (
            with(|facts| {
                facts.system.active_services.insert("fapolicyd".to_owned());
            }),
            "Fatal fapolicyd: w1: fapolicyd runs",
        ),
        (
            with(|facts| at(facts, layout::ROOT).noexec = true),
            "Fatal mounts: w1: / is mounted noexec, so that what is there does not run: the agent (/opt/cofferdam)",
        ),
        (
            with(|facts| at(facts, layout::STATE).read_only = true),
            "Fatal mounts: w1: /var is mounted read-only, and must be written to: /var/lib/cofferdam",
        ),
        (
            with(|facts| leave(facts, 1, GIGABYTE / 2)),
            "Fatal free-space: w1: / has 500 MB free, 936 MB are needed",
        ),
        (
            with(|facts| leave(facts, 2, GIGABYTE)),
            "Fatal free-space: w1: /var has 1.0 GB free, 1.0 GB are needed",
        ),
        (
            with(|facts| leave(facts, 2, 2 * GIGABYTE)),
            "Warning eviction: w1: /var will have 1.5 GB left of 20 GB",
        ),
    ];
    for (world, expected) in cases {
        let results = results(&world);
        let found = results.iter().any(|result| result.starts_with(expected));
        assert!(found, "expected `{expected}`, found {results:#?}");
        assert!(
            results.len() <= 2,
            "one fault gives one finding: {results:#?}"
        );
    }
}

#[test]
fn odd_hosts_pass_where_the_inventory_or_cofferdam_itself_explains_them() {
    let mut hybrid = with(|facts| facts.system.cgroups = Cgroups::Hybrid);
    hybrid.inventory += "[overrides.kubelet]\nconfig = { failCgroupV1 = false }\n";
    let mut tight = with(|facts| leave(facts, 2, 2 * GIGABYTE));
    tight.inventory +=
        "[overrides.kubelet]\nconfig = { evictionHard = { \"nodefs.available\" = \"2%\" } }\n";
    let installed = |change: fn(&mut HostFacts)| {
        let mut world = with(|facts| {
            facts.trust.insert("/etc/kubernetes/pki/ca.crt".to_owned());
            change(facts);
        });
        let host = world.desired.hosts.get_mut("w1").unwrap();
        host.units.push(crate::desired::Unit {
            name: "kubelet.service".to_owned(),
            stage: Stage::Nodes,
            inputs: None,
            pending: false,
            needs: Needs::default(),
            change: crate::desired::Change::Restart,
            ready: None,
        });
        world
    };
    let kubelet = installed(|facts| {
        let ours = socket(
            10250,
            "10.77.1.21",
            Some("kubelet"),
            Some("kubelet.service"),
        );
        facts.listening.push(ours);
    });
    let vxlan = installed(|facts| facts.listening.push(socket(8472, "0.0.0.0", None, None)));
    let proxy = installed(|facts| {
        let unit = Some("init.scope");
        facts
            .listening
            .push(socket(6444, "127.0.0.1", Some("systemd"), unit));
    });
    let elsewhere = with(|facts| {
        let other = socket(10250, "192.0.2.7", Some("nginx"), Some("nginx.service"));
        facts.listening.push(other);
    });
    let overlay = with(|facts| {
        facts.routes.push(RouteFacts {
            destination: "10.244.7.0/24".parse().unwrap(),
            gateway: None,
            source: None,
            interface: "flannel.1".to_owned(),
            ours: false,
        });
    });
    for world in [hybrid, tight, kubelet, vxlan, proxy, elsewhere, overlay] {
        assert_eq!(results(&world), Vec::<String>::new());
    }
}

#[test]
fn clocks_agree_more_closely_between_masters() {
    let mut world = good_world();
    world.clock_offsets.insert("m2".to_owned(), 103.0);
    world.clock_offsets.insert("w1".to_owned(), -700.0);
    let results = results(&world);
    assert!(results[0].starts_with(
        "Fatal clock: w1: its clock is 700 s behind this machine's, 600 s are allowed"
    ));
    assert!(
        results[1].starts_with(
            "Fatal clock: m2: its clock is 3.0 s apart from that of m1, 2 s are allowed"
        )
    );
    assert_eq!(results.len(), 2);
}

/// Whether the check `owner` refuses a host with this mark, if it has one,
/// when this is desired.
fn owner_refuses(found: Option<&str>, wanted: Content) -> bool {
    let mut world = good_world();
    let file = File {
        content: wanted,
        mode: 0o644,
        user: "root".to_owned(),
        group: "root".to_owned(),
        kind: FileKind::Software,
        part: None,
    };
    let path = crate::layout::SITE_MARK.to_owned();
    if let Some(host) = world.desired.hosts.get_mut("m1") {
        host.files.insert(path.clone(), file);
    }
    if let (Some(text), Some(facts)) = (found, world.facts.get_mut("m1")) {
        let entry = crate::facts::Entry::File {
            size: text.len() as u64,
            digest: Some(Digest::of(text)),
        };
        let mark = crate::facts::FileFacts {
            entry,
            mode: 0o644,
            user: "root".to_owned(),
            group: "root".to_owned(),
        };
        facts.files.insert(path, mark);
    }
    let results = results(&world);
    results
        .iter()
        .any(|result| result.starts_with("Fatal owner: m1"))
}

#[test]
fn a_host_of_another_site_is_left_alone() {
    let ours = || Content::Plain(b"lab sha256:aa\n".to_vec());
    assert!(!owner_refuses(None, ours()), "a bare host");
    assert!(
        !owner_refuses(None, Content::Pending),
        "a bare host, a new site"
    );
    assert!(!owner_refuses(Some("lab sha256:aa\n"), ours()), "our own");
    assert!(
        owner_refuses(Some("lab sha256:bb\n"), ours()),
        "another site's"
    );
    assert!(
        owner_refuses(Some("lab sha256:aa\n"), Content::Pending),
        "a lost site"
    );
}
