//! A site in memory, with made-up keys.

use super::world::SharedWorld;
use crate::desired::{DigestKey, EtcdRestore, Held, Software, Until, desired, materials};
use crate::execute::{Mint, Minted};
use crate::inventory::Inventory;
use crate::site::{Decisions, Material, SiteView};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Keys, certificates and decisions of one cluster.
#[derive(Debug, Default)]
pub struct SimulatedSite {
    view: Mutex<SiteView>,
    /// How often each material was lost: what is minted anew is another one.
    lost: Mutex<BTreeMap<String, u32>>,
}

impl SimulatedSite {
    /// What the site holds now.
    pub fn view(&self) -> SiteView {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.clone()
    }

    /// Loses a key or certificate, so that it is minted anew.
    pub fn lose(&self, material: &str) {
        self.change(|view| {
            view.materials.remove(material);
        });
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost.entry(material.to_owned()).or_default() += 1;
    }

    /// `NAME` or `NAME, the 2nd time`, for made-up keys.
    fn name_of(&self, material: &str) -> String {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match lost.get(material) {
            None => material.to_owned(),
            Some(times) => format!("{material}, lost {times} times"),
        }
    }

    /// What hosts keep, by name.
    pub(super) fn hold(&self, held: BTreeMap<String, Held>) {
        self.change(|view| view.held = held);
    }

    fn change(&self, change: impl FnOnce(&mut SiteView)) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut view);
    }
}

/// Mints into a simulated site; the run may be cut off between two keys.
pub(super) struct SimulatedMint<'a> {
    pub(super) site: &'a SimulatedSite,
    pub(super) world: &'a SharedWorld,
    pub(super) inventory: &'a Inventory,
    pub(super) software: &'a Software,
    pub(super) decisions: &'a Decisions,
    pub(super) restore: Option<&'a EtcdRestore>,
    pub(super) only: Option<&'a BTreeSet<String>>,
    pub(super) until: Option<&'a Until>,
}

impl Mint for SimulatedMint<'_> {
    fn mint(&self, _: &[String], _: &[String]) -> anyhow::Result<Minted> {
        self.world.site_operation()?;
        self.site
            .change(|view| view.decisions = self.decisions.clone());
        let key = match self.site.view().digest_key {
            Some(key) => key,
            None => {
                self.world.site_operation()?;
                let key = DigestKey([7; 32]);
                self.site.change(|view| view.digest_key = Some(key.clone()));
                key
            }
        };
        for (name, spec) in materials::materials(self.inventory) {
            let held = self.site.view();
            if held
                .materials
                .get(&name)
                .is_some_and(|material| material.spec == spec)
            {
                continue;
            }
            self.world.site_operation()?;
            let told = self.site.name_of(&name);
            let material = Material {
                certificate: Some(format!("certificate of {told}\n")),
                secret: format!("key of {told}\n").into_bytes(),
                public_key: Some(format!("public key of {told}\n")),
                not_after: None,
                spec,
            };
            self.site.change(|view| {
                view.materials.insert(name, material);
            });
        }
        let mut desired = desired(self.inventory, self.software, &self.site.view())?;
        desired.restore = self.restore.cloned();
        desired.only = self.only.cloned();
        desired.until = self.until.cloned();
        Ok(Minted { desired, key })
    }
}
