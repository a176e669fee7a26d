//! Units that are started, restarted or reloaded, and what is waited for
//! after that.

use super::super::diff::{ChangedUnit, Comparison, HostDiff};
use super::super::order::side_by_side;
use super::super::safety::{Consent, disruption_of, may_disrupt, predicted};
use super::super::world::is_asked_on_a_master;
use super::super::{Action, Disruption, StagePlan, Step, UnitChange, title};
use super::hosts::write_files;
use super::{IsAnnounced, disruptive, lanes, masters, nodes, step, wait};
use crate::desired::{Condition, Stage, Unit};

const KUBELET: &str = "kubelet.service";

/// The units of a stage that don't serve now, on all hosts side by side. What
/// serves is changed in a lane of its host, and all that the host has to start
/// in this stage with it.
pub(in super::super) fn start_units(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| {
        let has_its_turn = match stage {
            Stage::ControlPlane => masters::has_turn(comparison, host),
            Stage::Nodes => nodes::has_turn(host),
            _ => false,
        };
        let mut steps = write_files(host, stage, |_| true);
        if !has_its_turn {
            steps.extend(idle_unit_steps(comparison, host, stage));
        }
        if stage == Stage::Nodes {
            steps.extend(nodes::uncordon(comparison, host, stage));
        }
        steps
    });
    side_by_side(stage, vec![lanes]).into_iter().collect()
}

/// Changes the host's units of a stage and waits for what they promise.
pub(super) fn unit_steps(comparison: &Comparison, host: &HostDiff, stage: Stage) -> Vec<Step> {
    steps_of(comparison, host, stage, |_| true)
}

/// As [`unit_steps`], for units that don't serve now.
pub(super) fn idle_unit_steps(comparison: &Comparison, host: &HostDiff, stage: Stage) -> Vec<Step> {
    steps_of(comparison, host, stage, |changed| {
        !changed.disrupts && !nodes::is_handed_over(changed)
    })
}

fn steps_of(
    comparison: &Comparison,
    host: &HostDiff,
    stage: Stage,
    is_wanted: impl Fn(&ChangedUnit) -> bool,
) -> Vec<Step> {
    let changed = host.units.iter();
    let changed: Vec<UnitChange> = changed
        .filter(|changed| changed.unit.stage == stage && is_wanted(changed))
        .map(unit_change)
        .collect();
    let mut steps = Vec::new();
    if !changed.is_empty() {
        // A member of etcd reports ready only when it has joined, for which
        // the others have to be started first.
        let wait = stage != Stage::Etcd;
        let interrupted = disruption_of(stage)
            .filter(|_| host.interrupts(stage) && changed.iter().any(|unit| host.disrupts(unit)));
        steps.push(match interrupted {
            Some(what) => {
                let start = switch(host, stage, Vec::new(), changed.clone(), wait);
                interrupting(comparison, start, &[what])
            }
            None => {
                let title = title::units(&changed);
                let units = changed.clone();
                step(stage, host.name, title, Action::StartUnits { units, wait })
            }
        });
    }
    let units = host.desired.units.iter().filter(|unit| unit.stage == stage);
    let due = due_conditions(comparison, host, units, &changed);
    steps.extend(waits(comparison, host.name, stage, due));
    steps
}

/// How a unit is changed, as a plan says it.
pub(super) fn unit_change(changed: &ChangedUnit) -> UnitChange {
    UnitChange {
        name: changed.unit.name.clone(),
        verb: changed.verb,
    }
}

/// What units promise that are changed, or are known not to keep it.
pub(super) fn due_conditions<'a>(
    comparison: &Comparison,
    host: &HostDiff,
    units: impl Iterator<Item = &'a Unit>,
    changed: &[UnitChange],
) -> Vec<Condition> {
    let mut due: Vec<Condition> = Vec::new();
    // A node is ready for some time after its kubelet has died.
    let own_word = host.desired.node.as_ref().and_then(|node| node.health_port);
    for unit in units {
        let Some(condition) = &unit.ready else {
            continue;
        };
        let is_changed = changed.iter().any(|change| change.name == unit.name);
        if let Some(port) = own_word.filter(|_| is_changed && unit.name == KUBELET) {
            due.push(Condition::HealthEndpoint { port });
        }
        let is_due = is_changed || is_unmet(comparison, host, condition);
        if is_due && !due.contains(condition) {
            due.push(condition.clone());
        }
    }
    due
}

/// Waits for conditions, each where it can be told.
pub(super) fn waits(
    comparison: &Comparison,
    host: &str,
    stage: Stage,
    conditions: Vec<Condition>,
) -> Vec<Step> {
    let conditions = conditions.iter();
    conditions
        .map(|condition| wait(stage, asked_host(comparison, host, condition), condition))
        .collect()
}

/// Units that run, changed with all that they run on.
pub(super) fn switch(
    host: &HostDiff,
    stage: Stage,
    stop: Vec<String>,
    units: Vec<UnitChange>,
    wait: bool,
) -> Step {
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    let (files, binaries) = (host.files_with(&names), host.binaries_with(&names));
    let title = title::switch(&files, &binaries, &units);
    let action = Action::SwitchUnits {
        stop,
        files,
        binaries,
        units,
        wait,
    };
    step(stage, host.name, title, action)
}

/// A step with what it interrupts, which is told where nobody takes over.
pub(super) fn interrupting(comparison: &Comparison, step: Step, what: &[Disruption]) -> Step {
    what.iter().fold(step, |step, what| {
        let serving = predicted(
            comparison,
            super::super::safety::stage_of(*what, step.stage),
        );
        let is_announced = match may_disrupt(&step.host, *what, &serving) {
            Ok(Consent::Announced) => IsAnnounced::Yes,
            _ => IsAnnounced::No,
        };
        disruptive(step, *what, is_announced)
    })
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
