//! Binaries on a simulated host.

use super::apply::{Done, change};
use super::host::SimulatedHost;
use super::machine::{DiskContent, DiskFile, Machine};
use super::world::Durability;
use crate::desired::Binary;
use crate::digest::Digest;
use crate::layout;
use std::collections::BTreeMap;

pub(super) async fn install_binaries(
    host: &SimulatedHost,
    binaries: &BTreeMap<String, Binary>,
    registries: &[String],
) -> Done {
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
        let path = format!("{}/{name}", layout::BIN);
        let link = DiskFile {
            content: DiskContent::Link(layout::stored_target(&digest)),
            mode: 0o777,
            user: "root".to_owned(),
            group: "root".to_owned(),
        };
        change(host, Durability::Unsynced, |machine| {
            machine.rename_into_place(path, link);
        })
        .await?;
        change(host, Durability::Synced, |_| {}).await?;
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
}
