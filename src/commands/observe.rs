//! Looking at all hosts at once, and at the cluster through a master.

use super::fault::{Exit, Fault};
use super::phase::Phase;
use crate::desired::{Desired, DigestKey};
use crate::event::{Event, EventSink};
use crate::facts::{ClusterFacts, HostFacts, ObserveRequest, UsageFacts};
use crate::host::remote::RemoteHost;
use crate::host::{Call, Host, HostError, Notice, Request, Response};
use crate::output::Output;
use crate::plan::title::size;
use crate::plan::world::observe_cluster_request;
use crate::plan::{World, cluster_host, observe_requests};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a host may be silent. One that reads a registry of many gigabytes
/// off a slow disk takes long, but tells how far it is.
const HOST_LIMIT: Duration = Duration::from_secs(180);
/// Dry runs of all manifests on an API server that just started.
const CLUSTER_LIMIT: Duration = Duration::from_secs(120);

/// Facts, and how far each clock is from ours.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) facts: BTreeMap<String, HostFacts>,
    /// Each host's clock less ours, in seconds.
    pub(super) clock_offsets: BTreeMap<String, f64>,
}

/// Looks at hosts before there is a desired state.
pub(super) async fn at_first(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
) -> Result<Seen, Fault> {
    let requests = hosts
        .keys()
        .map(|name| (name.clone(), ObserveRequest::default()));
    look(phase, hosts, requests.collect()).await
}

/// Looks at all that the desired state names.
pub(super) async fn hosts(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    desired: &Desired,
    key: Option<&DigestKey>,
) -> Result<Seen, Fault> {
    look(phase, hosts, observe_requests(desired, key)).await
}

/// The world for a plan: the hosts as seen, and the cluster through the first
/// master whose API server answers.
pub(super) async fn world(
    phase: &Phase<'_>,
    output: &Output,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    desired: &Desired,
    seen: BTreeMap<String, HostFacts>,
) -> Result<World, Fault> {
    let mut answered = None;
    let mut candidates = seen.clone();
    // Each that does not answer makes room for the next.
    while let Some(name) = running_master(desired, &candidates) {
        let name = name.to_owned();
        candidates.remove(&name);
        let Some(host) = hosts.get(&name) else {
            continue;
        };
        phase.doing(format!("asking the cluster through {name}"));
        match ask_cluster(host, desired).await? {
            Ok(facts) => {
                answered = Some((name, facts));
                break;
            }
            // It may be on its way up or down. What it would have told is
            // planned for as unknown, which is safe, but worth a word.
            Err(reason) => output.emit(Event::Warning {
                host: None,
                message: format!("{reason}; the cluster was not asked through it"),
            }),
        }
    }
    let (cluster_host, cluster) = match answered {
        Some((name, facts)) => (name, Some(facts)),
        None => {
            let name = cluster_host(desired, &seen);
            (name.unwrap_or_default().to_owned(), None)
        }
    };
    Ok(World {
        hosts: seen,
        cluster,
        cluster_host,
    })
}

/// Who uses the cluster, as each master whose API server runs knows it.
pub(super) async fn usage(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    desired: &Desired,
    world: &World,
) -> Result<BTreeMap<String, UsageFacts>, Fault> {
    let mut all = BTreeMap::new();
    for (name, host) in hosts {
        let one = [(
            name.clone(),
            world.hosts.get(name).cloned().unwrap_or_default(),
        )];
        if running_master(desired, &one.into()).is_none() {
            continue;
        }
        phase.doing(format!("asking {name} who uses its API"));
        let call = Call {
            request: Request::ObserveUsage,
            body: None,
            notices: &|_| (),
            limit: CLUSTER_LIMIT,
        };
        match host.call(call).await {
            Ok(Response::Usage(facts)) => {
                all.insert(name.clone(), *facts);
            }
            Err(error @ HostError::Lost { .. }) => return Err(error.into()),
            Ok(_) => {}
            Err(error) => {
                return Err(Fault::new(
                    Exit::Checks,
                    format!("{error}: who uses the cluster has to be known before it is upgraded"),
                )
                .hint("see whether that API server is well: `cofferdam status`"));
            }
        }
    }
    Ok(all)
}

/// The master to ask, if its API server runs.
fn running_master<'a>(desired: &'a Desired, seen: &BTreeMap<String, HostFacts>) -> Option<&'a str> {
    let name = cluster_host(desired, seen)?;
    let unit = seen.get(name)?.units.get("kube-apiserver.service")?;
    (unit.active == "active").then_some(name)
}

/// The cluster's facts, or why the API server could not tell them. A host that
/// is lost is an error.
async fn ask_cluster(
    host: &RemoteHost,
    desired: &Desired,
) -> Result<Result<ClusterFacts, String>, Fault> {
    let call = Call {
        request: observe_cluster_request(desired),
        body: None,
        notices: &|_| (),
        limit: CLUSTER_LIMIT,
    };
    match host.call(call).await {
        Ok(Response::Cluster(facts)) => Ok(Ok(*facts)),
        Ok(_) => Ok(Err(format!("{}: an unexpected answer", host.name()))),
        Err(error @ (HostError::Failed { .. } | HostError::Timeout { .. })) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn look(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    requests: BTreeMap<String, ObserveRequest>,
) -> Result<Seen, Fault> {
    let each = requests.into_iter().filter_map(|(name, request)| {
        let host = hosts.get(&name)?.clone();
        Some((name.clone(), async move {
            let tell = |notice: Notice| {
                if let Notice::Progress { item, done, total } = notice {
                    let (done, total) = (size(done), size(total));
                    phase.doing(format!("{name} reads {item}: {done} of {total}"));
                }
            };
            let call = Call {
                request: Request::Observe(request),
                body: None,
                notices: &tell,
                limit: HOST_LIMIT,
            };
            let response = host.call(call).await;
            // The host reads its clock last of all, right before it answers.
            (response, now())
        }))
    });
    let mut seen = Seen::default();
    let mut faults = Vec::new();
    for (name, (response, answered)) in phase.for_all(each).await {
        match response {
            Ok(Response::Facts(facts)) => {
                let offset = facts.clock - answered;
                seen.clock_offsets.insert(name.clone(), offset);
                seen.facts.insert(name, *facts);
            }
            Ok(_) => {
                let message = format!("{name}: an unexpected answer to observing");
                faults.push(Fault::new(Exit::Failed, message));
            }
            Err(error) => faults.push(error.into()),
        }
    }
    Fault::merge(faults).map_or(Ok(seen), Err)
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
