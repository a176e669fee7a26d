//! Who uses the cluster, and how: what an upgrade would break.

use super::{Finding, Question};
use crate::desired::DesiredHost;
use crate::facts::{HostFacts, RemovedApi, UsageFacts};
use crate::plan::Intent;
use crate::plan::versions;
use std::collections::BTreeSet;

/// Clients that no longer find their API, where that is at once.
pub(super) fn removed(question: &Question) -> Vec<Finding> {
    match question.intent {
        Intent::UpgradeAtOnce | Intent::Finish => gone(question),
        _ => Vec::new(),
    }
}

/// The same where the control plane soaks first, and still has it.
pub(super) fn removed_at_finish(question: &Question) -> Vec<Finding> {
    match question.intent {
        Intent::Upgrade => gone(question),
        _ => Vec::new(),
    }
}

fn gone(question: &Question) -> Vec<Finding> {
    let target = question.subjects().find_map(|subject| {
        let binaries = &subject.desired?.binaries;
        minor_of(&binaries.get("kube-apiserver")?.version)
    });
    let mut findings = Vec::new();
    for (host, usage) in question.usage {
        let goes = |api: &&RemovedApi| minor_of(&api.removed_in) <= target;
        for api in usage.removed.iter().filter(goes) {
            let clients: Vec<&str> = api.clients.iter().map(String::as_str).collect();
            let by = match clients.is_empty() {
                true => "who wrote by it stands in the audit log (`k8s.io/removed-release`), who \
                         only reads does not"
                    .to_owned(),
                false => format!("written by {}", clients.join(", ")),
            };
            findings.push(Finding {
                host: host.clone(),
                found: format!(
                    "since its API server started, clients asked for {}.{}/{}, which Kubernetes {} no longer has: {by}",
                    api.resource, api.group, api.version, api.removed_in
                ),
                remedy: "have them ask for a newer version of that API, then restart kube-apiserver on each master, one after the other".to_owned(),
            });
        }
    }
    findings
}

/// `1.37` and `1.37.0` to its numbers.
fn minor_of(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Pods that would be gone for good.
pub(super) fn bare_pods(question: &Question) -> Vec<Finding> {
    let (told, drained) = (first(question), drained(question));
    let bare = told.iter().flat_map(|usage| &usage.bare_pods);
    let bare = bare.filter(|pod| drained.contains(&pod.node));
    bare.map(|pod| Finding {
        host: pod.node.clone(),
        found: format!(
            "pod {} has no controller that would start it elsewhere",
            pod.name
        ),
        remedy: "delete it, or let a Deployment have it; its node is drained".to_owned(),
    })
    .collect()
}

/// Budgets that no drain could ever keep.
pub(super) fn budgets(question: &Question) -> Vec<Finding> {
    let told = first(question).filter(|_| !drained(question).is_empty());
    let host = question.usage.keys().next().cloned().unwrap_or_default();
    let budgets = told.iter().flat_map(|usage| &usage.budgets);
    budgets
        .map(|(name, reason)| Finding {
            host: host.clone(),
            found: format!("PodDisruptionBudget {name} allows no eviction: {reason}"),
            remedy: "add a replica, or let the budget allow one to be away".to_owned(),
        })
        .collect()
}

/// What pods keep on their nodes. Add-ons keep nothing there that counts.
pub(super) fn local_data(question: &Question) -> Vec<Finding> {
    let (told, drained) = (first(question), drained(question));
    let pods = told.iter().flat_map(|usage| &usage.local_data);
    pods.filter(|pod| drained.contains(&pod.node) && !pod.name.starts_with("kube-system/"))
        .map(|pod| Finding {
            host: pod.node.clone(),
            found: format!(
                "pod {} loses its emptyDir volumes when its node is drained",
                pod.name
            ),
            remedy: "copy what is to last elsewhere before".to_owned(),
        })
        .collect()
}

/// Every master tells the same of pods.
fn first<'a>(question: &Question<'a>) -> Option<&'a UsageFacts> {
    question.usage.values().next()
}

/// Hosts whose nodes are drained: another one could take their pods.
fn drained(question: &Question) -> BTreeSet<String> {
    let nodes = || {
        question.subjects().filter_map(|subject| {
            let desired = subject.desired?;
            Some((subject, desired, desired.node.as_ref()?))
        })
    };
    let is_drained = |name: &str, desired: &DesiredHost, facts: &HostFacts, is_tainted: bool| {
        let mut others = nodes().filter(|(other, ..)| other.host.name != name);
        versions::wants_empty_node(desired, facts)
            && others.any(|(_, _, node)| is_tainted || !node.is_tainted)
    };
    nodes()
        .filter(|(subject, desired, node)| {
            is_drained(&subject.host.name, desired, subject.facts, node.is_tainted)
        })
        .map(|(subject, ..)| subject.host.name.clone())
        .collect()
}
