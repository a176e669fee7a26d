//! What must be true before anything is written to any host. Pure: facts in,
//! findings out, each with what was found and what to do about it.

mod disk;
mod etcd;
mod machine;
mod network;
mod others;
#[cfg(test)]
mod tests;
mod usage;
mod versions;

use crate::desired::{Desired, DesiredHost};
use crate::facts::{ClusterFacts, HostFacts, UsageFacts};
use crate::inventory::{Host, Inventory};
use crate::plan::Intent;
use crate::site::Decisions;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A named check.
pub struct Check {
    /// Stable, for `--json` and documentation: `free-space`.
    pub name: &'static str,
    pub severity: Severity,
    /// What it looks at, for people.
    pub about: &'static str,
    run: fn(&Question) -> Vec<Finding>,
}

/// Whether a run may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Fatal,
    Warning,
}

/// What is checked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub inventory: &'a Inventory,
    pub facts: &'a BTreeMap<String, HostFacts>,
    /// Each host's clock less the jump host's at the moment of observation,
    /// in seconds.
    pub clock_offsets: &'a BTreeMap<String, f64>,
    /// Platforms that the bundle carries: `linux/amd64`.
    pub platforms: &'a BTreeSet<String>,
    pub decisions: &'a Decisions,
    /// None where it can't be made, since the bundle lacks a platform; then
    /// nothing is said about space.
    pub desired: Option<&'a Desired>,
    pub intent: Intent,
    /// None before there is one, or where no master could be asked.
    pub cluster: Option<&'a ClusterFacts>,
    /// By master; empty where an upgrade is not what is wanted.
    pub usage: &'a BTreeMap<String, UsageFacts>,
    /// When the site's certificates end, by name, in seconds since the epoch.
    pub certificates: &'a BTreeMap<String, i64>,
    /// Whether an install of the cluster came to its end once.
    pub was_installed: bool,
}

/// Something that a check found wrong with one host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    host: String,
    found: String,
    remedy: String,
}

/// A finding with the check that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    pub check: &'static str,
    pub severity: Severity,
    pub host: String,
    /// `memory 1.2 GB, 1.7 GB are needed`.
    pub found: String,
    pub remedy: String,
}

/// All checks, in the order in which people would make them.
pub const CHECKS: &[Check] = &[
    fatal("root", "the agent runs as root", machine::root),
    fatal(
        "architecture",
        "the bundle carries the host's platform",
        machine::architecture,
    ),
    fatal("kernel", "the kernel is new enough", machine::kernel),
    fatal("systemd", "systemd is new enough", machine::systemd),
    fatal(
        "cgroups",
        "control groups are v2, or v1 is allowed",
        machine::cgroups,
    ),
    fatal("memory", "there is enough memory", machine::memory),
    warning(
        "processors",
        "masters have two processors",
        machine::processors,
    ),
    fatal("nft", "nft is there and new enough", machine::nft),
    fatal(
        "identity",
        "every host is a machine of its own",
        network::identity,
    ),
    fatal(
        "addresses",
        "every host holds its address, and no other does",
        network::addresses,
    ),
    fatal(
        "networks",
        "pod and service addresses are free on the host",
        network::networks,
    ),
    fatal(
        "mtu",
        "pods' packets fit into the hosts' interfaces",
        network::mtu,
    ),
    fatal(
        "ports",
        "the ports that are needed are free",
        network::ports,
    ),
    fatal("clock", "clocks agree", machine::clock),
    fatal(
        "remains",
        "no other installer has been here",
        others::remains,
    ),
    fatal(
        "owner",
        "the host belongs to no other site's cluster",
        others::owner,
    ),
    fatal(
        "protocols",
        "protocols have the names that kube-proxy looks for",
        others::protocols,
    ),
    fatal("etcd-data", "members of etcd have their data", etcd::data),
    fatal(
        "etcd-members",
        "etcd and inventory agree on its members",
        etcd::members,
    ),
    fatal(
        "versions",
        "install leaves versions as they are",
        versions::kept,
    ),
    fatal(
        "installed",
        "what is to be upgraded was installed",
        versions::installed,
    ),
    fatal(
        "downgrade",
        "nothing goes back to an older version",
        versions::downgrade,
    ),
    fatal(
        "way-back",
        "a rollback takes back the control plane alone",
        versions::way_back,
    ),
    fatal(
        "one-minor",
        "Kubernetes goes on one minor at a time",
        versions::one_minor,
    ),
    fatal(
        "kubelets-left-out",
        "API servers serve the kubelets that stay as they are",
        versions::kubelets_left_out,
    ),
    fatal(
        "etcd-path",
        "etcd goes on from a release that can",
        versions::etcd_path,
    ),
    fatal(
        "etcd-settled",
        "etcd is healthy and without alarms",
        versions::etcd_settled,
    ),
    fatal(
        "nodes-ready",
        "nodes are ready before one is changed",
        versions::nodes_ready,
    ),
    fatal(
        "certificates",
        "no certificate ends within the time that an upgrade may need",
        versions::certificates,
    ),
    fatal(
        "removed-apis",
        "no client asks for APIs that the new minor lacks",
        usage::removed,
    ),
    warning(
        "removed-at-finish",
        "the same, before the new minor is finished",
        usage::removed_at_finish,
    ),
    fatal(
        "bare-pods",
        "every pod that is drained would be started again",
        usage::bare_pods,
    ),
    fatal(
        "budgets",
        "every disruption budget can be kept by a drain",
        usage::budgets,
    ),
    warning(
        "local-data",
        "pods that are drained keep nothing on their node",
        usage::local_data,
    ),
    fatal("selinux", "SELinux does not enforce", others::selinux),
    fatal("fapolicyd", "fapolicyd does not run", others::fapolicyd),
    fatal("firewalld", "firewalld does not run", others::firewalld),
    fatal(
        "mounts",
        "file systems can be written and run programs",
        disk::mounts,
    ),
    fatal(
        "free-space",
        "what the bundle brings fits",
        disk::free_space,
    ),
    warning(
        "eviction",
        "kubelet will not evict pods for want of space",
        disk::eviction,
    ),
];

/// Runs all checks. Fatal ones first, else in the order of the list.
pub fn check(question: &Question) -> Vec<CheckResult> {
    let mut results: Vec<CheckResult> = CHECKS
        .iter()
        .flat_map(|check| {
            (check.run)(question)
                .into_iter()
                .map(|finding| CheckResult {
                    check: check.name,
                    severity: check.severity,
                    host: finding.host,
                    found: finding.found,
                    remedy: finding.remedy,
                })
        })
        .collect();
    results.sort_by_key(|result| result.severity);
    results
}

/// Whether a run must not go on.
pub fn is_fatal(results: &[CheckResult]) -> bool {
    let mut results = results.iter();
    results.any(|result| result.severity == Severity::Fatal)
}

impl std::fmt::Display for CheckResult {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}; {}", self.host, self.found, self.remedy)
    }
}

const fn fatal(
    name: &'static str,
    about: &'static str,
    run: fn(&Question) -> Vec<Finding>,
) -> Check {
    Check {
        name,
        severity: Severity::Fatal,
        about,
        run,
    }
}

const fn warning(
    name: &'static str,
    about: &'static str,
    run: fn(&Question) -> Vec<Finding>,
) -> Check {
    Check {
        severity: Severity::Warning,
        ..fatal(name, about, run)
    }
}

/// One host of a question.
#[derive(Clone, Copy)]
struct Subject<'a> {
    host: &'a Host,
    facts: &'a HostFacts,
    desired: Option<&'a DesiredHost>,
}

impl<'a> Question<'a> {
    /// The hosts that were observed.
    fn subjects(&self) -> impl Iterator<Item = Subject<'a>> {
        let Self {
            inventory,
            facts,
            desired,
            ..
        } = *self;
        inventory.hosts.iter().filter_map(move |host| {
            Some(Subject {
                host,
                facts: facts.get(&host.name)?,
                desired: desired.and_then(|desired| desired.hosts.get(&host.name)),
            })
        })
    }

    /// One finding at most for each host.
    fn each(&self, look: impl Fn(Subject<'a>) -> Option<(String, String)>) -> Vec<Finding> {
        let subjects = self.subjects();
        subjects
            .filter_map(|subject| {
                let (found, remedy) = look(subject)?;
                Some(finding(&subject, found, remedy))
            })
            .collect()
    }
}

fn finding(subject: &Subject, found: String, remedy: impl Into<String>) -> Finding {
    Finding {
        host: subject.host.name.clone(),
        found,
        remedy: remedy.into(),
    }
}
