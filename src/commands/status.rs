//! `cofferdam status`: how the cluster stands, zone by zone.

use super::fault::Fault;
use super::interrupt::Interrupt;
use super::phase::Phase;
use super::{connect, rollback};
use crate::cli::StatusArgs;
use crate::facts::{ClusterFacts, HostFacts};
use crate::host::remote::RemoteHost;
use crate::host::{Call, Host as _, Request, Response};
use crate::inventory::Inventory;
use crate::output::{Output, Style};
use crate::plan::Intent;
use crate::site::Site;
use crate::status::{Seen, Unreached, has_ready_api_server, judge, observe_request, text};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// A host that is up answers within a second; under load it takes longer.
const HOST_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn run(args: StatusArgs, style: Style) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let seen = look(&output, &inventory, &site);
    let seen = interrupt.or("nothing was changed", seen).await?;
    let status = judge(&inventory, &seen);
    output.clear();
    // Status says what it can, whatever the site is like.
    if let Ok(view) = site.view() {
        rollback::tell_of_held(&output, &view, Intent::Install);
    }
    let told = match args.json {
        true => format!(
            "{}\n",
            serde_json::to_string_pretty(&status).map_err(anyhow::Error::from)?
        ),
        false => text(&status),
    };
    output.data(&told).map_err(anyhow::Error::from)?;
    Ok(ExitCode::from(status.health as u8))
}

/// Looks at all hosts side by side, and then at the cluster through a master
/// whose API server is ready. What can't be reached is part of what is seen.
async fn look(output: &Output, inventory: &Inventory, site: &Site) -> Result<Seen, Fault> {
    let phase = Phase::begin(output, "look", inventory.hosts.len());
    let connections = connect::each(inventory, site)?;
    let each = inventory.hosts.iter().filter_map(|host| {
        let connection = connections.get(&host.name)?;
        let request = observe_request(inventory, host);
        let work = async move {
            let connected = connection.connect().await?;
            let facts = observe(&connected, request).await?;
            Ok::<_, Unreached>((connected, facts))
        };
        Some((host.name.clone(), work))
    });
    let answers = phase.for_all(each).await;
    let mut seen = Seen::default();
    let mut hosts: BTreeMap<String, RemoteHost> = BTreeMap::new();
    for (name, answer) in answers {
        let facts = answer.map(|(connected, facts)| {
            hosts.insert(name.clone(), connected);
            facts
        });
        seen.hosts.insert(name, facts);
    }
    for master in inventory.control_plane() {
        let Some(Ok(facts)) = seen.hosts.get(&master.name) else {
            continue;
        };
        let Some(host) = hosts.get(&master.name) else {
            continue;
        };
        if !has_ready_api_server(master, facts) {
            continue;
        }
        seen.cluster = ask_cluster(host).await;
        if seen.cluster.is_some() {
            break;
        }
    }
    phase.done(format!(
        "{} of {} hosts",
        hosts.len(),
        inventory.hosts.len()
    ));
    Ok(seen)
}

async fn observe(
    host: &RemoteHost,
    request: crate::facts::ObserveRequest,
) -> Result<HostFacts, Unreached> {
    let call = Call {
        request: Request::Observe(request),
        body: None,
        notices: &|_| (),
        limit: HOST_LIMIT,
    };
    match host.call(call).await {
        Ok(Response::Facts(facts)) => Ok(*facts),
        Ok(_) => Err(Unreached {
            reason: format!("{}: an unexpected answer to observing", host.name()),
            hint: None,
        }),
        Err(error) => Err(connect::unreached(error.into())),
    }
}

/// None if it can't tell: what is left unknown says so by itself.
async fn ask_cluster(host: &RemoteHost) -> Option<ClusterFacts> {
    let call = Call {
        request: Request::ObserveCluster {
            manifests: BTreeMap::new(),
            conditions: Vec::new(),
        },
        body: None,
        notices: &|_| (),
        limit: HOST_LIMIT,
    };
    match host.call(call).await {
        Ok(Response::Cluster(facts)) => Some(*facts),
        _ => None,
    }
}
