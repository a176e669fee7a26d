//! Masters that serve and are to run other software: etcd and the control
//! plane of a host in one go, one host after the other.
//!
//! A member of etcd that stops under its host's API server fails the writes
//! that are under way there, so that one is stopped first, in its own time. It
//! comes back after, with what else of the control plane is to run there:
//! nothing there is ever newer than the API server that it asks.

use super::super::diff::{Comparison, HostDiff, linked};
use super::super::membership::Standing;
use super::super::order::{one_by_one, side_by_side};
use super::super::{Action, Disruption, Lane, StagePlan, Step, UnitChange, UnitVerb, versions};
use super::etcd::reachable;
use super::units::{due_conditions, interrupting, switch, unit_change, waits};
use super::{lanes, step};
use crate::desired::{Condition, Stage, Unit};
use std::collections::BTreeSet;

/// Whether the host's member of etcd or control plane is interrupted.
pub(super) fn has_turn(comparison: &Comparison, host: &HostDiff) -> bool {
    changes_member(comparison, host) || host.interrupts(Stage::ControlPlane)
}

/// Whether a member of etcd is interrupted; what is none yet is brought up when
/// it joins.
pub(super) fn changes_member(comparison: &Comparison, host: &HostDiff) -> bool {
    host.interrupts(Stage::Etcd) && comparison.standing(host.name) != Some(Standing::Absent)
}

/// Snapshots of etcd in two zones before the first master becomes another
/// version, or in one where there is no other. Once one has, they are there.
pub(in super::super) fn save_snapshots(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    const PROGRAMS: [&str; 2] = ["etcd", "kube-apiserver"];
    const ZONES: usize = 2;
    let hosts = comparison.hosts.iter();
    let changed: BTreeSet<&str> = hosts
        .clone()
        .flat_map(|host| versions::changes(host.desired, host.facts))
        .filter(|change| PROGRAMS.contains(&change.program) && change.from < change.to)
        .map(|change| change.program)
        .collect();
    let has_changed = |host: &HostDiff| {
        changed.iter().any(|program| {
            let binary = host.desired.binaries.get(*program);
            binary.is_some_and(|binary| linked(program, host.facts) == Some(binary.digest))
        })
    };
    let all = hosts.clone().filter(|host| host.desired.etcd.is_some());
    if changed.is_empty() || hosts.clone().any(has_changed) {
        return Vec::new();
    }
    let mut zones: Vec<&str> = Vec::new();
    let mut lanes = Vec::new();
    for host in all.filter(|host| host.runs("etcd.service")) {
        let zone = comparison.zone_of(host.name);
        let Some(member) = host.desired.etcd.as_ref() else {
            continue;
        };
        if zones.len() == ZONES || zones.contains(&zone) {
            continue;
        }
        zones.push(zone);
        let action = Action::SnapshotEtcd {
            name: snapshot_name(&comparison.desired.bundle),
            endpoint: member.client_url.clone(),
        };
        let title = "save a snapshot of etcd and prove it".to_owned();
        lanes.push(Lane {
            host: host.name.to_owned(),
            steps: vec![step(stage, host.name, title, action)],
        });
    }
    side_by_side(stage, vec![lanes]).into_iter().collect()
}

/// `before-kubernetes-1.37-1.37.0`.
fn snapshot_name(bundle: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let plain = bundle.chars();
    let plain = plain.map(|letter| if is_plain(letter) { letter } else { '-' });
    format!("before-{}", plain.collect::<String>())
}

/// Host by host: first where something is down already, since no other may be
/// interrupted before; the zone of etcd's leader last, since every change of it
/// holds up writes. Where a run goes to a zone or host only, all go by name.
pub(in super::super) fn change_masters(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| match has_turn(comparison, host) {
        true => change(comparison, host, stage),
        false => Vec::new(),
    });
    let is_by_name = comparison.desired.until.is_some();
    let leader = comparison.etcd_leader().filter(|_| !is_by_name);
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
    // Back to an older version, what asks the API server goes first.
    let goes_back = versions::changes(host.desired, host.facts)
        .any(|change| change.program == "kube-apiserver" && change.to < change.from);
    let stop: Vec<String> = match changes_etcd || goes_back {
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
    let is_awaited = !changes_etcd;
    let step = switch(host, stage, stop, changes.clone(), is_awaited);
    let mut what = Vec::new();
    what.extend(changes_etcd.then_some(Disruption::EtcdMember));
    let changes_control_plane = host.interrupts(Stage::ControlPlane) || !running.is_empty();
    what.extend(changes_control_plane.then_some(Disruption::ApiServer));
    let mut steps = vec![interrupting(comparison, step, &what)];
    let mut due = due_conditions(comparison, host, units(host), &changes);
    let silent = units(host).filter(|unit| unit.ready.is_none());
    for unit in silent.map(|unit| &unit.name) {
        if !is_awaited && changes.iter().any(|change| change.name == *unit) {
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
