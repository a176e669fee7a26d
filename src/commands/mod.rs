//! The verbs. Each file is one of them; what it does stands on one screen.

pub mod bundle_content;
mod bundles;
mod connect;
mod converge;
pub mod fault;
mod hidden;
mod hosts;
mod observe;
mod ports;
mod run;

use crate::cli::{Cli, Command};
use crate::output::{Output, Style, failure_lines};
use fault::{Exit, Fault};
use std::io::Write;
use std::process::ExitCode;

/// Runs one command line to its end.
pub fn run(cli: Cli) -> ExitCode {
    let style = style(&cli);
    match dispatch(cli.command, style) {
        Ok(code) => code,
        Err(fault) => {
            report(&fault);
            ExitCode::from(fault.exit as u8)
        }
    }
}

fn style(cli: &Cli) -> Style {
    let json = matches!(&cli.command, Command::Install(args) if args.json);
    match (json, cli.quiet, cli.no_progress) {
        (true, _, _) => Style::Json,
        (_, true, _) => Style::Quiet,
        (_, _, true) => Style::Plain,
        _ => Style::People,
    }
}

fn dispatch(command: Command, style: Style) -> Result<ExitCode, Fault> {
    match command {
        Command::Bundle(command) => bundles::run(command, style),
        Command::Hosts(command) => block_on(hosts::run(command, style)),
        Command::Install(args) => block_on(converge::install(args, style)),
        Command::Plan(args) => block_on(converge::plan(args, style)),
        Command::Ports(args) => ports::run(&args),
        Command::Kubectl(args) => block_on(run::run("kubectl", args)),
        Command::Etcdctl(args) => block_on(run::run("etcdctl", args)),
        Command::Completions { shell } => hidden::completions(shell),
        Command::Agent => hidden::agent(),
        Command::AgentInstall { digest } => hidden::agent_install(&digest),
        Command::AgentReplace { digest } => hidden::agent_replace(&digest),
        Command::ApiProxy { config, take_over } => hidden::api_proxy(config, take_over),
        Command::Route {
            destination,
            interface,
            source,
        } => hidden::route(destination, &interface, source),
    }
}

/// Tells people what went wrong, on stderr.
fn report(fault: &Fault) {
    let mut stderr = std::io::stderr().lock();
    for failure in &fault.failures {
        for line in failure_lines(failure) {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(stderr, "{line}");
        }
    }
}

/// Runs a verb on a runtime with all cores: twenty hosts' ciphers need them.
fn block_on<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(Exit::Failed, format!("starting the runtime: {error}")))?;
    let result = runtime.block_on(work);
    // A read of standard input may never end.
    runtime.shutdown_background();
    result
}

/// What every verb begins with.
fn output(style: Style) -> std::sync::Arc<Output> {
    std::sync::Arc::new(Output::new(style))
}
