//! One function for each line of the list in [`super::plan`].

mod cluster;
mod etcd;
mod finish;
mod hosts;
mod masters;
mod nodes;
mod restore;
mod units;

use super::diff::{Comparison, HostDiff};
use super::{Action, Disruption, Lane, StagePlan, Step, title};
use crate::desired::{Condition, Stage};
pub(super) use cluster::{apply_manifests, mint, reset_pod_networks, verify};
pub(super) use etcd::bring_up_etcd;
pub(super) use finish::{commit, remove_what_is_no_longer_desired};
pub(super) use hosts::{bring_up_registries, lay_down, make_hosts_fit};
pub(super) use masters::{change_masters, save_snapshots};
pub(super) use nodes::{change_nodes, hand_over};
pub(super) use restore::restore_etcd;
use std::collections::BTreeSet;
pub(super) use units::start_units;

/// A line of the list: what has to be done in its stage.
pub(super) type Part = fn(&Comparison, Stage) -> Vec<StagePlan>;

/// A step that interrupts nothing.
fn step(stage: Stage, host: &str, title: String, action: Action) -> Step {
    Step {
        stage,
        host: host.to_owned(),
        title,
        disrupts: BTreeSet::new(),
        action,
    }
}

/// One lane for each host, empty ones left out.
fn lanes(comparison: &Comparison, steps: impl Fn(&HostDiff) -> Vec<Step>) -> Vec<Lane> {
    let lanes = comparison.hosts.iter().map(|host| Lane {
        host: host.name.to_owned(),
        steps: steps(host),
    });
    lanes.filter(|lane| !lane.steps.is_empty()).collect()
}

/// A wait on the given host, with the limit that fits the condition.
fn wait(stage: Stage, host: &str, condition: &Condition) -> Step {
    let action = Action::Wait {
        condition: condition.clone(),
        limit_seconds: wait_limit(condition),
    };
    step(stage, host, title::wait(condition), action)
}

/// How long a condition may take to come true, in seconds: several times what
/// it takes on slow disks, so that only what is broken runs into it.
fn wait_limit(condition: &Condition) -> u32 {
    match condition {
        // A process that does not start fails within seconds, but a unit may
        // be restarted a few times while what it depends on comes up.
        Condition::UnitActive { .. } | Condition::RegistryServing { .. } => 90,
        // Kubernetes' components become healthy in well under a minute.
        Condition::HealthEndpoint { .. } | Condition::DnsAnswers { .. } => 120,
        // Members that were off for long catch up by a snapshot first.
        Condition::EtcdHealthy { .. } => 300,
        // The API server retries etcd, and starts its hooks one by one.
        Condition::ApiReady { .. } => 300,
        // A node is ready after its first status update, at most five
        // minutes apart by default (nodeStatusReportFrequency).
        Condition::NodeReady { .. } | Condition::OverlayUp => 330,
        // kubelet registers, and controller-manager allots, within seconds of
        // their start; both retry for a while on an API server that is busy.
        Condition::NodeHasPodAddresses { .. } => 120,
        // Somebody else leads 15 seconds after the last renewal (--leader-elect-lease-duration).
        Condition::ControllerManagerLeads => 120,
        // Probes and back-off of pods that start before what they need.
        Condition::WorkloadsAvailable { .. }
        | Condition::DeploymentAvailable { .. }
        | Condition::ApiServiceAvailable { .. } => 600,
    }
}

/// A step with what else it interrupts, said in the title where nothing else
/// serves meanwhile.
fn disruptive(mut step: Step, what: Disruption, is_announced: IsAnnounced) -> Step {
    if is_announced == IsAnnounced::Yes && what != Disruption::Node {
        step.title = match step.title.strip_suffix(ANNOUNCED) {
            Some(title) => format!("{title} or {what}{ANNOUNCED}"),
            None => format!("{} (no other {what}{ANNOUNCED}", step.title),
        };
    }
    step.disrupts.insert(what);
    step
}

/// How a title ends that announces an interruption.
const ANNOUNCED: &str = " can take over: clients wait until it is back)";

/// Whether a disruption is to be told to people.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IsAnnounced {
    Yes,
    No,
}
