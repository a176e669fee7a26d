//! Whether a registry that is not cofferdam's has what a plan needs, as each host sees it.

use super::fault::{Exit, Fault};
use super::phase::Phase;
use crate::desired::{Binary, Desired, Software};
use crate::digest::Digest;
use crate::facts::HostFacts;
use crate::host::remote::RemoteHost;
use crate::host::{Call, Host as _, Notice, RegistryItem, RegistryQuestion, Request, Response};
use crate::inventory::Inventory;
use crate::layout;
use crate::output::Output;
use crate::plan::title::{self, count};
use crate::plan::{Action, Plan, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a host may be silent about it.
const LIMIT: Duration = Duration::from_secs(120);

/// What is needed of the registry, and by whom.
pub(super) struct Needs<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) software: &'a Software,
    pub(super) desired: &'a Desired,
    pub(super) plan: &'a Plan,
    pub(super) hosts: &'a BTreeMap<String, Arc<RemoteHost>>,
    pub(super) facts: &'a BTreeMap<String, HostFacts>,
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
        let wanted = self.wanted();
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
            let phase = &phase;
            let work = async move {
                let told = |notice| {
                    if let Notice::Progress { done, total, .. } = notice {
                        phase.doing(format!("{name} asks for {done} of {total} blobs"));
                    }
                };
                ask(host, question, &told).await
            };
            Some((name.to_owned(), work))
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
        let message = format!(
            "the registry {} lacks {} of {}; nothing was changed",
            registry.address,
            count(lacking.len(), "blob", "blobs"),
            title::names(owners.iter().map(String::as_str))
        );
        let hint = format!(
            "fill it: `cofferdam registry push --to {} --bundle …`, then run the same command again",
            registry.address
        );
        Err(Fault::new(Exit::Checks, message).hint(hint))
    }

    /// By host, what it will ask for.
    fn wanted(&self) -> BTreeMap<&str, BTreeSet<RegistryItem>> {
        let mut wanted: BTreeMap<&str, BTreeSet<RegistryItem>> = BTreeMap::new();
        for step in self.plan.steps() {
            let items = match changes_the_way(step) {
                true => self.all_items(&step.host),
                false => self.items(step),
            };
            if !items.is_empty() {
                wanted.entry(&step.host).or_default().extend(items);
            }
        }
        wanted
    }

    /// All that a host may ever ask for: it is about to depend on the registry, or on
    /// another login.
    fn all_items(&self, host: &str) -> Vec<RegistryItem> {
        let Some(host) = self.desired.hosts.get(host) else {
            return Vec::new();
        };
        let images = host.images.iter();
        let images = images.flat_map(|(reference, image)| self.items_of(reference, &image.digest));
        host.binaries
            .values()
            .map(binary_item)
            .chain(images)
            .collect()
    }

    /// What a step takes from the registry.
    fn items(&self, step: &Step) -> Vec<RegistryItem> {
        match &step.action {
            Action::FetchBinaries { binaries, .. } | Action::InstallBinaries { binaries, .. } => {
                let missing = binaries.values();
                let missing = missing.filter(|binary| !self.is_there(&step.host, binary));
                missing.map(binary_item).collect()
            }
            Action::PullImages { images, .. } => images
                .iter()
                .flat_map(|(reference, digest)| self.items_of(reference, digest))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a host has a binary, or gets it over the jump host's link.
    fn is_there(&self, host: &str, binary: &Binary) -> bool {
        let facts = self.facts.get(host);
        let is_sent = |step: &Step| match &step.action {
            Action::PutBlobs { blobs } => {
                step.host == host && blobs.iter().any(|blob| blob.digest == binary.blob)
            }
            _ => false,
        };
        facts.is_some_and(|facts| {
            facts.store.get(&binary.digest) == Some(&binary.size)
                || facts.staging.get(&binary.blob) == Some(&binary.blob_size)
        }) || self.plan.steps().any(is_sent)
    }

    fn items_of(&self, reference: &str, digest: &Digest) -> Vec<RegistryItem> {
        let mut images = self.software.whole.images.iter();
        let wanted =
            images.find(|image| image.reference == reference && image.digest() == Some(*digest));
        let Some(image) = wanted else {
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

fn binary_item(binary: &Binary) -> RegistryItem {
    RegistryItem {
        repository: binary.repository.clone(),
        digest: binary.blob,
        manifest: None,
    }
}

/// Whether a step writes how the host gets to the registry.
fn changes_the_way(step: &Step) -> bool {
    let Action::WriteFiles { files, .. } = &step.action else {
        return false;
    };
    let mut paths = files.iter().map(|file| file.path.as_str());
    paths.any(|path| {
        [layout::FOREIGN_REGISTRY, layout::FOREIGN_REGISTRY_CA].contains(&path)
            || path.starts_with(layout::REGISTRY_HOSTS)
    })
}

async fn ask(
    host: &RemoteHost,
    question: RegistryQuestion,
    notices: &(dyn Fn(Notice) + Send + Sync),
) -> Result<Vec<RegistryItem>, Fault> {
    let call = Call {
        request: Request::AskRegistry(Box::new(question)),
        body: None,
        notices,
        limit: LIMIT,
    };
    match host.call(call).await? {
        Response::Lacking { lacking } => Ok(lacking),
        _ => Err(Fault::new(Exit::Failed, "an unexpected answer").host(host.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{DesiredHost, FileKind, Stage};
    use crate::plan::{FileChange, FileChangeKind, Lane, StagePlan};
    use camino::Utf8Path;

    fn binary(name: &str) -> Binary {
        Binary {
            digest: Digest::of(name),
            size: 4,
            blob: Digest::of(format!("{name}, compressed")),
            blob_size: 2,
            repository: format!("cofferdam/file/{name}"),
            version: "1".to_owned(),
        }
    }

    fn wanted(action: Action, facts: HostFacts) -> BTreeSet<RegistryItem> {
        let text = "[cluster]\nname = \"x\"\n[zones.a]\n[[hosts]]\nname = \"m1\"\n\
                    address = \"10.0.0.1\"\nzone = \"a\"\nroles = [\"control-plane\"]\n";
        let inventory = crate::inventory::parse(text, Utf8Path::new("i.toml")).unwrap();
        let host = DesiredHost {
            binaries: ["kubectl", "kubelet"]
                .map(|name| (name.to_owned(), binary(name)))
                .into(),
            ..DesiredHost::default()
        };
        let desired = Desired {
            hosts: [("m1".to_owned(), host)].into(),
            ..Desired::default()
        };
        let step = Step {
            stage: Stage::Stage,
            host: "m1".to_owned(),
            title: String::new(),
            disrupts: BTreeSet::new(),
            action,
        };
        let lane = Lane {
            host: "m1".to_owned(),
            steps: vec![step],
        };
        let stage = StagePlan {
            stage: Stage::Stage,
            lanes: vec![lane],
        };
        let plan = Plan {
            stages: vec![stage],
            ..Plan::default()
        };
        let needs = Needs {
            inventory: &inventory,
            software: &Software::default(),
            desired: &desired,
            plan: &plan,
            hosts: &BTreeMap::new(),
            facts: &[("m1".to_owned(), facts)].into(),
        };
        needs.wanted().remove("m1").unwrap_or_default()
    }

    /// A way back needs no registry.
    #[test]
    fn what_a_host_has_is_not_asked_for() {
        let install = || Action::InstallBinaries {
            binaries: [("kubectl".to_owned(), binary("kubectl"))].into(),
            registries: Vec::new(),
        };
        let asked = wanted(install(), HostFacts::default());
        assert_eq!(asked, [binary_item(&binary("kubectl"))].into());
        let stored = HostFacts {
            store: [(binary("kubectl").digest, 4)].into(),
            ..HostFacts::default()
        };
        assert_eq!(wanted(install(), stored), BTreeSet::new());
        let staged = HostFacts {
            staging: [(binary("kubectl").blob, 2)].into(),
            ..HostFacts::default()
        };
        assert_eq!(wanted(install(), staged), BTreeSet::new());
    }

    /// Another password is tried before hosts depend on it.
    #[test]
    fn who_gets_another_way_asks_for_everything() {
        let write = |path: &str| Action::WriteFiles {
            files: vec![FileChange {
                path: path.to_owned(),
                change: FileChangeKind::Create,
            }],
            remove: Vec::new(),
            kind: FileKind::Trust,
        };
        let stored = || HostFacts {
            store: ["kubectl", "kubelet"]
                .map(|name| (binary(name).digest, 4))
                .into(),
            ..HostFacts::default()
        };
        let all: BTreeSet<_> = ["kubectl", "kubelet"]
            .map(|name| binary_item(&binary(name)))
            .into();
        assert_eq!(wanted(write(layout::FOREIGN_REGISTRY), stored()), all);
        let other = wanted(write("/etc/kubernetes/pki/ca.crt"), stored());
        assert_eq!(other, BTreeSet::new());
    }
}
