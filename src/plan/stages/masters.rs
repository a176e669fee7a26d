//! Masters that serve and are to run other software: etcd and the control
//! plane of a host in one go, one host after the other.
//!
//! A member of etcd that stops under its host's API server fails the writes
//! that are under way there, so that one is stopped first, in its own time. It
//! comes back after, with what else of the control plane is to run there:
//! nothing there is ever newer than the API server that it asks.

use super::super::diff::{Comparison, HostDiff};
use super::super::membership::Standing;
use super::super::order::one_by_one;
use super::super::{Disruption, StagePlan, Step, UnitChange, UnitVerb};
use super::etcd::reachable;
use super::lanes;
use super::units::{due_conditions, interrupting, switch, unit_change, waits};
use crate::desired::{Condition, Stage, Unit};

/// Whether the host's member of etcd or control plane is interrupted.
pub(super) fn has_turn(comparison: &Comparison, host: &HostDiff) -> bool {
    changes_member(comparison, host) || host.interrupts(Stage::ControlPlane)
}

/// Whether a member of etcd is interrupted; what is none yet is brought up when
/// it joins.
pub(super) fn changes_member(comparison: &Comparison, host: &HostDiff) -> bool {
    host.interrupts(Stage::Etcd) && comparison.standing(host.name) != Some(Standing::Absent)
}

/// Host by host: first where something is down already, since no other may be
/// interrupted before; the zone of etcd's leader last, since every change of it
/// can cost a write that is under way.
pub(in super::super) fn change_masters(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| match has_turn(comparison, host) {
        true => change(comparison, host, stage),
        false => Vec::new(),
    });
    let leader = comparison.etcd_leader();
    let leading_zone = leader.map(|leader| comparison.zone_of(leader));
    one_by_one(stage, lanes, |name| {
        let host = comparison.hosts.iter().find(|host| host.name == name);
        let is_whole = host.is_some_and(|host| units(host).all(|unit| host.runs(&unit.name)));
        let zone = comparison.zone_of(name);
        let leads = (Some(zone) == leading_zone, zone, leader == Some(name));
        (is_whole, leads)
    })
}

fn change(comparison: &Comparison, host: &HostDiff, stage: Stage) -> Vec<Step> {
    let changes_etcd = changes_member(comparison, host);
    let running: Vec<String> = units(host)
        .filter(|unit| unit.stage == Stage::ControlPlane && host.runs(&unit.name))
        .map(|unit| unit.name.clone())
        .collect();
    let stop: Vec<String> = match changes_etcd {
        true => running.iter().rev().cloned().collect(),
        false => Vec::new(),
    };
    let changed = host.units.iter();
    let changed: Vec<UnitChange> = changed
        .filter(|changed| changes_etcd || changed.unit.stage != Stage::Etcd)
        .map(unit_change)
        .collect();
    let changes: Vec<UnitChange> = units(host)
        .filter_map(|unit| {
            let found = changed.iter().find(|change| change.name == unit.name);
            // What is stopped with its etcd is started again in any case.
            let stopped = stop.contains(&unit.name).then(|| UnitChange {
                name: unit.name.clone(),
                verb: UnitVerb::Restart,
            });
            stopped.or_else(|| found.cloned())
        })
        .collect();
    // A member may need others to get ready, and its API server needs it.
    let step = switch(host, stage, stop, changes.clone(), !changes_etcd);
    let mut what = Vec::new();
    what.extend(changes_etcd.then_some(Disruption::EtcdMember));
    let changes_control_plane = host.interrupts(Stage::ControlPlane) || !running.is_empty();
    what.extend(changes_control_plane.then_some(Disruption::ApiServer));
    let mut steps = vec![interrupting(comparison, step, &what)];
    let mut due = due_conditions(comparison, host, units(host), &changes);
    let silent = units(host).filter(|unit| unit.ready.is_none());
    for unit in silent.map(|unit| &unit.name) {
        if changes_etcd && changes.iter().any(|change| change.name == *unit) {
            due.push(Condition::UnitActive { unit: unit.clone() });
        }
    }
    let due = due.into_iter();
    let due = due.filter_map(|condition| reachable(comparison, condition, &[]));
    steps.extend(waits(comparison, host.name, stage, due.collect()));
    steps
}

/// The host's part of etcd and the control plane, in start order.
fn units<'a>(host: &HostDiff<'a>) -> impl Iterator<Item = &'a Unit> {
    let all = host.desired.units.iter();
    all.filter(|unit| matches!(unit.stage, Stage::Etcd | Stage::ControlPlane))
}
