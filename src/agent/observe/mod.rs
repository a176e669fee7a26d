//! Looks at everything that the planner may ask about a host, in one go. One
//! odd thing on a host never fails the observation as a whole.

mod cni;
mod containerd;
mod etcd;
mod files;
mod filesystems;
mod kernel;
mod listening;
mod network;
mod registry;
mod remains;
mod store;
mod system;
mod units;

pub(crate) use containerd::{has_containerd, images, named, program as ctr, program_in as ctr_in};
pub use containerd::{image_key_by_digest, image_pin, pinned_by, repository_of};
pub(crate) use files::{
    generation_numbers, read_generation, read_numbered_generation, read_pending, read_trust,
};
pub(crate) use kernel::{has_module, parse_swaps, read_sysctl, sysctl_path};
pub(crate) use registry::{BLOBS, REPOSITORIES, add_names, blob_place};
pub(crate) use registry::{open_blob, remove_blob_if_damaged};
pub(crate) use store::{BINARY_MODE, Named, by_digest, is_right, is_stored};
pub(crate) use system::platform;
pub(crate) use units::{Shown, environment_inputs, inputs_of, parse_inputs, show_units};

use super::accounts::Accounts;
use super::channel::NoticeSender;
use super::condition;
use super::root::Root;
use crate::facts::{EtcdFacts, HostFacts, ObserveRequest, UnmetCondition};
use crate::layout;
use crate::owned::owned_units;
use anyhow::{Context, Result};
use files::Manifests;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Fills every field of [`HostFacts`]. Slow things are done side by side, and
/// how much of stored content was read is told meanwhile.
///
/// # Errors
/// Only if the agent itself is broken.
pub async fn observe(
    root: &Root,
    request: &ObserveRequest,
    notices: NoticeSender,
) -> Result<HostFacts> {
    let local = {
        let (root, request) = (root.clone(), request.clone());
        let told = store::Told::new(notices);
        tokio::task::spawn_blocking(move || observe_files(&root, &request, &told))
    };
    let listening = {
        let root = root.clone();
        tokio::task::spawn_blocking(move || listening::observe(&root))
    };
    let (local, listening, versions, units, images, etcd, unmet) = tokio::join!(
        local,
        listening,
        system::observe_versions(root),
        observe_units(root, request),
        observe_images(root, request),
        etcd(root, request),
        unmet(root, request),
    );
    let mut facts = local.context("observing the host")?;
    facts.listening = listening.context("observing sockets")?;
    facts.system.systemd_version = versions.systemd;
    facts.system.nft_version = versions.nft;
    facts.system.active_services = units.active_services;
    facts.swap_masked = units.swap_masked;
    facts.remains.extend(units.foreign);
    facts.units = units.asked;
    facts.images = images;
    facts.etcd = etcd;
    facts.unmet = unmet;
    // Read last, since callers compare it with the time of the answer.
    facts.clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64());
    Ok(facts)
}

const ELECTION: Duration = Duration::from_secs(3);

/// As with conditions: a plan is not to be made from a moment's load.
async fn etcd(root: &Root, request: &ObserveRequest) -> Option<EtcdFacts> {
    let endpoints = &request.etcd_endpoints;
    let facts = etcd::observe(root, endpoints).await?;
    let is_sure = facts.error.is_none() && facts.unhealthy.is_none();
    if is_sure || !request.content {
        return Some(facts);
    }
    // An election takes a second or more.
    tokio::time::sleep(ELECTION).await;
    etcd::observe(root, endpoints).await
}

async fn unmet(root: &Root, request: &ObserveRequest) -> Vec<UnmetCondition> {
    match request.content {
        true => condition::unmet_for_sure(root, &request.conditions).await,
        false => condition::unmet(root, &request.conditions).await,
    }
}

/// What is learned from files, `/proc`, `/sys` and netlink.
fn observe_files(root: &Root, request: &ObserveRequest, told: &store::Told) -> HostFacts {
    let manifests = Manifests::read(root);
    let wanted = request.registry.as_ref();
    let registry = wanted.and_then(|wanted| registry::observe(root, wanted, told));
    HostFacts {
        system: system::observe(root),
        filesystems: filesystems::observe(root),
        swaps: kernel::swaps(root),
        interfaces: network::interfaces(),
        routes: network::routes(),
        remains: remains::observe(root),
        modules: kernel::modules(root, &request.modules),
        sysctls: kernel::sysctls(root, &request.sysctls),
        users: existing_users(root, &request.users),
        files: files::observe(root, request, &manifests),
        store: asked_content(request, || store::binaries(root, told)),
        staging: asked_content(request, || store::staged(root, told)),
        registry,
        cni: cni::observe(root),
        etcd_data: root.path(layout::ETCD).join("member").exists(),
        etcd_restored: restored_by(root),
        generation: manifests.generation,
        pending: manifests.pending,
        trust: manifests.trust,
        ..HostFacts::default()
    }
}

fn restored_by(root: &Root) -> Option<String> {
    let text = fs_err::read_to_string(root.path(layout::ETCD_RESTORED)).ok()?;
    Some(text.trim().to_owned())
}

/// What is read whole, which takes its time, only where it is asked for.
fn asked_content<T: Default>(request: &ObserveRequest, read: impl FnOnce() -> T) -> T {
    match request.content {
        true => read(),
        false => T::default(),
    }
}

fn existing_users(root: &Root, asked: &BTreeSet<String>) -> BTreeSet<String> {
    let accounts = Accounts::load(root);
    asked
        .iter()
        .filter(|name| accounts.user(name).is_some())
        .cloned()
        .collect()
}

async fn observe_units(root: &Root, request: &ObserveRequest) -> units::UnitsSeen {
    let mut names: BTreeSet<String> = request.units.clone();
    let manifests = Manifests::read(root);
    let ours = owned_units(manifests.generation.as_ref(), &manifests.pending);
    names.extend(ours.into_iter().map(str::to_owned));
    units::observe(root, &names).await
}

async fn observe_images(
    root: &Root,
    request: &ObserveRequest,
) -> Option<BTreeMap<String, crate::facts::ImageFacts>> {
    if request.images {
        containerd::images(root).await
    } else {
        None
    }
}
