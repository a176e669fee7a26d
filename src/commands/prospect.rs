//! What `install` and `plan` share: everything up to the plan, phase by phase.

use super::bundle_content::{BundleContent, NoBundle};
use super::connect::{self, ConnectRequest, LeavesOut};
use super::delta::prove_closure;
use super::fault::{Exit, Fault};
use super::given::{check_known, verify_bundle};
use super::interrupt::Interrupt;
use super::phase::Phase;
use super::restore::{self, Restoring, Source};
use super::rollback::{self, Returning};
use super::snapshot_file::WithSnapshot;
use super::software::{self, Resolved, Wanted};
use super::{foreign, observe, pace, record};
use crate::bundle::Bundle;
use crate::cli::{BundleArgs, UntilArg};
use crate::desired::{BundleView, Desired, DesiredError, EtcdRestore, Software, Until, desired};
use crate::event::{Event, EventSink};
use crate::execute::BlobSource;
use crate::facts::UsageFacts;
use crate::host::remote::{AgentSource, RemoteHost};
use crate::inventory::Inventory;
use crate::output::Output;
use crate::plan::checks::{self, Question, Severity};
use crate::plan::decisions::decide;
use crate::plan::{self as planning, Intent, Plan, World};
use crate::site::{Decisions, Site, SiteView};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All that is known before anything is done.
pub(super) struct Prospect {
    pub(super) inventory: Inventory,
    pub(super) site: Site,
    pub(super) content: Arc<dyn BlobSource>,
    pub(super) software: Software,
    /// Size of the bundle in bytes.
    pub(super) bundle_bytes: u64,
    pub(super) decisions: Decisions,
    pub(super) hosts: BTreeMap<String, Arc<RemoteHost>>,
    pub(super) desired: Desired,
    pub(super) world: World,
    pub(super) plan: Plan,
    pub(super) restoring: Option<Restoring>,
    pub(super) returning: Option<Returning>,
    pub(super) intent: Intent,
    /// By master: who uses the cluster, where that was asked.
    pub(super) usage: BTreeMap<String, UsageFacts>,
}

impl Prospect {
    /// What is desired once the site holds more, or to look again.
    ///
    /// # Errors
    /// Those of [`desired`].
    pub(super) fn desired_of(&self, view: &SiteView) -> Result<Desired, DesiredError> {
        let mut view = view.clone();
        if self.intent.upgrades() {
            view.held
                .retain(|name, _| !self.world.hosts.contains_key(name));
        }
        let mut again = desired(&self.inventory, &self.software, &view)?;
        again.restore.clone_from(&self.desired.restore);
        again.only.clone_from(&self.desired.only);
        again.until.clone_from(&self.desired.until);
        Ok(again)
    }

    /// Notes what is begun, before the first step.
    pub(super) fn record_begin(&self) -> anyhow::Result<()> {
        let site = &self.site;
        record::record_begin(site, &self.software)?;
        if self.returning.is_none() && !self.plan.is_empty() {
            let generations = self.world.hosts.iter().filter_map(|(name, facts)| {
                Some((name.clone(), facts.generation.as_ref()?.number))
            });
            record::note_change(site, &self.software, generations.collect())?;
        }
        if let Some(restoring) = &self.restoring {
            restoring.record_begin(site)?;
        }
        match &self.returning {
            Some(returning) => site.record_held(&returning.held),
            // Those that it goes to are taken along.
            None if self.intent.upgrades() => {
                let mut held = site.view()?.held;
                held.retain(|name, _| {
                    self.is_not_reached(name) || !self.world.hosts.contains_key(name)
                });
                site.record_held(&held)
            }
            None => Ok(()),
        }
    }

    /// Names of the hosts that the run was to leave out.
    pub(super) fn left_out(&self) -> BTreeSet<String> {
        let hosts = self.inventory.hosts.iter();
        let others = hosts.filter(|host| !self.hosts.contains_key(&host.name));
        others.map(|host| host.name.clone()).collect()
    }

    /// Whether the run ends before the host.
    fn is_not_reached(&self, name: &str) -> bool {
        let until = self.desired.until.as_ref();
        let host = self.inventory.host(name);
        until
            .zip(host)
            .is_some_and(|(until, host)| until.is_before(&host.zone, name))
    }

    /// Notes what came to its end.
    pub(super) fn record_end(&self) -> anyhow::Result<()> {
        let site = &self.site;
        if !self.plan.stops_before.is_empty() {
            return Ok(());
        }
        match &self.returning {
            Some(returning) => {
                let mut whole = returning.whole.iter();
                whole.try_for_each(|whole| record::record_whole(site, whole))?;
            }
            None => {
                if !self.plan.is_empty() {
                    record::note_left_out(site, &self.left_out())?;
                }
                record::record_end(site, &self.software)?;
            }
        }
        restore::record_end(site)
    }
}

/// Whether hosts are taken for a run. To look takes no lock: it goes on beside
/// another run, tells whose that is, and fails where it would have to replace
/// that run's agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Look,
    Change,
}

/// What a prospect is made of.
pub(super) struct Request<'a> {
    pub(super) output: &'a Arc<Output>,
    /// None to go back to what hosts have.
    pub(super) bundle: Option<&'a BundleArgs>,
    /// Names of hosts that are left out.
    pub(super) without: &'a [String],
    pub(super) inventory: Inventory,
    pub(super) site: Site,
    pub(super) purpose: Purpose,
    pub(super) intent: Intent,
    /// Names of hosts that go back.
    pub(super) back: BTreeSet<String>,
    /// Where etcd begins anew from.
    pub(super) restore: Option<&'a Source>,
    /// How far it goes.
    pub(super) until: Option<&'a UntilArg>,
}

/// Everything up to the plan. May be dropped at any moment: nothing but the
/// agent is written to any host.
pub(super) async fn prospect(
    request: Request<'_>,
    interrupt: &Interrupt,
) -> Result<Prospect, Fault> {
    let what_then = "no host was changed but for its agent";
    interrupt.or(what_then, phases(request)).await
}

async fn phases(request: Request<'_>) -> Result<Prospect, Fault> {
    let Request {
        output,
        bundle,
        without,
        mut inventory,
        site,
        purpose,
        intent,
        back,
        restore,
        until,
    } = request;
    let read = inventory.read_registry();
    read.map_err(|error| Fault::input(error).file(&inventory.file))?;
    let until = pace::until(&inventory, until)?;
    let leaves_out = leaves_out(restore.is_some(), intent);
    connect::check_left_out(&inventory, without, leaves_out)?;
    if restore.is_some() {
        restore::check_left_out(&inventory, without)?;
    }
    let verified = match bundle {
        Some(bundle) => Some(verify_bundle(output, &inventory, bundle).await?),
        None => None,
    };
    let (bundle, given) = verified.unzip();
    let mut site_view = read_site(output, &inventory, &site, given.as_ref())?;
    rollback::tell_of_held(output, &site_view, intent);
    if intent.upgrades() {
        // What is left out stays what it is.
        site_view.held.retain(|name, _| without.contains(name));
    }
    connect::check_seen(without, &site_view.decisions)?;
    let bundle_bytes = bundle.as_ref().map_or(0, Bundle::length);
    let content = bundle.map(|bundle| Arc::new(BundleContent::new(bundle)));
    let hosts = connect_hosts(ConnectRequest {
        output,
        inventory: &inventory,
        site: &site,
        source: content
            .as_deref()
            .map(|content| content as &dyn AgentSource),
        without,
        leaves_out,
        purpose,
    })
    .await?;
    let restoring = match restore {
        Some(source) => Some(restore::find(output, &inventory, &site, source, &hosts).await?),
        None => None,
    };
    let phase = Phase::begin(output, "observe", hosts.len());
    let wanted = Wanted {
        inventory: &inventory,
        site: &site,
        given,
        intent,
        back: &back,
    };
    let Resolved {
        mut software,
        by_generations,
    } = software::resolve(&phase, &hosts, wanted).await?;
    // What soaks is on masters alone.
    if intent == Intent::Rollback
        && !by_generations
        && connect::check_left_out(&inventory, without, LeavesOut::Nodes).is_err()
    {
        let message = "what soaks goes back on all masters together, and one is left out";
        let hint = "run the same command once all masters can be reached";
        return Err(Fault::new(Exit::Input, message).hint(hint));
    }
    // What was begun is what there is now, as far as it goes.
    if let Some(begun) = record::begun(&site)?.filter(|_| by_generations) {
        software = Software::of(begun.bundle);
    }
    let returning = match by_generations {
        true => {
            let known = (&inventory, &site, &site_view);
            Some(rollback::find(&phase, &hosts, known, &software, &back).await?)
        }
        false => None,
    };
    if let Some(returning) = &returning {
        site_view.held.clone_from(&returning.held);
        if let Some(whole) = &returning.whole {
            software = Software::of(whole.clone());
        }
    }
    let platforms: BTreeSet<String> = software.whole.files.keys().cloned().collect();
    let seen = observe_hosts(
        phase,
        output,
        &inventory,
        (&software, intent),
        &site_view,
        &hosts,
        Scope {
            restore: restoring.as_ref().map(|found| found.restore.clone()),
            only: returning.as_ref().and_then(|found| found.only.clone()),
            until,
        },
    )
    .await?;
    if restore.is_none() {
        restore::refuse_if_begun(output, &site, &seen.world.hosts, purpose)?;
    }
    let was_installed = record::was_installed(&site);
    check(
        output,
        &inventory,
        &platforms,
        &seen,
        (intent, was_installed),
    )?;
    let plan = plan(output, &seen, &site_view);
    let foreign = foreign::Needs {
        inventory: &inventory,
        software: &software,
        desired: &seen.desired,
        plan: &plan,
        hosts: &hosts,
        facts: &seen.world.hosts,
    };
    foreign.prove(output).await?;
    if let Some(content) = &content {
        prove_closure(content.bundle(), &plan, &seen.world.hosts)?;
    }
    let Observed {
        decisions,
        desired,
        world,
        usage,
        ..
    } = seen;
    let bundle: Arc<dyn BlobSource> = match content {
        Some(content) => content,
        None => Arc::new(NoBundle),
    };
    let content: Arc<dyn BlobSource> = match &restoring {
        Some(restoring) => Arc::new(WithSnapshot {
            bundle,
            snapshot: restoring.file.clone(),
        }),
        None => bundle,
    };
    Ok(Prospect {
        inventory,
        site,
        content,
        software,
        bundle_bytes,
        decisions,
        hosts,
        desired,
        world,
        plan,
        restoring,
        returning,
        intent,
        usage,
    })
}

/// Which hosts the verb can leave out; a restore says so itself.
fn leaves_out(restores: bool, intent: Intent) -> LeavesOut {
    match intent {
        _ if restores => LeavesOut::None,
        Intent::Install | Intent::Rollback => LeavesOut::Any,
        _ => LeavesOut::Nodes,
    }
}

fn read_site(
    output: &Output,
    inventory: &Inventory,
    site: &Site,
    given: Option<&BundleView>,
) -> Result<SiteView, Fault> {
    let phase = Phase::begin(output, "read", 0);
    for warning in &inventory.warnings {
        let message = warning.display(&inventory.file).to_string();
        output.emit(Event::Warning {
            host: None,
            message,
        });
    }
    if let Some(view) = given {
        check_known(inventory, view)?;
    }
    let site_view = site.view().map_err(Fault::input)?;
    let zones: Vec<&str> = inventory
        .zones
        .iter()
        .map(|zone| zone.name.as_str())
        .collect();
    phase.done(format!(
        "cluster {}: {} hosts in zones {}",
        inventory.cluster.name,
        inventory.hosts.len(),
        zones.join(" ")
    ));
    Ok(site_view)
}

async fn connect_hosts(
    request: ConnectRequest<'_>,
) -> Result<BTreeMap<String, Arc<RemoteHost>>, Fault> {
    let (output, purpose) = (request.output, request.purpose);
    let phase = Phase::begin(output, "connect", request.inventory.hosts.len());
    let without = request.without;
    let hosts = connect::connect_all(&phase, request).await?;
    for name in without {
        let message = "it is left out; run the same command without `--without` once it is back";
        output.emit(Event::Warning {
            host: Some(name.clone()),
            message: message.to_owned(),
        });
    }
    tell_of_others(output, &hosts, purpose);
    if purpose == Purpose::Change {
        connect::acquire(&phase, &hosts).await?;
    }
    let brought = hosts.values().filter(|host| host.brought).count();
    let names: Vec<&str> = hosts.keys().map(String::as_str).collect();
    let agents = match brought {
        0 => String::new(),
        count => format!(" (agent brought to {count})"),
    };
    phase.done(format!("{}{agents}", names.join(" ")));
    Ok(hosts)
}

/// Whoever only looks takes no lock, and may look at hosts that another run is
/// changing.
fn tell_of_others(output: &Output, hosts: &BTreeMap<String, Arc<RemoteHost>>, purpose: Purpose) {
    if purpose == Purpose::Change {
        return;
    }
    for (name, host) in hosts {
        if let Some(run) = &host.run {
            let message = format!("{run} is going on; the plan is what is left of it now");
            let host = Some(name.clone());
            output.emit(Event::Warning { host, message });
        }
    }
}

/// What a run is about beside what is desired.
struct Scope {
    restore: Option<EtcdRestore>,
    only: Option<BTreeSet<String>>,
    until: Option<Until>,
}

/// What was seen, and what is desired, which depends on it through decisions.
struct Observed {
    decisions: Decisions,
    desired: Desired,
    world: World,
    /// Each host's clock less ours, in seconds.
    clock_offsets: BTreeMap<String, f64>,
    /// By master, where it matters.
    usage: BTreeMap<String, UsageFacts>,
    /// When the site's certificates end.
    certificates: BTreeMap<String, i64>,
}

async fn observe_hosts(
    phase: Phase<'_>,
    output: &Output,
    inventory: &Inventory,
    (software, intent): (&Software, Intent),
    site: &SiteView,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    scope: Scope,
) -> Result<Observed, Fault> {
    let (mut decisions, mut new) = settle(&phase, hosts, inventory, site).await?;
    if scope.restore.is_some() {
        new.extend(planning::restore::decide(&mut decisions, inventory));
    }
    let decided = SiteView {
        decisions: decisions.clone(),
        ..site.clone()
    };
    let mut desired = desired(inventory, software, &decided).map_err(Fault::input)?;
    desired.to_decide = new;
    desired.restore = scope.restore;
    desired.only = scope.only;
    desired.until = scope.until;
    let key = site.digest_key.as_ref();
    let seen = observe::hosts(&phase, hosts, &desired, key).await?;
    let world = observe::world(&phase, output, hosts, &desired, seen.facts).await?;
    let may_drain = intent.upgrades() || intent == Intent::Rollback;
    let usage = match may_drain && world.cluster.is_some() {
        true => observe::usage(&phase, hosts, &desired, &world).await?,
        false => BTreeMap::new(),
    };
    phase.done(match &world.cluster {
        Some(cluster) => format!("{} hosts, {} nodes", hosts.len(), cluster.nodes.len()),
        None => format!("{} hosts, no cluster yet", hosts.len()),
    });
    Ok(Observed {
        decisions,
        desired,
        world,
        clock_offsets: seen.clock_offsets,
        usage,
        certificates: site
            .materials
            .iter()
            .filter_map(|(name, material)| Some((name.clone(), material.not_after?)))
            .collect(),
    })
}

/// Decisions for all hosts: those recorded, and those that facts lead to now.
/// Hosts without one are looked at before there is a desired state to ask for.
async fn settle(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    inventory: &Inventory,
    site: &SiteView,
) -> Result<(Decisions, Vec<String>), Fault> {
    let all_decided = inventory
        .hosts
        .iter()
        .all(|host| site.decisions.hosts.contains_key(&host.name));
    if all_decided {
        // What the inventory itself decides may have changed since.
        return Ok(decide(&site.decisions, inventory, &BTreeMap::new()));
    }
    let seen = observe::at_first(phase, hosts).await?;
    Ok(decide(&site.decisions, inventory, &seen.facts))
}

/// Refuses the run with everything that is wrong at once.
fn check(
    output: &Output,
    inventory: &Inventory,
    platforms: &BTreeSet<String>,
    seen: &Observed,
    (intent, was_installed): (Intent, bool),
) -> Result<(), Fault> {
    let phase = Phase::begin(output, "check", seen.world.hosts.len());
    let results = checks::check(&Question {
        inventory,
        facts: &seen.world.hosts,
        clock_offsets: &seen.clock_offsets,
        platforms,
        decisions: &seen.decisions,
        desired: Some(&seen.desired),
        intent,
        cluster: seen.world.cluster.as_ref(),
        usage: &seen.usage,
        certificates: &seen.certificates,
        was_installed,
    });
    let (fatal, warnings): (Vec<_>, Vec<_>) = results
        .into_iter()
        .partition(|result| result.severity == Severity::Fatal);
    for warning in warnings {
        let message = format!("{}; {}", warning.found, warning.remedy);
        let host = Some(warning.host);
        output.emit(Event::Warning { host, message });
    }
    if fatal.is_empty() {
        phase.done(format!("{} checks passed", checks::CHECKS.len()));
        return Ok(());
    }
    let lines: Vec<String> = fatal
        .iter()
        .map(|result| format!("{result} [{}]", result.check))
        .collect();
    let message = format!(
        "hosts are not fit; nothing was changed\n{}",
        lines.join("\n")
    );
    Err(Fault::new(Exit::Checks, message).hint("put these right, then run the same command again"))
}

fn plan(output: &Output, seen: &Observed, site: &SiteView) -> Plan {
    let phase = Phase::begin(output, "plan", seen.world.hosts.len());
    let plan = planning::plan(&seen.desired, &seen.world, site.digest_key.as_ref());
    let count = plan.steps().count();
    phase.done(match count {
        1 => "1 step".to_owned(),
        count => format!("{count} steps"),
    });
    plan
}
