//! What is laid down on hosts before Kubernetes starts.

use super::super::diff::{ChangedBinary, Comparison, HostDiff};
use super::super::order::{is_disruptive, one_by_one, side_by_side};
use super::super::{Action, FileChange, Lane, StagePlan, Step, title};
use super::units::{idle_unit_steps, unit_steps};
use super::{lanes, step};
use crate::desired::{Binary, BlobReference, Condition, FileKind, Stage};
use std::collections::BTreeMap;

/// The media type of a compressed file in the bundle.
const FILE_MEDIA_TYPE: &str = "application/vnd.cofferdam.file.v1+zstd";

/// Users, directories and settings; modules, sysctls, swap; units that make
/// the host fit, such as the route for Services.
pub(in super::super) fn make_hosts_fit(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| {
        let mut steps = make_users(host, stage);
        steps.extend(send_and_install(host, stage));
        steps.extend(write_files(host, stage, is_no_users_file));
        steps.extend(settings(host, stage));
        steps.extend(unit_steps(comparison, host, stage));
        steps
    });
    side_by_side(stage, vec![lanes]).into_iter().collect()
}

/// Each zone's registry, filled over the jump host's link.
pub(in super::super) fn bring_up_registries(
    comparison: &Comparison,
    stage: Stage,
) -> Vec<StagePlan> {
    let preparation = lanes(comparison, |host| {
        let mut steps = send_and_install(host, stage);
        steps.extend(write_files(host, stage, |_| true));
        steps
    });
    let units = lanes(comparison, |host| unit_steps(comparison, host, stage));
    let fill = lanes(comparison, |host| {
        let is_first = source_of(comparison, host).is_none();
        let fill = is_first.then(|| fill_registry(host, None, stage));
        fill.flatten().into_iter().collect()
    });
    let mut stages = in_parts(comparison, stage, preparation, units, fill);
    let copy = lanes(comparison, |host| {
        let source = source_of(comparison, host);
        let copy = source.map(|source| fill_registry(host, Some(source), stage));
        copy.flatten().into_iter().collect()
    });
    stages.extend(side_by_side(stage, vec![copy]));
    stages
}

/// Another registry of the host's zone that holds everything, or will before:
/// the jump host's link carries the bundle once for each zone.
fn source_of<'a>(comparison: &'a Comparison, host: &HostDiff) -> Option<&'a HostDiff<'a>> {
    let zone = comparison.zone_of(host.name);
    let mut in_zone = comparison
        .hosts
        .iter()
        .filter(|other| other.desired.registry.is_some() && comparison.zone_of(other.name) == zone);
    let first = in_zone.clone().next();
    let full = in_zone.find(|other| other.seeds().is_empty());
    full.or(first).filter(|source| source.name != host.name)
}

/// Binaries, trust, configuration and images onto all hosts; containerd runs
/// then, and images are there before a kubelet starts.
pub(in super::super) fn lay_down(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let preparation = lanes(comparison, |host| {
        // Registries ask for the host's certificate, so files come first.
        let mut steps = write_files(host, stage, |_| true);
        steps.extend(install_binaries(host, stage));
        steps
    });
    // What runs is changed with its node.
    let units = lanes(comparison, |host| idle_unit_steps(comparison, host, stage));
    let images = lanes(comparison, |host| {
        pull_images(host, stage).into_iter().collect()
    });
    in_parts(comparison, stage, preparation, units, images)
}

/// Three parts, pipelined where none of them interrupts anything, else with
/// the units in the middle one by one.
fn in_parts(
    comparison: &Comparison,
    stage: Stage,
    before: Vec<Lane>,
    units: Vec<Lane>,
    after: Vec<Lane>,
) -> Vec<StagePlan> {
    if !units.iter().any(is_disruptive) {
        return side_by_side(stage, vec![before, units, after])
            .into_iter()
            .collect();
    }
    let mut stages: Vec<StagePlan> = side_by_side(stage, vec![before]).into_iter().collect();
    stages.extend(one_by_one(stage, units, |host| comparison.zone_of(host)));
    stages.extend(side_by_side(stage, vec![after]));
    stages
}

/// The file for systemd-sysusers comes first of all, since other files belong
/// to the users that it names.
fn make_users(host: &HostDiff, stage: Stage) -> Vec<Step> {
    let mut steps = write_files(host, stage, |path| !is_no_users_file(path));
    let users = host.users();
    let file = host
        .desired
        .files
        .keys()
        .find(|path| !is_no_users_file(path));
    let Some(file) = file.filter(|_| !users.is_empty()) else {
        return steps;
    };
    let title = format!("make {}", title::count(users.len(), "user", "users"));
    let action = Action::CreateUsers {
        file: file.clone(),
        users,
    };
    steps.push(step(stage, host.name, title, action));
    steps
}

fn is_no_users_file(path: &str) -> bool {
    !path.contains("/sysusers.d/")
}

fn settings(host: &HostDiff, stage: Stage) -> Vec<Step> {
    let mut steps = Vec::new();
    let modules = host.modules();
    if !modules.is_empty() {
        let title = format!("load {}", title::names(modules.iter().map(String::as_str)));
        steps.push(step(
            stage,
            host.name,
            title,
            Action::LoadModules { modules },
        ));
    }
    // After the modules, which bring some of the sysctls.
    let sysctls = host.sysctls();
    if !sysctls.is_empty() {
        let title = match sysctls.keys().collect::<Vec<_>>()[..] {
            [name] => format!("set {name}"),
            _ => format!("set {} sysctls", sysctls.len()),
        };
        steps.push(step(
            stage,
            host.name,
            title,
            Action::SetSysctls { sysctls },
        ));
    }
    if host.swap_is_to_go() {
        let title = "turn swap off".to_owned();
        steps.push(step(stage, host.name, title, Action::SwapOff));
    }
    steps
}

/// Binaries that are needed before any registry serves come over the jump
/// host's link.
fn send_and_install(host: &HostDiff, stage: Stage) -> Vec<Step> {
    let binaries = host.binaries(stage).into_iter();
    let missing = binaries.map(|changed| changed.binary).filter(|binary| {
        !is_stored(host, binary) && host.facts.staging.get(&binary.blob) != Some(&binary.blob_size)
    });
    let blobs: Vec<BlobReference> = missing
        .map(|binary| BlobReference {
            digest: binary.blob,
            size: binary.blob_size,
            media_type: FILE_MEDIA_TYPE.to_owned(),
        })
        .collect();
    let mut steps = Vec::new();
    if !blobs.is_empty() {
        let bytes = blobs.iter().map(|blob| blob.size).sum();
        let title = format!(
            "send {}, {}",
            title::count(blobs.len(), "binary", "binaries"),
            title::size(bytes)
        );
        steps.push(step(stage, host.name, title, Action::PutBlobs { blobs }));
    }
    steps.extend(install_binaries(host, stage));
    steps
}

/// Binaries into the store, and in place but for those that are put there with
/// the restart of what runs.
fn install_binaries(host: &HostDiff, stage: Stage) -> Vec<Step> {
    let (later, now): (Vec<ChangedBinary>, Vec<ChangedBinary>) = host
        .binaries(stage)
        .into_iter()
        .partition(|changed| changed.with.is_some());
    let registries = || host.desired.registries.clone();
    let later = later.into_iter();
    let later = later.filter(|changed| !is_stored(host, changed.binary));
    let fetch = binaries_step(host, stage, "fetch", later.collect(), |binaries| {
        Action::FetchBinaries {
            binaries,
            registries: registries(),
        }
    });
    let install = binaries_step(host, stage, "install", now, |binaries| {
        Action::InstallBinaries {
            binaries,
            registries: registries(),
        }
    });
    install.into_iter().chain(fetch).collect()
}

fn binaries_step(
    host: &HostDiff,
    stage: Stage,
    verb: &str,
    binaries: Vec<ChangedBinary>,
    action: impl FnOnce(BTreeMap<String, Binary>) -> Action,
) -> Option<Step> {
    if binaries.is_empty() {
        return None;
    }
    let bytes = binaries.iter().map(|changed| changed.binary.size).sum();
    let what = match &binaries[..] {
        [only] => only.name.to_owned(),
        _ => title::count(binaries.len(), "binary", "binaries"),
    };
    let title = format!("{verb} {what}, {}", title::size(bytes));
    let owned = binaries.into_iter();
    let owned = owned.map(|changed| (changed.name.to_owned(), changed.binary.clone()));
    Some(step(stage, host.name, title, action(owned.collect())))
}

fn is_stored(host: &HostDiff, binary: &Binary) -> bool {
    host.facts.store.get(&binary.digest) == Some(&binary.size)
}

fn pull_images(host: &HostDiff, stage: Stage) -> Option<Step> {
    let images = host.images();
    if images.is_empty() {
        return None;
    }
    let bytes = images.values().map(|image| image.size).sum();
    let title = format!(
        "pull {}, {}",
        title::count(images.len(), "image", "images"),
        title::size(bytes)
    );
    let owned = images.into_iter();
    let action = Action::PullImages {
        images: owned
            .map(|(reference, image)| (reference.to_owned(), image.digest))
            .collect(),
        registries: host.desired.registries.clone(),
    };
    Some(step(stage, host.name, title, action))
}

/// From the bundle, or from the registry of another host.
fn fill_registry(host: &HostDiff, source: Option<&HostDiff>, stage: Stage) -> Option<Step> {
    let artifacts = host.seeds();
    if artifacts.is_empty() {
        return None;
    }
    // A blob crosses the link once, and not at all where it lies in the store
    // of the registry or is staged.
    let held = host.facts.registry.as_ref();
    let blobs: BTreeMap<_, u64> = artifacts
        .iter()
        .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests))
        .map(|blob| (blob.digest, blob.size))
        .filter(|(digest, _)| !held.is_some_and(|held| held.blobs.contains_key(digest)))
        .collect();
    let title = match blobs.is_empty() {
        true => format!(
            "complete {} in the registry",
            title::count(artifacts.len(), "artifact", "artifacts")
        ),
        false => format!(
            "fill registry{}: {}, {}",
            source.map_or(String::new(), |source| format!(" from {}", source.name)),
            title::count(blobs.len(), "blob", "blobs"),
            title::size(blobs.values().sum())
        ),
    };
    let action = match source {
        None => Action::Seed { artifacts },
        Some(source) => Action::CopyArtifacts {
            artifacts,
            registries: registries_from(source, host),
        },
    };
    Some(step(stage, host.name, title, action))
}

/// The registries that a host's own is filled from: the given one, then
/// whatever else the host would read from.
fn registries_from(source: &HostDiff, host: &HostDiff) -> Vec<String> {
    let first = registry_address(source);
    let own = registry_address(host);
    let others = host.desired.registries.iter();
    let others = others.filter(|address| ![first, own].contains(&Some(address.as_str())));
    let first = first.map(str::to_owned);
    first.into_iter().chain(others.cloned()).collect()
}

/// `10.77.1.11:5000` of a host's own registry.
fn registry_address<'a>(host: &HostDiff<'a>) -> Option<&'a str> {
    host.desired
        .units
        .iter()
        .find_map(|unit| match &unit.ready {
            Some(Condition::RegistryServing { address }) => Some(address.as_str()),
            _ => None,
        })
}

/// The host's files of a stage whose path passes, trust before what refers to
/// it.
pub(super) fn write_files(
    host: &HostDiff,
    stage: Stage,
    passes: impl Fn(&str) -> bool,
) -> Vec<Step> {
    let steps = [FileKind::Trust, FileKind::Software]
        .into_iter()
        .map(|kind| {
            let changed = host.files.iter();
            let files: Vec<FileChange> = changed
                .filter(|(path, changed)| {
                    changed.with.is_none()
                        && changed.stage == stage
                        && changed.file.kind == kind
                        && passes(path)
                })
                .map(|(path, changed)| FileChange {
                    path: (*path).to_owned(),
                    change: changed.change,
                })
                .collect();
            if files.is_empty() {
                return None;
            }
            let title = title::write_files(host, &files, kind);
            let action = Action::WriteFiles {
                files,
                remove: Vec::new(),
                kind,
            };
            Some(step(stage, host.name, title, action))
        });
    steps.flatten().collect()
}
