//! Runs a plan: stage by stage, lanes side by side, the steps of a lane in
//! order. Decides nothing but whether to go on.

mod failure;
mod give_back;
mod lane;
mod leadership;
mod limits;
mod recheck;
mod requests;
mod send;

use crate::desired::{Desired, DigestKey, Stage};
use crate::event::{Event, EventSink, HostsByZone};
use crate::host::{Body, Host};
use crate::plan::{Action, Plan, StagePlan, Step, World, plan};
pub use failure::{StepError, StepFailure, Stopped};
use futures_util::future::{BoxFuture, join_all};
use lane::{Stage as RunningStage, run_lane};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Where the bytes of blobs come from: the bundle that was verified.
pub trait BlobSource: Send + Sync {
    /// The blob's bytes, which end with an error unless they are what the
    /// digest says.
    ///
    /// # Errors
    /// When there is no such blob or it can't be read.
    fn open(&self, digest: &crate::digest::Digest) -> io::Result<Box<dyn Body>>;
}

/// Puts keys, certificates and decisions into the site.
pub trait Mint: Send + Sync {
    /// Makes what is missing and gives the desired state that is complete
    /// then.
    ///
    /// # Errors
    /// When the site can't be written.
    fn mint(&self, materials: &[String], decisions: &[String]) -> anyhow::Result<Minted>;
}

/// What is known once everything is minted.
pub struct Minted {
    pub desired: Desired,
    /// The site's key for digests of secrets.
    pub key: DigestKey,
}

/// Asked before what interrupts something, once something else was interrupted
/// before.
pub trait Pauses: Send + Sync {
    /// Whether the run goes on.
    fn may_go_on<'a>(
        &'a self,
        after: &'a HostsByZone,
        before: &'a HostsByZone,
    ) -> BoxFuture<'a, bool>;
}

/// All that a run needs.
pub struct Run<'a> {
    pub plan: &'a Plan,
    /// What the plan was made of; replaced by what minting returns.
    pub desired: Desired,
    pub world: &'a World,
    pub hosts: &'a BTreeMap<String, Arc<dyn Host>>,
    pub blobs: &'a dyn BlobSource,
    pub mint: &'a dyn Mint,
    pub events: &'a dyn EventSink,
    /// Cancelled by Ctrl-C: the steps in hand are finished, then the run
    /// stops. Waits and transfers of many blobs end early.
    pub stop: CancellationToken,
    pub patience: Patience,
    pub pauses: Option<&'a dyn Pauses>,
}

/// How often safety is asked again before a step that interrupts something is
/// refused.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub interval: Duration,
    pub attempts: u32,
}

impl Default for Patience {
    /// A minute: a member that has just been restarted needs a few seconds to
    /// catch up; what takes longer needs a person.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            attempts: 30,
        }
    }
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Finished {
    pub steps: usize,
    pub seconds: f64,
    /// As it is after minting.
    pub desired: Desired,
}

/// Runs the plan.
///
/// # Errors
/// With every failure, the first one first, once the other lanes have
/// finished the step in hand; or with none if it was interrupted. The same
/// command goes on from there, since it plans anew from what is.
pub async fn execute(run: Run<'_>) -> Result<Finished, Stopped> {
    let started = Instant::now();
    let mut desired = run.desired.clone();
    if let Some(refusal) = run.plan.refusals.first() {
        return Err(Stopped::before_anything(refusal.clone()));
    }
    let mut steps = 0;
    let mut interrupted: Option<HostsByZone> = None;
    for stages in run
        .plan
        .stages
        .chunk_by(|one, other| one.stage == other.stage)
    {
        let stage_started = Instant::now();
        let stage = stages[0].stage;
        run.events.emit(stage_event(stages, &desired));
        let mut before: Option<&StagePlan> = None;
        for part in stages {
            pause(&run, &desired, part, &mut interrupted).await?;
            if let Some(before) = before.replace(part) {
                run.events.emit(Event::PartStarted {
                    stage,
                    zones: zones_of([part], &desired),
                    after: zones_of([before], &desired),
                });
            }
            steps += match stage {
                Stage::Site => {
                    desired = mint(&run, part)?;
                    1
                }
                _ => run_part(&run, &desired, part).await?,
            };
        }
        run.events.emit(Event::StageDone {
            stage,
            seconds: stage_started.elapsed().as_secs_f64(),
        });
    }
    Ok(Finished {
        steps,
        seconds: started.elapsed().as_secs_f64(),
        desired,
    })
}

/// Asks whether the run goes on, if it is to pause here.
async fn pause(
    run: &Run<'_>,
    desired: &Desired,
    part: &StagePlan,
    interrupted: &mut Option<HostsByZone>,
) -> Result<(), Stopped> {
    let Some(pauses) = run.pauses.filter(|_| part.interrupts()) else {
        return Ok(());
    };
    let next = zones_of([part], desired);
    let goes_on = match interrupted {
        Some(last) => {
            tokio::select! {
                goes_on = pauses.may_go_on(last, &next) => goes_on,
                () = run.stop.cancelled() => false,
            }
        }
        None => true,
    };
    *interrupted = Some(next);
    match goes_on {
        true => Ok(()),
        false => Err(Stopped::by(Vec::new())),
    }
}

/// All lanes of a part, side by side. Returns the number of steps done.
async fn run_part(run: &Run<'_>, desired: &Desired, part: &StagePlan) -> Result<usize, Stopped> {
    let stage = RunningStage::new(run, desired);
    let lanes = part.lanes.iter().map(|lane| run_lane(&stage, lane));
    let done: usize = join_all(lanes).await.into_iter().sum();
    stage.finish()?;
    Ok(done)
}

/// The minting step. What follows must be the very steps that were planned
/// and confirmed.
fn mint(run: &Run<'_>, part: &StagePlan) -> Result<Desired, Stopped> {
    let stop = |step: &Step, error| {
        let failure = StepFailure::new(step, error);
        run.events.emit(failure.event());
        Stopped::by(vec![failure])
    };
    let mut minted = None;
    for step in part.lanes.iter().flat_map(|lane| &lane.steps) {
        if run.stop.is_cancelled() {
            return Err(Stopped::by(Vec::new()));
        }
        run.events.emit(lane::step_started(step));
        let started = Instant::now();
        let Action::Mint {
            materials,
            decisions,
        } = &step.action
        else {
            return Err(stop(step, StepError::not_for_site(step)));
        };
        let result = run.mint.mint(materials, decisions);
        let result = result.map_err(|error| stop(step, StepError::Mint(error)))?;
        let replanned = plan(&result.desired, run.world, Some(&result.key));
        if let Some((planned, found)) = first_difference(run.plan, &replanned) {
            return Err(stop(step, StepError::PlanChanged { planned, found }));
        }
        run.events.emit(lane::step_done(step, started));
        minted = Some(result.desired);
    }
    Ok(minted.unwrap_or_else(|| run.desired.clone()))
}

/// The first step after minting in which two plans differ, for people.
fn first_difference(planned: &Plan, found: &Plan) -> Option<(String, String)> {
    let after_minting = |plan: &Plan| -> Vec<Step> {
        let steps = plan.steps().filter(|step| step.stage != Stage::Site);
        steps.cloned().collect()
    };
    let (planned, found) = (after_minting(planned), after_minting(found));
    let tell = |step: Option<&Step>| match step {
        Some(step) => format!("{}: {}", step.host, step.title),
        None => "nothing".to_owned(),
    };
    (0..planned.len().max(found.len()))
        .find(|index| planned.get(*index) != found.get(*index))
        .map(|index| (tell(planned.get(index)), tell(found.get(index))))
}

/// The hosts of parts of a stage, by zone.
fn zones_of<'a>(parts: impl IntoIterator<Item = &'a StagePlan>, desired: &Desired) -> HostsByZone {
    let mut zones = HostsByZone::new();
    for lane in parts.into_iter().flat_map(|part| &part.lanes) {
        if let Some(host) = desired.hosts.get(&lane.host) {
            let hosts = zones.entry(host.zone.clone()).or_default();
            hosts.insert(lane.host.clone());
        }
    }
    zones
}

fn stage_event(parts: &[StagePlan], desired: &Desired) -> Event {
    let lanes = parts.iter().flat_map(|part| &part.lanes);
    let hosts: std::collections::BTreeSet<&str> =
        lanes.clone().map(|lane| lane.host.as_str()).collect();
    Event::StageStarted {
        stage: parts[0].stage,
        hosts: hosts.len(),
        steps: lanes.map(|lane| lane.steps.len()).sum(),
        zones: zones_of(parts, desired),
    }
}
