//! Whether a registry that is not cofferdam's has what a plan needs, as each host sees it.

use super::fault::{Exit, Fault};
use super::phase::Phase;
use crate::desired::Software;
use crate::digest::Digest;
use crate::host::remote::RemoteHost;
use crate::host::{Call, Host as _, RegistryItem, RegistryQuestion, Request, Response};
use crate::inventory::Inventory;
use crate::output::Output;
use crate::plan::title::count;
use crate::plan::{Action, Plan, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A few hundred questions to a registry that answers slowly.
const LIMIT: Duration = Duration::from_secs(180);
/// Things that are named; the others are counted.
const NAMED: usize = 4;

/// What is needed of the registry, and by whom.
pub(super) struct Needs<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) software: &'a Software,
    pub(super) plan: &'a Plan,
    pub(super) hosts: &'a BTreeMap<String, Arc<RemoteHost>>,
}

impl Needs<'_> {
    /// Has every host ask the registry for what its steps take from there.
    ///
    /// # Errors
    /// Names what the registry lacks, or the hosts that it does not answer.
    pub(super) async fn prove(&self, output: &Output) -> Result<(), Fault> {
        let Some(registry) = &self.inventory.registry else {
            return Ok(());
        };
        let mut wanted: BTreeMap<&str, BTreeSet<RegistryItem>> = BTreeMap::new();
        for step in self.plan.steps() {
            let items = self.items(step);
            if !items.is_empty() {
                wanted.entry(&step.host).or_default().extend(items);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let access = registry.access.as_ref();
        let question = RegistryQuestion {
            registry: registry.address.to_string(),
            ca: access.map(|access| access.ca.clone()).unwrap_or_default(),
            authorization: access.and_then(|access| access.authorization()),
            items: Vec::new(),
        };
        let phase = Phase::begin(output, "registry", wanted.len());
        let most = wanted.values().map(BTreeSet::len).max().unwrap_or(0);
        let each = wanted.into_iter().filter_map(|(name, items)| {
            let host = self.hosts.get(name)?;
            let question = RegistryQuestion {
                items: items.into_iter().collect(),
                ..question.clone()
            };
            Some((name.to_owned(), ask(host, question)))
        });
        let mut lacking: BTreeSet<RegistryItem> = BTreeSet::new();
        let mut faults = Vec::new();
        for (_, answer) in phase.for_all(each).await {
            match answer {
                Ok(items) => lacking.extend(items),
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(fault) = Fault::merge(faults) {
            return Err(fault);
        }
        if lacking.is_empty() {
            phase.done(format!(
                "{} has {}",
                registry.address,
                count(most, "blob", "blobs")
            ));
            return Ok(());
        }
        let owners: BTreeSet<String> = lacking.iter().map(|item| self.owner(item)).collect();
        let named: Vec<&str> = owners.iter().take(NAMED).map(String::as_str).collect();
        let more = match owners.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!(
            "the registry {} lacks {} of {}{more}; nothing was changed",
            registry.address,
            count(lacking.len(), "blob", "blobs"),
            named.join(", ")
        );
        let hint = format!(
            "fill it: `cofferdam registry push --to {} --bundle …`, then run the same command again",
            registry.address
        );
        Err(Fault::new(Exit::Checks, message).hint(hint))
    }

    /// What a step takes from the registry.
    fn items(&self, step: &Step) -> Vec<RegistryItem> {
        match &step.action {
            Action::FetchBinaries { binaries, .. } | Action::InstallBinaries { binaries, .. } => {
                let each = binaries.values().map(|binary| RegistryItem {
                    repository: binary.repository.clone(),
                    digest: binary.blob,
                    manifest: None,
                });
                each.collect()
            }
            Action::PullImages { images, .. } => images
                .iter()
                .flat_map(|(reference, digest)| self.items_of(reference, digest))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn items_of(&self, reference: &str, digest: &Digest) -> Vec<RegistryItem> {
        let images = self.software.whole.images.iter();
        let mut images = images.map(|image| (&image.reference, image));
        let Some((_, image)) =
            images.find(|(known, image)| *known == reference && image.digest() == Some(*digest))
        else {
            return Vec::new();
        };
        let artifact = &image.artifact;
        let item = |digest: Digest, manifest: Option<&String>| RegistryItem {
            repository: artifact.repository.clone(),
            digest,
            manifest: manifest.cloned(),
        };
        let manifests = artifact.manifests.iter();
        let manifests = manifests.map(|one| item(one.digest, Some(&one.media_type)));
        let blobs = artifact.blobs.iter().map(|one| item(one.digest, None));
        manifests.chain(blobs).collect()
    }

    /// The image or file that something belongs to, for people.
    fn owner(&self, item: &RegistryItem) -> String {
        let artifacts = self.software.artifacts();
        let mut owners = artifacts.filter(|artifact| {
            let mut all = artifact.blobs.iter().chain(&artifact.manifests);
            artifact.repository == item.repository && all.any(|blob| blob.digest == item.digest)
        });
        match owners.next() {
            Some(artifact) => format!("{}:{}", artifact.repository, artifact.tag),
            None => item.repository.clone(),
        }
    }
}

async fn ask(host: &RemoteHost, question: RegistryQuestion) -> Result<Vec<RegistryItem>, Fault> {
    let call = Call {
        request: Request::AskRegistry(Box::new(question)),
        body: None,
        notices: &|_| (),
        limit: LIMIT,
    };
    match host.call(call).await? {
        Response::Lacking { lacking } => Ok(lacking),
        _ => Err(Fault::new(Exit::Failed, "an unexpected answer").host(host.name())),
    }
}
