//! The verbs. Each file is one of them; what it does stands on one screen.

mod ask;
mod blame;
pub mod bundle_content;
mod bundle_making;
mod bundle_writing;
mod bundles;
mod carry_out;
mod change;
mod connect;
mod delta;
pub mod fault;
mod foreign;
mod given;
mod have;
mod hidden;
mod hops;
mod hosts;
mod interrupt;
mod observe;
mod outlook;
mod pace;
mod phase;
mod plan;
mod ports;
mod prospect;
mod record;
mod registry;
mod restore;
mod rollback;
mod run;
mod snapshot_file;
mod snapshots;
mod software;
mod standing;
mod status;

use crate::cli::{Cli, Command, EtcdCommand, RegistryCommand, SiteCommand};
use crate::event::{EVENT_VERSION, EventSink, TimedEvent};
use crate::output::{Output, Shape, Style, failure_lines, paint};
use fault::{Exit, Fault};
use std::io::Write;
use std::process::ExitCode;

/// Runs one command line to its end.
pub fn run(cli: Cli) -> ExitCode {
    let style = style(&cli);
    let is_read_by_programs = cli.command.prints_json();
    match dispatch(cli.command, style) {
        Ok(code) => code,
        Err(fault) => {
            if is_read_by_programs && !fault.is_told {
                tell_programs(&fault);
            }
            report(&fault, style);
            ExitCode::from(fault.exit as u8)
        }
    }
}

/// Refuses a command line that can't be parsed, and shows help where that was
/// asked for. `arguments` are all its words.
pub fn refuse(error: &clap::Error, arguments: &[String]) -> ExitCode {
    if error.use_stderr() && asks_for_json(arguments) {
        let said = error.render().to_string();
        let said = said.trim().strip_prefix("error: ").unwrap_or(said.trim());
        tell_programs(&Fault::new(Exit::Input, said));
    }
    // Nobody is left to tell if it can't be printed.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Input as u8))
}

/// Whether words that make no command line ask for JSON all the same.
fn asks_for_json(arguments: &[String]) -> bool {
    let own: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .take_while(|argument| *argument != "--")
        .collect();
    own.contains(&"--json")
        || own.contains(&"--format=json")
        || own.windows(2).any(|pair| pair == ["--format", "json"])
}

/// One line on standard output for programs, which read no stderr.
fn tell_programs(fault: &Fault) {
    let event = TimedEvent {
        version: EVENT_VERSION,
        at: 0.0,
        event: fault.event(0.0),
    };
    if let Ok(line) = serde_json::to_string(&event) {
        // Nobody is left to tell if stdout is closed.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

fn style(cli: &Cli) -> Style {
    let json = match &cli.command {
        Command::Install(args) => args.json,
        Command::Upgrade(args) => args.json && !args.dry_run,
        Command::Rollback(args) => args.json,
        Command::Etcd(EtcdCommand::Restore(args)) => args.json,
        _ => false,
    };
    let shape = match (json, cli.quiet, cli.no_progress) {
        (true, _, _) => Shape::Json,
        (_, true, _) => Shape::Quiet,
        (_, _, true) => Shape::Plain,
        _ => Shape::People,
    };
    Style {
        shape,
        is_colored: cli.color.is_wanted(),
        is_verbose: cli.verbose,
    }
}

fn dispatch(command: Command, style: Style) -> Result<ExitCode, Fault> {
    match command {
        Command::Bundle(command) => bundles::run(command, style),
        Command::Hosts(command) => block_on(hosts::run(command, style)),
        Command::Install(args) => block_on(change::install(args, style)),
        Command::Upgrade(args) => block_on(change::upgrade(args, style)),
        Command::Rollback(args) => block_on(change::rollback(args, style)),
        Command::Plan(args) => block_on(plan::run(args, style)),
        Command::Status(args) => block_on(status::run(args, style)),
        Command::Site(SiteCommand::Have(args)) => block_on(have::run(args, style)),
        Command::Registry(RegistryCommand::Push(args)) => block_on(registry::run(args, style)),
        Command::Ports(args) => ports::run(&args, style),
        Command::Kubectl(args) => block_on(run::run("kubectl", args)),
        Command::Etcdctl(args) => block_on(run::run("etcdctl", args)),
        Command::Etcd(EtcdCommand::Snapshot(args)) => block_on(snapshots::save(args, style)),
        Command::Etcd(EtcdCommand::Snapshots(args)) => block_on(snapshots::show(args, style)),
        Command::Etcd(EtcdCommand::Restore(args)) => block_on(change::restore(args, style)),
        Command::Completions { shell } => hidden::completions(shell, style),
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

/// Tells people what went wrong, on stderr; what to do comes last.
fn report(fault: &Fault, style: Style) {
    let lines = fault.failures.iter().flat_map(failure_lines);
    let (hints, others): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("hint:"));
    let mut stderr = std::io::stderr().lock();
    for line in others.iter().chain(&hints) {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(stderr, "{}", paint(line, style.is_colored));
    }
}

/// The end of a run, also for those who follow its events.
fn conclude<T>(output: &Output, result: Result<T, Fault>) -> Result<T, Fault> {
    let result = result.map_err(|fault| {
        output.emit(fault.event(output.elapsed()));
        match output.is_for_programs() {
            true => fault.told(),
            false => fault,
        }
    });
    output.clear();
    result
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
    let output = std::sync::Arc::new(Output::new(style));
    output.keep_speaking();
    output
}
