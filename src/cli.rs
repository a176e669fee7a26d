//! The command line's words, and nothing else.

mod bundle;

pub use bundle::{
    BundleArgs, BundleCommand, FetchArgs, HopArgs, KeyArgs, RegistryCommand, RegistryPushArgs,
    Size, SourceArgs, TrustArgs,
};

use crate::output::Color;
use crate::ports::Format;
use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::str::FromStr;

/// Installs and keeps Kubernetes behind closed firewalls from one signed
/// bundle.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, max_term_width = 80, after_help = EXIT_CODES)]
pub struct Cli {
    /// Print failures only
    #[arg(long, short, global = true, display_order = 100)]
    pub quiet: bool,
    /// Show lines of hosts' logs and every wait too
    #[arg(
        long,
        short,
        global = true,
        display_order = 101,
        conflicts_with = "quiet"
    )]
    pub verbose: bool,
    /// Print plain lines even on a terminal
    #[arg(long, global = true, display_order = 102)]
    pub no_progress: bool,
    /// Color text for people; `auto` does on a terminal without NO_COLOR
    #[arg(
        long,
        global = true,
        display_order = 103,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub color: Color,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done, or nothing to do
  1    it failed; the same command goes on from where it stopped
  2    wrong usage, or an inventory, bundle or site that can't be used
  3    checks of the hosts refused the run; nothing was changed
  4    hosts can't be reached or trusted
  130  interrupted, or a question was not answered with yes

Text for people goes to stderr, data to stdout. With JSON asked for, a failure
is one object there too, whose `event` is `run-failed`. `kubectl` and `etcdctl`
exit with the program's own code.";

const STATUS_EXIT_CODES: &str = "\
Exit codes:
  0  fine
  1  degraded: something is down, but the API answers and takes writes
  2  broken: no API server is ready, or etcd has no majority; also an
     inventory or site that can't be used";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, check and show bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Look after the hosts' SSH keys
    #[command(subcommand)]
    Hosts(HostsCommand),
    /// Make hosts and cluster as inventory and bundle say
    Install(InstallArgs),
    /// Bring a running cluster to a bundle's versions, host by host
    Upgrade(UpgradeArgs),
    /// Go back from a new minor that soaks, from what hosts keep
    Rollback(RollbackArgs),
    /// Show what install would do; changes nothing but the hosts' agent
    Plan(PlanArgs),
    /// Show how the cluster stands, zone by zone
    #[command(after_help = STATUS_EXIT_CODES)]
    Status(StatusArgs),
    /// Print the ports that firewalls between zones must let pass
    Ports(PortsArgs),
    /// Fill registries that are not cofferdam's own
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Tell what the site has
    #[command(subcommand)]
    Site(SiteCommand),
    /// Run the cluster's kubectl on a master
    Kubectl(RunArgs),
    /// Run etcdctl on a master
    Etcdctl(RunArgs),
    /// Save snapshots of etcd, and begin it anew from one
    #[command(subcommand)]
    Etcd(EtcdCommand),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Serve requests on standard input (run over SSH)
    #[command(hide = true)]
    Agent,
    /// Prove this program and take the agent's name
    #[command(hide = true)]
    AgentInstall { digest: crate::digest::Digest },
    /// Take a newer agent from standard input
    #[command(hide = true)]
    AgentReplace { digest: crate::digest::Digest },
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
    /// Keep Service addresses reachable from this host (run by systemd)
    #[command(hide = true)]
    Route {
        #[arg(long)]
        destination: ipnet::Ipv4Net,
        #[arg(long)]
        interface: String,
        #[arg(long)]
        source: std::net::Ipv4Addr,
    },
}

impl Command {
    /// Whether programs read its standard output, and are told failures there.
    pub fn prints_json(&self) -> bool {
        match self {
            Self::Install(args) => args.json,
            Self::Upgrade(args) => args.json,
            Self::Rollback(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Status(args) => args.json,
            Self::Etcd(EtcdCommand::Snapshot(args)) => args.json,
            Self::Etcd(EtcdCommand::Snapshots(args)) => args.json,
            Self::Etcd(EtcdCommand::Restore(args)) => args.json,
            Self::Site(SiteCommand::Have(_)) | Self::Bundle(BundleCommand::Sbom { .. }) => true,
            Self::Ports(args) => args.format == PortsFormat::Json,
            Self::Bundle(
                BundleCommand::Verify { json, .. }
                | BundleCommand::Inspect { json, .. }
                | BundleCommand::Diff { json, .. },
            ) => *json,
            _ => false,
        }
    }
}

/// Which inventory.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// The inventory
    #[arg(long, short, value_name = "FILE", default_value = "inventory.toml")]
    pub inventory: Utf8PathBuf,
}

#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Leave this host out of the run, since it can't be reached; may be repeated
    #[arg(long, value_name = "HOST")]
    pub without: Vec<String>,
    /// Run the plan without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    #[command(flatten)]
    pub bundles: HopArgs,
    /// Lift what the new control plane emulates, and take etcd and nodes along;
    /// there is no way back from here
    #[arg(long)]
    pub finish: bool,
    /// Go to a new minor in one go, without a control plane that can go back
    #[arg(long, conflicts_with = "finish")]
    pub no_soak: bool,
    /// Ask before each zone or host that is interrupted after another one
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with = "dry_run")]
    pub pause_between: Option<PauseBetween>,
    /// Stop after this zone or host: before the first master, then before the first
    /// node that comes later by zone and name is interrupted
    #[arg(long, value_name = "zone:NAME|host:NAME")]
    pub until: Option<UntilArg>,
    /// Leave this node out, since it can't be reached; the next upgrade takes it
    /// along; hosts that are more than a node can't be left out; may be repeated
    #[arg(long, value_name = "HOST")]
    pub without: Vec<String>,
    /// Show the plan only; changes nothing but the hosts' agent
    #[arg(long)]
    pub dry_run: bool,
    /// Run the plan without asking
    #[arg(long, short, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Print events as JSON lines on standard output, or a dry run's plan as an
    /// object
    #[arg(long)]
    pub json: bool,
}

/// Between what a run pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PauseBetween {
    Zone,
    Host,
}

/// Where a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UntilArg {
    Zone(String),
    Host(String),
}

impl FromStr for UntilArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("zone", name)) if !name.is_empty() => Ok(Self::Zone(name.to_owned())),
            Some(("host", name)) if !name.is_empty() => Ok(Self::Host(name.to_owned())),
            _ => Err("write `zone:NAME` or `host:NAME`".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// What goes back: a host, a zone as `@zone`, or `all`; may be repeated
    #[arg(long, value_name = "HOST", required = true)]
    pub on: Vec<String>,
    /// Leave this host out of the run, since it can't be reached; it stays as it
    /// is; may be repeated
    #[arg(long, value_name = "HOST")]
    pub without: Vec<String>,
    /// Run the plan without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum EtcdCommand {
    /// Save a snapshot on hosts of two zones, and prove that it can be restored
    Snapshot(EtcdSnapshotArgs),
    /// Show the snapshots that hosts keep
    Snapshots(EtcdSnapshotsArgs),
    /// Begin etcd anew on all its members, from one snapshot
    #[command(override_usage = "\
cofferdam etcd restore [OPTIONS] --bundle <FILE> --from <SNAPSHOT>")]
    Restore(EtcdRestoreArgs),
}

#[derive(Debug, Args)]
pub struct EtcdSnapshotArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// Copy it to this file too, which must not be there yet
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<Utf8PathBuf>,
    /// Print what was saved as a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct EtcdSnapshotsArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// Print them as a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct EtcdRestoreArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// HOST:NAME of one that a host keeps, as `etcd snapshots` shows it, or a file
    #[arg(long, value_name = "SNAPSHOT")]
    pub from: String,
    /// Give up a restore that was begun from another snapshot, or for other
    /// members
    #[arg(long)]
    pub anew: bool,
    /// Leave this host out of the run, since it can't be reached; it must be
    /// neither a master nor a member of etcd; may be repeated
    #[arg(long, value_name = "HOST")]
    pub without: Vec<String>,
    /// Run the plan without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Leave this host out of the run, since it can't be reached; may be repeated
    #[arg(long, value_name = "HOST")]
    pub without: Vec<String>,
    /// Print the plan as a JSON object with a `steps` array
    #[arg(long)]
    pub json: bool,
    /// Exit with 2 if there is something to do, with 0 if not
    #[arg(long)]
    pub detailed_exitcode: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// Print the status as a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PortsArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// How to print them
    #[arg(long, value_enum, default_value = "table")]
    pub format: PortsFormat,
}

/// How the port matrix is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PortsFormat {
    Table,
    Csv,
    Markdown,
    Json,
    /// A complete nftables script for the router between zones
    Nft,
}

impl From<PortsFormat> for Format {
    fn from(format: PortsFormat) -> Self {
        match format {
            PortsFormat::Table => Self::Table,
            PortsFormat::Csv => Self::Csv,
            PortsFormat::Markdown => Self::Markdown,
            PortsFormat::Json => Self::Json,
            PortsFormat::Nft => Self::Nft,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Print which blobs all registries hold, as JSON for `bundle build --have`
    Have(SiteHaveArgs),
}

#[derive(Debug, Args)]
pub struct SiteHaveArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// Pass standard input on. It is by itself for arguments that read it
    /// (`-f -`, `-i`, /dev/stdin), unless it is a terminal
    #[arg(long)]
    pub stdin: bool,
    /// Arguments, after `--`
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// Show hosts' keys and record them in the site
    Trust {
        #[command(flatten)]
        inventory: InventoryArgs,
        /// Only these hosts
        hosts: Vec<String>,
        /// Record what the hosts show without asking
        #[arg(long, short)]
        yes: bool,
        /// Record only keys that stand in this file, lines of `NAME SHA256:…`;
        /// asks nothing
        #[arg(long, value_name = "FILE", conflicts_with = "yes")]
        fingerprints: Option<Utf8PathBuf>,
        /// Replace the recorded key of a host that was set up anew
        #[arg(long)]
        replace: bool,
    },
}
