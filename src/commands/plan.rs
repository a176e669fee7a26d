//! `cofferdam plan`: what `install` would do.

use super::fault::Fault;
use super::interrupt::Interrupt;
use super::prospect::{Purpose, Request, prospect};
use super::{conclude, connect};
use crate::cli::PlanArgs;
use crate::output::Style;
use crate::plan::{Intent, json, text};
use std::collections::BTreeSet;
use std::process::ExitCode;

/// What `--detailed-exitcode` makes of a plan with steps.
const HAS_STEPS: u8 = 2;

pub(super) async fn run(args: PlanArgs, style: Style) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let request = Request {
        output: &output,
        bundle: Some(&args.bundle),
        without: &args.without,
        inventory,
        site,
        purpose: Purpose::Look,
        intent: Intent::Install,
        back: BTreeSet::new(),
        restore: None,
        until: None,
    };
    let prospect = conclude(&output, prospect(request, &interrupt).await)?;
    let plan = &prospect.plan;
    let text = match args.json {
        true => format!("{:#}\n", json(plan)),
        false => text(plan),
    };
    output.data(&text).map_err(anyhow::Error::from)?;
    let has_steps = !plan.is_empty();
    Ok(match args.detailed_exitcode && has_steps {
        true => ExitCode::from(HAS_STEPS),
        false => ExitCode::SUCCESS,
    })
}
