//! Safety, asked on fresh facts right before a step that interrupts
//! something.

use super::failure::StepError;
use super::lane::{Stage, abandoned};
use super::limits::ANSWER;
use crate::desired::{DesiredHost, Stage as Stages};
use crate::facts::{HostFacts, ObserveRequest};
use crate::host::{Call, Notice, Request, Response};
use crate::plan::safety::{may_disrupt, serving, serving_units, stage_of};
use crate::plan::world::etcd_endpoints;
use crate::plan::{Disruption, Step};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::MutexGuard;

/// Waits until all that the step interrupts on the subject, a host, may be. No other lane finds its own
/// step safe while the turn that comes back is held; what doesn't serve now
/// interrupts nothing, and needs none.
///
/// # Errors
/// With the last reason, if it does not become safe in time.
pub(super) async fn recheck<'a>(
    stage: &'a Stage<'_>,
    step: &Step,
    subject: &str,
    interrupted: &BTreeSet<Disruption>,
) -> Result<Option<MutexGuard<'a, ()>>, StepError> {
    let patience = stage.run.patience;
    let mut attempt = 0;
    loop {
        let turn = tokio::select! {
            biased;
            () = stage.halt.cancelled() => return Err(abandoned(step)),
            turn = stage.turn.lock() => turn,
        };
        let mut serves = false;
        let mut refusal = None;
        for what in interrupted {
            let which = stage_of(*what, step.stage);
            let facts = fresh_facts(stage, which).await;
            let serving = serving(stage.desired, &facts, which);
            let own = serving.hosts.get(subject);
            serves |= own.is_some_and(|server| server.down.is_none());
            refusal = refusal.or(may_disrupt(subject, *what, &serving).err());
        }
        let Some(refusal) = refusal else {
            return Ok(serves.then_some(turn));
        };
        // Another lane may bring up what is waited for.
        drop(turn);
        attempt += 1;
        if attempt >= patience.attempts {
            return Err(StepError::Refused(refusal));
        }
        let reason = refusal.to_string();
        stage.tell(step, Notice::Waiting { reason });
        tokio::select! {
            () = tokio::time::sleep(patience.interval) => {}
            () = stage.halt.cancelled() => return Err(abandoned(step)),
        }
    }
}

/// The units of the stage on every host that has any, asked side by side.
async fn fresh_facts(
    stage: &Stage<'_>,
    which: Stages,
) -> BTreeMap<String, Result<HostFacts, String>> {
    // The others were left out.
    let hosts = stage.desired.hosts.iter();
    let hosts = hosts.filter(|(name, _)| stage.run.hosts.contains_key(*name));
    let concerned = hosts.filter(|(_, host)| serving_units(host, which).next().is_some());
    let answers = concerned.map(async |(name, host)| {
        let request = Request::Observe(observe_units(host, which));
        (name.clone(), observe(stage, name, request).await)
    });
    join_all(answers).await.into_iter().collect()
}

pub(super) async fn observe(
    stage: &Stage<'_>,
    name: &str,
    request: Request,
) -> Result<HostFacts, String> {
    let host = stage.host(name).map_err(|error| error.to_string())?;
    let call = Call {
        request,
        body: None,
        notices: &|_| {},
        limit: ANSWER,
    };
    match host.call(call).await {
        Ok(Response::Facts(facts)) => Ok(*facts),
        Ok(_) => Err("it answered something else than facts".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn observe_units(host: &DesiredHost, which: Stages) -> ObserveRequest {
    ObserveRequest {
        units: serving_units(host, which).map(str::to_owned).collect(),
        etcd_endpoints: match which {
            Stages::Etcd => etcd_endpoints(host),
            _ => Vec::new(),
        },
        ..ObserveRequest::default()
    }
}
