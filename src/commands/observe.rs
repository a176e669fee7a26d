//! Looking at all hosts at once, and at the cluster through a master.

use super::fault::Fault;
use crate::desired::{Desired, DigestKey};
use crate::facts::{ClusterFacts, HostFacts, ObserveRequest};
use crate::host::remote::RemoteHost;
use crate::host::{Call, Host, HostError, Request, Response};
use crate::plan::world::observe_cluster_request;
use crate::plan::{World, cluster_host, observe_requests};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A host under load answers in a second; one that reads a slow disk for
/// digests of all its files takes longer.
const HOST_LIMIT: Duration = Duration::from_secs(60);
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
pub(super) async fn at_first(hosts: &BTreeMap<String, Arc<RemoteHost>>) -> Result<Seen, Fault> {
    let requests = hosts
        .keys()
        .map(|name| (name.clone(), ObserveRequest::default()));
    look(hosts, requests.collect()).await
}

/// Looks at all that the desired state names.
pub(super) async fn hosts(
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    desired: &Desired,
    key: Option<&DigestKey>,
) -> Result<Seen, Fault> {
    look(hosts, observe_requests(desired, key)).await
}

/// The world for a plan: the hosts as seen, and the cluster if its API server
/// is up.
pub(super) async fn world(
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    desired: &Desired,
    seen: BTreeMap<String, HostFacts>,
) -> Result<World, Fault> {
    let master = cluster_host(desired).unwrap_or_default().to_owned();
    let is_up = seen.get(&master).is_some_and(|facts| {
        facts
            .units
            .get("kube-apiserver.service")
            .is_some_and(|unit| unit.active == "active")
    });
    let cluster = match hosts.get(&master) {
        Some(host) if is_up => ask_cluster(host, desired).await?,
        _ => None,
    };
    Ok(World {
        hosts: seen,
        cluster,
        cluster_host: master,
    })
}

/// None if the API server does not answer after all: it may be on its way up
/// or down, which the plan then says.
async fn ask_cluster(host: &RemoteHost, desired: &Desired) -> Result<Option<ClusterFacts>, Fault> {
    let request = observe_cluster_request(desired);
    let call = Call {
        request,
        body: None,
        notices: &|_| (),
        limit: CLUSTER_LIMIT,
    };
    match host.call(call).await {
        Ok(Response::Cluster(facts)) => Ok(Some(*facts)),
        Ok(_) | Err(HostError::Failed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn look(
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    requests: BTreeMap<String, ObserveRequest>,
) -> Result<Seen, Fault> {
    let each = requests.into_iter().filter_map(|(name, request)| {
        let host = hosts.get(&name)?.clone();
        Some(async move {
            let before = now();
            let request = Request::Observe(request);
            let call = Call {
                request,
                body: None,
                notices: &|_| (),
                limit: HOST_LIMIT,
            };
            let response = host.call(call).await;
            (name, response, f64::midpoint(before, now()))
        })
    });
    let mut seen = Seen::default();
    for (name, response, middle) in join_all(each).await {
        match response? {
            Response::Facts(facts) => {
                seen.clock_offsets
                    .insert(name.clone(), facts.clock - middle);
                seen.facts.insert(name, *facts);
            }
            other => {
                let message = format!("{name}: an unexpected answer to observing: {other:?}");
                return Err(Fault::new(super::fault::Exit::Failed, message));
            }
        }
    }
    Ok(seen)
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
