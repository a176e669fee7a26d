//! What holds of every desired state, whatever the inventory.

use super::*;
use crate::agent::serve::FINISH_LIMIT;
use crate::inventory;
use crate::site::{Decisions, HostDecisions, Site};
use crate::{digest::Digest, plan::ServiceRoute};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeSet;
use time::OffsetDateTime;

mod foreign;
mod overrides;
mod zones;

const SMALL: &str = r#"
[cluster]
name = "lab"
[zones.a]
[zones.b]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
[[hosts]]
name = "w1"
address = "10.77.1.21"
zone = "a"
roles = ["worker"]
[[hosts]]
name = "w2"
address = "10.77.2.21"
zone = "b"
roles = ["worker"]
labels = { "example.com/rack" = "r1" }
[overrides.kubelet]
config = { failCgroupV1 = false }
flags = { v = "2" }
[overrides.containerd]
config = { plugins = { "io.containerd.cri.v1.runtime" = { restrict_oom_score_adj = true } } }
"#;

const ALONE: &str = r#"
[cluster]
name = "alone"
[zones.a]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
"#;

const FILES: [&str; 23] = [
    "bandwidth",
    "bridge",
    "cofferdam",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "etcd",
    "etcdctl",
    "etcdutl",
    "flanneld",
    "host-local",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "loopback",
    "portmap",
    "registry",
    "runc",
    "unused",
    "unused-too",
];

pub(crate) fn bundle() -> BundleView {
    let artifact = |repository: &str, tag: &str| RegistryArtifact {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        blobs: vec![BlobReference {
            digest: Digest::of(format!("{repository} blob")),
            size: 10,
            media_type: "application/octet-stream".to_owned(),
        }],
        manifests: vec![BlobReference {
            digest: Digest::of(format!("{repository} manifest")),
            size: 5,
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        }],
    };
    let files = FILES.iter().map(|name| {
        let binary = Binary {
            digest: Digest::of(name),
            size: 100,
            blob: Digest::of(format!("{name} blob")),
            blob_size: 50,
            repository: format!("cofferdam/file/{name}"),
            version: "1.0.0".to_owned(),
        };
        ((*name).to_owned(), binary)
    });
    let images = [
        ("registry.k8s.io/pause", "3.10.2"),
        ("registry.k8s.io/coredns/coredns", "v1.14.7"),
        ("registry.k8s.io/metrics-server/metrics-server", "v0.9.0"),
        ("docker.io/library/busybox", "1.36.1"),
    ];
    BundleView {
        name: "kubernetes-1.36".to_owned(),
        version: "1.36.0".to_owned(),
        files: [("linux/amd64".to_owned(), files.collect())].into(),
        flags: Default::default(),
        fields: Default::default(),
        images: images
            .iter()
            .map(|(repository, tag)| BundleImage {
                reference: format!("{repository}:{tag}"),
                artifact: artifact(repository, tag),
                sizes: [("linux/amd64".to_owned(), 15)].into(),
            })
            .collect(),
        file_artifacts: FILES.iter().map(|name| artifact(name, "1.0.0")).collect(),
        manifests: [
            (
                "coredns".to_owned(),
                include_str!("../../bundles/manifests/coredns.yaml").to_owned(),
            ),
            (
                "metrics-server".to_owned(),
                include_str!("../../bundles/manifests/metrics-server.yaml").to_owned(),
            ),
        ]
        .into(),
    }
}

fn decisions(inventory: &Inventory) -> Decisions {
    Decisions {
        etcd_bootstrap: inventory
            .etcd_members()
            .iter()
            .map(|host| host.name.clone())
            .collect(),
        etcd_joined: Vec::new(),
        pod_mtu: Some(1450),
        hosts: inventory
            .hosts
            .iter()
            .map(|host| {
                let decided = HostDecisions {
                    service_route: Some(ServiceRoute {
                        interface: "host0".to_owned(),
                        source: host.address.into(),
                    }),
                    interface: "host0".to_owned(),
                    protocol_names: true,
                    network_manager: true,
                    platform: "linux/amd64".to_owned(),
                };
                (host.name.clone(), decided)
            })
            .collect(),
    }
}

/// Before anything was minted, and after.
fn before_and_after(text: &str) -> (Desired, Desired) {
    let inventory = inventory::parse(text, Utf8Path::new("inventory.toml")).unwrap();
    of_inventory(&inventory)
}

/// Before and after minting.
fn of_inventory(inventory: &Inventory) -> (Desired, Desired) {
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(directory.path().join("site")).unwrap();
    let site = Site::open(&root, "test").unwrap();
    site.record_decisions(&decisions(inventory)).unwrap();
    let before = desired(inventory, &Software::of(bundle()), &site.view().unwrap()).unwrap();
    let specs = materials::materials(inventory);
    site.mint(
        &specs,
        OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap(),
    )
    .unwrap();
    let after = desired(inventory, &Software::of(bundle()), &site.view().unwrap()).unwrap();
    let again = desired(inventory, &Software::of(bundle()), &site.view().unwrap()).unwrap();
    assert_eq!(
        serde_json::to_string(&after).unwrap(),
        serde_json::to_string(&again).unwrap(),
        "a pure function gives the same twice"
    );
    (before, after)
}

fn text(host: &DesiredHost, path: &str) -> String {
    match &host.files[path].content {
        Content::Plain(bytes) | Content::Secret(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => unreachable!("{path} is {other:?}"),
    }
}

#[test]
fn minting_fills_contents_and_changes_nothing_else() {
    for inventory in [SMALL, ALONE] {
        let (before, after) = before_and_after(inventory);
        assert!(!before.to_mint.is_empty());
        assert!(after.to_mint.is_empty());
        for (name, host) in &after.hosts {
            let earlier = &before.hosts[name];
            let paths: Vec<&String> = host.files.keys().collect();
            assert_eq!(paths, earlier.files.keys().collect::<Vec<_>>());
            assert!(
                host.files
                    .values()
                    .all(|file| file.content != Content::Pending),
                "{name}"
            );
            assert!(host.units.iter().all(|unit| !unit.pending), "{name}");
            let units = |host: &DesiredHost| -> Vec<String> {
                host.units.iter().map(|unit| unit.name.clone()).collect()
            };
            assert_eq!(units(host), units(earlier));
        }
    }
}

/// An agent whose jump host is gone brings the step in hand to its end.
#[test]
fn what_is_stopped_together_stops_within_the_agents_limit() {
    let (_, after) = before_and_after(ALONE);
    // systemd's own limit, where the unit names none.
    let mut seconds = 0;
    for unit in &after.hosts["m1"].units {
        if !matches!(unit.stage, Stage::Etcd | Stage::ControlPlane) {
            continue;
        }
        let file = &after.hosts["m1"].files[&format!("{}{}", crate::layout::UNITS, unit.name)];
        let Content::Plain(text) = &file.content else {
            panic!("{} has no text", unit.name);
        };
        let text = String::from_utf8(text.clone()).unwrap();
        let limit = text
            .lines()
            .find_map(|line| line.strip_prefix("TimeoutStopSec="));
        seconds += limit.map_or(90, |limit| limit.parse::<u64>().unwrap());
    }
    assert!(
        (200..FINISH_LIMIT.as_secs()).contains(&seconds),
        "{seconds} s"
    );
}

#[test]
fn whatever_a_unit_reads_or_runs_is_desired_too() {
    for inventory in [SMALL, ALONE] {
        let (_, after) = before_and_after(inventory);
        for (name, host) in &after.hosts {
            for unit in &host.units {
                for path in &unit.needs.files {
                    assert!(
                        host.files.contains_key(path),
                        "{name}: {} needs {path}",
                        unit.name
                    );
                }
                for binary in &unit.needs.binaries {
                    assert!(
                        host.binaries.contains_key(binary),
                        "{name}: {} runs {binary}",
                        unit.name
                    );
                }
            }
            for (path, file) in &host.files {
                for owner in [&file.user, &file.group] {
                    let known = owner == "root" || host.users.contains(owner);
                    assert!(
                        known,
                        "{name}: {path} belongs to {owner}, whom nobody makes"
                    );
                }
            }
        }
    }
}

#[test]
fn every_path_on_a_command_line_is_needed_by_its_unit() {
    let (_, after) = before_and_after(SMALL);
    for (name, host) in &after.hosts {
        for unit in &host.units {
            let Some(file) = host
                .files
                .get(&format!("/etc/systemd/system/{}", unit.name))
            else {
                continue;
            };
            let Content::Plain(bytes) = &file.content else {
                unreachable!()
            };
            let unit_text = String::from_utf8(bytes.clone()).unwrap();
            let words =
                unit_text.split(|character: char| character.is_whitespace() || character == '=');
            let paths: BTreeSet<&str> = words
                .filter(|word| word.starts_with("/etc/") || word.starts_with("/opt/cofferdam/bin/"))
                .collect();
            for path in paths {
                let binary = path.strip_prefix("/opt/cofferdam/bin/");
                let needed = match binary {
                    Some(binary) => unit
                        .needs
                        .binaries
                        .contains(binary.split(':').next().unwrap()),
                    None => unit.needs.files.contains(path) || path.starts_with("/etc/cni"),
                };
                assert!(
                    needed,
                    "{name}: {} names {path}, but does not need it",
                    unit.name
                );
            }
        }
    }
}

#[test]
fn secrets_are_trust_and_readable_by_their_user_alone() {
    let (_, after) = before_and_after(SMALL);
    for (name, host) in &after.hosts {
        for (path, file) in &host.files {
            match &file.content {
                Content::Secret(_) => {
                    assert_eq!(file.kind, FileKind::Trust, "{name}: {path}");
                    assert_eq!(
                        file.mode & 0o037,
                        0,
                        "{name}: {path} has mode {:o}",
                        file.mode
                    );
                }
                Content::Plain(bytes) => {
                    let text = String::from_utf8_lossy(bytes);
                    assert!(!text.contains("PRIVATE KEY"), "{name}: {path}");
                    assert!(!text.contains("client-key-data"), "{name}: {path}");
                }
                _ => {}
            }
        }
    }
    let json = serde_json::to_string(&after).unwrap();
    assert!(!json.contains("PRIVATE") && !json.contains("client-key-data"));
}

#[test]
fn only_what_a_role_needs_is_on_a_host() {
    let (_, after) = before_and_after(SMALL);
    let worker = &after.hosts["w2"];
    for path in worker.files.keys() {
        assert!(!path.starts_with("/etc/etcd"), "{path}");
        assert!(!path.contains("ca.key") && !path.contains("sa."), "{path}");
        assert!(!path.contains("admin"), "{path}");
    }
    assert!(!worker.binaries.contains_key("etcd") && !worker.binaries.contains_key("unused"));
    let authorities: Vec<&String> = after.hosts["m1"]
        .files
        .keys()
        .filter(|path| path.ends_with("ca.key"))
        .collect();
    assert_eq!(
        authorities,
        ["/etc/kubernetes/pki/ca.key"],
        "no other CA's key leaves the site"
    );
}

#[test]
fn journald_finds_its_environment_before_var_is_mounted() {
    let (_, after) = before_and_after(ALONE);
    let drop_in = "/etc/systemd/system/systemd-journald.service.d/90-cofferdam.conf";
    assert!(
        text(&after.hosts["m1"], drop_in)
            .contains("EnvironmentFile=-/etc/cofferdam/inputs/systemd-journald.env\n")
    );
}

#[test]
fn masters_are_tainted_only_beside_workers() {
    let taints = |text_of: &str, host: &str| {
        let (_, after) = before_and_after(text_of);
        text(&after.hosts[host], "/etc/kubernetes/kubelet.yaml").contains("NoSchedule")
    };
    assert!(taints(SMALL, "m1"));
    assert!(!taints(SMALL, "w1"));
    assert!(!taints(ALONE, "m1"));
}

#[test]
fn every_image_of_a_manifest_is_pinned_by_digest() {
    let (_, after) = before_and_after(SMALL);
    let mut images = 0;
    for set in &after.manifests {
        for line in set
            .yaml
            .lines()
            .filter(|line| line.trim_start().starts_with("image:"))
        {
            assert!(line.contains("@sha256:"), "{}: {line}", set.name);
            images += 1;
        }
    }
    assert_eq!(images, 2);
}

#[test]
fn upstreams_never_get_a_way_out() {
    let (_, after) = before_and_after(SMALL);
    let host = &after.hosts["w2"];
    for upstream in ["registry.k8s.io", "docker.io", "_default"] {
        let hosts = text(
            host,
            &format!("/etc/containerd/certs.d/{upstream}/hosts.toml"),
        );
        let parsed: toml::Table = toml::from_str(&hosts).unwrap();
        let server = parsed["server"].as_str().unwrap();
        assert!(
            server.starts_with("https://10.77.1.11:5000/v2/"),
            "{server}"
        );
    }
}
