//! File systems and the space on them.

use super::{Finding, Question, Subject, finding};
use crate::desired::{Content, Stage};
use crate::facts::FilesystemFacts;
use crate::inventory::Component;
use crate::layout;
use crate::plan::diff::HostDiff;
use crate::plan::title::size;
use std::collections::BTreeMap;

/// An image lies in containerd's content store as it is, and again unpacked,
/// where layers are about half as large again: measured on the bundle's own.
const IMAGE_FACTOR_TENTHS: u64 = 25;
/// Room that each file system keeps: logs, etcd's data, other people's files.
const MARGIN: u64 = 512 << 20;
/// kubelet evicts pods when less than this is left, in percent of the file
/// system (`nodefs.available` of its defaults).
const EVICTION_PERCENT: u64 = 10;

pub(super) fn mounts(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        for filesystem in &subject.facts.filesystems {
            let FilesystemFacts {
                path, mount_point, ..
            } = filesystem;
            if filesystem.read_only {
                let found = format!("{path} can't be written: {mount_point} is mounted read-only");
                let remedy = format!("mount it with `mount -o remount,rw {mount_point}`");
                findings.push(finding(&subject, found, remedy));
            }
            let has_programs = path.starts_with("/opt") || path.starts_with("/var");
            if filesystem.noexec && has_programs {
                let found = format!(
                    "{path} is mounted noexec ({mount_point}), so that programs there don't run"
                );
                let remedy = format!(
                    "mount it with `mount -o remount,exec {mount_point}`, and so in /etc/fstab"
                );
                findings.push(finding(&subject, found, remedy));
            }
        }
    }
    findings
}

pub(super) fn free_space(question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    for subject in question.subjects() {
        for (filesystem, needed) in needs(&subject) {
            let needed_with_margin = needed + MARGIN;
            if needed == 0 || filesystem.free_bytes >= needed_with_margin {
                continue;
            }
            let found = format!(
                "{} has {} free, {} are needed",
                filesystem.mount_point,
                size(filesystem.free_bytes),
                size(needed_with_margin)
            );
            let remedy = format!("free or add space on {}", filesystem.mount_point);
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
        for (filesystem, needed) in needs(&subject) {
            let left = filesystem.free_bytes.saturating_sub(needed);
            let least = filesystem.total_bytes / 100 * EVICTION_PERCENT;
            let has_pods = filesystem.path.starts_with("/var");
            if !has_pods || left >= least {
                continue;
            }
            let found = format!(
                "{} will have {} left of {}, and kubelet evicts pods below {EVICTION_PERCENT} %",
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

/// What is still to come onto each file system of the host, in bytes. Paths
/// on one device share its space, and are told by the last of them.
fn needs<'a>(subject: &Subject<'a>) -> Vec<(&'a FilesystemFacts, u64)> {
    let Some(desired) = subject.desired else {
        return Vec::new();
    };
    let host = HostDiff::new(&subject.host.name, desired, subject.facts, None);
    let (mut programs, mut staged) = (0, 0);
    for stage in Stage::ALL {
        let missing = host.binaries(stage);
        let absent = missing
            .values()
            .filter(|binary| !subject.facts.store.contains_key(&binary.digest));
        for binary in absent {
            programs += binary.size;
            // Later ones come from a registry and are unpacked on the way.
            if stage < Stage::Stage {
                staged += binary.blob_size;
            }
        }
    }
    let seeds = host.seeds();
    let registry: BTreeMap<_, u64> = seeds
        .iter()
        .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests))
        .filter(|blob| {
            let held = subject.facts.registry.as_ref();
            !held.is_some_and(|held| held.blobs.contains_key(&blob.digest))
        })
        .map(|blob| (blob.digest, blob.size))
        .collect();
    let images: u64 = host.images().values().map(|image| image.size).sum();
    let files: u64 = host
        .files
        .values()
        .map(|changed| match &changed.file.content {
            Content::Plain(bytes) | Content::Secret(bytes) => bytes.len() as u64,
            Content::Directory | Content::Pending => 0,
        })
        .sum();
    let state = staged + registry.values().sum::<u64>() + images * IMAGE_FACTOR_TENTHS / 10 + files;
    let mut by_device: BTreeMap<u64, (&FilesystemFacts, u64)> = BTreeMap::new();
    for (path, bytes) in [
        (layout::STORE, programs),
        ("/etc", files),
        (layout::STATE, state),
    ] {
        let under = subject
            .facts
            .filesystems
            .iter()
            .filter(|filesystem| path.starts_with(filesystem.path.as_str()))
            .max_by_key(|filesystem| filesystem.path.len());
        if let Some(filesystem) = under {
            let entry = by_device
                .entry(filesystem.device)
                .or_insert((filesystem, 0));
            *entry = (filesystem, entry.1 + bytes);
        }
    }
    by_device.into_values().collect()
}
