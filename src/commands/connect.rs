//! Reaching hosts: keys, identities, agents.

use super::fault::{Exit, Fault};
use super::phase::Phase;
use super::prospect::Purpose;
use crate::agent::host_lock;
use crate::bundle::Progress;
use crate::host::remote::{self, AgentSource, RemoteError, RemoteHost};
use crate::host::upload::Uploads;
use crate::host::{Call, Host, HostError, Notice, Request};
use crate::inventory::{self, Inventory, Role};
use crate::output::{Output, TransferProgress};
use crate::site::{Decisions, Site};
use crate::ssh::{HostKeys, Identity, Target};
use crate::status::Unreached;
use camino::Utf8Path;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What an answer may take over a slow link once a host has given up.
const ANSWER_ALLOWANCE: Duration = Duration::from_secs(10);

/// A host that is well has answered within this; then the next one is tried too.
const HEAD_START: Duration = Duration::from_secs(1);

/// Name of the pinned host keys in a site.
pub(super) const HOST_KEYS: &str = "host_keys";

/// Inventory and site, read and checked.
pub(super) fn read(inventory: &Utf8Path) -> Result<(Inventory, Site), Fault> {
    let inventory = load_inventory(inventory)?;
    let site = Site::open(&inventory.site_path, &inventory.cluster.name).map_err(Fault::input)?;
    Ok((inventory, site))
}

/// The inventory, with a hint where there is none.
pub(super) fn load_inventory(path: &Utf8Path) -> Result<Inventory, Fault> {
    inventory::load(path).map_err(|error| {
        let fault = Fault::input(error).file(path);
        match path.exists() {
            true => fault,
            false => fault
                .hint("name it with `-i FILE`; inventory.example.toml shows what stands in one"),
        }
    })
}

/// SSH targets of all hosts, for looking at their keys: that takes no identity.
pub(super) fn targets_without_identity(inventory: &Inventory) -> BTreeMap<String, Target> {
    let target = |host: &inventory::Host| Target {
        host: host.name.clone(),
        address: IpAddr::V4(host.ssh.address),
        port: host.ssh.port,
        user: host.ssh.user.clone(),
        identity: Identity::Agent,
    };
    inventory
        .hosts
        .iter()
        .map(|host| (host.name.clone(), target(host)))
        .collect()
}

/// SSH targets of all hosts. A key file is unlocked once for all of them.
fn targets(inventory: &Inventory) -> Result<BTreeMap<String, Target>, Fault> {
    let mut unlocked: BTreeMap<&Utf8Path, Identity> = BTreeMap::new();
    let mut targets = targets_without_identity(inventory);
    for host in &inventory.hosts {
        let Some(path) = host.ssh.key.as_deref() else {
            continue;
        };
        let identity = match unlocked.get(path) {
            Some(identity) => identity.clone(),
            None => unlock(path)?,
        };
        if let Some(target) = targets.get_mut(&host.name) {
            target.identity = identity.clone();
        }
        unlocked.insert(path, identity);
    }
    Ok(targets)
}

fn unlock(path: &Utf8Path) -> Result<Identity, Fault> {
    let key = Identity::KeyFile(path.to_owned());
    key.unlock(&mut ask_passphrase).map_err(|error| {
        let hint = error.hint();
        Fault::input(error).file(path).hint(hint)
    })
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

/// What it takes to reach all hosts.
pub(super) struct ConnectRequest<'a> {
    pub(super) output: &'a Arc<Output>,
    pub(super) inventory: &'a Inventory,
    pub(super) site: &'a Site,
    /// None to make do with the agents that are there.
    pub(super) source: Option<&'a dyn AgentSource>,
    /// Names of hosts that are left out.
    pub(super) without: &'a [String],
    /// Which hosts could be.
    pub(super) leaves_out: LeavesOut,
    pub(super) purpose: Purpose,
}

/// Which hosts a verb can leave out, as far as the cluster can be changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeavesOut {
    None,
    /// Those that are nothing else: all others go together.
    Nodes,
    Any,
}

/// Refuses to leave out hosts that there aren't, those that the verb can't, all
/// masters, and so many members of etcd that the rest is no majority.
pub(super) fn check_left_out(
    inventory: &Inventory,
    without: &[String],
    leaves_out: LeavesOut,
) -> Result<(), Fault> {
    for name in without {
        let host = inventory.host(name);
        let needed = [Role::ControlPlane, Role::Etcd, Role::Registry];
        let is_needed = |host: &inventory::Host| needed.iter().any(|role| host.has(*role));
        if leaves_out == LeavesOut::Nodes && host.is_some_and(is_needed) {
            let message = format!(
                "--without {name}: an upgrade takes all masters, members of etcd and registries along"
            );
            let hint =
                "bring it back first; only a host that is nothing but a node can be left out";
            return Err(Fault::new(Exit::Input, message).hint(hint));
        }
        if host.is_none() {
            let hosts = inventory.hosts.iter().map(|host| host.name.as_str());
            let hosts: Vec<&str> = hosts.collect();
            let message = format!("--without {name}: {} has no host `{name}`", inventory.file);
            let hint = format!("its hosts are {}", hosts.join(", "));
            return Err(Fault::new(Exit::Input, message).hint(hint));
        }
    }
    let masters = inventory.control_plane();
    if masters.iter().all(|master| without.contains(&master.name)) {
        let message = "--without leaves out every control-plane host";
        let hint = "the cluster is changed through a master; bring one back first";
        return Err(Fault::new(Exit::Input, message).hint(hint));
    }
    let members = inventory.etcd_members();
    let staying = members.iter().filter(|host| !without.contains(&host.name));
    let (staying, all) = (staying.count(), members.len());
    if staying <= all / 2 {
        let message = format!("--without leaves {staying} of {all} members of etcd, no majority");
        let hint = format!(
            "without a majority nothing in the cluster can be changed; bring so many back that {} are up",
            all / 2 + 1
        );
        return Err(Fault::new(Exit::Input, message).hint(hint));
    }
    Ok(())
}

/// Refuses to leave out hosts that nothing is known of yet.
pub(super) fn check_seen(without: &[String], decisions: &Decisions) -> Result<(), Fault> {
    let unknown = without
        .iter()
        .find(|name| !decisions.hosts.contains_key(*name));
    unknown.map_or(Ok(()), |name| {
        let message =
            format!("--without {name}: it was never looked at, so nothing is known of it");
        let hint = "take it out of the inventory until it is up";
        Err(Fault::new(Exit::Input, message).hint(hint))
    })
}

/// Connects to all hosts at once. Every host that can't be reached is told,
/// and unless all can, nothing is brought to any. Whoever only looks does so
/// beside another run, and leaves that run's agents alone.
pub(super) async fn connect_all(
    phase: &Phase<'_>,
    request: ConnectRequest<'_>,
) -> Result<BTreeMap<String, Arc<RemoteHost>>, Fault> {
    let ConnectRequest {
        output,
        inventory,
        site,
        source,
        without,
        leaves_out,
        purpose,
    } = request;
    let mut targets = targets(inventory)?;
    targets.retain(|name, _| !without.contains(name));
    let keys = host_keys(site)?;
    let each = targets.iter().map(|(name, target)| {
        let reach = remote::reach(target, &keys, source);
        let work = async move {
            let reached = reach.await?;
            match (purpose, reached.would_disturb()) {
                (Purpose::Look, Some(run)) => Err(RemoteError::Busy {
                    host: target.host.clone(),
                    run: run.clone(),
                }),
                _ => Ok(reached),
            }
        };
        (name.clone(), work)
    });
    let reached = phase.for_all(each).await;
    let view = site.view().map_err(Fault::input)?;
    let hint = how_to_go_on(inventory, &view.decisions, &reached, leaves_out);
    let reached = all_or_faults(reached).map_err(|fault| match hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    })?;
    let progress = TransferProgress::within(output, phase.name());
    let moved = |host: &str, done: u64, total: u64| {
        progress.advance("agent", &format!("agent to {host}"), done, Some(total));
    };
    let uploads = Uploads::new(&moved);
    let uploads = &uploads;
    let each = reached
        .into_iter()
        .map(|(name, host)| (name, host.start(uploads)));
    let hosts = all_or_faults(phase.for_all(each).await)?.into_iter();
    Ok(hosts.map(|(name, host)| (name, Arc::new(host))).collect())
}

/// How the others can be changed while some can't be reached, if a master can.
fn how_to_go_on<T>(
    inventory: &Inventory,
    decisions: &Decisions,
    results: &[(String, Result<T, RemoteError>)],
    leaves_out: LeavesOut,
) -> Option<String> {
    if leaves_out == LeavesOut::None {
        return None;
    }
    let mut lost = Vec::new();
    for (name, result) in results {
        match result {
            Ok(_) => {}
            Err(RemoteError::Connect(error))
                if error.is_out_of_reach() && decisions.hosts.contains_key(name) =>
            {
                lost.push(name.clone());
            }
            Err(_) => return None,
        }
    }
    let options: Vec<String> = lost
        .iter()
        .map(|name| format!("--without {name}"))
        .collect();
    let is_possible = !lost.is_empty() && check_left_out(inventory, &lost, leaves_out).is_ok();
    is_possible.then(|| format!("or change the others now, with `{}`", options.join(" ")))
}

/// All results, or every failure.
fn all_or_faults<T>(
    results: Vec<(String, Result<T, RemoteError>)>,
) -> Result<Vec<(String, T)>, Fault> {
    let mut good = Vec::new();
    let mut faults: Vec<Fault> = Vec::new();
    for (name, result) in results {
        match result {
            Ok(value) => good.push((name, value)),
            Err(error) => faults.push(error.into()),
        }
    }
    Fault::merge(faults).map_or(Ok(good), Err)
}

/// The way to one host, which may fail without a word about the others.
pub(super) struct Connection {
    target: Target,
    keys: Arc<HostKeys>,
}

impl Connection {
    /// Connects, and uses whatever agent is there.
    pub(super) async fn connect(&self) -> Result<RemoteHost, Unreached> {
        let host = remote::connect(&self.target, &self.keys).await;
        host.map_err(|error| unreached(error.into()))
    }
}

/// The ways to all hosts, none of them tried yet.
pub(super) fn each(
    inventory: &Inventory,
    site: &Site,
) -> Result<BTreeMap<String, Connection>, Fault> {
    let keys = Arc::new(host_keys(site)?);
    let targets = targets(inventory)?.into_iter();
    let connection = |target| Connection {
        target,
        keys: Arc::clone(&keys),
    };
    Ok(targets
        .map(|(name, target)| (name, connection(target)))
        .collect())
}

/// A fault of one host as a value.
pub(super) fn unreached(fault: Fault) -> Unreached {
    let failures = fault.failures.into_iter();
    let (reasons, hints): (Vec<String>, Vec<Vec<String>>) = failures
        .map(|failure| (failure.message, failure.hints))
        .unzip();
    Unreached {
        reason: reasons.join("; "),
        hint: hints.into_iter().flatten().next(),
    }
}

/// Connects to the first of the hosts that serves. The next one is tried beside
/// those before it when they take their time. Where none serves, it is the first
/// that answers, which can tell why.
pub(super) async fn connect_serving(
    inventory: &Inventory,
    site: &Site,
    names: &[&str],
    serves: impl AsyncFn(&RemoteHost) -> bool,
) -> Result<RemoteHost, Fault> {
    let targets = targets(inventory)?;
    let keys = host_keys(site)?;
    let attempt = async |target: &Target| {
        let host = remote::connect(target, &keys).await?;
        let serves = serves(&host).await;
        Ok::<_, RemoteError>((host, serves))
    };
    let mut waiting = names.iter().filter_map(|name| targets.get(*name));
    let mut running = FuturesUnordered::new();
    let mut others: Vec<RemoteHost> = Vec::new();
    let mut faults: Vec<Fault> = Vec::new();
    loop {
        let next = waiting.next();
        let is_last = next.is_none();
        running.extend(next.map(&attempt));
        let head_start = async {
            match is_last {
                true => std::future::pending().await,
                false => tokio::time::sleep(HEAD_START).await,
            }
        };
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok((host, true))) => return Ok(host),
                Some(Ok((host, false))) => others.push(host),
                Some(Err(error)) => faults.push(error.into()),
                None => break,
            },
            () = head_start => {}
        }
    }
    if let Some(first) = others.into_iter().next() {
        return Ok(first);
    }
    Err(Fault::merge(faults).unwrap_or_else(|| Fault::new(Exit::Hosts, "no host to connect to")))
}

/// Who runs this, for those who find a host taken: `ops@jump`.
fn operator() -> String {
    let variables = ["SUDO_USER", "USER", "LOGNAME"];
    let user = variables
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|user| !user.is_empty())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let system = rustix::system::uname();
    format!("{user}@{}", system.nodename().to_string_lossy())
}

/// Takes one host for this run.
pub(super) async fn acquire_one(
    host: &RemoteHost,
    waiting: &(dyn Fn(String) + Send + Sync),
) -> Result<(), HostError> {
    let notices = |notice| {
        if let Notice::Waiting { reason } = notice {
            waiting(reason);
        }
    };
    let call = Call {
        request: Request::Acquire {
            by: operator(),
            limit_seconds: u32::try_from(host_lock::LIMIT.as_secs()).unwrap_or(u32::MAX),
        },
        body: None,
        notices: &notices,
        limit: host_lock::LIMIT + ANSWER_ALLOWANCE,
    };
    host.call(call).await.map(drop)
}

/// Takes all hosts for this run.
pub(super) async fn acquire(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
) -> Result<(), Fault> {
    let each = hosts.iter().map(|(name, host)| {
        let work = async move {
            let waiting = |reason| phase.doing(format!("{name}: {reason}"));
            acquire_one(host, &waiting).await
        };
        (name.clone(), work)
    });
    let results = phase.for_all(each).await;
    let faults = results
        .into_iter()
        .filter_map(|(_, result)| result.err())
        .map(Fault::from);
    Fault::merge(faults.collect()).map_or(Ok(()), Err)
}
