//! Which lanes run side by side, and which one after the other.

use super::{Lane, StagePlan};
use crate::desired::Stage;

/// One part after the other on each host, but the hosts side by side: a host
/// needn't wait for the slowest between two parts.
pub(super) fn side_by_side(stage: Stage, parts: Vec<Vec<Lane>>) -> Option<StagePlan> {
    let mut lanes: Vec<Lane> = Vec::new();
    for lane in parts.into_iter().flatten() {
        if lane.steps.is_empty() {
            continue;
        }
        match lanes.iter_mut().find(|known| known.host == lane.host) {
            Some(known) => known.steps.extend(lane.steps),
            None => lanes.push(lane),
        }
    }
    lanes.sort_by(|one, other| one.host.cmp(&other.host));
    (!lanes.is_empty()).then_some(StagePlan { stage, lanes })
}

/// Lanes that interrupt nothing first and side by side, since they bring up
/// what is down; then those that do, each alone, in the order of the hosts'
/// keys.
pub(super) fn one_by_one<Key: Ord>(
    stage: Stage,
    lanes: Vec<Lane>,
    key: impl Fn(&str) -> Key,
) -> Vec<StagePlan> {
    in_groups(stage, lanes, key, |_, _| false)
}

/// The same with lanes of the same key at once, as long as the next one fits to
/// those before.
pub(super) fn in_groups<Key: Ord>(
    stage: Stage,
    lanes: Vec<Lane>,
    key: impl Fn(&str) -> Key,
    fits: impl Fn(&[Lane], &Lane) -> bool,
) -> Vec<StagePlan> {
    let (mut disruptive, harmless): (Vec<Lane>, Vec<Lane>) =
        lanes.into_iter().partition(is_disruptive);
    disruptive.sort_by_cached_key(|lane| (key(&lane.host), lane.host.clone()));
    let mut groups: Vec<Vec<Lane>> = Vec::new();
    for lane in disruptive {
        match groups.last_mut() {
            Some(group) if key(&group[0].host) == key(&lane.host) && fits(group, &lane) => {
                group.push(lane);
            }
            _ => groups.push(vec![lane]),
        }
    }
    let groups = groups
        .into_iter()
        .filter_map(|group| side_by_side(stage, vec![group]));
    side_by_side(stage, vec![harmless])
        .into_iter()
        .chain(groups)
        .collect()
}

/// Whether any step of the lane interrupts something.
pub(super) fn is_disruptive(lane: &Lane) -> bool {
    lane.steps.iter().any(|step| !step.disrupts.is_empty())
}
