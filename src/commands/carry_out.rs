//! Runs a plan, and looks again whether anything is left to do.

use super::blame::point_to_overrides;
use super::fault::{Exit, Fault};
use super::interrupt::Interrupt;
use super::observe;
use super::phase::Phase;
use super::prospect::Prospect;
use super::standing::Tally;
use crate::desired::materials::materials;
use crate::event::EventSink;
use crate::execute::{Mint, Minted, Patience, Pauses, Run, execute};
use crate::host::Host;
use crate::output::Output;
use crate::plan::{Action, Step, plan, text};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// What serves may fail for a moment, such as while a host that is off still
/// counts as there. Changes that are left are told at once, waits after this.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const SETTLE_INTERVAL: Duration = Duration::from_secs(3);

/// Runs the plan and returns the number of its steps. Interrupted, it finishes
/// the steps in hand.
pub(super) async fn carry_out(
    output: &Output,
    interrupt: &Interrupt,
    prospect: &Prospect,
    pauses: Option<&dyn Pauses>,
) -> Result<usize, Fault> {
    let hosts: BTreeMap<String, Arc<dyn Host>> = prospect
        .hosts
        .iter()
        .map(|(name, host)| (name.clone(), host.clone() as Arc<dyn Host>))
        .collect();
    let (stop, _in_hand) = interrupt.for_steps();
    let tally = Tally::new(output);
    let finished = execute(Run {
        plan: &prospect.plan,
        desired: prospect.desired.clone(),
        world: &prospect.world,
        hosts: &hosts,
        blobs: prospect.content.as_ref(),
        mint: &SiteMint { prospect },
        events: &tally,
        stop,
        patience: Patience::default(),
        pauses,
    })
    .await;
    let finished = finished.map_err(|stopped| {
        output.emit(tally.stopped(&prospect.plan, &prospect.world, &prospect.inventory));
        point_to_overrides(Fault::from(stopped), &prospect.inventory)
    })?;
    Ok(finished.steps)
}

/// Puts what a plan decides and needs into the site.
struct SiteMint<'a> {
    prospect: &'a Prospect,
}

impl Mint for SiteMint<'_> {
    fn mint(&self, _: &[String], _: &[String]) -> anyhow::Result<Minted> {
        let Prospect {
            site,
            inventory,
            decisions,
            ..
        } = self.prospect;
        site.record_decisions(decisions)?;
        site.mint(&materials(inventory), OffsetDateTime::now_utc())?;
        let site_view = site.view()?;
        let desired = self.prospect.desired_of(&site_view)?;
        let key = site_view
            .digest_key
            .ok_or_else(|| anyhow::anyhow!("the site has no key for digests after minting"))?;
        Ok(Minted { desired, key })
    }
}

/// A run is done when there is nothing left to do.
pub(super) async fn prove(
    output: &Output,
    interrupt: &Interrupt,
    prospect: &Prospect,
) -> Result<(), Fault> {
    let what_then = "all steps were done, but not looked at again";
    interrupt.or(what_then, look_again(output, prospect)).await
}

async fn look_again(output: &Output, prospect: &Prospect) -> Result<(), Fault> {
    let phase = Phase::begin(output, "observe", prospect.hosts.len());
    let site_view = prospect.site.view().map_err(Fault::input)?;
    let wanted = prospect.desired_of(&site_view).map_err(Fault::input)?;
    let key = site_view.digest_key.as_ref();
    let deadline = Instant::now() + SETTLE_LIMIT;
    let left = loop {
        let seen = observe::hosts(&phase, &prospect.hosts, &wanted, key).await?;
        let world = observe::world(&phase, output, &prospect.hosts, &wanted, seen.facts).await?;
        let left = plan(&wanted, &world, key);
        if left.is_empty() && left.refusals.is_empty() {
            phase.done("nothing is left to do".to_owned());
            return Ok(());
        }
        let is_wait = |step: &Step| matches!(step.action, Action::Wait { .. });
        let only_waits = left.refusals.is_empty() && left.steps().all(is_wait);
        if !only_waits || Instant::now() >= deadline {
            break left;
        }
        if let Some(step) = left.steps().next() {
            phase.doing(format!("{}: {}", step.host, step.title));
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    };
    let message = format!(
        "the run ended, but hosts still differ from what is desired:\n{}",
        text(&left).trim_end()
    );
    Err(Fault::new(Exit::Failed, message)
        .hint("run the same command again; if this stays, something else changes the hosts"))
}
