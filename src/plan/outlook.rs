//! What an upgrade will mean, before it is begun: versions, flags and files by
//! host, pods that move, and what crosses the link.

use super::versions::changes;
use super::{Action, Comparison, FileChangeKind, Plan};
use crate::desired::{Content, FileKind};
use crate::digest::Digest;
use crate::facts::{StoredGeneration, UsageFacts};
use crate::layout;
use serde::Serialize;
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Lines of a file that are shown around what changes.
const CONTEXT: usize = 1;

/// All that is told of a run beside its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// By host.
    pub hosts: BTreeMap<String, HostOutlook>,
    /// By zone, host and workload: how many of its pods are evicted.
    pub evicted: BTreeMap<String, BTreeMap<String, BTreeMap<String, usize>>>,
    /// By workload that pods are evicted of: how many it has in all.
    pub pods: BTreeMap<String, usize>,
    /// By zone: bytes that cross the jump host's link.
    pub bytes: BTreeMap<String, u64>,
    /// How runs of the same kind went before, the last one first.
    pub earlier: Vec<Earlier>,
}

/// What changes on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostOutlook {
    /// By program: its version now and then.
    pub versions: BTreeMap<String, (String, String)>,
    /// By unit: its flags that come and go, as `+ --v=2` and `- --v=3`.
    pub flags: BTreeMap<String, Vec<String>>,
    /// By path: how its text differs, line by line; what can't be told is said.
    pub files: BTreeMap<String, String>,
}

/// What a plan brings to a host, and takes away.
#[derive(Default)]
struct Planned<'a> {
    programs: BTreeSet<&'a str>,
    files: BTreeMap<&'a str, FileChangeKind>,
    removed: BTreeSet<&'a str>,
}

impl<'a> Planned<'a> {
    fn of(plan: &'a Plan, host: &str) -> Self {
        let mut planned = Self::default();
        for step in plan.steps().filter(|step| step.host == host) {
            let (programs, files) = match &step.action {
                Action::InstallBinaries { binaries, .. } => (Some(binaries), None),
                Action::SwitchUnits {
                    binaries, files, ..
                } => (Some(binaries), Some(files)),
                Action::WriteFiles { files, remove, .. } => {
                    planned.removed.extend(remove.iter().map(String::as_str));
                    (None, Some(files))
                }
                _ => continue,
            };
            let names = programs.into_iter().flat_map(BTreeMap::keys);
            planned.programs.extend(names.map(String::as_str));
            let files = files.into_iter().flatten();
            let files = files.map(|change| (change.path.as_str(), change.change));
            planned.files.extend(files);
        }
        planned
    }
}

/// A run that came to its end before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Earlier {
    /// When it began, as its journal's name has it: `20261129T084501Z`.
    pub begun: String,
    pub seconds: u64,
    pub steps: usize,
    pub sent_bytes: u64,
}

/// What is known beside what a plan is made of.
#[derive(Default)]
pub struct Known {
    /// By host, its newest generation.
    pub generations: BTreeMap<String, StoredGeneration>,
    pub usage: Option<UsageFacts>,
    pub earlier: Vec<Earlier>,
}

/// Looks ahead.
pub fn outlook(comparison: &Comparison, plan: &Plan, known: Known) -> Outlook {
    let mut outlook = Outlook {
        earlier: known.earlier,
        ..Outlook::default()
    };
    for host in &comparison.hosts {
        let mut told = HostOutlook::default();
        let planned = Planned::of(plan, host.name);
        let versions = changes(host.desired, host.facts);
        for change in versions.filter(|change| planned.programs.contains(change.program)) {
            let versions = (change.from.to_string(), change.to.to_string());
            told.versions.insert(change.program.to_owned(), versions);
        }
        let stored = known.generations.get(host.name);
        for path in &planned.removed {
            told.files.insert((*path).to_owned(), "it goes".to_owned());
        }
        for (path, changed) in &host.files {
            let Content::Plain(new) = &changed.file.content else {
                continue;
            };
            match planned.files.get(path) {
                Some(_) if changed.file.kind != FileKind::Software => continue,
                Some(FileChangeKind::Attributes) => {
                    let what = "its owner or mode".to_owned();
                    told.files.insert((*path).to_owned(), what);
                    continue;
                }
                Some(_) => {}
                None => continue,
            }
            let found = comparison.world.hosts[host.name].files.get(*path);
            let old = match found {
                None => Some(String::new()),
                Some(found) => found_text(found.digest(), stored),
            };
            let new = String::from_utf8_lossy(new);
            tell_change(&mut told, path, old.as_deref(), &new);
        }
        if told != HostOutlook::default() {
            outlook.hosts.insert(host.name.to_owned(), told);
        }
    }
    tell_pods(&mut outlook, comparison, plan, known.usage.as_ref());
    outlook.bytes = bytes(comparison, plan);
    outlook
}

/// The text of a file as it is, if it is as the newest generation has it.
fn found_text(digest: Option<Digest>, stored: Option<&StoredGeneration>) -> Option<String> {
    let bytes = stored?.bytes(&digest?)?;
    String::from_utf8(bytes).ok()
}

fn tell_change(told: &mut HostOutlook, path: &str, old: Option<&str>, new: &str) {
    let Some(old) = old else {
        let what = "it is not as the newest generation has it: what differs can't be told";
        told.files.insert(path.to_owned(), what.to_owned());
        return;
    };
    let unit = path.strip_prefix(layout::UNITS);
    let (mut old, mut new) = (old.to_owned(), new.to_owned());
    if let Some(unit) = unit.filter(|_| !old.is_empty()) {
        let (flags_then, flags_now) = (take_flags(&mut new), take_flags(&mut old));
        let come = flags_then.difference(&flags_now);
        let gone = flags_now.difference(&flags_then);
        let all: Vec<String> = gone
            .map(|flag| format!("- {flag}"))
            .chain(come.map(|flag| format!("+ {flag}")))
            .collect();
        if !all.is_empty() {
            told.flags.insert(unit.to_owned(), all);
        }
    }
    if old == new {
        return;
    }
    let diff = TextDiff::from_lines(&old, &new);
    let text = diff.unified_diff().context_radius(CONTEXT).to_string();
    // Where it differs tells itself.
    let lines = text.lines().filter(|line| !line.starts_with("@@"));
    let lines: Vec<&str> = lines.collect();
    told.files.insert(path.to_owned(), lines.join("\n"));
}

/// Takes the flags out of a unit's text, one a line.
fn take_flags(text: &mut String) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    let mut rest = String::new();
    for line in text.lines() {
        let word = line.trim().trim_end_matches('\\').trim_end();
        match word.trim_matches('"').starts_with("--") {
            true => drop(flags.insert(word.to_owned())),
            false => {
                rest.push_str(line.trim_end_matches('\\').trim_end());
                rest.push('\n');
            }
        }
    }
    *text = rest;
    flags
}

fn tell_pods(
    outlook: &mut Outlook,
    comparison: &Comparison,
    plan: &Plan,
    usage: Option<&UsageFacts>,
) {
    let drained: BTreeSet<&str> = plan
        .steps()
        .filter_map(|step| match &step.action {
            Action::Drain { node, .. } => Some(node.as_str()),
            _ => None,
        })
        .collect();
    let moving = || usage.into_iter().flat_map(|usage| &usage.moving);
    for pod in moving().filter(|pod| drained.contains(pod.node.as_str())) {
        let zone = comparison.zone_of(&pod.node).to_owned();
        let nodes = outlook.evicted.entry(zone).or_default();
        let workloads = nodes.entry(pod.node.clone()).or_default();
        *workloads.entry(pod.workload.clone()).or_default() += 1;
        let all = moving().filter(|other| other.workload == pod.workload);
        outlook.pods.insert(pod.workload.clone(), all.count());
    }
}

/// What the plan sends from the jump host.
fn bytes(comparison: &Comparison, plan: &Plan) -> BTreeMap<String, u64> {
    let mut zones = BTreeMap::new();
    for step in plan.steps() {
        let Some(facts) = comparison.world.hosts.get(&step.host) else {
            continue;
        };
        let held = facts.registry.as_ref();
        let is_held = |digest: &Digest| held.is_some_and(|held| held.blobs.contains_key(digest));
        let blobs: BTreeMap<Digest, u64> = match &step.action {
            Action::PutBlobs { blobs } => {
                let blobs = blobs.iter();
                blobs.map(|blob| (blob.digest, blob.size)).collect()
            }
            Action::Seed { artifacts } => artifacts
                .iter()
                .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests))
                .filter(|blob| !is_held(&blob.digest))
                .map(|blob| (blob.digest, blob.size))
                .collect(),
            _ => continue,
        };
        let zone = comparison.zone_of(&step.host).to_owned();
        *zones.entry(zone).or_default() += blobs.values().sum::<u64>();
    }
    zones
}

/// For people: hosts that have the same to tell, together. Ends with a line break.
pub fn outlook_text(outlook: &Outlook, human: impl Fn(u64) -> String) -> String {
    let mut text = String::new();
    let mut versions: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut flags: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut files: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (name, host) in &outlook.hosts {
        for (program, (from, to)) in &host.versions {
            let line = format!("{program} {from} -> {to}");
            versions.entry(line).or_default().push(name);
        }
        for (unit, lines) in &host.flags {
            for line in lines {
                let line = format!("{unit} {line}");
                flags.entry(line).or_default().push(name);
            }
        }
        for (path, diff) in &host.files {
            files.entry((path, diff)).or_default().push(name);
        }
    }
    for (heading, lines) in [("versions", versions), ("flags", flags)] {
        let width = lines.values().map(|hosts| hosts.join(" ").len()).max();
        for (place, (line, hosts)) in lines.iter().enumerate() {
            let heading = if place == 0 { heading } else { "" };
            let (hosts, width) = (hosts.join(" "), width.unwrap_or_default());
            let _ = writeln!(text, "{heading:<9} {hosts:width$}  {line}");
        }
    }
    for (place, ((path, diff), hosts)) in files.iter().enumerate() {
        let heading = if place == 0 { "files" } else { "" };
        let _ = writeln!(text, "{heading:<9} {}  {path}", hosts.join(" "));
        for line in diff.lines() {
            let _ = writeln!(text, "{:<12} {line}", "");
        }
    }
    let evicted = outlook.evicted.iter();
    let evicted = evicted.flat_map(|(zone, nodes)| nodes.iter().map(move |node| (zone, node)));
    for (place, (zone, (node, workloads))) in evicted.enumerate() {
        let heading = if place == 0 { "pods" } else { "" };
        let each = workloads.iter().map(|(workload, count)| {
            let all = outlook.pods.get(workload).copied().unwrap_or(*count);
            format!("{workload} {count} of {all}")
        });
        let each: Vec<String> = each.collect();
        let _ = writeln!(
            text,
            "{heading:<9} zone {zone}, {node}: evicts {}",
            each.join(", ")
        );
    }
    let sums = outlook.bytes.iter();
    let sums: Vec<String> = sums
        .map(|(zone, bytes)| format!("{} to zone {zone}", human(*bytes)))
        .collect();
    let sums = match sums.is_empty() {
        true => "nothing to send".to_owned(),
        false => sums.join(", "),
    };
    let _ = writeln!(text, "{:<9} {sums}", "link");
    for (place, run) in outlook.earlier.iter().enumerate() {
        let heading = if place == 0 { "earlier" } else { "" };
        let _ = writeln!(
            text,
            "{heading:<9} {}: {} steps in {} s, {} sent",
            run.begun,
            run.steps,
            run.seconds,
            human(run.sent_bytes)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "[Service]\nExecStart=/opt/x \\\n  --a=1 \\\n  --b=2\nRestart=always\n";

    #[test]
    fn flags_are_told_one_by_one() {
        let mut told = HostOutlook::default();
        let new = UNIT.replace("--b=2", "--b=3 \\\n  --c=4");
        tell_change(&mut told, "/etc/systemd/system/x.service", Some(UNIT), &new);
        assert_eq!(told.flags["x.service"], ["- --b=2", "+ --b=3", "+ --c=4"]);
        assert!(told.files.is_empty(), "{:?}", told.files);
        // Without flags it stays the same line.
        let mut told = HostOutlook::default();
        let new = "[Service]\nExecStart=/opt/x\nRestart=always\n";
        tell_change(&mut told, "/etc/systemd/system/x.service", Some(UNIT), new);
        assert_eq!(told.flags["x.service"], ["- --a=1", "- --b=2"]);
        assert!(told.files.is_empty(), "{:?}", told.files);
    }

    #[test]
    fn texts_are_told_line_by_line() {
        let mut told = HostOutlook::default();
        tell_change(&mut told, "/a", Some("1\n2\n3\n4\n"), "1\n2\n3\n5\n");
        tell_change(&mut told, "/b", Some(""), "new\n");
        tell_change(&mut told, "/c", None, "new\n");
        assert_eq!(told.files["/a"], " 3\n-4\n+5");
        assert_eq!(told.files["/b"], "+new");
        assert!(told.files["/c"].contains("can't be told"));
    }

    #[test]
    fn hosts_with_the_same_are_told_together() {
        let host = HostOutlook {
            versions: [(
                "kubelet".to_owned(),
                ("1.36.0".to_owned(), "1.37.0".to_owned()),
            )]
            .into(),
            flags: [("kubelet.service".to_owned(), vec!["+ --v=2".to_owned()])].into(),
            files: [("/a".to_owned(), "-1\n+2".to_owned())].into(),
        };
        let mut master = host.clone();
        let etcd = ("3.6.16".to_owned(), "3.7.3".to_owned());
        master.versions.insert("etcd".to_owned(), etcd);
        let workloads = [("default/web".to_owned(), 1)].into();
        let outlook = Outlook {
            hosts: [("m1".to_owned(), master), ("w1".to_owned(), host)].into(),
            evicted: [("a".to_owned(), [("w1".to_owned(), workloads)].into())].into(),
            pods: [("default/web".to_owned(), 2)].into(),
            bytes: [("a".to_owned(), 7), ("b".to_owned(), 0)].into(),
            earlier: vec![Earlier {
                begun: "20261129T084501Z".to_owned(),
                seconds: 340,
                steps: 9,
                sent_bytes: 8,
            }],
        };
        let expected = "\
versions  m1     etcd 3.6.16 -> 3.7.3
          m1 w1  kubelet 1.36.0 -> 1.37.0
flags     m1 w1  kubelet.service + --v=2
files     m1 w1  /a
             -1
             +2
pods      zone a, w1: evicts default/web 1 of 2
link      7 B to zone a, 0 B to zone b
earlier   20261129T084501Z: 9 steps in 340 s, 8 B sent
";
        assert_eq!(
            outlook_text(&outlook, |bytes| format!("{bytes} B")),
            expected
        );
    }
}
