//! The steps of one lane.

use super::failure::{StepError, StepFailure, Stopped};
use super::give_back::give_back;
use super::leadership::step_down;
use super::limits::limit;
use super::recheck::recheck;
use super::requests::apply_request;
use super::send::{put_blobs, seed};
use super::{Host, Run};
use crate::desired::Desired;
use crate::event::Event;
use crate::host::{Call, HostError, Notice, Request, Response};
use crate::plan::safety::disruption_of;
use crate::plan::{Action, Disruption, Lane, Step, UnitVerb};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What the lanes of a part share.
pub(super) struct Stage<'a> {
    pub run: &'a Run<'a>,
    pub desired: &'a Desired,
    /// Cancelled when a lane failed or the run is to stop.
    pub halt: CancellationToken,
    failures: Mutex<Vec<StepFailure>>,
    /// Held by the one lane that interrupts something.
    pub turn: tokio::sync::Mutex<()>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(run: &'a Run<'a>, desired: &'a Desired) -> Self {
        Self {
            run,
            desired,
            halt: run.stop.child_token(),
            failures: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Whether the next part may begin.
    pub(super) fn finish(self) -> Result<(), Stopped> {
        let failures = self.failures.into_inner();
        let failures = failures.unwrap_or_else(PoisonError::into_inner);
        if failures.is_empty() && !self.halt.is_cancelled() {
            return Ok(());
        }
        Err(Stopped::by(failures))
    }

    /// One request to the step's host, its notices told as events.
    pub(super) async fn call(
        &self,
        step: &Step,
        request: Request,
        body: Option<Box<dyn super::Body + '_>>,
        limit: Duration,
    ) -> Result<Response, StepError> {
        let host = self.host(&step.host)?;
        let notices = |notice| self.tell(step, notice);
        let call = Call {
            request,
            body,
            notices: &notices,
            limit,
        };
        Ok(host.call(call).await?)
    }

    pub(super) fn host(&self, name: &str) -> Result<&dyn Host, StepError> {
        let host = self.run.hosts.get(name);
        host.map(AsRef::as_ref).ok_or_else(|| {
            StepError::Host(HostError::Lost {
                host: name.to_owned(),
                doing: "looking for its connection".to_owned(),
                reason: "it was never reached in this run".to_owned(),
            })
        })
    }

    pub(super) fn tell(&self, step: &Step, notice: Notice) {
        let (stage, host) = (step.stage, step.host.clone());
        self.run.events.emit(match notice {
            Notice::Waiting { reason } => Event::StepWaiting {
                stage,
                host,
                reason,
            },
            Notice::Progress { item, done, total } => Event::StepProgress {
                stage,
                host,
                item,
                done,
                total,
            },
            Notice::Log { line } => Event::HostLog { host, line },
            // Only requests to run a program have output.
            Notice::Output { .. } => return,
        });
    }

    fn fail(&self, step: &Step, error: StepError) {
        let failure = StepFailure::new(step, error);
        self.run.events.emit(failure.event());
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(failure);
        self.halt.cancel();
    }
}

/// Runs the lane's steps until one fails or the run is to stop. Returns the
/// number of steps done.
pub(super) async fn run_lane(stage: &Stage<'_>, lane: &Lane) -> usize {
    for (done, step) in lane.steps.iter().enumerate() {
        if stage.halt.is_cancelled() {
            give_back(stage, &lane.steps[..done]).await;
            return done;
        }
        stage.run.events.emit(step_started(step));
        let started = Instant::now();
        match run_step(stage, step).await {
            Ok(()) => stage.run.events.emit(step_done(step, started)),
            Err(error) => {
                let begun = begun(&lane.steps, done, &error);
                if !matches!(error, StepError::Abandoned { .. }) {
                    stage.fail(step, error);
                }
                give_back(stage, begun).await;
                return done;
            }
        }
    }
    lane.steps.len()
}

async fn run_step(stage: &Stage<'_>, step: &Step) -> Result<(), StepError> {
    let mut interrupted = step.disrupts.clone();
    interrupted.extend(restarted(step));
    // A node is named as its host.
    let subject = match &step.action {
        Action::Drain { node, .. } => {
            interrupted.insert(Disruption::Node);
            node
        }
        _ => &step.host,
    };
    let turn = match interrupted.is_empty() {
        true => None,
        false => recheck(stage, step, subject, &interrupted).await?,
    };
    // Nodes that are away together are so by the plan.
    let is_of_nodes = interrupted.iter().all(|what| *what == Disruption::Node);
    let turn = turn.filter(|_| !is_of_nodes);
    if turn.is_some() && interrupted.contains(&Disruption::EtcdMember) {
        step_down(stage, step).await?;
    }
    match &step.action {
        Action::PutBlobs { blobs } => put_blobs(stage, step, blobs).await,
        Action::Seed { artifacts } => seed(stage, step, artifacts).await,
        action if may_be_stopped(action) => {
            tokio::select! {
                result = apply(stage, step) => result,
                () = stage.halt.cancelled() => Err(abandoned(step)),
            }
        }
        _ => apply(stage, step).await,
    }
}

/// The steps that were begun, of a lane that ends at the next one though nothing
/// went wrong there; none where something did.
fn begun<'a>(steps: &'a [Step], done: usize, error: &StepError) -> &'a [Step] {
    match error {
        StepError::Abandoned { .. } if may_be_stopped(&steps[done].action) => &steps[..=done],
        // It never began.
        StepError::Abandoned { .. } | StepError::Refused(_) => &steps[..done],
        // The agent may not have come as far as to take its cordon back.
        StepError::Host(HostError::Timeout { .. } | HostError::Lost { .. })
            if matches!(steps[done].action, Action::Drain { .. }) =>
        {
            &steps[..=done]
        }
        _ => &[],
    }
}

/// Whether a run that ends does so amid it. Nothing is in hand while a host only
/// waits, and a copy that is cut off goes on with the next run; and etcd changes
/// its members in one go, whoever waits for the answer.
fn may_be_stopped(action: &Action) -> bool {
    matches!(
        action,
        Action::Wait { .. }
            | Action::Drain { .. }
            | Action::SnapshotEtcd { .. }
            | Action::PrepareEtcdData { .. }
            | Action::CopyArtifacts { .. }
            | Action::AddEtcdLearner { .. }
            | Action::PromoteEtcdLearner { .. }
    )
}

/// What the step interrupts if what it starts or restarts has come up since the
/// plan was made, which takes as long as people take to confirm it: what runs
/// with other inputs by then is restarted. Nodes may: their pods go on.
fn restarted(step: &Step) -> Option<Disruption> {
    let Action::StartUnits { units, .. } = &step.action else {
        return None;
    };
    let starts = |verb| matches!(verb, UnitVerb::Start | UnitVerb::Restart);
    let restarts = units.iter().any(|unit| starts(unit.verb));
    disruption_of(step.stage).filter(|what| restarts && *what != Disruption::Node)
}

async fn apply(stage: &Stage<'_>, step: &Step) -> Result<(), StepError> {
    let request = apply_request(step, stage.desired)?;
    let request = Request::Apply(Box::new(request));
    let limit = limit(&step.action);
    expect_done(step, stage.call(step, request, None, limit).await?)
}

pub(super) fn expect_done(step: &Step, response: Response) -> Result<(), StepError> {
    match response {
        Response::Done => Ok(()),
        other => Err(unexpected(step, &other)),
    }
}

/// An answer of the wrong kind. Names its kind only, since answers can be
/// long.
pub(super) fn unexpected(step: &Step, response: &Response) -> StepError {
    let answer = match response {
        Response::Facts(_) => "facts",
        Response::Cluster(_) => "facts of the cluster",
        Response::Usage(_) => "who uses the cluster",
        Response::Lacking { .. } => "what a registry lacks",
        Response::Generations { .. } => "generations",
        Response::Snapshots { .. } => "snapshots of etcd",
        Response::Done => "done",
        Response::Stored { .. } => "stored",
        Response::Exited { .. } => "exited",
    };
    StepError::Answer {
        host: step.host.clone(),
        what: format!("`{}`", step.title),
        answer: answer.to_owned(),
    }
}

pub(super) fn abandoned(step: &Step) -> StepError {
    StepError::Abandoned {
        host: step.host.clone(),
    }
}

pub(super) fn step_started(step: &Step) -> Event {
    Event::StepStarted {
        stage: step.stage,
        host: step.host.clone(),
        title: step.title.clone(),
    }
}

pub(super) fn step_done(step: &Step, started: Instant) -> Event {
    Event::StepDone {
        stage: step.stage,
        host: step.host.clone(),
        title: step.title.clone(),
        seconds: started.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Stage as Stages;
    use crate::plan::safety::Refusal;

    #[test]
    fn what_is_refused_or_abandoned_before_its_turn_never_began() {
        let step = |action| Step {
            stage: Stages::Nodes,
            host: "m1".to_owned(),
            title: String::new(),
            disrupts: std::collections::BTreeSet::new(),
            action,
        };
        let drain = Action::Drain {
            node: "w1".to_owned(),
            limit_seconds: 1,
            rules: Vec::new(),
        };
        let steps = [step(drain), step(Action::SwapOff)];
        let refused = StepError::Refused(Refusal::EtcdUnhealthy {
            host: "m1".to_owned(),
            error: String::new(),
        });
        let lost = StepError::Host(HostError::Lost {
            host: "m1".to_owned(),
            doing: String::new(),
            reason: String::new(),
        });
        assert_eq!(begun(&steps, 0, &abandoned(&steps[0])).len(), 1);
        assert_eq!(begun(&steps, 1, &abandoned(&steps[1])).len(), 1);
        assert_eq!(begun(&steps, 1, &refused).len(), 1);
        assert_eq!(begun(&steps, 0, &refused).len(), 0);
        assert_eq!(begun(&steps, 0, &lost).len(), 1);
        assert_eq!(begun(&steps, 1, &lost).len(), 0);
    }
}
