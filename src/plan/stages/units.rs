//! Units that are started, restarted or reloaded, and what is waited for
//! after that.

use super::super::diff::{ChangedUnit, Comparison, HostDiff};
use super::super::order::one_by_one;
use super::super::safety::{Consent, disruption_of, may_disrupt, predicted};
use super::super::world::is_asked_on_a_master;
use super::super::{Action, Disruption, StagePlan, Step, UnitChange, title};
use super::hosts::write_files;
use super::{IsAnnounced, disruptive, lanes, step, wait};
use crate::desired::{Condition, Stage};

/// The units of a stage: what is down is started first, on all hosts side by
/// side; what runs is changed host by host.
pub(in super::super) fn change_units(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| {
        let mut steps = write_files(host, stage, |_| true);
        steps.extend(unit_steps(comparison, host, stage));
        steps
    });
    one_by_one(stage, lanes, |host| comparison.zone_of(host))
}

/// Changes the host's units of a stage and waits for what they promise.
pub(super) fn unit_steps(comparison: &Comparison, host: &HostDiff, stage: Stage) -> Vec<Step> {
    let changed: Vec<&ChangedUnit> = host
        .units
        .iter()
        .filter(|changed| changed.unit.stage == stage)
        .collect();
    let mut steps = Vec::new();
    if !changed.is_empty() {
        let units: Vec<UnitChange> = changed
            .iter()
            .map(|changed| UnitChange {
                name: changed.unit.name.clone(),
                verb: changed.verb,
            })
            .collect();
        let title = title::units(&units);
        // A member of etcd reports ready only when it has joined, for which
        // the others have to be started first.
        let action = Action::StartUnits {
            units,
            wait: stage != Stage::Etcd,
        };
        let start = step(stage, host.name, title, action);
        let interrupts = changed.iter().any(|changed| changed.disrupts);
        steps.push(match disruption_of(stage).filter(|_| interrupts) {
            Some(what) => {
                let consent = may_disrupt(host.name, what, &predicted(comparison, stage));
                let is_announced = match consent {
                    Ok(Consent::Announced) => IsAnnounced::Yes,
                    _ => IsAnnounced::No,
                };
                disruptive(start, what, is_announced)
            }
            None => start,
        });
    }
    let mut waited: Vec<Condition> = Vec::new();
    for unit in host.desired.units.iter().filter(|unit| unit.stage == stage) {
        let Some(condition) = &unit.ready else {
            continue;
        };
        let is_changed = changed.iter().any(|changed| changed.unit.name == unit.name);
        let is_due = is_changed || is_unmet(comparison, host, condition);
        if is_due && !waited.contains(condition) {
            waited.push(condition.clone());
        }
    }
    // The next node's turn comes when this one's pods are served again.
    let interrupts_node = |step: &Step| step.disrupts == Some(Disruption::Node);
    if let Some(node) = &host.desired.node
        && steps.iter().any(interrupts_node)
        && comparison.is_node_known(&node.name)
    {
        let name = node.name.clone();
        waited.push(Condition::NodeReady { name });
    }
    let waits = waited.iter().map(|condition| {
        wait(
            stage,
            asked_host(comparison, host.name, condition),
            condition,
        )
    });
    steps.extend(waits);
    steps
}

/// Who can tell whether the condition holds: a master, or the host itself.
pub(super) fn asked_host<'a>(
    comparison: &'a Comparison,
    host: &'a str,
    condition: &Condition,
) -> &'a str {
    if is_asked_on_a_master(condition) {
        &comparison.world.cluster_host
    } else {
        host
    }
}

/// Whether a condition is known not to hold, though all units run as they
/// should: a wait that an earlier run did not see the end of.
fn is_unmet(comparison: &Comparison, host: &HostDiff, condition: &Condition) -> bool {
    match condition {
        Condition::NodeReady { name } => comparison.is_node_unready(name),
        condition if is_asked_on_a_master(condition) => comparison.is_unmet_in_cluster(condition),
        condition => host.is_unmet(condition),
    }
}
