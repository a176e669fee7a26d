//! Which of its generations a host goes back to, and with which of its parts.

use super::diff::linked;
use super::versions::version_of;
use crate::desired::{DesiredHost, Part};
use crate::digest::Digest;
use crate::facts::{Entry, Generation, GenerationFile, HostFacts, StoredGeneration};
use crate::layout;
use semver::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const API_SERVER: &str = "kube-apiserver";
const API_SERVER_UNIT: &str = "kube-apiserver.service";
/// How an API server's unit says that it behaves as an older one.
const EMULATED: &str = "--emulated-version=";

/// A minor of containerd whose metadata an older one was seen to read: the lab's
/// scenario of an upgrade takes a node back over it, pods running.
const CONTAINERD_WAYS_BACK: [((u64, u64), (u64, u64)); 1] = [((2, 4), (2, 3))];

/// What is known of a host that may go back.
pub struct Past<'a> {
    pub facts: &'a HostFacts,
    /// The newest first.
    pub generations: &'a [StoredGeneration],
}

impl Past<'_> {
    /// Whether the host is something else than its newest generation.
    fn is_changing(&self) -> bool {
        let Some(newest) = self.generations.first().map(|stored| &stored.generation) else {
            return false;
        };
        let is_there = |(path, file): (&String, &GenerationFile)| {
            let found = self.facts.files.get(path);
            found.is_some_and(|found| match file.digest {
                None => found.entry == Entry::Directory,
                Some(digest) => found.digest() == Some(digest),
            })
        };
        let is_linked =
            |(name, digest): (&String, &Digest)| linked(name, self.facts) == Some(*digest);
        !self.facts.pending.is_empty()
            || !newest.files.iter().all(is_there)
            || !newest.binaries.iter().all(is_linked)
    }
}

/// What becomes of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A change that was cut short has not reached it.
    Stays,
    To {
        stored: &'a StoredGeneration,
        parts: BTreeSet<Part>,
        /// Parts that the generation has otherwise, with why they can't go back.
        left: Vec<(Part, String)>,
    },
}

/// Why a host can't go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoWayBack {
    /// It has no other generation.
    NoGeneration { host: String },
    /// That would be a newer one.
    Newer {
        host: String,
        program: String,
        from: String,
        to: String,
    },
    /// An older program might not read what a newer one has written.
    Unknown {
        host: String,
        program: &'static str,
        from: String,
        to: String,
    },
}

/// The targets of hosts that are to go back, by name. `begun` has the generations
/// that hosts had when a change began that has not come to its end: it is undone
/// where it was begun, and only there. Without one it is the last change that is
/// undone, on all of them but those that it left out, `left_out`.
///
/// # Errors
/// With the first host that can't go back.
pub fn targets<'a>(
    hosts: &'a BTreeMap<String, Past<'a>>,
    begun: Option<&BTreeMap<String, u64>>,
    left_out: &BTreeSet<String>,
) -> Result<BTreeMap<&'a str, Target<'a>>, NoWayBack> {
    let mut targets = BTreeMap::new();
    for (name, past) in hosts {
        let mut generations = past.generations.iter();
        let newest = past.generations.first();
        let newest = newest.map(|stored| stored.generation.number);
        let began_from = match begun {
            // It was not noted of those that it was never to reach.
            Some(begun) => Some(begun.get(name).copied().or(newest)),
            None => left_out.contains(name).then_some(newest),
        };
        let stored = match began_from {
            Some(number) if number == newest && newest.is_some() && !past.is_changing() => {
                targets.insert(name.as_str(), Target::Stays);
                continue;
            }
            Some(number) => generations.find(|stored| Some(stored.generation.number) == number),
            None => generations.nth(1),
        };
        let Some(stored) = stored else {
            return Err(NoWayBack::NoGeneration { host: name.clone() });
        };
        targets.insert(name.as_str(), parts(name, past.facts, stored)?);
    }
    Ok(targets)
}

/// What of a host can go back to a generation.
fn parts<'a>(
    host: &str,
    facts: &HostFacts,
    stored: &'a StoredGeneration,
) -> Result<Target<'a>, NoWayBack> {
    let generation = &stored.generation;
    let mut parts = BTreeSet::new();
    let mut left = Vec::new();
    let etcd = both("etcd", facts, generation);
    // Masters whose etcd is elsewhere have what asks it.
    if let Some((now, then)) = etcd.or_else(|| both("etcdctl", facts, generation)) {
        match minor(&now) == minor(&then) {
            true => drop(parts.insert(Part::Etcd)),
            false => left.push((
                Part::Etcd,
                format!("etcd {now} has written what {then} can't read"),
            )),
        }
    }
    if let Some((now, then)) = both(API_SERVER, facts, generation) {
        let emulated_then = emulates(stored);
        let unit = facts.units.get(API_SERVER_UNIT);
        let emulated_now = unit.is_some_and(|unit| unit.emulated.is_some());
        match minor(&now) == minor(&then) && emulated_now == emulated_then {
            true => drop(parts.insert(Part::ControlPlane)),
            false => left.push((
                Part::ControlPlane,
                format!(
                    "it behaves as {}.{} and has stored what an older one can't read",
                    now.major, now.minor
                ),
            )),
        }
    }
    if let Some((now, then)) = both("containerd", facts, generation) {
        let way = (minor(&now), minor(&then));
        if way.1 < way.0 && !CONTAINERD_WAYS_BACK.contains(&way) {
            return Err(NoWayBack::Unknown {
                host: host.to_owned(),
                program: "containerd",
                from: now.to_string(),
                to: then.to_string(),
            });
        }
    }
    if generation.binaries.contains_key("kubelet") {
        parts.insert(Part::Node);
    }
    for program in generation.versions.keys() {
        if let Some((from, to)) = both(program, facts, generation)
            && to > from
        {
            return Err(NoWayBack::Newer {
                host: host.to_owned(),
                program: program.clone(),
                from: from.to_string(),
                to: to.to_string(),
            });
        }
    }
    Ok(Target::To {
        stored,
        parts,
        left,
    })
}

/// The versions of a program that a host has and that a generation had.
fn both(program: &str, facts: &HostFacts, generation: &Generation) -> Option<(Version, Version)> {
    let now = version_of(program, &DesiredHost::default(), facts);
    let then = Version::parse(generation.versions.get(program)?).ok()?;
    // Without its link, it never ran as anything else.
    Some((now.unwrap_or_else(|| then.clone()), then))
}

fn minor(version: &Version) -> (u64, u64) {
    (version.major, version.minor)
}

/// Whether the generation's API server behaves as an older one.
fn emulates(stored: &StoredGeneration) -> bool {
    let path = format!("{}{API_SERVER_UNIT}", layout::UNITS);
    let file = stored.generation.files.get(&path);
    let bytes = file.and_then(|file| stored.bytes(&file.digest?));
    let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.is_some_and(|text| text.contains(EMULATED))
}

impl fmt::Display for NoWayBack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGeneration { host } => {
                write!(
                    formatter,
                    "{host} has no generation that it could go back to"
                )
            }
            Self::Newer {
                host,
                program,
                from,
                to,
            } => write!(
                formatter,
                "{host}: its other generation is a newer one, with {program} {to} instead of {from}"
            ),
            Self::Unknown {
                host,
                program,
                from,
                to,
            } => write!(
                formatter,
                "{host}: whether {program} {to} reads what {from} has written was never shown"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{FileFacts, UnitFacts};

    /// `1.36.0` or `1.37.0/1.36`, as a generation.
    fn stored(number: u64, text: &str) -> StoredGeneration {
        let (version, emulated) = text.split_once('/').unwrap_or((text, ""));
        let etcd = match emulated.is_empty() && version.starts_with("1.37") {
            true => "3.7.3",
            false => "3.6.16",
        };
        let node = match emulated {
            "" => version,
            _ => "1.36.0",
        };
        let containerd = format!("2.{}.0", if node < "1.37" { 3 } else { 4 });
        let versions = [
            (API_SERVER, version),
            ("etcd", etcd),
            ("kubelet", node),
            ("containerd", &containerd),
        ];
        let unit = match emulated {
            "" => "ExecStart=x".to_owned(),
            minor => format!("ExecStart=x {EMULATED}{minor}"),
        };
        let file = GenerationFile {
            digest: Some(Digest::of(&unit)),
            mode: 0o644,
            user: "root".to_owned(),
            group: "root".to_owned(),
            part: Some(Part::ControlPlane),
        };
        let mut stored = StoredGeneration::of(Generation {
            number,
            bundle: format!("kubernetes {text}"),
            binaries: versions
                .iter()
                .map(|(name, version)| ((*name).to_owned(), Digest::of(version)))
                .collect(),
            versions: versions
                .iter()
                .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect(),
            files: [(format!("{}{API_SERVER_UNIT}", layout::UNITS), file)].into(),
            ..Generation::default()
        });
        stored.put(unit.as_bytes());
        stored
    }

    /// A host that runs what a text says, with its generations, the newest first.
    fn host(runs: &str, generations: &[&str]) -> (HostFacts, Vec<StoredGeneration>) {
        let count = generations.len() as u64;
        let numbers = (0..count).map(|place| 3 - place);
        let all: Vec<StoredGeneration> = numbers
            .zip(generations)
            .map(|(number, text)| stored(number, text))
            .collect();
        let now = stored(9, runs);
        let newest = all.first().map(|newest| newest.generation.clone());
        let mut facts = HostFacts {
            generation: newest.clone(),
            ..HostFacts::default()
        };
        let versions = now.generation.binaries.iter();
        facts.pending.versions = versions
            .map(|(name, digest)| (*digest, now.generation.versions[name].clone()))
            .collect();
        for (name, digest) in &now.generation.binaries {
            let file = FileFacts {
                entry: Entry::Link {
                    target: layout::stored_target(digest),
                },
                mode: 0o777,
                user: "root".to_owned(),
                group: "root".to_owned(),
            };
            facts.files.insert(format!("{}/{name}", layout::BIN), file);
        }
        for (path, file) in &now.generation.files {
            let found = FileFacts {
                entry: Entry::File {
                    size: 1,
                    digest: file.digest,
                },
                mode: 0o644,
                user: "root".to_owned(),
                group: "root".to_owned(),
            };
            facts.files.insert(path.clone(), found);
        }
        let emulated = runs.split_once('/').map(|(_, minor)| minor.to_owned());
        let unit = UnitFacts {
            emulated,
            ..UnitFacts::default()
        };
        facts.units.insert(API_SERVER_UNIT.to_owned(), unit);
        (facts, all)
    }

    /// What becomes of each of the hosts, `m1`, `m2`, …, in one line.
    fn told(hosts: &[(&str, &[&str])], begun: Option<&[u64]>) -> String {
        told_without(hosts, begun, &[])
    }

    /// The same after a change that left hosts out.
    fn told_without(hosts: &[(&str, &[&str])], begun: Option<&[u64]>, left_out: &[&str]) -> String {
        let left_out = left_out.iter().map(|name| (*name).to_owned()).collect();
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(runs, generations)| host(runs, generations))
            .collect();
        let name = |place: usize| format!("m{}", place + 1);
        let pasts = hosts.iter().enumerate();
        let pasts: BTreeMap<String, Past> = pasts
            .map(|(place, (facts, generations))| (name(place), Past { facts, generations }))
            .collect();
        let begun = begun.map(|numbers| {
            let numbers = numbers.iter().enumerate();
            numbers
                .map(|(place, number)| (name(place), *number))
                .collect()
        });
        let targets = match targets(&pasts, begun.as_ref(), &left_out) {
            Ok(targets) => targets,
            Err(error) => return error.to_string(),
        };
        let lines = targets.iter().map(|(name, target)| match target {
            Target::Stays => format!("{name} stays"),
            Target::To { stored, parts, .. } => {
                let parts: Vec<String> = parts.iter().map(Part::to_string).collect();
                format!("{name} {}: {}", stored.generation.number, parts.join(" "))
            }
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_change_that_came_to_its_end_is_undone() {
        let done: (&str, &[&str]) = ("1.36.1", &["1.36.1", "1.36.0"]);
        let all = "etcd control plane node";
        assert_eq!(
            told(&[done, done], None),
            format!("m1 2: {all}, m2 2: {all}")
        );
        assert_eq!(
            told(&[("1.36.0", &["1.36.0"])], None),
            "m1 has no generation that it could go back to"
        );
        // It was undone before.
        assert_eq!(
            told(&[("1.36.0", &["1.36.0", "1.36.1"])], None),
            "m1: its other generation is a newer one, with kube-apiserver 1.36.1 instead of 1.36.0"
        );
    }

    #[test]
    fn a_change_that_was_cut_short_is_undone_where_it_was_begun() {
        let begun: (&str, &[&str]) = ("1.36.1", &["1.36.0", "1.36.0"]);
        let not: (&str, &[&str]) = ("1.36.0", &["1.36.0", "1.36.0"]);
        let numbered: (&str, &[&str]) = ("1.36.1", &["1.36.1", "1.36.0"]);
        let all = "etcd control plane node";
        assert_eq!(
            told(&[begun, not, numbered], Some(&[3, 3, 2])),
            format!("m1 3: {all}, m2 stays, m3 2: {all}")
        );
        // A host that was left out when it was begun.
        assert_eq!(
            told(&[begun, not], Some(&[3])),
            format!("m1 3: {all}, m2 stays")
        );
    }

    #[test]
    fn a_host_that_the_last_change_left_out_stays() {
        let done: (&str, &[&str]) = ("1.36.1", &["1.36.1", "1.36.0"]);
        let left: (&str, &[&str]) = ("1.36.0", &["1.36.0", "1.35.9"]);
        let half: (&str, &[&str]) = ("1.36.1", &["1.36.0", "1.35.9"]);
        let all = "etcd control plane node";
        assert_eq!(
            told_without(&[done, left, half], None, &["m2", "m3"]),
            format!("m1 2: {all}, m2 stays, m3 3: {all}")
        );
    }

    #[test]
    fn what_has_stored_new_things_stays() {
        // A finish that failed, and one that came to its end.
        let failed: (&str, &[&str]) = ("1.37.0", &["1.37.0/1.36", "1.36.0"]);
        assert_eq!(told(&[failed], Some(&[3])), "m1 3: node");
        let done: (&str, &[&str]) = ("1.37.0", &["1.37.0", "1.37.0/1.36"]);
        assert_eq!(told(&[done], None), "m1 2: node");
    }

    #[test]
    fn containerd_goes_back_only_where_that_was_shown() {
        let (mut facts, generations) = host("1.37.0", &["1.37.0", "1.36.0"]);
        let newest = facts.generation.as_mut().unwrap();
        newest
            .versions
            .insert("containerd".to_owned(), "2.5.0".to_owned());
        let past = Past {
            facts: &facts,
            generations: &generations,
        };
        let pasts = [("w1".to_owned(), past)].into();
        let error = targets(&pasts, None, &BTreeSet::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "w1: whether containerd 2.3.0 reads what 2.5.0 has written was never shown"
        );
    }
}
