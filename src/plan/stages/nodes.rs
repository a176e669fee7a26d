//! Nodes that serve and are to run other software: container runtime, kubelet,
//! service proxy and overlay in one go, one host after the other; and their API
//! proxies, which hand over and interrupt nothing.

use super::super::diff::{ChangedUnit, Comparison, HostDiff};
use super::super::order::{in_groups, side_by_side};
use super::super::{Action, Disruption, StagePlan, Step, UnitChange, UnitVerb, title, versions};
use super::units::{due_conditions, interrupting, switch, unit_change, waits};
use super::{lanes, step, wait};
use crate::desired::{Condition, Stage, Unit};

/// Whether something that the node's pods need is interrupted.
pub(super) fn has_turn(host: &HostDiff) -> bool {
    [Stage::Stage, Stage::Nodes, Stage::Network]
        .into_iter()
        .any(|stage| host.interrupts(stage))
}

/// Whether the unit takes its change up without an interruption.
pub(super) fn is_handed_over(changed: &ChangedUnit) -> bool {
    changed.unit.stage == Stage::Nodes && changed.verb == UnitVerb::Reload
}

/// API proxies, zone by zone: before masters change, so that what knows best
/// how to go round them is there by then.
pub(in super::super) fn hand_over(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| {
        let changed = host.units.iter().filter(|changed| is_handed_over(changed));
        let units: Vec<UnitChange> = changed.map(unit_change).collect();
        if units.is_empty() {
            return Vec::new();
        }
        let title = title::units(&units);
        let wait = true;
        let action = Action::StartUnits { units, wait };
        vec![step(stage, host.name, title, action)]
    });
    let mut zones: Vec<&str> = lanes
        .iter()
        .map(|lane| comparison.zone_of(&lane.host))
        .collect();
    zones.sort_unstable();
    zones.dedup();
    let parts = zones.into_iter().filter_map(|zone| {
        let own = lanes.iter();
        let own = own.filter(|lane| comparison.zone_of(&lane.host) == zone);
        side_by_side(stage, vec![own.cloned().collect()])
    });
    parts.collect()
}

/// Node by node, or as many of a zone at once as its inventory has it; first where
/// something is down already.
pub(in super::super) fn change_nodes(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| match has_turn(host) {
        true => change(comparison, host, stage),
        false => Vec::new(),
    });
    let order = |name: &str| {
        let host = comparison.hosts.iter().find(|host| host.name == name);
        let is_whole = host.is_some_and(|host| units(host).all(|unit| host.runs(&unit.name)));
        (is_whole, comparison.zone_of(name))
    };
    let node = |name: &str| comparison.desired.hosts.get(name)?.node.as_ref();
    let takes_any = |name: &str| node(name).is_some_and(|node| !node.is_tainted);
    let nodes = comparison.hosts.iter().map(|host| host.name);
    let all_that_take_any = nodes.filter(|name| takes_any(name)).count();
    // Nodes that are left out are away already.
    let away = |zone: &str| {
        let hosts = comparison.desired.hosts.iter();
        let of_zone = hosts.filter(|(_, host)| host.zone == zone && host.node.is_some());
        let left_out = of_zone.filter(|(name, _)| !comparison.world.hosts.contains_key(*name));
        left_out.count()
    };
    let mut stages = in_groups(stage, lanes, order, |group, lane| {
        let zone = comparison.zone_of(&lane.host);
        let at_once = comparison.desired.unavailable.get(zone);
        let at_once = at_once.copied().unwrap_or(1).saturating_sub(away(zone));
        let is_allowed = group.len() < at_once.max(1);
        // Whatever the inventory allows, one is left that takes any pod.
        let others = group.iter().filter(|other| takes_any(&other.host)).count();
        is_allowed && (!takes_any(&lane.host) || others + 1 < all_that_take_any)
    });
    let is_drain = |step: &Step| matches!(step.action, Action::Drain { .. });
    let mut groups = stages.iter_mut();
    let first = groups.find(|group| {
        group
            .lanes
            .iter()
            .any(|lane| lane.steps.iter().any(is_drain))
    });
    // Masters that were changed just before may all wait for a lease to run out.
    for lane in first.into_iter().flat_map(|group| &mut group.lanes) {
        let leads = Condition::ControllerManagerLeads;
        lane.steps
            .insert(0, wait(stage, &comparison.world.cluster_host, &leads));
    }
    stages
}

fn change(comparison: &Comparison, host: &HostDiff, stage: Stage) -> Vec<Step> {
    let changed = host.units.iter().filter(|changed| {
        let is_part = changed.unit.stage == Stage::Nodes && !is_handed_over(changed);
        changed.disrupts && units(host).any(|unit| unit.name == changed.unit.name) || is_part
    });
    let changes: Vec<UnitChange> = changed.map(unit_change).collect();
    let node = host.desired.node.as_ref();
    let node = node.filter(|node| comparison.is_node_known(&node.name));
    let mut steps = Vec::new();
    if let Some(node) = node
        && is_drained(comparison, host)
    {
        let action = Action::Drain {
            node: node.name.clone(),
            limit_seconds: comparison.desired.drain.timeout_seconds,
            rules: comparison.desired.drain.pods.clone(),
        };
        let master = &comparison.world.cluster_host;
        steps.push(step(stage, master, format!("drain {}", node.name), action));
    }
    let change = switch(host, stage, Vec::new(), changes.clone(), true);
    steps.push(interrupting(comparison, change, &[Disruption::Node]));
    // What is down of the overlay is started in its own stage.
    let here = units(host).filter(|unit| {
        unit.stage == Stage::Nodes || changes.iter().any(|change| change.name == unit.name)
    });
    let mut due = due_conditions(comparison, host, here, &changes);
    // The next node's turn comes when this one's pods are served again.
    if let Some(node) = node {
        let ready = Condition::NodeReady {
            name: node.name.clone(),
        };
        if !due.contains(&ready) {
            due.push(ready);
        }
    }
    steps.extend(waits(comparison, host.name, stage, due));
    if let Some(node) = node
        && (is_drained(comparison, host) || comparison.is_cordoned_by_us(&node.name))
    {
        steps.extend(let_pods_back(comparison, &node.name, stage));
    }
    steps
}

/// Nodes that a run which was cut short had cordoned, and that are not changed
/// any more.
pub(super) fn uncordon(comparison: &Comparison, host: &HostDiff, stage: Stage) -> Vec<Step> {
    let node = host.desired.node.as_ref();
    let Some(node) = node.filter(|node| comparison.is_cordoned_by_us(&node.name)) else {
        return Vec::new();
    };
    if has_turn(host) {
        return Vec::new();
    }
    let ready = Condition::NodeReady {
        name: node.name.clone(),
    };
    let mut steps = waits(comparison, host.name, stage, vec![ready]);
    steps.extend(let_pods_back(comparison, &node.name, stage));
    steps
}

fn let_pods_back(comparison: &Comparison, node: &str, stage: Stage) -> Vec<Step> {
    let master = &comparison.world.cluster_host;
    let action = Action::Uncordon {
        node: node.to_owned(),
    };
    let except = match &comparison.world.cluster {
        Some(cluster) => cluster.unavailable.keys().cloned().collect(),
        None => Vec::new(),
    };
    let back = Condition::WorkloadsAvailable { except };
    let mut wait = wait(stage, master, &back);
    // Pods of a node that goes at the same time may be on their way.
    let at_once = comparison.desired.unavailable.get(comparison.zone_of(node));
    if let Action::Wait { limit_seconds, .. } = &mut wait.action
        && at_once.is_some_and(|at_once| *at_once > 1)
    {
        *limit_seconds += comparison.desired.drain.most_seconds();
    }
    vec![
        step(stage, master, format!("uncordon {node}"), action),
        wait,
    ]
}

/// Whether the node's pods go elsewhere before it is changed. They outlive a
/// restart of containerd and kubelet, but other minors of these want an empty
/// node. Where no other node could take them, they had better stay.
fn is_drained(comparison: &Comparison, host: &HostDiff) -> bool {
    let is_wanted = versions::wants_empty_node(host.desired, host.facts);
    let own = host.desired.node.as_ref();
    let takes_all = |other: &&HostDiff| {
        let node = other.desired.node.as_ref();
        other.name != host.name
            && node.is_some_and(|node| own.is_some_and(|own| own.is_tainted || !node.is_tainted))
    };
    is_wanted && comparison.hosts.iter().any(|other| takes_all(&other))
}

/// All that the host's pods need, in start order.
fn units<'a>(host: &HostDiff<'a>) -> impl Iterator<Item = &'a Unit> {
    let all = host.desired.units.iter();
    all.filter(|unit| matches!(unit.stage, Stage::Stage | Stage::Nodes | Stage::Network))
}
