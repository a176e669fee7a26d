//! Real hosts on one machine: systemd in containers, in network zones behind a
//! router that lets through only what the product's port matrix names.

mod cgroups;
mod control;
mod host_files;
mod inventory;
mod layout;
mod make;
mod network;
mod nspawn;
mod ready;
mod root_filesystem;
mod router;
mod state;
mod status;
mod sysctls;
mod teardown;

pub use control::Lab;
pub use layout::{Host, JUMP_ADDRESS, Kind, Wanted};
pub use make::{Options, Rules, up};
pub use network::DefaultRoute;
pub use status::status;

use crate::shell;
use anyhow::Result;
use camino::Utf8PathBuf;
use clap::Subcommand;
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the hosts and the router between their zones, and boot them all.
    Up {
        /// Masters, one per zone in turn.
        #[arg(long, default_value_t = 1)]
        masters: u8,
        /// Workers, one per zone in turn.
        #[arg(long, default_value_t = 2)]
        workers: u8,
        /// Hosts with etcd alone, in the zones after the masters'.
        #[arg(long, default_value_t = 0)]
        witnesses: u8,
        /// Names of the zones [default: a, b, c, as many as can be filled].
        #[arg(long, value_delimiter = ',')]
        zones: Vec<String>,
        /// Give hosts a default route to the router, which counts and drops
        /// what takes it.
        #[arg(long)]
        default_route: bool,
        /// What each zone's link to the rest carries, in the words of tc
        /// (`100mbit`) [default: as much as the machine can].
        #[arg(long, value_name = "RATE")]
        bandwidth: Option<String>,
        #[command(flatten)]
        rules: RulesArgs,
    },
    /// Take the lab down; nothing of it is left but its key and bundles.
    Down,
    /// Show the hosts and what the router has counted.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Log in to a host as root, or run a command there.
    Ssh {
        host: String,
        /// One word is a shell line, several are kept as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Cut a host's power (or that of `all`).
    Kill { host: String },
    /// Shut a host (or `all`) down in order.
    Stop { host: String },
    /// Start a host (or `all`) that is off.
    Boot { host: String },
    /// Cut a zone off from all others and from the jump host.
    Cut { zone: String },
    /// Let a zone that was cut off back in.
    Heal { zone: String },
    /// Load the router's rules again and set its counters to zero.
    Rules {
        #[command(flatten)]
        rules: RulesArgs,
    },
}

#[derive(clap::Args)]
struct RulesArgs {
    /// Rules for the router in nft's language, in place of the product's; the
    /// word `permissive` lets everything within the lab pass.
    #[arg(long, value_name = "FILE", conflicts_with = "cofferdam")]
    rules: Option<Utf8PathBuf>,
    /// The product's binary, which prints the router's rules [default: built
    /// from this repository].
    #[arg(long, value_name = "PATH")]
    cofferdam: Option<Utf8PathBuf>,
}

impl RulesArgs {
    fn rules(&self) -> Rules {
        match (&self.rules, &self.cofferdam) {
            (Some(file), _) if file == "permissive" => Rules::Permissive,
            (Some(file), _) => Rules::File(file.clone()),
            (None, Some(binary)) => Rules::Binary(binary.clone()),
            (None, None) => Rules::Product,
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Up {
            masters,
            workers,
            witnesses,
            zones,
            default_route,
            bandwidth,
            rules,
        } => {
            let options = Options {
                wanted: Wanted {
                    masters: *masters,
                    workers: *workers,
                    witnesses: *witnesses,
                    zones: zones.clone(),
                },
                default_route: if *default_route {
                    DefaultRoute::ToRouter
                } else {
                    DefaultRoute::Absent
                },
                bandwidth: bandwidth.clone(),
                rules: rules.rules(),
            };
            up(&options).map(drop)
        }
        Command::Down => control::take_down(),
        Command::Status { json } => {
            let status = status(&Lab::open()?)?;
            let text = if *json {
                status::json(&status)?
            } else {
                status::render(&status)
            };
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
        Command::Ssh { host, command } => control::become_ssh(&Lab::open()?, host, command),
        Command::Kill { host } => Lab::open()?.kill(host),
        Command::Stop { host } => Lab::open()?.stop(host),
        Command::Boot { host } => Lab::open()?.boot(host),
        Command::Cut { zone } => Lab::open()?.cut(zone),
        Command::Heal { zone } => Lab::open()?.heal(zone),
        Command::Rules { rules } => {
            let lab = Lab::open()?;
            lab.load_rules(&rules.rules().read(&lab.inventory())?)?;
            shell::say("the router's rules are loaded, its counters are at zero");
            Ok(())
        }
    }
}
