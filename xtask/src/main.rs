//! Development tasks of cofferdam: builds the real upstream components, makes
//! the lab's hosts, and runs the demo, the tests and the benchmarks.

mod bench;
mod demo;
mod dist;
mod lab;
mod load;
mod paths;
mod probe;
mod product;
mod scenarios;
mod shell;
mod test;
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
    /// Make, show and take down the lab's hosts.
    Lab(lab::Args),
    /// Build the static release binary and say where it is.
    Dist,
    /// Build the lab's bundle of a minor and say where it is.
    Bundle(product::Args),
    /// From nothing to a cluster with a Service that answers across zones.
    Demo(demo::Args),
    /// Run all the tests.
    Test(test::Args),
    /// Measure, each figure beside its floor.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Upstream(args) => upstream::run(&args),
        Task::Lab(args) => lab::run(&args),
        Task::Dist => dist::run(),
        Task::Bundle(args) => product::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
