//! Registries as the other hosts see them, and how blobs get into one.

use super::cluster::registry_client;
use super::machine::{Disk, Machine};
use super::world::World;
use crate::desired::Desired;
use crate::digest::Digest;
use crate::facts::Generation;
use crate::host::BlobTarget;
use std::collections::BTreeSet;

const REGISTRY: &str = "registry.service";

impl World {
    /// Why no registry of the list gives the blob.
    pub(super) fn why_not_served(
        &self,
        host: &str,
        registries: &[String],
        repository: &str,
        digest: &Digest,
    ) -> Option<String> {
        if let Some(path) = self.first_missing(host, &registry_client()) {
            return Some(format!("{path} is not there"));
        }
        let link = format!("{repository}@{digest}");
        let serves = |machine: &Machine| {
            self.reaches(host, &machine.name)
                && machine.is_active(REGISTRY)
                && machine.disk.registry.blobs.contains_key(digest)
                && !machine.disk.damaged_blobs.contains(digest)
                && machine.disk.registry.links.contains(&link)
        };
        let machines = registries
            .iter()
            .filter_map(|address| self.machine_at(address));
        let mut machines = machines.filter(|machine| serves(machine));
        match machines.next() {
            Some(_) => None,
            None => Some(format!("none of {} serves {link}", registries.join(", "))),
        }
    }

    /// Why no registry of the list gives the image with all its content.
    pub(super) fn why_image_not_served(
        &self,
        host: &str,
        registries: &[String],
        reference: &str,
        digest: &Digest,
    ) -> Option<String> {
        let artifacts = self
            .desired
            .hosts
            .values()
            .filter_map(|host| host.registry.as_ref());
        let artifact = artifacts
            .flat_map(|content| content.artifacts.get(reference))
            .next();
        let Some(artifact) = artifact else {
            return Some(format!("{reference} is in no registry"));
        };
        let mut parts = artifact.blobs.iter().chain(&artifact.manifests);
        let root = artifact.manifests.last().map(|root| root.digest);
        if root != Some(*digest) {
            return Some(format!("{reference} is not {digest}"));
        }
        let repository = &artifact.repository;
        parts.find_map(|part| self.why_not_served(host, registries, repository, &part.digest))
    }

    /// Why the writable instance refuses a blob or manifest.
    pub(super) fn why_not_pushed(
        &self,
        host: &str,
        target: &BlobTarget,
        digest: &Digest,
    ) -> Option<String> {
        let machine = self.machines.get(host)?;
        if *target != BlobTarget::Staging && !machine.memory.is_seeding {
            return Some("the writable registry does not run".to_owned());
        }
        let BlobTarget::Manifest {
            repository, tag, ..
        } = target
        else {
            return None;
        };
        let content = self.desired.hosts.get(host)?.registry.as_ref()?;
        let mut artifacts = content.artifacts.values();
        // Two versions of a file share its repository.
        let artifact = artifacts.find(|artifact| {
            let mut manifests = artifact.manifests.iter();
            artifact.repository == *repository && manifests.any(|part| part.digest == *digest)
        })?;
        let held = &machine.disk.registry;
        // Manifests come in push order, so that what stands before one must
        // be there already.
        let before = artifact
            .manifests
            .iter()
            .take_while(|part| part.digest != *digest);
        let mut needed = artifact.blobs.iter().chain(before);
        let missing = needed.find(|part| {
            let link = format!("{repository}@{}", part.digest);
            !held.links.contains(&link) || !held.blobs.contains_key(&part.digest)
        });
        if let Some(part) = missing {
            return Some(format!("MANIFEST_BLOB_UNKNOWN: {}", part.digest));
        }
        let is_root = artifact
            .manifests
            .last()
            .is_some_and(|root| root.digest == *digest);
        (tag.is_some() && !is_root).then(|| "the tag names no root".to_owned())
    }

    fn machine_at(&self, address: &str) -> Option<&Machine> {
        let (address, _) = address.rsplit_once(':')?;
        let mut machines = self.machines.values();
        machines.find(|machine| machine.options.address.to_string() == address)
    }
}

impl World {
    pub(super) fn desire(&mut self, desired: Desired) {
        let registries = desired
            .hosts
            .values()
            .filter_map(|host| host.registry.as_ref());
        for artifact in registries.flat_map(|content| content.artifacts.values()) {
            if let Some(root) = artifact.manifests.last() {
                self.artifacts
                    .entry(root.digest)
                    .or_insert_with(|| artifact.clone());
            }
        }
        self.desired = desired;
    }

    /// What a host's registry keeps for these generations; none where that can't be told.
    pub(super) fn kept_in_registry(
        &self,
        machine: &Machine,
        generations: &[&Generation],
    ) -> Option<Kept> {
        let mut kept = Kept::default();
        for generation in generations {
            for needed in generation.artifacts.as_ref()? {
                let (name, digest) = needed.split_once('@')?;
                kept.tags.insert(name.to_owned());
                let digest = digest.parse().ok()?;
                // As the agent: what a lost manifest names can't be told.
                machine.disk.registry.blobs.get(&digest)?;
                let artifact = self.artifacts.get(&digest)?;
                let parts = artifact.blobs.iter().chain(&artifact.manifests);
                kept.links
                    .extend(parts.map(|part| format!("{}@{}", artifact.repository, part.digest)));
            }
        }
        Some(kept)
    }
}

/// What stays in a registry's store.
#[derive(Default)]
pub(super) struct Kept {
    tags: BTreeSet<String>,
    links: BTreeSet<String>,
}

impl Kept {
    pub(super) fn remove_other_names(&self, machine: &mut Machine) {
        let registry = &mut machine.disk.registry;
        registry.tags.retain(|name, _| self.tags.contains(name));
        registry.links.retain(|link| self.links.contains(link));
    }

    pub(super) fn remove_other_blobs(&self, machine: &mut Machine) {
        let Disk {
            registry,
            damaged_blobs,
            ..
        } = &mut machine.disk;
        let is_kept = |digest: &Digest| {
            let end = format!("@{digest}");
            self.links.iter().any(|link| link.ends_with(&end))
        };
        registry.blobs.retain(|digest, _| is_kept(digest));
        damaged_blobs.retain(is_kept);
    }
}

/// Whether the agent first removes what is damaged under the blob's name: the
/// server takes whatever is there for right.
pub(super) fn is_to_be_removed(machine: &Machine, target: &BlobTarget, digest: &Digest) -> bool {
    *target != BlobTarget::Staging && machine.disk.damaged_blobs.contains(digest)
}

/// Puts a verified blob where it belongs; one that is there stays as it is.
pub(super) fn store(machine: &mut Machine, target: &BlobTarget, digest: Digest, size: u64) {
    let registry = &mut machine.disk.registry;
    match target {
        BlobTarget::Staging => {
            machine.disk.staging.insert(digest, size);
        }
        BlobTarget::Repository { repository } => {
            registry.blobs.insert(digest, size);
            registry.links.insert(format!("{repository}@{digest}"));
        }
        BlobTarget::Manifest {
            repository, tag, ..
        } => {
            registry.blobs.insert(digest, size);
            registry.links.insert(format!("{repository}@{digest}"));
            if let Some(tag) = tag {
                registry.tags.insert(format!("{repository}:{tag}"), digest);
            }
        }
    }
}

/// Whether a blob is there already, so that its bytes aren't needed.
pub(super) fn is_present(machine: &Machine, target: &BlobTarget, digest: &Digest) -> bool {
    let disk = &machine.disk;
    match target {
        BlobTarget::Staging => disk.staging.contains_key(digest),
        // What was staged is pushed by the agent itself.
        BlobTarget::Repository { repository } => {
            let link = format!("{repository}@{digest}");
            let registry = &disk.registry;
            let is_held = registry.links.contains(&link) && registry.blobs.contains_key(digest);
            is_held || disk.staging.contains_key(digest)
        }
        BlobTarget::Manifest { .. } => {
            disk.registry.blobs.contains_key(digest) && !disk.damaged_blobs.contains(digest)
        }
    }
}
