//! Parses, dispatches, and maps failures to exit codes.

use clap::Parser;
use cofferdam::cli::Cli;
use cofferdam::commands;
use std::process::ExitCode;

fn main() -> ExitCode {
    commands::run(Cli::parse())
}
