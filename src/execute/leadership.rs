//! etcd's leadership, moved without a write that fails.
//!
//! A leader that hands over drops what is proposed to it until others follow the
//! new one (`ErrProposalDropped` in raft's `stepLeader`), and whoever waits for
//! it waits in vain. So nobody proposes anything: the API servers stand still for
//! the fraction of a second that it takes, and then go on with all they had in
//! hand.

use super::failure::StepError;
use super::lane::{Stage, abandoned, expect_done};
use super::limits::ANSWER;
use super::recheck::observe;
use crate::desired::Desired;
use crate::facts::{EtcdFacts, ObserveRequest};
use crate::host::{Call, Failure, HostError, Notice, Request};
use crate::plan::Step;
use futures_util::future::join_all;
use std::time::Duration;

const API_SERVER: &str = "kube-apiserver.service";
/// They go on by themselves after this, in seconds: more than all questions here
/// may take together.
const SUSPENDED_SECONDS: u32 = 6;
/// Who doesn't stand still by then is not waited for.
const SUSPEND_LIMIT: Duration = Duration::from_secs(3);

/// Has another member of etcd lead before the host's own is interrupted, if that
/// one leads and there is another.
///
/// # Errors
/// With the last reason, if none takes over in time.
pub(super) async fn step_down(stage: &Stage<'_>, step: &Step) -> Result<(), StepError> {
    let endpoints = endpoints(stage.desired, &step.host);
    let patience = stage.run.patience;
    let mut attempt = 0;
    loop {
        let facts = etcd_facts(stage, step, &endpoints).await;
        let reason = match successor(&facts, &step.host) {
            Successor::NotNeeded => return Ok(()),
            Successor::Nobody => "no other member of etcd could lead".to_owned(),
            Successor::Member { id, name } => {
                let to = Request::MoveEtcdLeader {
                    endpoint: endpoints.first().cloned().unwrap_or_default(),
                    to: id,
                };
                match while_suspended(stage, step, to).await? {
                    None => {
                        let line = format!("etcd: {name} leads instead of {}", step.host);
                        stage.tell(step, Notice::Log { line });
                        return Ok(());
                    }
                    Some(reason) => format!("{name} did not take over: {reason}"),
                }
            }
        };
        attempt += 1;
        if attempt >= patience.attempts {
            return Err(failed(step, reason));
        }
        stage.tell(step, Notice::Waiting { reason });
        tokio::select! {
            () = tokio::time::sleep(patience.interval) => {}
            () = stage.halt.cancelled() => return Err(abandoned(step)),
        }
    }
}

/// Client URLs of all members, the host's own first.
fn endpoints(desired: &Desired, own: &str) -> Vec<String> {
    let hosts = desired.hosts.iter();
    let mut members: Vec<(bool, &String)> = hosts
        .filter_map(|(name, host)| Some((name != own, &host.etcd.as_ref()?.client_url)))
        .collect();
    members.sort();
    members.into_iter().map(|(_, url)| url.clone()).collect()
}

/// Who is to lead instead of a member.
#[derive(Debug, PartialEq, Eq)]
enum Successor {
    NotNeeded,
    Nobody,
    Member { id: String, name: String },
}

/// What can't be learned is no reason to wait: whether the member may be
/// interrupted is asked right before that.
fn successor(facts: &EtcdFacts, own: &str) -> Successor {
    if facts.leader.as_deref() != Some(own) {
        return Successor::NotNeeded;
    }
    let version = |name: &str| {
        let mut all = facts.members.iter();
        let member = all.find(|member| member.name == name);
        member.and_then(|member| Some(member.status.as_ref()?.version.clone()))
    };
    let own_version = version(own);
    let others = facts.members.iter();
    let others = others.filter(|member| member.name != own && !member.learner);
    if others.clone().next().is_none() {
        return Successor::NotNeeded;
    }
    let best = others
        .filter_map(|member| Some((member, member.status.as_ref()?)))
        // One that has been changed already needn't hand over again.
        .max_by_key(|(_, status)| {
            let is_changed = own_version.as_ref() != Some(&status.version);
            (is_changed, status.applied_index)
        });
    match best {
        None => Successor::Nobody,
        Some((member, _)) => Successor::Member {
            id: member.id.clone(),
            name: member.name.clone(),
        },
    }
}

async fn etcd_facts(stage: &Stage<'_>, step: &Step, endpoints: &[String]) -> EtcdFacts {
    let request = Request::Observe(ObserveRequest {
        etcd_endpoints: endpoints.to_vec(),
        ..ObserveRequest::default()
    });
    let facts = observe(stage, &step.host, request).await;
    facts.ok().and_then(|facts| facts.etcd).unwrap_or_default()
}

/// Asks while the API servers stand still; returns why etcd did not do it, if it
/// did not.
async fn while_suspended(
    stage: &Stage<'_>,
    step: &Step,
    to: Request,
) -> Result<Option<String>, StepError> {
    let suspend = Request::Suspend {
        unit: API_SERVER.to_owned(),
        limit_seconds: SUSPENDED_SECONDS,
    };
    let resume = Request::Resume {
        unit: API_SERVER.to_owned(),
    };
    on_api_servers(stage, step, &suspend).await;
    let moved = stage.call(step, to, None, ANSWER).await;
    on_api_servers(stage, step, &resume).await;
    match moved {
        Ok(response) => expect_done(step, response).map(|()| None),
        Err(StepError::Host(HostError::Failed { failure, .. })) => Ok(Some(failure.to_string())),
        Err(error) => Err(error),
    }
}

/// What can't be asked is told, and no reason to stop: at worst a write fails.
async fn on_api_servers(stage: &Stage<'_>, step: &Step, request: &Request) {
    let all = stage.desired.hosts.iter();
    let with_one = all.filter(|(_, host)| host.units.iter().any(|unit| unit.name == API_SERVER));
    let calls = with_one.map(async |(name, _)| {
        let call = Call {
            request: request.clone(),
            body: None,
            notices: &|_| {},
            limit: SUSPEND_LIMIT,
        };
        let result = match stage.host(name) {
            Ok(host) => host.call(call).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(line) = result {
            stage.tell(step, Notice::Log { line });
        }
    });
    join_all(calls).await;
}

fn failed(step: &Step, reason: String) -> StepError {
    StepError::Host(HostError::Failed {
        host: step.host.clone(),
        failure: Failure {
            message: format!("its member leads etcd and can't hand that over: {reason}"),
            lines: Vec::new(),
            hint: Some(
                "look at the members with `cofferdam etcdctl -- endpoint status -w table`, then run the same command again"
                    .to_owned(),
            ),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{EtcdMember, EtcdMemberStatus};

    fn member(name: &str, version: &str, applied_index: u64) -> EtcdMember {
        EtcdMember {
            id: format!("{name}-id"),
            name: name.to_owned(),
            peer_urls: Vec::new(),
            learner: false,
            status: Some(EtcdMemberStatus {
                version: version.to_owned(),
                applied_index,
                ..EtcdMemberStatus::default()
            }),
        }
    }

    fn led_by(leader: &str, members: Vec<EtcdMember>) -> EtcdFacts {
        EtcdFacts {
            leader: Some(leader.to_owned()),
            members,
            ..EtcdFacts::default()
        }
    }

    fn to(name: &str) -> Successor {
        Successor::Member {
            id: format!("{name}-id"),
            name: name.to_owned(),
        }
    }

    #[test]
    fn whoever_was_changed_already_leads_next_else_who_is_most_in_step() {
        let old = |name, index| member(name, "3.6.16", index);
        let mut silent = old("m3", 99);
        silent.status = None;
        let mut learner = old("m2", 99);
        learner.learner = true;
        for (facts, expected) in [
            (EtcdFacts::default(), Successor::NotNeeded),
            (
                led_by("m2", vec![old("m1", 9), old("m2", 9)]),
                Successor::NotNeeded,
            ),
            (
                led_by("m1", vec![old("m1", 9), old("m2", 7), old("m3", 8)]),
                to("m3"),
            ),
            (
                led_by(
                    "m1",
                    vec![old("m1", 9), member("m2", "3.7.3", 7), old("m3", 8)],
                ),
                to("m2"),
            ),
            (led_by("m1", vec![old("m1", 9)]), Successor::NotNeeded),
            (
                led_by("m1", vec![old("m1", 9), learner.clone()]),
                Successor::NotNeeded,
            ),
            (
                led_by("m1", vec![old("m1", 9), learner, silent]),
                Successor::Nobody,
            ),
        ] {
            assert_eq!(successor(&facts, "m1"), expected, "{facts:?}");
        }
    }
}
