//! Parses, dispatches, and maps failures to exit codes.

use clap::Parser;
use cofferdam::cli::Cli;
use cofferdam::commands;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(error) => {
            let arguments = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            commands::refuse(&error, &arguments.collect::<Vec<String>>())
        }
    }
}
