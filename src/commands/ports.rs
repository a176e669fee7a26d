//! `cofferdam ports`.

use super::connect;
use super::fault::Fault;
use crate::cli::PortsArgs;
use crate::output::{Output, Style};
use crate::ports::{Matrix, render};
use std::process::ExitCode;

pub(super) fn run(args: &PortsArgs, style: Style) -> Result<ExitCode, Fault> {
    let inventory = connect::load_inventory(&args.inventory.inventory)?;
    let text = render(&Matrix::of(&inventory), args.format.into()).map_err(Fault::input)?;
    let text = if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    };
    Output::new(style)
        .data(&text)
        .map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}
