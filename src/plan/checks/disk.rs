//! File systems and the space on them. Any of the directories that are written
//! to may be a mount of its own, so that all is asked of the file system that a
//! path really lies on.

use super::{Finding, Question, Subject, finding};
use crate::desired::{Content, FileKind, Stage};
use crate::facts::{Entry, FilesystemFacts};
use crate::inventory::{Component, Host, Role};
use crate::layout;
use crate::plan::diff::HostDiff;
use crate::plan::restore::is_done;
use crate::plan::title::size;
use crate::plan::versions;
use camino::Utf8Path;
use std::collections::{BTreeMap, BTreeSet};

/// An image lies in containerd's content store as it is, and again unpacked,
/// where layers are about half as large again: measured on the bundle's own.
const IMAGE_FACTOR_TENTHS: u64 = 25;
/// A new member of etcd begins with two segments of its log, which take their
/// 64 MB each at once, and grows from there.
const ETCD_BEGINNING: u64 = 256 << 20;
/// Room that each file system keeps: logs, etcd's data, other people's files.
const MARGIN: u64 = 512 << 20;
/// kubelet evicts pods when less than this is left, in percent of the file
/// system (`nodefs.available` of its defaults).
const EVICTION_PERCENT: u64 = 10;
/// The same for a file system that has images and containers alone
/// (`imagefs.available`).
const IMAGE_EVICTION_PERCENT: u64 = 15;

/// What is run from a file system, and where from. Root file systems of
/// containers are not among it: overlayfs gives them mount flags of their own,
/// whatever `noexec`, `nosuid` or `nodev` the disk below them has. Volumes are
/// bind mounts, and keep it.
const RUN_FROM: [(&str, &str); 4] = [
    (layout::ROOT, "the agent"),
    (layout::STORE, "Kubernetes' programs"),
    (layout::CONTAINERD, "programs in images' volumes"),
    (layout::KUBELET, "programs in pods' volumes"),
];

pub(super) fn mounts(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        let used = subject.facts.filesystems.iter();
        let used: Vec<_> = used
            .filter(|filesystem| is_used(subject.host, &filesystem.path))
            .collect();
        let mut read_only: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut noexec: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for filesystem in used {
            let path = filesystem.path.as_str();
            let mount_point = filesystem.mount_point.as_str();
            if filesystem.read_only {
                read_only.entry(mount_point).or_default().push(path);
            }
            let run = RUN_FROM.iter().find(|(place, _)| *place == path);
            if let Some((place, what)) = run.filter(|_| filesystem.noexec) {
                let told = format!("{what} ({place})");
                noexec.entry(mount_point).or_default().push(told);
            }
        }
        for (mount_point, paths) in read_only {
            let found = format!(
                "{mount_point} is mounted read-only, and must be written to: {}",
                paths.join(", ")
            );
            let remedy = format!("mount it with `mount -o remount,rw {mount_point}`");
            findings.push(finding(&subject, found, remedy));
        }
        for (mount_point, what) in noexec {
            let found = format!(
                "{mount_point} is mounted noexec, so that what is there does not run: {}",
                what.join(", ")
            );
            let remedy = format!(
                "mount it with `mount -o remount,exec {mount_point}`, and so in /etc/fstab"
            );
            findings.push(finding(&subject, found, remedy));
        }
    }
    findings
}

pub(super) fn free_space(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        for need in needs(question, &subject) {
            let needed_with_margin = need.bytes + MARGIN;
            if need.bytes == 0 || need.filesystem.free_bytes >= needed_with_margin {
                continue;
            }
            let mount_point = &need.filesystem.mount_point;
            let what: Vec<&str> = need.what.into_iter().collect();
            let found = format!(
                "{mount_point} has {} free, {} are needed ({})",
                size(need.filesystem.free_bytes),
                size(needed_with_margin),
                what.join(", ")
            );
            let remedy = format!("free or add space on {mount_point}");
            findings.push(finding(&subject, found, remedy));
        }
    }
    findings
}

pub(super) fn eviction(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        let config = question
            .inventory
            .override_config(subject.host, Component::Kubelet);
        if !subject.host.is_node() || config.contains_key("evictionHard") {
            continue;
        }
        let needs = needs(question, &subject);
        let pods = filesystem_of(&subject, layout::KUBELET);
        let images = filesystem_of(&subject, layout::CONTAINERD);
        // kubelet looks at images apart only where they have a disk of their own.
        let apart = images.filter(|images| pods.is_none_or(|pods| pods.device != images.device));
        let watched = [(pods, EVICTION_PERCENT), (apart, IMAGE_EVICTION_PERCENT)];
        for (filesystem, percent) in watched {
            let Some(filesystem) = filesystem else {
                continue;
            };
            let mut on_it = needs
                .iter()
                .filter(|need| need.filesystem.device == filesystem.device);
            let needed = on_it.next().map_or(0, |need| need.bytes);
            let left = filesystem.free_bytes.saturating_sub(needed);
            let least = filesystem.total_bytes / 100 * percent;
            if left >= least {
                continue;
            }
            let found = format!(
                "{} will have {} left of {}, and kubelet evicts pods below {percent} %",
                filesystem.mount_point,
                size(left),
                size(filesystem.total_bytes)
            );
            let remedy = "free or add space, or lower `evictionHard` by an override of kubelet's \
                          configuration";
            findings.push(finding(&subject, found, remedy));
        }
    }
    findings
}

/// Whether something on the host writes to one of [`layout::PLACES`].
fn is_used(host: &Host, place: &str) -> bool {
    match place {
        layout::CONTAINERD | layout::KUBELET => host.is_node(),
        layout::ETCD => host.has(Role::Etcd),
        layout::REGISTRY => host.has(Role::Registry),
        _ => true,
    }
}

/// The file system that a path is on.
fn filesystem_of<'a>(subject: &Subject<'a>, path: &str) -> Option<&'a FilesystemFacts> {
    let above = subject.facts.filesystems.iter();
    above
        .filter(|filesystem| Utf8Path::new(path).starts_with(&filesystem.path))
        .max_by_key(|filesystem| filesystem.path.len())
}

/// What is still to come onto a file system.
struct Need<'a> {
    /// As one of the paths on it has it: its mount point, where others lie on
    /// it by another, is told of this one.
    filesystem: &'a FilesystemFacts,
    bytes: u64,
    what: BTreeSet<&'static str>,
}

/// What is still to come onto each file system of the host. Paths on one
/// device share its space.
fn needs<'a>(question: &Question, subject: &Subject<'a>) -> Vec<Need<'a>> {
    let mut by_device: BTreeMap<u64, Need> = BTreeMap::new();
    for Demand { path, bytes, what } in demands(question, subject) {
        let filesystem = filesystem_of(subject, &path).filter(|_| bytes > 0);
        let Some(filesystem) = filesystem else {
            continue;
        };
        let need = by_device.entry(filesystem.device).or_insert(Need {
            filesystem,
            bytes: 0,
            what: BTreeSet::new(),
        });
        need.bytes += bytes;
        need.what.insert(what);
    }
    by_device.into_values().collect()
}

/// Something that will take space below a path.
struct Demand {
    path: String,
    bytes: u64,
    what: &'static str,
}

fn demands(question: &Question, subject: &Subject) -> Vec<Demand> {
    let Some(desired) = subject.desired else {
        return Vec::new();
    };
    let host = HostDiff::new(&subject.host.name, desired, subject.facts, None);
    let demand = |path: &str, bytes, what| Demand {
        path: path.to_owned(),
        bytes,
        what,
    };
    let images: u64 = host.images().values().map(|image| image.size).sum();
    let images = images * IMAGE_FACTOR_TENTHS / 10;
    let (programs, staged) = programs(&host);
    let mut demands = vec![
        demand(layout::STORE, programs, "programs"),
        demand(layout::STAGING, staged, "programs on their way"),
        demand(layout::REGISTRY, blobs(&host), "the registry's content"),
        demand(layout::CONTAINERD, images, "images"),
        demand(layout::ETCD, etcd(&host), "etcd's data"),
        demand(layout::SNAPSHOTS, snapshot(&host), "a snapshot of etcd"),
    ];
    let restore = question
        .desired
        .and_then(|desired| desired.restore.as_ref());
    if let Some(restore) = restore.filter(|restore| !is_done(restore, desired, subject.facts)) {
        let what = "etcd, restored";
        demands.push(demand(layout::STAGING, restore.size, what));
        demands.push(demand(layout::ETCD, restore.size + ETCD_BEGINNING, what));
    }
    for (path, changed) in &host.files {
        let bytes = match &changed.file.content {
            Content::Plain(bytes) | Content::Secret(bytes) => bytes.len() as u64,
            Content::Directory | Content::Pending => 0,
        };
        // One that is there makes room for its successor. (Whether trust
        // differs can't be told here, without the site's key.)
        let found = host.facts.files.get(*path).map(|found| &found.entry);
        if matches!(found, Some(Entry::File { size, .. }) if *size >= bytes) {
            continue;
        }
        demands.push(demand(path, bytes, "configuration"));
        if changed.file.kind == FileKind::Software {
            demands.push(demand(layout::GENERATIONS, bytes, "configuration"));
        }
    }
    demands
}

/// Bytes of the programs that the store lacks, and of those among them that
/// lie there compressed before they are unpacked.
fn programs(host: &HostDiff) -> (u64, u64) {
    let (mut programs, mut staged) = (0, 0);
    for stage in Stage::ALL {
        let missing = host.binaries(stage);
        let absent = missing
            .iter()
            .map(|changed| changed.binary)
            .filter(|binary| !host.facts.store.contains_key(&binary.digest));
        for binary in absent {
            programs += binary.size;
            // Later ones come from a registry and are unpacked on the way.
            if stage < Stage::Stage {
                staged += binary.blob_size;
            }
        }
    }
    (programs, staged)
}

/// Bytes that the host's registry lacks.
fn blobs(host: &HostDiff) -> u64 {
    let seeds = host.seeds();
    let held = host.facts.registry.as_ref();
    let missing: BTreeMap<_, u64> = seeds
        .iter()
        .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests))
        .filter(|blob| !held.is_some_and(|held| held.blobs.contains_key(&blob.digest)))
        .map(|blob| (blob.digest, blob.size))
        .collect();
    missing.values().sum()
}

/// Bytes of a snapshot of etcd, and of what is restored from it to prove it.
fn snapshot(host: &HostDiff) -> u64 {
    let changes = versions::changes(host.desired, host.facts)
        .any(|change| ["etcd", "kube-apiserver"].contains(&change.program));
    let members = host.facts.etcd.iter().flat_map(|etcd| &etcd.members);
    let largest = members.filter_map(|member| Some(member.status.as_ref()?.database_bytes));
    match (changes, host.desired.etcd.is_some()) {
        (true, true) => largest.max().unwrap_or_default() * 2 + ETCD_BEGINNING,
        _ => 0,
    }
}

/// Bytes of a member of etcd that is still to be made.
fn etcd(host: &HostDiff) -> u64 {
    let unit = host
        .desired
        .units
        .iter()
        .find(|unit| unit.stage == Stage::Etcd);
    let is_known = |name: &str| {
        let facts = host.facts.units.get(name);
        facts.is_some_and(|facts| facts.load == "loaded")
    };
    match unit {
        Some(unit) if !is_known(&unit.name) => ETCD_BEGINNING,
        _ => 0,
    }
}
