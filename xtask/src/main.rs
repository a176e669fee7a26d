//! Development tasks of cofferdam: builds the real upstream components, makes
//! the lab's hosts, and runs the demo, the tests and the benchmarks.

mod dist;
mod lab;
mod paths;
mod shell;
mod upstream;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of cofferdam")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the real components and lay out a local mirror of upstream.
    Upstream(upstream::Args),
    /// Build the static release binary.
    Dist,
    /// Make, show and take down the lab's hosts.
    Lab(lab::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Upstream(args) => upstream::run(&args),
        Task::Dist => dist::run(),
        Task::Lab(args) => lab::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
