//! What is put back of a lane that ends before its end: pods come again to a
//! node that they were taken from for nothing.

use super::lane::{Stage, expect_done, step_done, step_started};
use super::limits::limit;
use crate::event::Event;
use crate::host::{ApplyRequest, Request};
use crate::plan::{Action, Step};
use std::time::Instant;

/// Uncordons the node that the steps, which were begun in this order, drained
/// without changing it. A cordon of people's own stays. What can't be put back
/// is told, and the next run goes on from there.
pub(super) async fn give_back(stage: &Stage<'_>, begun: &[Step]) {
    let Some((drain, node)) = drained_for_nothing(begun) else {
        return;
    };
    let step = Step {
        title: format!("give {node} back"),
        action: Action::Uncordon {
            node: node.to_owned(),
        },
        disrupts: std::collections::BTreeSet::new(),
        ..drain.clone()
    };
    stage.run.events.emit(step_started(&step));
    let started = Instant::now();
    let request = Request::Apply(Box::new(ApplyRequest::of(step.action.clone())));
    let answer = stage.call(&step, request, None, limit(&step.action)).await;
    match answer.and_then(|response| expect_done(&step, response)) {
        Ok(()) => stage.run.events.emit(step_done(&step, started)),
        Err(error) => stage.run.events.emit(Event::Warning {
            host: Some(node.to_owned()),
            message: format!("it stays cordoned until the same command is run again: {error}"),
        }),
    }
}

/// The drain that nothing but waiting came after, and its node.
fn drained_for_nothing(begun: &[Step]) -> Option<(&Step, &str)> {
    let is_wait = |step: &&Step| matches!(step.action, Action::Wait { .. });
    let last = begun.iter().rev().find(|step| !is_wait(step))?;
    match &last.action {
        Action::Drain { node, .. } => Some((last, node)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Condition, Stage as Stages};

    fn step(action: Action) -> Step {
        Step {
            stage: Stages::Nodes,
            host: "m1".to_owned(),
            title: String::new(),
            disrupts: std::collections::BTreeSet::new(),
            action,
        }
    }

    #[test]
    fn a_node_was_drained_for_nothing_until_something_is_done_to_it() {
        let drain = || {
            step(Action::Drain {
                node: "w1".to_owned(),
                limit_seconds: 1,
                rules: Vec::new(),
            })
        };
        let wait = || {
            step(Action::Wait {
                condition: Condition::OverlayUp,
                limit_seconds: 1,
            })
        };
        let change = || step(Action::SwapOff);
        for (begun, expected) in [
            (vec![], None),
            (vec![drain()], Some("w1")),
            (vec![change(), drain(), wait()], Some("w1")),
            (vec![drain(), change()], None),
            (vec![wait()], None),
        ] {
            let found = drained_for_nothing(&begun).map(|(_, node)| node);
            assert_eq!(found, expected, "{begun:?}");
        }
    }
}
