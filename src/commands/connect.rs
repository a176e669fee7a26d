//! Reaching hosts: keys, identities, agents.

use super::fault::{Exit, Fault};
use crate::host::remote::{self, AgentSource, RemoteHost};
use crate::host::{Call, Host, Request};
use crate::inventory::{self, Inventory};
use crate::site::Site;
use crate::ssh::{HostKeys, Identity, Target};
use camino::Utf8Path;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A step of a run that died may still be in hand on a host; it is bounded.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(130);

/// Name of the pinned host keys in a site.
pub(super) const HOST_KEYS: &str = "host_keys";

/// Inventory and site, read and checked.
pub(super) fn read(inventory: &Utf8Path) -> Result<(Inventory, Site), Fault> {
    let inventory = inventory::load(inventory).map_err(Fault::input)?;
    let site = Site::open(&inventory.site_path, &inventory.cluster.name).map_err(Fault::input)?;
    Ok((inventory, site))
}

/// SSH targets of all hosts. A key file is unlocked once for all of them.
pub(super) fn targets(inventory: &Inventory) -> Result<BTreeMap<String, Target>, Fault> {
    let mut unlocked: BTreeMap<String, Identity> = BTreeMap::new();
    let mut targets = BTreeMap::new();
    for host in &inventory.hosts {
        let identity = match &host.ssh.key {
            None => Identity::Agent,
            Some(path) => match unlocked.get(path.as_str()) {
                Some(identity) => identity.clone(),
                None => {
                    let identity = Identity::KeyFile(path.clone())
                        .unlock(&mut ask_passphrase)
                        .map_err(Fault::input)?;
                    unlocked.insert(path.to_string(), identity.clone());
                    identity
                }
            },
        };
        let target = Target {
            host: host.name.clone(),
            address: IpAddr::V4(host.ssh.address),
            port: host.ssh.port,
            user: host.ssh.user.clone(),
            identity,
        };
        targets.insert(host.name.clone(), target);
    }
    Ok(targets)
}

/// Asks for a passphrase where somebody can answer.
fn ask_passphrase(path: &Utf8Path) -> Option<String> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    rpassword::prompt_password(format!("Passphrase of {path}: ")).ok()
}

/// The host keys of a site.
pub(super) fn host_keys(site: &Site) -> Result<HostKeys, Fault> {
    HostKeys::load(&site.path(HOST_KEYS)).map_err(Fault::input)
}

/// Connects to all hosts at once. Every host that can't be reached is told.
pub(super) async fn connect_all(
    inventory: &Inventory,
    site: &Site,
    source: Option<&dyn AgentSource>,
) -> Result<BTreeMap<String, Arc<RemoteHost>>, Fault> {
    let targets = targets(inventory)?;
    let keys = host_keys(site)?;
    let each = targets
        .values()
        .map(|target| remote::connect(target, &keys, source));
    let mut hosts = BTreeMap::new();
    let mut faults: Vec<Fault> = Vec::new();
    for (name, result) in targets.keys().zip(join_all(each).await) {
        match result {
            Ok(host) => {
                hosts.insert(name.clone(), Arc::new(host));
            }
            Err(error) => faults.push(error.into()),
        }
    }
    match merge(faults) {
        Some(fault) => Err(fault),
        None => Ok(hosts),
    }
}

/// Connects to the first host that answers; the others' reasons are kept.
pub(super) async fn connect_first(
    inventory: &Inventory,
    site: &Site,
    names: &[&str],
) -> Result<RemoteHost, Fault> {
    let targets = targets(inventory)?;
    let keys = host_keys(site)?;
    let mut faults: Vec<Fault> = Vec::new();
    for target in names.iter().filter_map(|name| targets.get(*name)) {
        match remote::connect(target, &keys, None).await {
            Ok(host) => return Ok(host),
            Err(error) => faults.push(error.into()),
        }
    }
    Err(merge(faults).unwrap_or_else(|| Fault::new(Exit::Hosts, "no host to connect to")))
}

/// Takes all hosts for this run.
pub(super) async fn acquire(hosts: &BTreeMap<String, Arc<RemoteHost>>) -> Result<(), Fault> {
    let limit_seconds = u32::try_from(ACQUIRE_LIMIT.as_secs()).unwrap_or(u32::MAX);
    let each = hosts.values().map(|host| {
        host.call(Call {
            request: Request::Acquire { limit_seconds },
            body: None,
            notices: &|_| (),
            limit: ACQUIRE_LIMIT + Duration::from_secs(10),
        })
    });
    let results = join_all(each).await;
    let faults = results
        .into_iter()
        .filter_map(Result::err)
        .map(Fault::from)
        .collect();
    merge(faults).map_or(Ok(()), Err)
}

/// One fault of many; equal hints are told once.
fn merge(faults: Vec<Fault>) -> Option<Fault> {
    let mut faults = faults.into_iter();
    let mut all = faults.next()?;
    for fault in faults {
        all.failures.extend(fault.failures);
    }
    let mut told: Vec<String> = Vec::new();
    for failure in all.failures.iter_mut().rev() {
        failure.hints.retain(|hint| !told.contains(hint));
        told.extend(failure.hints.iter().cloned());
    }
    Some(all)
}
