//! `cofferdam ports`.

use super::fault::Fault;
use crate::cli::PortsArgs;
use crate::ports::{Matrix, render};
use crate::{inventory, output::Output, output::Style};
use std::process::ExitCode;

pub(super) fn run(args: &PortsArgs) -> Result<ExitCode, Fault> {
    let inventory = inventory::load(&args.inventory.inventory).map_err(Fault::input)?;
    let text = render(&Matrix::of(&inventory), args.format.into()).map_err(Fault::input)?;
    let text = if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    };
    Output::new(Style::Plain)
        .data(&text)
        .map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}
