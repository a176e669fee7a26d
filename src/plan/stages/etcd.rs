//! etcd: members that belong together first, then those that join, one after
//! the other: known to etcd as a learner, started, in step, with a vote.

use super::super::diff::{Comparison, HostDiff};
use super::super::membership::Standing;
use super::super::order::side_by_side;
use super::super::{Action, Lane, StagePlan, Step};
use super::hosts::write_files;
use super::units::{idle_unit_steps, unit_steps};
use super::{lanes, masters, step};
use crate::desired::{Condition, EtcdMembership, Stage};

/// etcd takes a learner seconds after it has found all members in touch.
const ADD_LIMIT_SECONDS: u32 = 120;
/// A database of eight gigabytes over a link of 100 Mbit/s, and some more.
const PROMOTE_LIMIT_SECONDS: u32 = 1800;

pub(in super::super) fn bring_up_etcd(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let mut joining: Vec<(usize, &HostDiff)> = comparison
        .hosts
        .iter()
        .filter(|host| comparison.standing(host.name) != Some(Standing::Voter))
        .filter_map(|host| Some((host.desired.etcd.as_ref()?.joins?, host)))
        .collect();
    joining.sort_by_key(|(place, _)| *place);
    let to_come = |after: Option<usize>| -> Vec<&str> {
        let later = joining.iter().filter(|(place, _)| Some(*place) > after);
        later.map(|(_, host)| host.name).collect()
    };
    let all_to_come = to_come(None);
    let together = lanes(comparison, |host| {
        if comparison.standing(host.name) == Some(Standing::Absent) {
            return Vec::new();
        }
        let mut steps = write_files(host, stage, |_| true);
        // What runs is changed with its host's control plane.
        let units = match masters::changes_member(comparison, host) {
            true => Vec::new(),
            false => idle_unit_steps(comparison, host, stage),
        };
        let is_changed = units
            .iter()
            .any(|step| !matches!(step.action, Action::Wait { .. }));
        // A learner answers no question about the health of the whole, and
        // what runs as it should needn't be asked again for fewer.
        let is_learner = all_to_come.contains(&host.name);
        for step in units {
            let is_wait = matches!(step.action, Action::Wait { .. });
            let reduced = among(comparison, step.clone(), &all_to_come);
            let is_same = reduced.as_ref() == Some(&step);
            steps.extend(reduced.filter(|_| !is_wait || !is_learner && (is_changed || is_same)));
        }
        steps
    });
    let mut stages: Vec<StagePlan> = side_by_side(stage, vec![together]).into_iter().collect();
    for (place, host) in &joining {
        let Some(membership) = &host.desired.etcd else {
            continue;
        };
        let steps = join(comparison, host, membership, &to_come(Some(*place)));
        let lane = Lane {
            host: host.name.to_owned(),
            steps,
        };
        stages.extend(side_by_side(stage, vec![vec![lane]]));
    }
    stages
}

/// Everything that makes one host a voting member; the hosts of `to_come` are
/// none yet.
fn join(
    comparison: &Comparison,
    host: &HostDiff,
    membership: &EtcdMembership,
    to_come: &[&str],
) -> Vec<Step> {
    let voters = comparison
        .hosts
        .iter()
        .filter(|other| other.name != host.name && !to_come.contains(&other.name));
    let mut endpoints: Vec<String> = voters
        .filter_map(|other| Some(other.desired.etcd.as_ref()?.client_url.clone()))
        .collect();
    if endpoints.is_empty() {
        // Nobody could tell who votes: perhaps the host itself.
        endpoints.push(membership.client_url.clone());
    }
    let stage = Stage::Etcd;
    let mut steps = Vec::new();
    let mut waits = Vec::new();
    if comparison.standing(host.name) == Some(Standing::Absent) {
        let action = Action::AddEtcdLearner {
            name: host.name.to_owned(),
            peer_url: membership.peer_url.clone(),
            endpoints: endpoints.clone(),
            limit_seconds: ADD_LIMIT_SECONDS,
        };
        steps.push(step(
            stage,
            host.name,
            "join etcd as a learner".to_owned(),
            action,
        ));
        steps.extend(write_files(host, stage, |_| true));
        for step in unit_steps(comparison, host, stage) {
            match &step.action {
                Action::Wait { .. } => waits.extend(among(comparison, step, to_come)),
                _ => steps.push(step),
            }
        }
    }
    let action = Action::PromoteEtcdLearner {
        peer_url: membership.peer_url.clone(),
        endpoints,
        limit_seconds: PROMOTE_LIMIT_SECONDS,
    };
    let title = "vote in etcd once in step".to_owned();
    steps.push(step(stage, host.name, title, action));
    steps.extend(waits);
    steps
}

/// The condition as it makes sense while some hosts are no voting members yet,
/// or are left out of the run: nobody waits for their health. None if nobody
/// else is there to wait for.
pub(super) fn reachable(
    comparison: &Comparison,
    condition: Condition,
    to_come: &[&str],
) -> Option<Condition> {
    let Condition::EtcdHealthy { endpoints } = condition else {
        return Some(condition);
    };
    let is_out = |endpoint: &String| {
        let hosts = comparison.desired.hosts.iter();
        let mut members = hosts.filter_map(|(name, host)| Some((name, host.etcd.as_ref()?)));
        members.any(|(name, member)| {
            member.client_url == *endpoint
                && (to_come.contains(&name.as_str()) || !comparison.world.hosts.contains_key(name))
        })
    };
    let endpoints: Vec<String> = endpoints
        .into_iter()
        .filter(|endpoint| !is_out(endpoint))
        .collect();
    (!endpoints.is_empty()).then_some(Condition::EtcdHealthy { endpoints })
}

/// A step whose wait, if it is one, is [`reachable`].
fn among(comparison: &Comparison, step: Step, to_come: &[&str]) -> Option<Step> {
    let Action::Wait {
        condition,
        limit_seconds,
    } = step.action
    else {
        return Some(step);
    };
    let condition = reachable(comparison, condition, to_come)?;
    Some(Step {
        action: Action::Wait {
            condition,
            limit_seconds,
        },
        ..step
    })
}
