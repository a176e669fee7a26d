//! What is shown on real hosts. Scenarios of one group share a cluster and run
//! in order; each leaves it as it found it.

mod broken;
mod bundle_file;
mod damage;
mod failures;
mod foreign;
mod growth;
mod images;
mod interrupt;
mod left_behind;
mod lists;
mod masters;
mod patch;
pub mod pods;
mod random;
mod refusals;
mod restore;
mod rooms;
mod rows;
mod state;
mod two_platforms;
mod upgrade;
pub mod zones;

use crate::lab::{self, Lab};
use crate::product::Product;
use crate::{demo, shell};
use anyhow::{Context as _, Result, bail, ensure};
use std::process::Command;
use std::time::Instant;

/// Kubernetes' minor that scenarios install.
const MINOR: &str = "1.36";

/// What scenarios work with.
pub struct Context {
    pub product: Product,
}

impl Context {
    /// The lab as it is now; scenarios cut its hosts off and boot them.
    pub fn lab(&self) -> Result<Lab> {
        Lab::open()
    }
}

/// One thing that is shown.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Context) -> Result<()>,
}

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Scenarios that share a cluster, and the hosts for it.
struct Group {
    hosts: Hosts,
    scenarios: &'static [Scenario],
    site: SiteOf,
}

/// Whether a group's hosts are a cluster of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SiteOf {
    Itself,
    /// Compared with what the group before installed, so with its keys.
    GroupBefore,
}

/// How many hosts a group has.
#[derive(Clone, Copy)]
struct Hosts {
    masters: u8,
    workers: u8,
    witnesses: u8,
}

/// Runs the lab tier; `only` picks scenarios by parts of their names, divided by `|`
/// (installs that others build on run too).
pub fn run(only: Option<&str>) -> Result<Tally> {
    groups(lists::LAB, only)
}

/// Runs the chaos tier; see [`run`].
pub fn chaos(only: Option<&str>) -> Result<Tally> {
    groups(lists::CHAOS, only)
}

fn groups(groups: &[Group], only: Option<&str>) -> Result<Tally> {
    let context = Context {
        product: Product::for_lab(MINOR)?,
    };
    let mut tally = Tally::default();
    for each in groups {
        if each.site == SiteOf::Itself {
            demo::clear_site()?;
        }
        tally += group(&context, each.hosts, each.scenarios, only)?;
    }
    if let Some(only) = only
        && tally.passed + tally.failed == 0
    {
        bail!("no scenario of this tier has a name that contains `{only}`");
    }
    Ok(tally)
}

fn is_meant(scenario: &Scenario, only: Option<&str>) -> bool {
    only.is_none_or(|only| only.split('|').any(|part| scenario.name.contains(part)))
}

fn group(
    context: &Context,
    hosts: Hosts,
    scenarios: &[Scenario],
    only: Option<&str>,
) -> Result<Tally> {
    let wanted: Vec<&Scenario> = scenarios
        .iter()
        .filter(|scenario| is_meant(scenario, only) || scenario.name.starts_with("install"))
        .collect();
    let mut tally = Tally::default();
    if !wanted.iter().any(|scenario| is_meant(scenario, only)) {
        return Ok(tally);
    }
    fresh_hosts(context, hosts)?;
    let at_the_end = Scenario {
        name: "in all that: nothing was refused, nothing left the lab",
        run: failures::nothing_left,
    };
    for scenario in wanted.into_iter().chain([&at_the_end]) {
        let begun = Instant::now();
        let result = (scenario.run)(context);
        let seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                tally.passed += 1;
                shell::say(&format!("ok      {:<52} {seconds:>7.1} s", scenario.name));
            }
            Err(error) => {
                tally.failed += 1;
                shell::say(&format!(
                    "FAILED  {:<52} {seconds:>7.1} s\n{error:#}",
                    scenario.name
                ));
            }
        }
    }
    Lab::open()?.down()?;
    Ok(tally)
}

/// Takes down what is up and makes bare hosts, trusted anew.
fn fresh_hosts(context: &Context, hosts: Hosts) -> Result<()> {
    if let Ok(lab) = Lab::open() {
        lab.down()?;
    }
    let options = lab::Options {
        wanted: lab::Wanted {
            masters: hosts.masters,
            workers: hosts.workers,
            witnesses: hosts.witnesses,
            zones: Vec::new(),
        },
        // A way out that leads nowhere, so that whoever tries it is counted.
        default_route: lab::DefaultRoute::Absent,
        bandwidth: None,
        rules: lab::Rules::Binary(context.product.binary.clone()),
    };
    lab::up(&options)?;
    context.product.trust_hosts()
}

/// Bare hosts for an interrupted install, with the keys and decisions of the
/// undisturbed one, so that end states can be compared byte by byte.
fn bare_hosts(context: &Context, hosts: Hosts) -> Result<()> {
    fresh_hosts(context, hosts)?;
    let lab = crate::paths::lab()?;
    let (site, kept) = (lab.join("site"), lab.join(KEPT_SITE));
    for name in ["site.toml", "digest.key", "decisions.toml", "pki"] {
        shell::run(
            Command::new("cp")
                .arg("-a")
                .arg(kept.join(name))
                .arg(site.join(name)),
        )?;
    }
    Ok(())
}

/// Name of the undisturbed install's site, kept beside the lab's own.
const KEPT_SITE: &str = "kept-site";

fn install(context: &Context) -> Result<()> {
    context.product.install()?;
    let lab = crate::paths::lab()?;
    let kept = lab.join(KEPT_SITE);
    if kept.exists() {
        fs_err::remove_dir_all(&kept)?;
    }
    shell::run(
        Command::new("cp")
            .arg("-a")
            .arg(lab.join("site"))
            .arg(&kept),
    )?;
    let state = state::of(&context.lab()?)?;
    let path = lab.join("undisturbed-state.json");
    fs_err::write(path, serde_json::to_vec_pretty(&state)?)?;
    images::asked_for_by_digest_and_tag(&context.lab()?)
}

/// The state that the undisturbed install left.
pub fn undisturbed() -> Result<state::State> {
    let path = crate::paths::lab()?.join("undisturbed-state.json");
    let bytes = fs_err::read(path).context("the undisturbed install has not run")?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Fails with the first differences between two states.
pub fn same_state(expected: &state::State, found: &state::State) -> Result<()> {
    let differences = state::differences(expected, found);
    ensure!(
        differences.is_empty(),
        "the end state differs:\n{}",
        differences.join("\n")
    );
    Ok(())
}
