//! Making a lab.

use super::control::{self, Lab};
use super::layout::{Host, Layout, Wanted};
use super::network::{self, DefaultRoute};
use super::state::{Lock, Phase, State};
use super::{host_files, inventory, root_filesystem, sysctls, teardown};
use crate::{dist, paths, shell};
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;
use std::time::Instant;

/// What a lab needs on the machine.
const PACKAGES: &[&str] = &[
    "iproute2",
    "mmdebstrap",
    "nftables",
    "openssh-client",
    "systemd-container",
];

/// What kind of lab to make.
#[derive(Clone, Debug)]
pub struct Options {
    pub wanted: Wanted,
    pub default_route: DefaultRoute,
    /// What each zone's link to the rest carries, in the words of tc; without
    /// it as much as the machine can.
    pub bandwidth: Option<String>,
    pub rules: Rules,
}

/// Where the router's rules come from.
#[derive(Clone, Debug)]
pub enum Rules {
    /// From `cofferdam ports`, by the binary of this repository.
    Product,
    /// From `cofferdam ports`, by that binary.
    Binary(Utf8PathBuf),
    /// From a file in nft's language.
    File(Utf8PathBuf),
    /// Everything within the lab may pass.
    Permissive,
}

/// Makes a lab and waits until all its hosts answer. What an earlier attempt
/// that was cut short has left is cleaned up first; a lab that is up is an error.
pub fn up(options: &Options) -> Result<Lab> {
    if !rustix::process::geteuid().is_root() {
        bail!("making network namespaces and mounts needs root: run this as root");
    }
    let layout = Layout::spread(&options.wanted)?;
    let started = Instant::now();
    let lock = Lock::take()?;
    clear(&layout)?;
    let mut steps = Steps::default();
    shell::debian_packages(PACKAGES)?;
    let binary = options.rules.binary()?;
    steps.done("what the lab needs is on this machine");

    if !root_filesystem::path()?.exists() {
        shell::say("          making the hosts' root file system, once, in about a minute");
    }
    let base = root_filesystem::ensure()?;
    steps.done("root file system");

    let directory = paths::lab()?;
    fs_err::create_dir_all(&directory)?;
    network::check_free()?;
    let mut state = State::new(&directory, &base, &layout, options.default_route)?;
    state.save()?;
    sysctls::raise()?;
    let lab = Lab::new(state.clone());

    network::make_router(&layout)?;
    if let Some(rate) = &options.bandwidth {
        network::limit_links(&layout, rate)?;
    }
    let zones: Vec<&str> = layout.zones.iter().map(|zone| zone.name.as_str()).collect();
    steps.done(&format!("router with zones {}", zones.join(", ")));

    let key = directory.join("id_ed25519");
    host_files::make_key(&key, "ed25519", "lab")?;
    let authorized = fs_err::read_to_string(key.with_extension("pub"))?;
    let hosts: Vec<&Host> = layout.hosts.iter().collect();
    control::each(&hosts, |host| {
        host_files::make(&directory, &base, host, &authorized)
    })?;
    write_host_keys(&directory, &layout)?;
    steps.done(&format!("files and keys of {} hosts", hosts.len()));

    fs_err::write(lab.inventory(), inventory::text(&layout))?;
    let rules = options.rules.text(binary.as_deref(), &lab.inventory())?;
    lab.load_rules(&rules)?;
    network::open_router()?;
    steps.done("router's rules");

    lab.start(&hosts)?;
    state.phase = Phase::Up;
    state.save()?;
    steps.done("all hosts answer");
    drop(lock);
    shell::say(&format!(
        "the lab is up after {:.1} s: {}",
        started.elapsed().as_secs_f64(),
        lab.inventory()
    ));
    Ok(Lab::new(state))
}

/// Makes sure that no lab is up, and that nothing of an earlier one is left.
fn clear(layout: &Layout) -> Result<()> {
    match State::load() {
        Ok(None) => {}
        Ok(Some(state)) if state.phase == Phase::Up && state.is_of_this_boot() => {
            let names: Vec<&str> = state
                .layout
                .hosts
                .iter()
                .map(|host| host.name.as_str())
                .collect();
            let same = if state.layout == *layout {
                ", the same as asked for"
            } else {
                ""
            };
            bail!(
                "a lab is up already ({}{same}): use it, or take it down with `cargo xtask lab down`",
                names.join(", ")
            );
        }
        Ok(Some(state)) => {
            shell::say("cleaning up after a lab that was cut short");
            return sweep(Some(&state));
        }
        Err(error) => shell::say(&format!(
            "cleaning up after a lab without its state ({error:#})"
        )),
    }
    sweep(None)
}

/// Sweeps, and keeps the state directory, whose lock is ours.
fn sweep(state: Option<&State>) -> Result<()> {
    teardown::sweep(state)?;
    fs_err::create_dir_all(super::state::DIRECTORY)?;
    Ok(())
}

/// Writes every host's fingerprint for people, and its key for ssh.
pub(super) fn write_host_keys(directory: &Utf8Path, layout: &Layout) -> Result<()> {
    let mut fingerprints = String::new();
    let mut known_hosts = String::new();
    for host in &layout.hosts {
        let (key, fingerprint) = host_files::host_key(directory, host)?;
        fingerprints.push_str(&format!("{} {fingerprint}\n", host.name));
        known_hosts.push_str(&format!("{} {key}\n", host.address));
    }
    fs_err::write(directory.join("fingerprints"), fingerprints)?;
    fs_err::write(directory.join("known_hosts"), known_hosts)?;
    Ok(())
}

impl Rules {
    /// The product's binary, if rules come from it; built if need be.
    fn binary(&self) -> Result<Option<Utf8PathBuf>> {
        match self {
            Self::Product => dist::binary().map(Some),
            Self::Binary(path) => Ok(Some(path.clone())),
            Self::File(_) | Self::Permissive => Ok(None),
        }
    }

    fn text(&self, binary: Option<&Utf8Path>, inventory: &Utf8Path) -> Result<String> {
        match (self, binary) {
            (Self::Permissive, _) => Ok(super::router::PERMISSIVE_RULES.to_owned()),
            (Self::File(path), _) => Ok(fs_err::read_to_string(path)?),
            (_, Some(binary)) => product_rules(binary, inventory),
            (_, None) => bail!("rules are to come from the product, but its binary is not known"),
        }
    }

    /// The rules for a lab that is up.
    pub fn read(&self, inventory: &Utf8Path) -> Result<String> {
        self.text(self.binary()?.as_deref(), inventory)
    }
}

fn product_rules(binary: &Utf8Path, inventory: &Utf8Path) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(["ports", "-i", inventory.as_str(), "--format", "nft"]);
    let text = shell::read(&mut command).context("asking the product for the router's rules")?;
    Ok(text + "\n")
}

/// One line per finished step, with its time.
struct Steps {
    last: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            last: Instant::now(),
        }
    }
}

impl Steps {
    fn done(&mut self, what: &str) {
        shell::say(&format!(
            "{:6.1} s  {what}",
            self.last.elapsed().as_secs_f64()
        ));
        self.last = Instant::now();
    }
}
