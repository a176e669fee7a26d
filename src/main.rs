//! The command line: parses, dispatches, and maps errors to exit codes.

use std::io::Write as _;
use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};
use cofferdam::proxy::{self, ProxyCommand};

/// Installs and upgrades Kubernetes behind closed firewalls from one signed
/// bundle.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Carry connections from this node to the API servers (run by systemd)
    #[command(hide = true)]
    ApiProxy {
        /// Configuration file of the proxy
        #[arg(long)]
        config: Utf8PathBuf,
        /// Start a successor of this main process, then let that one drain
        #[arg(long, value_name = "PID")]
        take_over: Option<u32>,
    },
}

fn main() -> ExitCode {
    let CommandLine { command } = CommandLine::parse();
    let outcome = match command {
        Command::ApiProxy { config, take_over } => proxy::run(&ProxyCommand { config, take_over }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this can't be written.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
