//! What is shown on real hosts. Scenarios of one group share a cluster and run
//! in order; each leaves it as it found it.

mod bundle_file;
mod failures;
mod growth;
mod interrupt;
pub mod pods;
mod refusals;
mod rooms;
mod rows;
mod state;
pub mod zones;

use crate::lab::{self, Lab};
use crate::product::Product;
use crate::{demo, shell};
use anyhow::{Context as _, Result, ensure};
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

/// The default lab: one master, two workers, two zones.
const SMALL: &[Scenario] = &[
    Scenario {
        name: "a bundle is read by skopeo and minisign",
        run: bundle_file::standard_tools,
    },
    Scenario {
        name: "refused: a host that is off",
        run: refusals::unreachable_host,
    },
    Scenario {
        name: "refused: a changed host key",
        run: refusals::changed_host_key,
    },
    Scenario {
        name: "refused: a user who can't become root",
        run: refusals::user_without_root,
    },
    Scenario {
        name: "refused: an architecture that the bundle lacks",
        run: refusals::lacking_architecture,
    },
    Scenario {
        name: "refused: a disk too small",
        run: refusals::full_disk,
    },
    Scenario {
        name: "refused: a second run while one is going on",
        run: refusals::second_run,
    },
    Scenario {
        name: "install from bare hosts",
        run: install,
    },
    Scenario {
        name: "nodes are Ready, with zone and role",
        run: |c| pods::nodes_ready(&c.product),
    },
    Scenario {
        name: "pods and Services across zones",
        run: |c| pods::network(&c.product),
    },
    Scenario {
        name: "a ClusterIP from a host itself",
        run: failures::cluster_ip_from_hosts,
    },
    Scenario {
        name: "a pod through its own Service",
        run: |c| pods::own_service(&c.product),
    },
    Scenario {
        name: "10 MB through a ClusterIP across zones",
        run: |c| pods::large_transfer(&c.product),
    },
    Scenario {
        name: "DNS in pods",
        run: |c| pods::dns(&c.product),
    },
    Scenario {
        name: "kubectl logs, exec and top",
        run: |c| pods::kubectl_tools(&c.product),
    },
    Scenario {
        name: "Secrets are ciphertext in etcd",
        run: |c| pods::secrets_encrypted(&c.product),
    },
    Scenario {
        name: "nodes pulled from the registry",
        run: failures::registry_was_used,
    },
    Scenario {
        name: "a second install has zero steps",
        run: failures::second_install,
    },
    Scenario {
        name: "nothing tried to leave the lab",
        run: failures::nothing_left,
    },
    Scenario {
        name: "a lost restart is found",
        run: failures::lost_restart,
    },
    Scenario {
        name: "drift is found and put back",
        run: failures::drift,
    },
    Scenario {
        name: "the jump host needs no root, hosts only sudo",
        run: failures::ordinary_user,
    },
    Scenario {
        name: "master off: Services go on; boot brings it back",
        run: failures::master_off,
    },
    Scenario {
        name: "all hosts off and on together",
        run: failures::all_off_and_on,
    },
];

/// Fresh hosts, and an install that doesn't come to its end at first.
const INTERRUPTED: &[Scenario] = &[Scenario {
    name: "kill -9 of the CLI and of agents, and power cuts",
    run: interrupt::nine_blows,
}];

/// Three masters in three zones, and two workers.
const THREE_ZONES: &[Scenario] = &[
    Scenario {
        name: "install over three zones, killed once",
        run: interrupt::killed_once,
    },
    Scenario {
        name: "three zones: nodes are Ready, with zone and role",
        run: |c| pods::nodes_ready(&c.product),
    },
    Scenario {
        name: "three zones: pods and Services",
        run: |c| pods::network(&c.product),
    },
    Scenario {
        name: "three zones: nodes pulled from their own zone's registry",
        run: failures::registry_was_used,
    },
    Scenario {
        name: "three zones: status is fine",
        run: |c| zones::status_is_fine(&c.product),
    },
    Scenario {
        name: "three zones: a second install has zero steps",
        run: failures::second_install,
    },
    Scenario {
        name: "three zones: nothing was refused, nothing left the lab",
        run: failures::nothing_left,
    },
    Scenario {
        name: "three zones: a registry stopped, another stands in",
        run: zones::registry_stopped,
    },
    Scenario {
        name: "three zones: a zone's second registry fills from its first",
        run: zones::second_registry,
    },
    Scenario {
        name: "three zones: a row of each kind removed",
        run: rows::one_of_each,
    },
    Scenario {
        name: "three zones: the first master off and on",
        run: zones::first_master_off,
    },
    Scenario {
        name: "three zones: a zone cut off and healed",
        run: zones::zone_cut,
    },
    Scenario {
        name: "three zones: all hosts off and on together",
        run: failures::all_off_and_on,
    },
];

/// The same hosts, one after the other.
const GROWING: &[Scenario] = &[
    Scenario {
        name: "install: a master alone runs pods",
        run: growth::alone,
    },
    Scenario {
        name: "growing: one master becomes three under writes",
        run: growth::one_becomes_three,
    },
    Scenario {
        name: "growing: a worker joins while the first master is off",
        run: growth::worker_joins_without_the_first_master,
    },
];

/// Two rooms and a witness elsewhere.
const ROOMS: &[Scenario] = &[
    Scenario {
        name: "install: two rooms and a witness",
        run: rooms::install,
    },
    Scenario {
        name: "two rooms: one cut off and healed",
        run: rooms::one_cut,
    },
];

/// The same at length.
const EACH_ROOM: &[Scenario] = &[
    Scenario {
        name: "install: two rooms and a witness",
        run: rooms::install,
    },
    Scenario {
        name: "two rooms: each cut off and healed, and the witness",
        run: rooms::each_cut,
    },
];

/// Long runs, outside of what runs by default.
const LOSSES: &[Scenario] = &[
    Scenario {
        name: "install over three zones",
        run: install,
    },
    Scenario {
        name: "each row between zones removed",
        run: rows::each,
    },
    Scenario {
        name: "each master off and on",
        run: zones::each_master_off,
    },
    Scenario {
        name: "each zone cut off and healed",
        run: zones::each_zone_cut,
    },
    Scenario {
        name: "ten random kills of an install over three zones",
        run: interrupt::ten_random_kills,
    },
];

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

const ONE_MASTER: Hosts = Hosts {
    masters: 1,
    workers: 2,
    witnesses: 0,
};
const THREE_MASTERS: Hosts = Hosts {
    masters: 3,
    workers: 2,
    witnesses: 0,
};
const TWO_ROOMS: Hosts = Hosts {
    masters: 2,
    workers: 2,
    witnesses: 1,
};

const LAB: &[Group] = &[
    Group {
        hosts: ONE_MASTER,
        scenarios: SMALL,
        site: SiteOf::Itself,
    },
    Group {
        hosts: ONE_MASTER,
        scenarios: INTERRUPTED,
        site: SiteOf::GroupBefore,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: THREE_ZONES,
        site: SiteOf::Itself,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: GROWING,
        site: SiteOf::Itself,
    },
    Group {
        hosts: TWO_ROOMS,
        scenarios: ROOMS,
        site: SiteOf::Itself,
    },
];

const CHAOS: &[Group] = &[
    Group {
        hosts: THREE_MASTERS,
        scenarios: LOSSES,
        site: SiteOf::Itself,
    },
    Group {
        hosts: TWO_ROOMS,
        scenarios: EACH_ROOM,
        site: SiteOf::Itself,
    },
];

/// Runs the lab tier; `only` picks scenarios by part of their name (those that
/// others build on run too).
pub fn run(only: Option<&str>) -> Result<Tally> {
    groups(LAB, only)
}

/// Runs the chaos tier; see [`run`].
pub fn chaos(only: Option<&str>) -> Result<Tally> {
    groups(CHAOS, only)
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
    Ok(tally)
}

#[derive(Clone, Copy)]
struct Hosts {
    masters: u8,
    workers: u8,
    witnesses: u8,
}

fn group(
    context: &Context,
    hosts: Hosts,
    scenarios: &[Scenario],
    only: Option<&str>,
) -> Result<Tally> {
    let wanted: Vec<&Scenario> = scenarios
        .iter()
        .filter(|scenario| {
            only.is_none_or(|only| scenario.name.contains(only))
                || scenario.name.starts_with("install")
        })
        .collect();
    let mut tally = Tally::default();
    if !wanted
        .iter()
        .any(|scenario| only.is_none_or(|only| scenario.name.contains(only)))
    {
        return Ok(tally);
    }
    fresh_hosts(context, hosts)?;
    for scenario in wanted {
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
    Ok(())
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
