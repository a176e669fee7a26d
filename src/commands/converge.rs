//! `cofferdam install` and `cofferdam plan`: the one loop.

use super::bundle_content::{BundleContent, view};
use super::fault::{Exit, Fault};
use super::{connect, hosts as host_commands, observe};
use crate::bundle::inspect::human_bytes;
use crate::bundle::{Bundle, Progress, TrustedKey, verify};
use crate::cli::{BundleArgs, InstallArgs, PlanArgs};
use crate::desired::materials::materials;
use crate::desired::{BundleView, Desired, desired};
use crate::event::{Event, EventSink};
use crate::execute::{Mint, Minted, Patience, Run, execute};
use crate::host::Host;
use crate::host::remote::RemoteHost;
use crate::inventory::Inventory;
use crate::output::{Journal, Output, Style, seconds};
use crate::plan::checks::{self, Question, Severity};
use crate::plan::decisions::decide;
use crate::plan::{self as planning, Plan, World};
use crate::site::{Decisions, Site, SiteView};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether something has to be said.
const TICK: Duration = Duration::from_secs(1);

/// What both verbs find out before anything is done.
struct Prospect {
    inventory: Inventory,
    site: Site,
    content: BundleContent,
    view: BundleView,
    bundle_bytes: u64,
    decisions: Decisions,
    hosts: BTreeMap<String, Arc<RemoteHost>>,
    desired: Desired,
    world: World,
    plan: Plan,
}

pub(super) async fn plan(args: PlanArgs, style: Style) -> Result<ExitCode, Fault> {
    let style = if args.json { Style::Quiet } else { style };
    let output = super::output(style);
    let _ticking = tick(&output);
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let prospect = prospect(&output, &args.bundle, inventory, site, Purpose::Look).await?;
    if args.json {
        let text = format!("{:#}\n", planning::json(&prospect.plan));
        output.data(&text).map_err(anyhow::Error::from)?;
    } else {
        output
            .data(&planning::text(&prospect.plan))
            .map_err(anyhow::Error::from)?;
    }
    let has_steps = !prospect.plan.is_empty();
    Ok(if has_steps && args.detailed_exitcode {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    })
}

pub(super) async fn install(args: InstallArgs, style: Style) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let _ticking = tick(&output);
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    site.create(&inventory.cluster.name).map_err(Fault::input)?;
    let _lock = site.lock().map_err(Fault::input)?;
    output.record(Journal::create(&site.path("journal"), "install").map_err(Fault::input)?);
    output.emit(Event::RunStarted {
        verb: "install".to_owned(),
        cluster: inventory.cluster.name.clone(),
        bundle: Some(args.bundle.bundle.to_string()),
    });
    let result = run(&output, &args, inventory, site).await;
    if let Err(fault) = &result {
        for failure in &fault.failures {
            let (seconds, failure) = (output.elapsed(), failure.clone());
            output.emit(Event::RunFailed { seconds, failure });
        }
    }
    result
}

async fn run(
    output: &Arc<Output>,
    args: &InstallArgs,
    inventory: Inventory,
    site: Site,
) -> Result<ExitCode, Fault> {
    let prospect = prospect(output, &args.bundle, inventory, site, Purpose::Change).await?;
    if prospect.plan.is_empty() && prospect.plan.refusals.is_empty() {
        let count = prospect.hosts.len();
        finish(output, &prospect, 0)?;
        output.say(&format!(
            "nothing to do: {count} hosts are as the inventory and {} say ({})",
            prospect.desired.bundle,
            seconds(output.elapsed())
        ));
        return Ok(ExitCode::SUCCESS);
    }
    output.say(planning::text(&prospect.plan).trim_end());
    confirm(output, args)?;
    let steps = carry_out(output, &prospect).await?;
    prove(output, &prospect).await?;
    finish(output, &prospect, steps)?;
    tell_totals(output, &prospect, args);
    Ok(ExitCode::SUCCESS)
}

/// Whether hosts are taken for a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Look,
    Change,
}

/// Everything up to the plan, phase by phase.
async fn prospect(
    output: &Output,
    bundle: &BundleArgs,
    inventory: Inventory,
    site: Site,
    purpose: Purpose,
) -> Result<Prospect, Fault> {
    let (bundle, view) = verify_bundle(output, bundle)?;
    let bundle_bytes = bundle.length();
    let content = BundleContent::new(bundle);
    let site_view = read_site(output, &inventory, &site, &view)?;
    let hosts = connect_hosts(output, &inventory, &site, &content, purpose).await?;
    let phase = Phase::begin(output, "observe", hosts.len());
    let (decisions, new) = settle(&hosts, &inventory, &site_view).await?;
    let decided = SiteView {
        decisions: decisions.clone(),
        ..site_view.clone()
    };
    let mut wanted = desired(&inventory, &view, &decided).map_err(Fault::input)?;
    wanted.to_decide = new;
    let key = site_view.digest_key.as_ref();
    let seen = observe::hosts(&hosts, &wanted, key).await?;
    let world = observe::world(&hosts, &wanted, seen.facts.clone()).await?;
    phase.done(match &world.cluster {
        Some(cluster) => format!("{} hosts, {} nodes", hosts.len(), cluster.nodes.len()),
        None => format!("{} hosts, no cluster yet", hosts.len()),
    });
    let platforms: BTreeSet<String> = view.files.keys().cloned().collect();
    check(
        output,
        &Question {
            inventory: &inventory,
            facts: &seen.facts,
            clock_offsets: &seen.clock_offsets,
            platforms: &platforms,
            decisions: &decisions,
            desired: Some(&wanted),
        },
    )?;
    let phase = Phase::begin(output, "plan", hosts.len());
    let plan = planning::plan(&wanted, &world, key);
    phase.done(format!("{} steps", plan.steps().count()));
    Ok(Prospect {
        inventory,
        site,
        content,
        view,
        bundle_bytes,
        decisions,
        hosts,
        desired: wanted,
        world,
        plan,
    })
}

/// Reads the whole bundle: nothing goes to any host before its signature and
/// every digest are known to be right.
fn verify_bundle(output: &Output, args: &BundleArgs) -> Result<(Bundle, BundleView), Fault> {
    let phase = Phase::begin(output, "verify", 0);
    let keys = trusted_keys(&args.trusted_key)?;
    let found = verify::verify(&args.bundle, Some(&keys), &Unheard).map_err(Fault::input)?;
    if !found.damages.is_empty() {
        let damages: Vec<String> = found.damages.iter().map(ToString::to_string).collect();
        let message = format!(
            "the bundle {} is damaged:\n{}",
            args.bundle,
            damages.join("\n")
        );
        return Err(Fault::new(Exit::Input, message).hint("carry it over again, or build it anew"));
    }
    let bundle = Bundle::clone(&*Bundle::open(&args.bundle, &keys).map_err(Fault::input)?);
    let view = view(&bundle);
    let files: usize = view.files.values().map(BTreeMap::len).sum();
    let signer = found
        .signed_by
        .map_or(String::new(), |id| format!(", signed by {id}"));
    phase.done(format!(
        "{} {}{signer}, {files} files, {} images, {}",
        view.name,
        view.version,
        view.images.len(),
        human_bytes(bundle.length())
    ));
    Ok((bundle, view))
}

pub(super) fn trusted_keys(paths: &[camino::Utf8PathBuf]) -> Result<Vec<TrustedKey>, Fault> {
    paths
        .iter()
        .map(|path| TrustedKey::load(path).map_err(Fault::input))
        .collect()
}

/// What progress the phase's line tells at its end.
struct Unheard;

impl Progress for Unheard {
    fn advance(&self, _: &str, _: &str, _: u64, _: Option<u64>) {}
}

fn read_site(
    output: &Output,
    inventory: &Inventory,
    site: &Site,
    view: &BundleView,
) -> Result<SiteView, Fault> {
    let phase = Phase::begin(output, "read", 0);
    for warning in &inventory.warnings {
        let message = warning.display(&inventory.file).to_string();
        output.emit(Event::Warning {
            host: None,
            message,
        });
    }
    for known in view.flags.values() {
        inventory
            .check_flags(known)
            .into_result()
            .map_err(Fault::input)?;
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
    output: &Output,
    inventory: &Inventory,
    site: &Site,
    content: &BundleContent,
    purpose: Purpose,
) -> Result<BTreeMap<String, Arc<RemoteHost>>, Fault> {
    let phase = Phase::begin(output, "connect", inventory.hosts.len());
    let hosts = connect::connect_all(inventory, site, Some(content)).await?;
    if purpose == Purpose::Change {
        connect::acquire(&hosts).await?;
    }
    let brought = hosts.values().filter(|host| host.brought).count();
    let names: Vec<&str> = hosts.keys().map(String::as_str).collect();
    let agents = if brought > 0 {
        format!(" (agent brought to {brought})")
    } else {
        String::new()
    };
    phase.done(format!("{}{agents}", names.join(" ")));
    Ok(hosts)
}

/// Decisions for all hosts: those recorded, and those that facts lead to now.
async fn settle(
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    inventory: &Inventory,
    site: &SiteView,
) -> Result<(Decisions, Vec<String>), Fault> {
    let all_decided = inventory
        .hosts
        .iter()
        .all(|host| site.decisions.hosts.contains_key(&host.name));
    if all_decided {
        return Ok((site.decisions.clone(), Vec::new()));
    }
    let seen = observe::at_first(hosts).await?;
    Ok(decide(&site.decisions, inventory, &seen.facts))
}

/// Refuses the run with everything that is wrong at once.
fn check(output: &Output, question: &Question<'_>) -> Result<(), Fault> {
    let phase = Phase::begin(output, "check", question.facts.len());
    let results = checks::check(question);
    for result in results
        .iter()
        .filter(|result| result.severity == Severity::Warning)
    {
        let (host, message) = (
            Some(result.host.clone()),
            format!("{}; {}", result.found, result.remedy),
        );
        output.emit(Event::Warning { host, message });
    }
    let fatal: Vec<String> = results
        .iter()
        .filter(|result| result.severity == Severity::Fatal)
        .map(|result| format!("{result} [{}]", result.check))
        .collect();
    if checks::is_fatal(&results) {
        let message = format!(
            "hosts are not fit; nothing was changed\n{}",
            fatal.join("\n")
        );
        return Err(Fault::new(Exit::Checks, message));
    }
    phase.done(format!("{} checks passed", checks::CHECKS.len()));
    Ok(())
}

fn confirm(output: &Output, args: &InstallArgs) -> Result<(), Fault> {
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            Fault::new(Exit::Input, "nobody is here to confirm the plan")
                .hint("pass --yes to run it without asking, or use `cofferdam plan` to look only"),
        );
    }
    output.say("Go on? [y/N]");
    host_commands::confirm()
}

async fn carry_out(output: &Arc<Output>, prospect: &Prospect) -> Result<usize, Fault> {
    let hosts: BTreeMap<String, Arc<dyn Host>> = prospect
        .hosts
        .iter()
        .map(|(name, host)| (name.clone(), host.clone() as Arc<dyn Host>))
        .collect();
    let stop = stop_on_interrupt(output);
    let minting = SiteMint { prospect };
    let finished = execute(Run {
        plan: &prospect.plan,
        desired: prospect.desired.clone(),
        world: &prospect.world,
        hosts: &hosts,
        blobs: &prospect.content,
        mint: &minting,
        events: output.as_ref(),
        stop,
        patience: Patience::default(),
    })
    .await?;
    Ok(finished.steps)
}

/// The first Ctrl-C lets the steps in hand finish, the second ends at once.
fn stop_on_interrupt(output: &Arc<Output>) -> CancellationToken {
    let stop = CancellationToken::new();
    let (token, output) = (stop.clone(), output.clone());
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        token.cancel();
        output.say("stopping after the steps in hand; press Ctrl-C again to leave at once");
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(Exit::Interrupted as u8));
        }
    });
    stop
}

struct SiteMint<'a> {
    prospect: &'a Prospect,
}

impl Mint for SiteMint<'_> {
    fn mint(&self, _: &[String], _: &[String]) -> anyhow::Result<Minted> {
        let Prospect {
            site,
            inventory,
            view,
            decisions,
            ..
        } = self.prospect;
        site.record_decisions(decisions)?;
        site.mint(&materials(inventory), OffsetDateTime::now_utc())?;
        let site_view = site.view()?;
        let desired = desired(inventory, view, &site_view)?;
        let key = site_view
            .digest_key
            .ok_or_else(|| anyhow::anyhow!("the site has no key"))?;
        Ok(Minted { desired, key })
    }
}

/// A run is done when there is nothing left to do.
async fn prove(output: &Output, prospect: &Prospect) -> Result<(), Fault> {
    let phase = Phase::begin(output, "observe", prospect.hosts.len());
    let site_view = prospect.site.view().map_err(Fault::input)?;
    let wanted = desired(&prospect.inventory, &prospect.view, &site_view).map_err(Fault::input)?;
    let key = site_view.digest_key.as_ref();
    let seen = observe::hosts(&prospect.hosts, &wanted, key).await?;
    let world = observe::world(&prospect.hosts, &wanted, seen.facts).await?;
    let left = planning::plan(&wanted, &world, key);
    if !left.is_empty() || !left.refusals.is_empty() {
        let message = format!(
            "the run ended, but hosts still differ from what is desired:\n{}",
            planning::text(&left).trim_end()
        );
        return Err(Fault::new(Exit::Failed, message)
            .hint("run the same command again; if this stays, something else changes the hosts"));
    }
    phase.done("all hosts are as desired".to_owned());
    Ok(())
}

/// Leaves a kubeconfig in the site, and says that the run is done.
fn finish(output: &Output, prospect: &Prospect, steps: usize) -> Result<(), Fault> {
    let site_view = prospect.site.view().map_err(Fault::input)?;
    if let Some(kubeconfig) = crate::desired::admin_kubeconfig(&prospect.inventory, &site_view) {
        let path = prospect.site.path("kubeconfig");
        if fs_err::read(&path).ok().as_deref() != Some(kubeconfig.as_bytes()) {
            prospect
                .site
                .write("kubeconfig", kubeconfig.as_bytes())
                .map_err(Fault::input)?;
        }
    }
    output.emit(Event::RunDone {
        seconds: output.elapsed(),
        steps,
        sent_bytes: sent(prospect),
        next: next(prospect),
    });
    Ok(())
}

/// Bytes that went over the jump host's link in this run.
fn sent(prospect: &Prospect) -> u64 {
    prospect
        .hosts
        .values()
        .map(|host| host.transferred().sent)
        .sum()
}

fn next(prospect: &Prospect) -> String {
    format!(
        "cofferdam kubectl -i {} -- get nodes",
        prospect.inventory.file
    )
}

fn tell_totals(output: &Output, prospect: &Prospect, _: &InstallArgs) {
    let by_host: Vec<String> = prospect
        .hosts
        .iter()
        .map(|(name, host)| format!("{name} {}", human_bytes(host.transferred().sent)))
        .collect();
    output.say(&format!(
        "sent over this host's link: {} ({}); the bundle has {}",
        human_bytes(sent(prospect)),
        by_host.join(", "),
        human_bytes(prospect.bundle_bytes)
    ));
    output.say(&format!(
        "done in {}: {} runs {}\nnext: {}",
        seconds(output.elapsed()),
        prospect.inventory.cluster.name,
        prospect.desired.bundle,
        next(prospect)
    ));
}

/// A phase before the plan, timed.
struct Phase<'a> {
    output: &'a Output,
    name: &'static str,
    started: Instant,
}

impl<'a> Phase<'a> {
    fn begin(output: &'a Output, name: &'static str, hosts: usize) -> Self {
        output.emit(Event::PhaseStarted {
            phase: name.to_owned(),
            hosts,
        });
        Self {
            output,
            name,
            started: Instant::now(),
        }
    }

    fn done(self, summary: String) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.output.emit(Event::PhaseDone {
            phase: self.name.to_owned(),
            seconds,
            summary,
        });
    }
}

/// Lets the output speak when nothing else does. Ends with the guard.
fn tick(output: &Arc<Output>) -> tokio_util::sync::DropGuard {
    let stop = CancellationToken::new();
    let (token, output) = (stop.clone(), output.clone());
    tokio::spawn(async move {
        while tokio::time::timeout(TICK, token.cancelled()).await.is_err() {
            output.tick();
        }
    });
    stop.drop_guard()
}
