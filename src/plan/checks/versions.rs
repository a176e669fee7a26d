//! From which versions to which a run may go.

use super::{Finding, Question, Subject, finding};
use crate::desired::Stage;
use crate::desired::software::SOAKING;
use crate::plan::Intent;
use crate::plan::versions::{KUBERNETES, VersionChange, changes};
use semver::Version;
use std::collections::BTreeSet;

/// A kubelet may be this many minors older than the API server:
/// <https://kubernetes.io/releases/version-skew-policy/#kubelet>.
const KUBELET_SKEW: u64 = 3;
/// An upgrade of a large cluster, with pauses and a weekend in it.
const CERTIFICATE_DAYS: f64 = 7.0;
/// Names shown of many.
const NAMES_SHOWN: usize = 3;

/// From which patch release of a minor etcd may go on to the next, by minor of
/// etcd 3. Earlier ones don't understand members of the next:
/// <https://etcd.io/docs/v3.6/upgrades/upgrade_3_6/>,
/// <https://etcd.io/docs/v3.7/upgrades/upgrade_3_7/>.
const ETCD_FLOORS: [(u64, u64); 2] = [(5, 26), (6, 11)];

/// `install` leaves versions as they are.
pub(super) fn kept(question: &Question) -> Vec<Finding> {
    if question.intent != Intent::Install {
        return Vec::new();
    }
    let remedy = "`cofferdam upgrade` changes versions; to install, give the bundle of what runs";
    question.each(|subject| {
        let changes: Vec<VersionChange> = changes(subject.desired?, subject.facts).collect();
        let Some(generation) = &subject.facts.generation else {
            // An install that was given up, but not for one that can't read what
            // it has written.
            let keeps_data = |change: &VersionChange| {
                ["etcd", "kube-apiserver"].contains(&change.program) && change.to < change.from
            };
            let back: Vec<VersionChange> = changes.into_iter().filter(keeps_data).collect();
            let remedy = "an install of a newer bundle was begun here: bring it to its end";
            return (!back.is_empty()).then(|| (told(&back), remedy.to_owned()));
        };
        if !changes.is_empty() {
            return Some((told(&changes), remedy.to_owned()));
        }
        // A run was cut short: what it put in place is no generation yet.
        if !subject.facts.pending.is_empty() {
            return None;
        }
        // Images may differ, or what an earlier release wrote no versions of.
        let wanted = &subject.desired?.bundle;
        (generation.bundle != *wanted).then(|| {
            let found = format!("it has {}, the bundle is {wanted}", generation.bundle);
            (found, remedy.to_owned())
        })
    })
}

/// An upgrade changes clusters that are there.
pub(super) fn installed(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    question.each(|subject| {
        let generation = subject.facts.generation.as_ref();
        let remedy = "bring it in with `cofferdam install` and the bundle of what runs elsewhere, \
                      then upgrade";
        match generation {
            None => Some(("no install has come to its end here".into(), remedy.into())),
            // What earlier releases wrote down.
            Some(generation) if generation.versions.is_empty() => Some((
                "its generation doesn't say which versions it has".into(),
                "run `cofferdam install` with the bundle of what runs once, then upgrade".into(),
            )),
            Some(_) => None,
        }
    })
}

/// Nothing goes back to an older version.
pub(super) fn downgrade(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (subject, changes) in changed(question) {
        let back: Vec<VersionChange> = changes
            .into_iter()
            .filter(|change| change.to < change.from)
            .collect();
        if !back.is_empty() {
            let remedy = "an upgrade never goes back: give a bundle with these or later versions";
            findings.push(finding(&subject, told(&back), remedy));
        }
    }
    findings
}

/// A rollback takes back what soaks, and nothing that keeps data. Of hosts that
/// go back to generations of their own, it has been asked before.
pub(super) fn way_back(question: &Question) -> Vec<Finding> {
    if question.intent != Intent::Rollback {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let is_left = |subject: &Subject| {
        let only = question.desired.and_then(|desired| desired.only.as_ref());
        only.is_some_and(|only| !only.contains(&subject.host.name))
    };
    for (subject, changes) in changed(question).filter(|(subject, _)| !is_left(subject)) {
        let is_held = subject.desired.is_some_and(|host| host.held.is_some());
        let keeps_data = |change: &VersionChange| {
            let is_back = change.to < change.from && change.is_of_minor();
            is_back && ["etcd", "kube-apiserver"].contains(&change.program)
        };
        let others: Vec<VersionChange> = changes
            .into_iter()
            .filter(|change| match is_held {
                true => keeps_data(change),
                false => !SOAKING.contains(&change.program),
            })
            .collect();
        if !others.is_empty() {
            let remedy = "there is no way back for these: bring the upgrade to its end";
            findings.push(finding(&subject, told(&others), remedy));
        }
    }
    findings
}

/// Kubernetes goes on one minor at a time, kubelets within their skew.
pub(super) fn one_minor(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (subject, changes) in changed(question) {
        for change in changes {
            let allowed = match change.program {
                "kubelet" | "kube-proxy" => KUBELET_SKEW,
                "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" => 1,
                _ => continue,
            };
            if change.from.major == change.to.major
                && change.to.minor <= change.from.minor + allowed
            {
                continue;
            }
            let between = format!("{}.{}", change.from.major, change.from.minor + 1);
            let remedy = format!("upgrade to Kubernetes {between} first");
            findings.push(finding(&subject, told(&[change]), remedy));
        }
    }
    findings
}

/// Nodes that are left out stay within the skew of the API servers to be.
pub(super) fn kubelets_left_out(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    let desired = question
        .desired
        .iter()
        .flat_map(|desired| desired.hosts.values());
    let mut servers = desired.filter_map(|host| host.binaries.get("kube-apiserver"));
    let Some(served) = servers.find_map(|server| Version::parse(&server.version).ok()) else {
        return Vec::new();
    };
    let hosts = question.inventory.hosts.iter();
    let left_out = hosts.filter(|host| !question.facts.contains_key(&host.name));
    left_out
        .filter_map(|host| {
            let Some(cluster) = question.cluster else {
                return Some(Finding {
                    host: host.name.clone(),
                    found: "it is left out, and no API server says which kubelet it has".to_owned(),
                    remedy: "bring an API server back first".to_owned(),
                });
            };
            let node = cluster.nodes.get(&host.name)?;
            let found = node.kubelet_version.trim_start_matches('v');
            let kubelet = Version::parse(found).ok()?;
            let oldest = served.minor.saturating_sub(KUBELET_SKEW);
            (kubelet.minor < oldest).then(|| Finding {
                host: host.name.clone(),
                found: format!(
                    "its kubelet stays at {kubelet}, and API servers of {served} serve none before {}.{oldest}",
                    served.major
                ),
                remedy: "bring it back and upgrade it first, or take it out of the cluster and the inventory"
                    .to_owned(),
            })
        })
        .collect()
}

/// etcd goes on one minor at a time, and only from patch releases that can.
pub(super) fn etcd_path(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (subject, changes) in changed(question) {
        let change = changes.into_iter().find(|change| change.program == "etcd");
        let Some(change) = change.filter(VersionChange::is_of_minor) else {
            continue;
        };
        let next = change.from.major == change.to.major && change.to.minor == change.from.minor + 1;
        if !next {
            let remedy = format!(
                "etcd goes on one minor at a time: upgrade to one with etcd {}.{} first",
                change.from.major,
                change.from.minor + 1
            );
            findings.push(finding(&subject, told(&[change]), remedy));
            continue;
        }
        let floor = ETCD_FLOORS
            .iter()
            .find(|(minor, _)| *minor == change.from.minor);
        let Some((minor, patch)) = floor.filter(|(_, patch)| change.from.patch < *patch) else {
            continue;
        };
        let remedy = format!(
            "only etcd 3.{minor}.{patch} or later may go on to 3.{}: upgrade to one with that first",
            minor + 1
        );
        findings.push(finding(&subject, told(&[change]), remedy));
    }
    findings
}

/// All members of etcd run what they are known to, before any goes on.
pub(super) fn etcd_settled(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for subject in question.subjects() {
        let Some(etcd) = &subject.facts.etcd else {
            continue;
        };
        if !etcd.alarms.is_empty() {
            let found = format!("etcd has an alarm: {}", etcd.alarms.join(", "));
            let remedy = "see what raised it; NOSPACE wants `etcdctl compact`, `defrag` and \
                          `alarm disarm`; then upgrade";
            findings.push(finding(&subject, found, remedy));
            // All of them tell the same.
            break;
        }
    }
    let is_up = |subject: &Subject| {
        let unit = subject.facts.units.get("etcd.service");
        unit.is_none_or(|unit| unit.active == "active")
    };
    // What is down is started first; what runs and complains is for people.
    if question.subjects().all(|subject| is_up(&subject)) {
        let complaint = question.subjects().find_map(|subject| {
            let etcd = subject.facts.etcd.as_ref()?;
            let error = etcd.unhealthy.clone().or_else(|| etcd.error.clone())?;
            Some((subject, error))
        });
        if let Some((subject, error)) = complaint {
            let found = format!("etcd is not healthy: {error}");
            let remedy = "look at `journalctl -u etcd` there, and upgrade once `cofferdam status` \
                          is fine";
            findings.push(finding(&subject, found, remedy));
        }
    }
    findings
}

/// Nodes are ready, but for those that a run which was cut short left.
pub(super) fn nodes_ready(question: &Question) -> Vec<Finding> {
    let Some(cluster) = question.cluster.filter(|_| question.intent.upgrades()) else {
        return Vec::new();
    };
    question.each(|subject| {
        let node = subject.desired?.node.as_ref()?;
        let of_node = subject
            .desired?
            .units
            .iter()
            .filter(|unit| matches!(unit.stage, Stage::Stage | Stage::Nodes | Stage::Network));
        // What is down, the run starts.
        let is_up = |name: &str| {
            let unit = subject.facts.units.get(name);
            unit.is_some_and(|unit| unit.active == "active")
        };
        let all_up = of_node.map(|unit| unit.name.as_str()).all(is_up);
        let known = cluster.nodes.get(&node.name)?;
        (all_up && !known.ready && !known.cordoned_by_us).then(|| {
            let found = format!("node {} is not ready: {}", node.name, known.message);
            let remedy = "look at `journalctl -u kubelet` there, and upgrade once it is ready";
            (found, remedy.to_owned())
        })
    })
}

/// Certificates outlive the upgrade, by the hosts' own clocks.
pub(super) fn certificates(question: &Question) -> Vec<Finding> {
    if !question.intent.upgrades() {
        return Vec::new();
    }
    let clocks = question.facts.values().map(|facts| facts.clock);
    let now = clocks.fold(0.0, f64::max);
    let ending: Vec<(&String, f64)> = question
        .certificates
        .iter()
        .map(|(name, end)| (name, (*end as f64 - now) / 86_400.0))
        .filter(|(_, days)| *days < CERTIFICATE_DAYS)
        .collect();
    let Some(subject) = question.subjects().next().filter(|_| !ending.is_empty()) else {
        return Vec::new();
    };
    let first = ending.iter().min_by(|one, other| one.1.total_cmp(&other.1));
    let (name, days) = first.copied().unwrap_or((&subject.host.name, 0.0));
    let found = format!(
        "{} of the site's certificates ends within {CERTIFICATE_DAYS:.0} days, the first ({name}) \
         in {days:.1}",
        ending.len()
    );
    let remedy = "move their files out of the site's `pki`, then run the same command again: it \
                  issues them anew";
    vec![finding(&subject, found, remedy)]
}

/// Hosts with what is to change on them.
fn changed<'a>(
    question: &Question<'a>,
) -> impl Iterator<Item = (Subject<'a>, Vec<VersionChange<'a>>)> {
    question.subjects().filter_map(|subject| {
        let changes: Vec<_> = changes(subject.desired?, subject.facts).collect();
        (!changes.is_empty()).then_some((subject, changes))
    })
}

/// `has kubelet 1.37.0, the bundle 1.36.0`; programs of one release together.
fn told(changes: &[VersionChange]) -> String {
    let pairs: BTreeSet<(&Version, &Version)> = changes
        .iter()
        .map(|change| (&change.from, &change.to))
        .collect();
    let parts = pairs.into_iter().map(|(from, to)| {
        let of_pair = changes
            .iter()
            .filter(|change| (&change.from, &change.to) == (from, to));
        let names: Vec<&str> = of_pair.map(|change| change.program).collect();
        let is_kubernetes = names.iter().all(|name| KUBERNETES.contains(name));
        let what = match (is_kubernetes && names.len() > 1, names.len() > NAMES_SHOWN) {
            (true, _) => "Kubernetes".to_owned(),
            (_, true) => format!(
                "{} and {} more",
                names[..NAMES_SHOWN].join(", "),
                names.len() - NAMES_SHOWN
            ),
            (_, false) => names.join(", "),
        };
        format!("{what} {from}, the bundle {to}")
    });
    format!("it has {}", parts.collect::<Vec<_>>().join("; "))
}
