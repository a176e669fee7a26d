//! Binaries and generations on a simulated host.

use super::apply::{Done, change};
use super::host::SimulatedHost;
use super::machine::{Disk, DiskContent, DiskFile, Machine};
use super::world::{Durability, InHand};
use crate::desired::Binary;
use crate::digest::Digest;
use crate::facts::{Generation, StoredGeneration};
use crate::layout;
use crate::owned::Pending;
use std::collections::{BTreeMap, BTreeSet};

/// Names software that the newest generation doesn't, before it is there.
pub(super) async fn name_before(
    host: &SimulatedHost,
    mut files: BTreeSet<String>,
    mut binaries: BTreeMap<String, Binary>,
    in_hand: InHand,
) -> Done {
    let is_known = host.world.with(|world| {
        let Some(machine) = world.machines.get(&host.name) else {
            return true;
        };
        if let Some(generation) = &machine.disk.generation {
            files.retain(|path| !generation.files.contains_key(path));
        }
        let pending = &machine.disk.pending;
        pending.files.is_superset(&files)
            && binaries.keys().all(|name| pending.binaries.contains(name))
            && binaries
                .values()
                .all(|binary| pending.versions.contains_key(&binary.digest))
    });
    if is_known {
        return Ok(());
    }
    host.operate(in_hand, Durability::Synced, |machine, _| {
        machine.disk.pending.files.append(&mut files);
        while let Some((name, binary)) = binaries.pop_first() {
            let pending = &mut machine.disk.pending;
            pending.binaries.insert(name);
            pending.versions.insert(binary.digest, binary.version);
        }
    })
    .await
}

pub(super) async fn commit(host: &SimulatedHost, generation: Option<Generation>) -> Done {
    let generation = generation.ok_or_else(|| host.failed("no generation came"))?;
    let kept = host.world.with(|world| {
        let machine = world.machines.get(&host.name)?;
        world.kept_in_registry(machine, &machine.kept_with(&generation))
    });
    if let Some(kept) = kept {
        change(host, Durability::Synced, |machine| {
            kept.remove_other_names(machine)
        })
        .await?;
        change(host, Durability::Synced, |machine| {
            kept.remove_other_blobs(machine)
        })
        .await?;
    }
    let keep = |machine: &mut Machine| machine.keep_generation(generation);
    change(host, Durability::Synced, keep).await?;
    change(host, Durability::Synced, Machine::collect).await?;
    change(host, Durability::Synced, |machine| {
        machine.disk.pending = Pending::default();
    })
    .await
}

/// Binaries into the store.
pub(super) async fn fetch_binaries(
    host: &SimulatedHost,
    binaries: &BTreeMap<String, Binary>,
    registries: &[String],
) -> Done {
    let new = new_binaries(host, binaries);
    name_before(host, BTreeSet::new(), new, InHand::GivenUp).await?;
    for (name, binary) in binaries {
        let reason = host.world.with(|world| {
            let machine = world.machines.get(&host.name)?;
            let is_staged = machine.disk.staging.contains_key(&binary.blob);
            match is_staged || machine.is_stored(&binary.digest) {
                true => None,
                false => {
                    world.why_not_served(&host.name, registries, &binary.repository, &binary.blob)
                }
            }
        });
        if let Some(reason) = reason {
            return Err(host.failed(format!("installing {name}: {reason}")));
        }
        let (digest, size) = (binary.digest, binary.size);
        change(host, Durability::Synced, |machine| {
            if !machine.is_stored(&digest) {
                machine.store_binary(digest, size);
            }
        })
        .await?;
    }
    Ok(())
}

/// Binaries that the newest generation doesn't have.
fn new_binaries(
    host: &SimulatedHost,
    binaries: &BTreeMap<String, Binary>,
) -> BTreeMap<String, Binary> {
    host.world.with(|world| {
        let machine = world.machines.get(&host.name);
        let generation = machine.and_then(|machine| machine.disk.generation.as_ref());
        let known = |name: &String| generation?.binaries.get(name).copied();
        let new = binaries
            .iter()
            .filter(|(name, binary)| known(name) != Some(binary.digest));
        new.map(|(name, binary)| (name.clone(), binary.clone()))
            .collect()
    })
}

/// Links to binaries that the store has.
pub(super) async fn link_binaries(
    host: &SimulatedHost,
    binaries: &BTreeMap<String, Binary>,
    in_hand: InHand,
) -> Done {
    let new = new_binaries(host, binaries);
    let missing = host.world.with(|world| {
        let machine = world.machines.get(&host.name);
        let stored =
            |binary: &Binary| machine.is_some_and(|machine| machine.is_stored(&binary.digest));
        let missing = binaries.iter().find(|(_, binary)| !stored(binary));
        missing.map(|(name, _)| name.clone())
    });
    if let Some(name) = missing {
        return Err(host.failed(format!("{name} is not in the store")));
    }
    name_before(host, BTreeSet::new(), new, in_hand).await?;
    for (name, binary) in binaries {
        let path = format!("{}/{name}", layout::BIN);
        let link = DiskFile {
            content: DiskContent::Link(layout::stored_target(&binary.digest)),
            mode: 0o777,
            user: "root".to_owned(),
            group: "root".to_owned(),
        };
        let place = |machine: &mut Machine, _| machine.rename_into_place(path, link);
        host.operate(in_hand, Durability::Unsynced, place).await?;
        host.operate(in_hand, Durability::Synced, |_, _| {}).await?;
    }
    Ok(())
}

impl Machine {
    /// The binary that a unit starts: that of its name, or cofferdam's own.
    pub(super) fn executable_of(&self, unit: &str) -> Option<Digest> {
        let name = unit.strip_suffix(".service")?;
        let name = match name.starts_with("cofferdam-") {
            true => "cofferdam",
            false => name,
        };
        self.linked(name)
    }

    /// The binary that a link leads to.
    pub(super) fn linked(&self, name: &str) -> Option<Digest> {
        let link = self.disk.files.get(&format!("{}/{name}", layout::BIN))?;
        let DiskContent::Link(target) = &link.content else {
            return None;
        };
        let digest = Digest::from_hex(target.rsplit('/').next()?).ok()?;
        (*target == layout::stored_target(&digest)).then_some(digest)
    }

    /// Whether a binary is in the store, and right.
    pub(super) fn is_stored(&self, digest: &Digest) -> bool {
        self.disk.store.contains_key(digest) && !self.disk.damaged_binaries.contains(digest)
    }

    /// Puts a binary into the store under a new file. Processes that run a
    /// former one go on with that.
    pub(super) fn store_binary(&mut self, digest: Digest, size: u64) {
        self.disk.store.insert(digest, size);
        self.disk.damaged_binaries.remove(&digest);
        for process in self.memory.processes.values_mut() {
            process.is_replaced |= process.executable == Some(digest);
        }
    }

    /// Removes a file, or a directory unless something is in it.
    pub(super) fn remove(&mut self, path: &str) {
        let within = format!("{path}/");
        let has_files = self
            .disk
            .files
            .keys()
            .any(|other| other.starts_with(&within));
        let has_blobs = path == layout::REGISTRY && !self.disk.registry.blobs.is_empty();
        if !has_files && !has_blobs {
            self.disk.files.remove(path);
        }
    }

    /// The generations that are kept once this one is the newest.
    fn kept_with<'a>(&'a self, newest: &'a Generation) -> Vec<&'a Generation> {
        let present = self.disk.generation.as_ref();
        let before = present.filter(|present| present.number != newest.number);
        let before = before.or(self.disk.previous.as_ref());
        std::iter::once(newest).chain(before).collect()
    }

    /// Makes a generation the newest one.
    pub(super) fn keep_generation(&mut self, generation: Generation) {
        let before = self.disk.generation.replace(generation);
        let number = self.disk.generation.as_ref().map(|newest| newest.number);
        if let Some(before) = before.filter(|before| Some(before.number) != number) {
            self.disk.previous = Some(before);
        }
    }

    /// The generations that are kept, with the bytes of their files.
    pub(super) fn stored_generations(&self) -> Vec<StoredGeneration> {
        let kept = [&self.disk.generation, &self.disk.previous];
        let kept = kept.into_iter().flatten();
        let stored = kept.map(|generation| {
            let mut stored = StoredGeneration::of(generation.clone());
            let digests = generation.files.values().filter_map(|file| file.digest);
            for bytes in digests.filter_map(|digest| self.disk.contents.get(&digest)) {
                stored.put(bytes);
            }
            let binaries = generation.binaries.values();
            let sizes = binaries.filter_map(|digest| {
                let size = self.disk.store.get(digest)?;
                Some((*digest, *size))
            });
            stored.binaries = sizes.collect();
            stored
        });
        stored.collect()
    }

    /// Removes binaries that no kept generation has, links that the newest one
    /// hasn't, and all that is staged; unpins images that no kept one needs.
    pub(super) fn collect(&mut self) {
        let Disk {
            generation,
            previous,
            store,
            damaged_binaries,
            staging,
            files,
            images,
            ..
        } = &mut self.disk;
        let both = [&*generation, &*previous].into_iter().flatten();
        let needed: Option<Vec<_>> = both.map(|kept| kept.images.as_ref()).collect();
        if let Some(needed) = needed {
            for image in images.values_mut() {
                image.pinned &= needed.iter().any(|kept| kept.contains(&image.digest));
            }
        }
        let kept: BTreeSet<Digest> = [&*generation, &*previous]
            .into_iter()
            .flatten()
            .flat_map(|generation| generation.binaries.values().copied())
            .collect();
        store.retain(|digest, _| kept.contains(digest));
        damaged_binaries.retain(|digest| kept.contains(digest));
        staging.clear();
        let newest = generation.iter().flat_map(|newest| newest.binaries.keys());
        let names: BTreeSet<&str> = newest.map(String::as_str).collect();
        files.retain(|path, _| {
            let name = path.strip_prefix(layout::BIN);
            name.is_none_or(|name| names.contains(name.trim_start_matches('/')))
        });
    }
}
