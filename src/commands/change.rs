//! `cofferdam install` and `cofferdam upgrade`: the whole loop.

use super::carry_out::{carry_out, prove};
use super::fault::{Exit, Fault};
use super::interrupt::Interrupt;
use super::pace::Asking;
use super::prospect::{Prospect, Purpose, Request, prospect};
use super::restore::Source;
use super::{ask, conclude, connect, hops, outlook};
use crate::bundle::inspect::human_bytes;
use crate::cli::{
    BundleArgs, EtcdRestoreArgs, InstallArgs, PauseBetween, RollbackArgs, UntilArg, UpgradeArgs,
};
use crate::desired::{Software, admin_kubeconfig};
use crate::event::{Event, EventSink};
use crate::execute::Pauses;
use crate::host::Host as _;
use crate::inventory::{Host, Inventory};
use crate::output::{Journal, Output, Style, seconds};
use crate::plan::outlook::outlook_text;
use crate::plan::{Action, Intent, Plan, before, json, text};
use crate::site::Site;
use camino::Utf8PathBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

/// Name of the kubeconfig in a site.
const KUBECONFIG: &str = "kubeconfig";

/// What of a command line matters to a run.
struct Wish {
    verb: &'static str,
    intent: Intent,
    inventory: Utf8PathBuf,
    bundle: Option<BundleArgs>,
    without: Vec<String>,
    back: Vec<String>,
    /// Where etcd begins anew from.
    restore: Option<Source>,
    until: Option<UntilArg>,
    pause_between: Option<PauseBetween>,
    yes: bool,
}

pub(super) async fn install(args: InstallArgs, style: Style) -> Result<ExitCode, Fault> {
    let wish = Wish {
        verb: "install",
        intent: Intent::Install,
        inventory: args.inventory.inventory,
        bundle: Some(args.bundle),
        without: args.without,
        back: Vec::new(),
        restore: None,
        until: None,
        pause_between: None,
        yes: args.yes,
    };
    run(wish, style).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn upgrade(args: UpgradeArgs, style: Style) -> Result<ExitCode, Fault> {
    if args.bundles.bundle.len() > 1 && !args.no_soak {
        let message = "several bundles in one call are hops, none of which can soak";
        return Err(Fault::new(Exit::Input, message).hint(
            "pass --no-soak to go through in one; or give one bundle, finish it, then the next",
        ));
    }
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let output = super::output(style);
    let read = || hops::ahead(&args.bundles, (&inventory, &site), &output);
    let ahead = tokio::task::block_in_place(read)?;
    let proof = ahead.prove(&output, &inventory, &site);
    conclude(&output, proof.await)?;
    let hops = ahead.hops;
    if args.dry_run {
        return dry_run(args, hops, style).await;
    }
    let intent = intent_of(&args);
    for bundle in hops {
        let wish = Wish {
            verb: "upgrade",
            intent,
            inventory: args.inventory.inventory.clone(),
            bundle: Some(bundle),
            without: args.without.clone(),
            back: Vec::new(),
            restore: None,
            until: args.until.clone(),
            pause_between: args.pause_between,
            yes: args.yes,
        };
        if run(wish, style).await? == Ending::Before {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn rollback(args: RollbackArgs, style: Style) -> Result<ExitCode, Fault> {
    let wish = Wish {
        verb: "rollback",
        intent: Intent::Rollback,
        inventory: args.inventory.inventory,
        bundle: None,
        without: args.without,
        back: args.on,
        restore: None,
        until: None,
        pause_between: None,
        yes: args.yes,
    };
    run(wish, style).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn restore(args: EtcdRestoreArgs, style: Style) -> Result<ExitCode, Fault> {
    let wish = Wish {
        verb: "etcd-restore",
        intent: Intent::Install,
        inventory: args.inventory.inventory,
        bundle: Some(args.bundle),
        without: args.without,
        back: Vec::new(),
        restore: Some(Source {
            from: args.from,
            anew: args.anew,
        }),
        until: None,
        pause_between: None,
        yes: args.yes,
    };
    run(wish, style).await?;
    Ok(ExitCode::SUCCESS)
}

/// Names of the hosts that `HOST`, `@zone` and `all` stand for.
fn hosts_on(inventory: &Inventory, on: &[String]) -> Result<BTreeSet<String>, Fault> {
    let mut names = BTreeSet::new();
    for text in on {
        let is_meant = |host: &Host| match text.strip_prefix('@') {
            Some(zone) => host.zone == zone,
            None => text == "all" || host.name == *text,
        };
        let meant = inventory.hosts.iter().filter(|host| is_meant(host));
        let meant: Vec<String> = meant.map(|host| host.name.clone()).collect();
        let is_any = !meant.is_empty();
        names.extend(meant);
        if !is_any {
            let message = format!("`--on {text}` is no host of {}", inventory.file);
            let hint = "name a host, a zone as `@zone`, or `all`";
            return Err(Fault::new(Exit::Input, message).hint(hint));
        }
    }
    Ok(names)
}

fn intent_of(args: &UpgradeArgs) -> Intent {
    match (args.finish, args.no_soak) {
        (true, _) => Intent::Finish,
        (_, true) => Intent::UpgradeAtOnce,
        _ => Intent::Upgrade,
    }
}

/// Shows what an upgrade would do.
async fn dry_run(
    args: UpgradeArgs,
    hops: Vec<BundleArgs>,
    style: Style,
) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let request = Request {
        output: &output,
        bundle: hops.first(),
        without: &args.without,
        inventory,
        site,
        purpose: Purpose::Look,
        intent: intent_of(&args),
        back: BTreeSet::new(),
        restore: None,
        until: args.until.as_ref(),
    };
    let prospect = conclude(&output, prospect(request, &interrupt).await)?;
    let ahead = outlook::look_ahead(&output, &prospect, "upgrade");
    let ahead = interrupt.or("no host was changed but for its agent", ahead);
    let ahead = conclude(&output, ahead.await)?;
    let text = match args.json {
        true => {
            let mut told = json(&prospect.plan);
            let then = hops.iter().skip(1).map(|hop| hop.bundle.as_str());
            told["then"] = then.collect();
            told["outlook"] = serde_json::to_value(&ahead).map_err(anyhow::Error::from)?;
            format!("{told:#}\n")
        }
        false => text(&prospect.plan) + &outlook_text(&ahead, human_bytes),
    };
    output.data(&text).map_err(anyhow::Error::from)?;
    for hop in hops.iter().skip(1) {
        output.say(&format!("then      {}, from what this leaves", hop.bundle));
    }
    Ok(ExitCode::SUCCESS)
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    /// Before hosts that it was not to go to.
    Before,
}

async fn run(wish: Wish, style: Style) -> Result<Ending, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&wish.inventory)?;
    site.create(&inventory.cluster.name).map_err(Fault::input)?;
    let _lock = site
        .lock()
        .map_err(|error| Fault::of(Exit::Failed, &error))?;
    output.record(Journal::create(&site.path("journal"), wish.verb).map_err(Fault::input)?);
    output.emit(Event::RunStarted {
        verb: wish.verb.to_owned(),
        cluster: inventory.cluster.name.clone(),
        bundle: wish.bundle.as_ref().map(|bundle| bundle.bundle.to_string()),
    });
    let result = phases(&output, &interrupt, &wish, inventory, site).await;
    conclude(&output, result)
}

async fn phases(
    output: &Arc<Output>,
    interrupt: &Interrupt,
    wish: &Wish,
    inventory: Inventory,
    site: Site,
) -> Result<Ending, Fault> {
    let mut back = hosts_on(&inventory, &wish.back)?;
    back.retain(|name| !wish.without.contains(name));
    let request = Request {
        output,
        bundle: wish.bundle.as_ref(),
        without: &wish.without,
        inventory,
        site,
        purpose: Purpose::Change,
        intent: wish.intent,
        back,
        restore: wish.restore.as_ref(),
        until: wish.until.as_ref(),
    };
    let pauses = wish.pause_between;
    let pauses = pauses
        .map(|between| Asking::new(between, output))
        .transpose()?;
    let pauses = pauses.as_ref().map(|asking| asking as &dyn Pauses);
    let prospect = prospect(request, interrupt).await?;
    if prospect.plan.is_empty() && prospect.plan.refusals.is_empty() {
        write_kubeconfig(&prospect)?;
        prospect.record_begin().map_err(Fault::input)?;
        prospect.record_end().map_err(Fault::input)?;
        if let Some(returning) = &prospect.returning {
            output.say(&returning.text());
        }
        tell_nothing_to_do(output, &prospect);
        return Ok(ending(&prospect));
    }
    output.say(text(&prospect.plan).trim_end());
    if let Some(returning) = &prospect.returning {
        output.say(&returning.text());
    }
    if let Some(way_back) = way_back(wish.intent, &prospect.software) {
        output.say(way_back);
    }
    if let Some(restoring) = &prospect.restoring {
        output.say(&restoring.warning());
    }
    if let Err(fault) = confirm(output, interrupt, wish.yes).await {
        if let Some(restoring) = &prospect.restoring {
            restoring.forget(&prospect.site).map_err(Fault::input)?;
        }
        return Err(fault);
    }
    // What can't be run changes nothing, here neither.
    if prospect.plan.refusals.is_empty() {
        prospect.record_begin().map_err(Fault::input)?;
    }
    let steps = carry_out(output, interrupt, &prospect, pauses).await?;
    prove(output, interrupt, &prospect).await?;
    write_kubeconfig(&prospect)?;
    prospect.record_end().map_err(Fault::input)?;
    tell_totals(output, &prospect, steps);
    Ok(ending(&prospect))
}

fn ending(prospect: &Prospect) -> Ending {
    match prospect.plan.stops_before.is_empty() {
        true => Ending::Whole,
        false => Ending::Before,
    }
}

async fn confirm(output: &Output, interrupt: &Interrupt, yes: bool) -> Result<(), Fault> {
    if yes {
        return Ok(());
    }
    let refusal = Fault::new(Exit::Input, "nobody is here to confirm the plan")
        .hint("pass --yes to run it without asking, or look only: `cofferdam plan`, `cofferdam upgrade --dry-run`");
    let what_then = "no host was changed but for its agent";
    interrupt
        .or(what_then, ask::confirm(output, "Go on?", refusal))
        .await
}

/// Leaves a kubeconfig in the site. It is written anew only if it differs.
fn write_kubeconfig(prospect: &Prospect) -> Result<(), Fault> {
    let site = &prospect.site;
    let view = site.view().map_err(Fault::input)?;
    let Some(kubeconfig) = admin_kubeconfig(&prospect.inventory, &view) else {
        return Ok(());
    };
    let there = fs_err::read(site.path(KUBECONFIG)).ok();
    if there.as_deref() != Some(kubeconfig.as_bytes()) {
        site.write(KUBECONFIG, kubeconfig.as_bytes())
            .map_err(Fault::input)?;
    }
    Ok(())
}

fn tell_nothing_to_do(output: &Output, prospect: &Prospect) {
    run_done(output, prospect, 0);
    if prospect.returning.is_some() {
        let elapsed = seconds(output.elapsed());
        output.say(&format!(
            "nothing to do: no host has to go back ({elapsed})"
        ));
        return;
    }
    if !prospect.plan.stops_before.is_empty() {
        let elapsed = seconds(output.elapsed());
        output.say(&format!(
            "nothing to do {} ({elapsed})",
            before(&prospect.plan)
        ));
        output.say(&format!("next: {}", next(prospect)));
        return;
    }
    output.say(&format!(
        "nothing to do: {} hosts are as the inventory and {} say ({})",
        prospect.hosts.len(),
        prospect.desired.bundle,
        seconds(output.elapsed())
    ));
}

/// Whether hosts take anything from registries.
fn reads_registry(plan: &Plan) -> bool {
    let mut actions = plan.steps().map(|step| &step.action);
    actions.any(|action| {
        matches!(
            action,
            Action::FetchBinaries { .. }
                | Action::InstallBinaries { .. }
                | Action::PullImages { .. }
        )
    })
}

fn tell_totals(output: &Output, prospect: &Prospect, steps: usize) {
    run_done(output, prospect, steps);
    let zones = prospect.inventory.registries().len();
    let registries = if zones == 1 { "registry" } else { "registries" };
    let what_for = match (prospect.bundle_bytes, &prospect.inventory.registry) {
        (0, _) => String::new(),
        (_, Some(registry)) if reads_registry(&prospect.plan) => {
            format!(", the rest came from {}", registry.address)
        }
        (_, Some(_)) => String::new(),
        (bytes, None) => format!(
            ", for a bundle of {} and {zones} {registries}",
            human_bytes(bytes)
        ),
    };
    output.say(&format!(
        "link      {} sent{what_for}",
        human_bytes(sent(prospect))
    ));
    for (zone, sent) in sent_by_zone(prospect) {
        let all = human_bytes(sent.values().sum());
        let each = sent
            .iter()
            .map(|(name, bytes)| format!("{name} {}", human_bytes(*bytes)));
        let each = each.collect::<Vec<_>>().join(", ");
        output.say(&format!("{:<9} zone {zone}: {all} ({each})", ""));
    }
    let what = match &prospect.desired.only {
        Some(only) => {
            let names: Vec<&str> = only.iter().map(String::as_str).collect();
            format!("{} went back", names.join(" "))
        }
        None if !prospect.plan.stops_before.is_empty() => {
            format!("stopped {}, as asked", before(&prospect.plan))
        }
        None => {
            let name = &prospect.inventory.cluster.name;
            let but_for = match left_behind(prospect) {
                others if others.is_empty() => String::new(),
                others => format!(", but for {},", others.join(" ")),
            };
            format!("{name}{but_for} runs {}", prospect.desired.bundle)
        }
    };
    output.say(&format!(
        "done      {steps} steps in {}: {what}",
        seconds(output.elapsed()),
    ));
    output.say(&format!("next: {}", next(prospect)));
}

fn run_done(output: &Output, prospect: &Prospect, steps: usize) {
    output.emit(Event::RunDone {
        seconds: output.elapsed(),
        steps,
        sent_bytes: sent(prospect),
        sent_bytes_by_zone: sent_by_zone(prospect),
        next: next(prospect),
    });
}

/// Bytes that went over the jump host's link in this run.
fn sent(prospect: &Prospect) -> u64 {
    let hosts = prospect.hosts.values();
    hosts.map(|host| host.transferred().sent).sum()
}

/// The same by zone and host.
fn sent_by_zone(prospect: &Prospect) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut zones: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for host in &prospect.inventory.hosts {
        let zone = zones.entry(host.zone.clone()).or_default();
        if let Some(connected) = prospect.hosts.get(&host.name) {
            zone.insert(host.name.clone(), connected.transferred().sent);
        }
    }
    zones
}

fn next(prospect: &Prospect) -> String {
    let inventory = &prospect.inventory.file;
    if prospect.returning.is_some() {
        return format!(
            "these hosts stay as they are until `cofferdam upgrade -i {inventory} --bundle …` takes \
             them along again"
        );
    }
    if !prospect.plan.stops_before.is_empty() {
        return format!(
            "the same command with another `--until`, or without it, for {}; until all is done, \
             `install` is refused",
            prospect.plan.stops_before.join(" ")
        );
    }
    let others = left_behind(prospect);
    if !others.is_empty() {
        return format!(
            "the same command without `--without`, once {} can be reached; until then `install` \
             is refused",
            others.join(" ")
        );
    }
    if prospect.software.soaks() {
        return format!(
            "`cofferdam upgrade -i {inventory} --finish …` when all is well, or \
             `cofferdam rollback -i {inventory} --on all`"
        );
    }
    format!("cofferdam kubectl -i {inventory} -- get nodes")
}

/// Names of the hosts that an upgrade has left behind.
fn left_behind(prospect: &Prospect) -> Vec<String> {
    match prospect.intent.upgrades() {
        true => prospect.left_out().into_iter().collect(),
        false => Vec::new(),
    }
}

/// What a run makes irrevocable, before it is confirmed.
fn way_back(intent: Intent, software: &Software) -> Option<&'static str> {
    match intent {
        Intent::Upgrade if software.soaks() => Some(
            "way back: the new control plane behaves as the old one, until `upgrade --finish`; \
             `rollback` undoes this",
        ),
        Intent::UpgradeAtOnce | Intent::Finish => Some(
            "no way back: once done, only the snapshot of etcd from before, without what is \
             written since",
        ),
        _ => None,
    }
}
