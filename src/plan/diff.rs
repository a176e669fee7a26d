//! How hosts differ from what is desired: plain comparisons, one a function.

use super::generation::generation_of;
use super::membership::{self, Standing, standing};
use super::safety::disruption_of;
use super::world::World;
use super::{FileChange, FileChangeKind, SeedArtifact, UnitChange, UnitVerb};
use crate::desired::{
    Binary, BlobReference, Condition, Content, Desired, DesiredHost, DigestKey, File, FileKind,
    RegistryArtifact, Stage, Swap, Unit,
};
use crate::digest::Digest;
use crate::facts::{Entry, FileFacts, HostFacts, RegistryFacts, UnitFacts};
use crate::layout;
use crate::owned::{owned_paths, owned_units};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Desired state and world side by side.
pub struct Comparison<'a> {
    pub desired: &'a Desired,
    pub world: &'a World,
    /// One for each desired host that was looked at, in the order of their
    /// names.
    pub hosts: Vec<HostDiff<'a>>,
}

/// How one host differs.
pub struct HostDiff<'a> {
    pub name: &'a str,
    pub desired: &'a DesiredHost,
    pub facts: &'a HostFacts,
    /// Files and directories that are to be written, by path.
    pub files: BTreeMap<&'a str, ChangedFile<'a>>,
    /// Units that are to be started or changed, in start order.
    pub units: Vec<ChangedUnit<'a>>,
}

/// Whether a plan leaves something on a host that a commit collects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    Made,
    None,
}

/// A file that is to be written.
#[derive(Clone, Copy)]
pub struct ChangedFile<'a> {
    pub file: &'a File,
    pub change: FileChangeKind,
    /// When it is written.
    pub stage: Stage,
    /// The running unit with whose restart it is written, and not before: what
    /// is there is whole, and what runs may have to start with it again.
    pub with: Option<&'a str>,
}

/// A binary that is to be installed.
#[derive(Clone, Copy)]
pub struct ChangedBinary<'a> {
    pub name: &'a str,
    pub binary: &'a Binary,
    /// As for files: until then the link leads to what runs.
    pub with: Option<&'a str>,
}

/// A unit that is to be started or changed.
#[derive(Clone, Copy)]
pub struct ChangedUnit<'a> {
    pub unit: &'a Unit,
    pub verb: UnitVerb,
    /// Whether this interrupts something that serves now.
    pub disrupts: bool,
}

impl<'a> Comparison<'a> {
    pub fn new(desired: &'a Desired, world: &'a World, key: Option<&DigestKey>) -> Self {
        let hosts = desired.hosts.iter().filter_map(|(name, host)| {
            let facts = world.hosts.get(name)?;
            Some(HostDiff::new(name, host, facts, key))
        });
        Self {
            desired,
            world,
            hosts: hosts.collect(),
        }
    }
}

impl Comparison<'_> {
    /// The host whose member leads etcd, where one of them could tell.
    pub fn etcd_leader(&self) -> Option<&str> {
        let facts = self.world.hosts.values();
        let mut leaders = facts.filter_map(|facts| facts.etcd.as_ref()?.leader.as_deref());
        leaders.next()
    }

    /// Where a host stands on its way into etcd; none if it is to be no
    /// member.
    pub fn standing(&self, host: &str) -> Option<Standing> {
        let members = membership::members(self.world.hosts.values());
        let facts = self.world.hosts.get(host);
        standing(self.desired.hosts.get(host)?, facts, members)
    }
}

impl<'a> HostDiff<'a> {
    pub fn new(
        name: &'a str,
        desired: &'a DesiredHost,
        facts: &'a HostFacts,
        key: Option<&DigestKey>,
    ) -> Self {
        let changed = desired.files.iter().filter_map(|(path, file)| {
            let changed = ChangedFile {
                file,
                change: file_change(file, facts.files.get(path), key)?,
                stage: stage_of_file(path, file, desired),
                with: None,
            };
            Some((path.as_str(), changed))
        });
        let mut files: BTreeMap<_, _> = changed.collect();
        let units = desired.units.iter().filter_map(|unit| {
            let found = facts.units.get(&unit.name);
            let believed = found.map(|found| believed(found, unit, desired, facts));
            let rewritten = unit_paths(&unit.name).any(|path| files.contains_key(path.as_str()));
            let verb = unit_verb(unit, believed.as_ref(), rewritten);
            let lost_its_route = matches!(verb, None | Some(UnitVerb::Enable))
                && desired.service_route.as_ref().is_some_and(|kept| {
                    kept.unit == unit.name && !facts.routes.iter().any(|route| route.does_for(kept))
                });
            let verb = match lost_its_route {
                true => unit.change.into(),
                false => verb?,
            };
            let serves = found.is_some_and(is_running);
            // The system's own units read what they were given when they start,
            // whether and whenever that is.
            let is_systems = layout::SYSTEM_UNITS.contains(&unit.name.as_str());
            if is_systems && (verb == UnitVerb::Enable || !serves) {
                return None;
            }
            // The route stays while its keeper is away.
            let keeps_route = desired.service_route.as_ref();
            let keeps_route = keeps_route.is_some_and(|kept| kept.unit == unit.name);
            let disrupts = verb == UnitVerb::Restart && serves && !keeps_route;
            Some(ChangedUnit {
                unit,
                verb,
                disrupts,
            })
        });
        let units: Vec<ChangedUnit> = units.collect();
        for (path, changed) in &mut files {
            let is_whole = changed.change == FileChangeKind::Update;
            if !is_whole || changed.file.kind != FileKind::Software {
                continue;
            }
            let mut readers =
                readers(path, desired).filter(|unit| !unit.needs.follows.contains(*path));
            if let Some(unit) = readers.find_map(|reader| switched(&units, reader)) {
                changed.with = Some(&unit.name);
                changed.stage = unit.stage;
            }
        }
        Self {
            units,
            name,
            desired,
            facts,
            files,
        }
    }

    /// Binaries that the store lacks or whose link is not as it should be,
    /// among those that are brought in the given stage.
    pub fn binaries(&self, stage: Stage) -> Vec<ChangedBinary<'a>> {
        let all = self.changed_binaries();
        all.filter(|changed| stage_of_binary(changed.name, self.desired) == stage)
            .collect()
    }

    /// Binaries whose links are set with the restart of one of the units.
    pub fn binaries_with(&self, units: &[&str]) -> BTreeMap<String, Binary> {
        self.changed_binaries()
            .filter(|changed| changed.with.is_some_and(|unit| units.contains(&unit)))
            .map(|changed| (changed.name.to_owned(), changed.binary.clone()))
            .collect()
    }

    /// Files that are written with the restart of one of the units.
    pub fn files_with(&self, units: &[&str]) -> Vec<FileChange> {
        let files = self.files.iter();
        files
            .filter(|(_, changed)| changed.with.is_some_and(|unit| units.contains(&unit)))
            .map(|(path, changed)| FileChange {
                path: (*path).to_owned(),
                change: changed.change,
            })
            .collect()
    }

    fn changed_binaries(&self) -> impl Iterator<Item = ChangedBinary<'a>> {
        let (desired, facts) = (self.desired, self.facts);
        let all = desired.binaries.iter();
        all.filter(|(name, binary)| !is_installed(name, binary, facts))
            .map(move |(name, binary)| {
                let mut users = desired
                    .units
                    .iter()
                    .filter(|unit| unit.needs.binaries.contains(name));
                let is_whole = linked(name, facts).is_some_and(|found| {
                    found != binary.digest && facts.store.contains_key(&found)
                });
                let with = users.find_map(|user| switched(&self.units, user));
                ChangedBinary {
                    name,
                    binary,
                    with: with.filter(|_| is_whole).map(|unit| unit.name.as_str()),
                }
            })
    }

    /// Whether something of a stage that serves now is interrupted.
    pub fn interrupts(&self, stage: Stage) -> bool {
        let mut units = self.units.iter();
        units.any(|changed| changed.disrupts && changed.unit.stage == stage)
            && disruption_of(stage).is_some()
    }

    /// Whether a change interrupts what serves now.
    pub fn disrupts(&self, change: &UnitChange) -> bool {
        let mut units = self.units.iter();
        units.any(|changed| changed.unit.name == change.name && changed.disrupts)
    }

    /// Whether the unit runs now.
    pub fn runs(&self, unit: &str) -> bool {
        self.facts.units.get(unit).is_some_and(is_running)
    }

    /// Names of the images that aren't there, complete and pinned.
    pub fn images(&self) -> BTreeMap<&'a str, &'a crate::desired::NodeImage> {
        let held = self.facts.images.as_ref();
        let is_held = |reference: &str, digest: Digest| {
            held.and_then(|images| images.get(reference))
                .is_some_and(|image| image.digest == digest && image.pinned && image.complete)
        };
        let all = self.desired.images.iter();
        all.filter(|(reference, image)| !is_held(reference, image.digest))
            .map(|(reference, image)| (reference.as_str(), image))
            .collect()
    }

    /// What the host's registry lacks.
    pub fn seeds(&self) -> Vec<SeedArtifact> {
        static EMPTY: LazyLock<RegistryFacts> = LazyLock::new(RegistryFacts::default);
        let facts = self.facts.registry.as_ref().unwrap_or(&EMPTY);
        let content = self.desired.registry.iter();
        content
            .flat_map(|content| content.artifacts.values())
            .filter_map(|artifact| missing_of_artifact(artifact, facts))
            .collect()
    }

    pub fn modules(&self) -> Vec<String> {
        let all = self.desired.modules.iter();
        all.filter(|name| self.facts.modules.get(*name) != Some(&true))
            .cloned()
            .collect()
    }

    pub fn sysctls(&self) -> BTreeMap<String, String> {
        let all = self.desired.sysctls.iter();
        all.filter(|(name, value)| {
            let found = self.facts.sysctls.get(*name);
            !found.is_some_and(|found| found.split_whitespace().eq(value.split_whitespace()))
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
    }

    pub fn users(&self) -> Vec<String> {
        let missing = self.desired.users.difference(&self.facts.users);
        missing.cloned().collect()
    }

    pub fn swap_is_to_go(&self) -> bool {
        self.desired.swap == Swap::Off && !(self.facts.swaps.is_empty() && self.facts.swap_masked)
    }

    /// Units of ours that are no longer desired and that systemd still knows.
    /// Units of the system's own, to which we only added a drop-in, stay.
    pub fn units_to_stop(&self) -> Vec<String> {
        let owned = owned_paths(self.facts);
        let is_ours = |name: &str| unit_paths(name).any(|path| owned.contains_key(path.as_str()));
        let is_desired = |name: &str| self.desired.units.iter().any(|unit| unit.name == name);
        let is_known = |name: &str| {
            let facts = self.facts.units.get(name);
            facts.is_some_and(|facts| is_running(facts) || facts.enabled || facts.main_pid != 0)
        };
        let units = owned_units(self.facts.generation.as_ref(), &self.facts.pending);
        units
            .into_iter()
            .filter(|name| is_ours(name) && !is_desired(name) && is_known(name))
            .map(str::to_owned)
            .collect()
    }

    /// Files that were written by us and are no longer desired, the
    /// deepest first so that directories are empty when their turn comes.
    pub fn files_to_remove(&self, kind: FileKind) -> Vec<String> {
        let owned = owned_paths(self.facts).into_iter();
        let mut paths: Vec<String> = owned
            .filter(|(path, owner)| {
                // A name in the trust manifest goes even if its file never came.
                let is_there = kind == FileKind::Trust || self.facts.files.contains_key(*path);
                *owner == kind && is_there && !self.desired.files.contains_key(*path)
            })
            .map(|(path, _)| path.to_owned())
            .collect();
        paths.reverse();
        paths
    }

    /// The number of the generation that is to be written; none if the newest
    /// one is as desired and nothing is left over from a run that was cut
    /// short, nor by the plan itself.
    pub fn generation_to_commit(&self, leftovers: Leftovers) -> Option<u64> {
        let found = self.facts.generation.as_ref();
        let number = found.map_or(0, |generation| generation.number);
        let mut desired = generation_of(self.desired, number);
        // What isn't known is no difference: a generation more is a way back less.
        if let (Some(desired), Some(found)) = (&mut desired, found)
            && (desired.artifacts.is_none() || found.artifacts.is_none())
        {
            desired.artifacts.clone_from(&found.artifacts);
        }
        if desired.is_none() || desired.as_ref() != found {
            return Some(number + 1);
        }
        let is_left_over = leftovers == Leftovers::Made
            || !self.facts.staging.is_empty()
            || !self.facts.pending.is_empty();
        is_left_over.then_some(number)
    }

    /// Whether the host's part of a condition is known not to hold.
    pub fn is_unmet(&self, condition: &Condition) -> bool {
        let mut unmet = self.facts.unmet.iter();
        unmet.any(|found| found.condition == *condition)
    }
}

/// The unit, if it runs and is to be restarted at a time of its own.
fn switched<'a>(units: &[ChangedUnit<'a>], unit: &Unit) -> Option<&'a Unit> {
    let mut units = units.iter();
    let changed = units.find(|changed| changed.unit.name == unit.name)?;
    let is_timed = disruption_of(unit.stage).is_some();
    (changed.disrupts && is_timed).then_some(changed.unit)
}

/// Whether systemd takes the unit for running.
pub fn is_running(facts: &UnitFacts) -> bool {
    matches!(facts.active.as_str(), "active" | "reloading")
}

/// How a file is to be changed; none if it is as desired.
fn file_change(
    desired: &File,
    found: Option<&FileFacts>,
    key: Option<&DigestKey>,
) -> Option<FileChangeKind> {
    let Some(found) = found else {
        return Some(FileChangeKind::Create);
    };
    if found.matches(desired, key) {
        return None;
    }
    let with_right_attributes = FileFacts {
        mode: desired.mode,
        user: desired.user.clone(),
        group: desired.group.clone(),
        ..found.clone()
    };
    if with_right_attributes.matches(desired, key) {
        Some(FileChangeKind::Attributes)
    } else {
        Some(FileChangeKind::Update)
    }
}

/// A unit as found, but without inputs where its process runs another binary
/// than is desired, or a damaged one: the machine may have booted between a
/// change of binaries and the restart that was to follow it, with the inputs
/// of before.
fn believed(found: &UnitFacts, unit: &Unit, desired: &DesiredHost, facts: &HostFacts) -> UnitFacts {
    let mut binaries = unit
        .needs
        .binaries
        .iter()
        .filter_map(|name| desired.binaries.get(name));
    let is_right = found.executable.is_none_or(|executable| {
        facts.store.contains_key(&executable) && binaries.any(|known| known.digest == executable)
    });
    UnitFacts {
        inputs: found.inputs.filter(|_| is_right),
        ..found.clone()
    }
}

/// What is to be done to a unit; none if it runs as it should. `rewritten`
/// tells that its unit file is written in the same plan.
fn unit_verb(unit: &Unit, found: Option<&UnitFacts>, rewritten: bool) -> Option<UnitVerb> {
    let Some(found) = found.filter(|found| found.load == "loaded") else {
        return Some(UnitVerb::Start);
    };
    let differs = match unit.inputs {
        Some(inputs) => found.inputs != Some(inputs),
        None if unit.pending => true,
        // A socket has no process that could carry a digest.
        None => found.needs_reload || rewritten,
    };
    match (is_running(found), differs) {
        (true, true) => Some(unit.change.into()),
        (true, false) => (!found.enabled).then_some(UnitVerb::Enable),
        // A start job for what is on its way up is a no-op, so a process with
        // old inputs would stay.
        (false, true) if found.main_pid != 0 => Some(UnitVerb::Restart),
        (false, _) => Some(UnitVerb::Start),
    }
}

/// When a file is written: directories first; then what settings take effect
/// by; then what each unit reads before the first unit that reads it starts.
/// Files of units without inputs come right before their start, since the
/// only trace of a lost restart is that systemd has not read them yet.
fn stage_of_file(path: &str, file: &File, host: &DesiredHost) -> Stage {
    if file.content == Content::Directory {
        return Stage::Prepare;
    }
    let readers: Vec<&Unit> = readers(path, host).collect();
    let first = readers.iter().map(|unit| unit.stage).min();
    let leaves_no_trace = readers
        .iter()
        .all(|unit| unit.inputs.is_none() && !unit.pending);
    match (first, file.kind) {
        (Some(stage), _) if leaves_no_trace => stage,
        (Some(stage @ (Stage::Site | Stage::Prepare | Stage::Registry)), _) => stage,
        (Some(_), _) | (None, FileKind::Trust) => Stage::Stage,
        (None, FileKind::Software) => Stage::Prepare,
    }
}

/// When a binary is installed: before the first unit that needs it, but in
/// general in one go from the registries.
fn stage_of_binary(name: &str, host: &DesiredHost) -> Stage {
    let users = host
        .units
        .iter()
        .filter(|unit| unit.needs.binaries.contains(name));
    match users.map(|unit| unit.stage).min() {
        Some(stage @ (Stage::Site | Stage::Prepare | Stage::Registry)) => stage,
        _ => Stage::Stage,
    }
}

/// The units that read a file.
pub fn readers<'a>(path: &'a str, host: &'a DesiredHost) -> impl Iterator<Item = &'a Unit> {
    host.units.iter().filter(move |unit| {
        unit.needs.files.contains(path) || unit_paths(&unit.name).any(|own| path.starts_with(&own))
    })
}

/// The unit's own file, and the directory of its drop-ins.
fn unit_paths(unit: &str) -> impl Iterator<Item = String> {
    ["", ".d/"]
        .into_iter()
        .map(move |suffix| format!("{}{unit}{suffix}", layout::UNITS))
}

fn is_installed(name: &str, binary: &Binary, facts: &HostFacts) -> bool {
    let stored = facts.store.get(&binary.digest) == Some(&binary.size);
    stored && linked(name, facts) == Some(binary.digest)
}

/// The content of the store that a binary's link leads to.
pub fn linked(name: &str, facts: &HostFacts) -> Option<Digest> {
    let link = facts.files.get(&format!("{}/{name}", layout::BIN))?;
    let Entry::Link { target } = &link.entry else {
        return None;
    };
    let digest = Digest::from_hex(target.rsplit('/').next()?).ok()?;
    (*target == layout::stored_target(&digest)).then_some(digest)
}

/// What of an artifact a registry lacks; none if it is complete. Wherever there
/// are manifests to send, the one that the tag names is the last of them, even
/// if the registry has it, since the last one gets the tag.
fn missing_of_artifact(artifact: &RegistryArtifact, facts: &RegistryFacts) -> Option<SeedArtifact> {
    let is_held = |blob: &BlobReference| {
        facts.blobs.get(&blob.digest) == Some(&blob.size)
            && facts
                .links
                .contains(&format!("{}@{}", artifact.repository, blob.digest))
    };
    let missing = |blobs: &[BlobReference]| -> Vec<BlobReference> {
        blobs
            .iter()
            .filter(|blob| !is_held(blob))
            .cloned()
            .collect()
    };
    let mut manifests = missing(&artifact.manifests);
    let blobs = missing(&artifact.blobs);
    let name = format!("{}:{}", artifact.repository, artifact.tag);
    let root = artifact.manifests.last()?;
    let tagged = facts.tags.get(&name) == Some(&root.digest);
    let is_root_due = !tagged || !manifests.is_empty();
    if is_root_due && manifests.last() != Some(root) {
        manifests.push(root.clone());
    }
    if manifests.is_empty() && blobs.is_empty() {
        return None;
    }
    Some(SeedArtifact {
        repository: artifact.repository.clone(),
        tag: artifact.tag.clone(),
        blobs,
        manifests,
    })
}
