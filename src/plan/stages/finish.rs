//! The end of a run on each host.

use super::super::diff::{Comparison, Leftovers};
use super::super::order::side_by_side;
use super::super::{Action, Plan, StagePlan, title};
use super::{lanes, step};
use crate::desired::{FileKind, Stage};

/// Units and files of an older generation that are desired no more.
pub(in super::super) fn remove_what_is_no_longer_desired(
    comparison: &Comparison,
    stage: Stage,
) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| {
        let mut steps = Vec::new();
        let units = host.units_to_stop();
        if !units.is_empty() {
            let title = format!("stop {}", title::names(units.iter().map(String::as_str)));
            steps.push(step(stage, host.name, title, Action::StopUnits { units }));
        }
        // Directories are software, and must be empty when their turn comes.
        for kind in [FileKind::Trust, FileKind::Software] {
            let remove = host.files_to_remove(kind);
            if remove.is_empty() {
                continue;
            }
            let title = match (&remove[..], kind) {
                ([path], _) => format!("remove {path}"),
                (paths, FileKind::Software) => format!("remove {} files", paths.len()),
                (paths, FileKind::Trust) => {
                    format!("remove {} keys and certificates", paths.len())
                }
            };
            let action = Action::WriteFiles {
                files: Vec::new(),
                remove,
                kind,
            };
            steps.push(step(stage, host.name, title, action));
        }
        steps
    });
    side_by_side(stage, vec![lanes]).into_iter().collect()
}

/// A new generation on each host whose software changed, and the present one
/// again where the plan so far stages what is to be collected.
pub(in super::super) fn commit(comparison: &Comparison, plan: &Plan) -> Vec<StagePlan> {
    let lanes = lanes(comparison, |host| {
        let is_staged = plan
            .steps()
            .any(|step| step.host == host.name && matches!(step.action, Action::PutBlobs { .. }));
        let leftovers = match is_staged {
            true => Leftovers::Made,
            false => Leftovers::None,
        };
        let generation = host.generation_to_commit(leftovers);
        let Some(generation) = generation.filter(|_| comparison.is_meant(host.name)) else {
            return Vec::new();
        };
        let title = format!("keep this as generation {generation}");
        let action = Action::Commit { generation };
        vec![step(Stage::Verify, host.name, title, action)]
    });
    side_by_side(Stage::Verify, vec![lanes])
        .into_iter()
        .collect()
}
