//! A whole run, as `install` makes it: observe, decide, plan, execute.

use super::bundle::{SimulatedBundle, bundle_view};
use super::host::SimulatedHost;
use super::machine::{Disk, Machine, MachineOptions};
use super::site::{SimulatedMint, SimulatedSite};
use super::world::{EndState, Fault, SharedWorld, World as Model};
use super::zones::Heals;
use crate::desired::held::stored_binary;
use crate::desired::{
    Condition, Desired, DigestKey, EtcdRestore, Held, Part, Software, Until, desired,
};
use crate::event::{Event, EventSink};
use crate::execute::{Finished, Patience, Pauses, Run, Stopped, execute};
use crate::facts::{ClusterFacts, HostFacts, ObserveRequest};
use crate::host::{Call, Host, Request, Response};
use crate::inventory::Inventory;
use crate::plan::decisions::decide;
use crate::plan::rollback::{Past, Target, targets};
use crate::plan::world::observe_cluster_request;
use crate::plan::{Action, Plan, World, cluster_host, observe_requests, plan, restore};
use crate::site::{Decisions, SiteView};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Simulated machines with a site and a bundle.
pub struct Simulation {
    pub inventory: Inventory,
    pub software: Software,
    pub blobs: SimulatedBundle,
    pub site: SimulatedSite,
    /// Hosts that runs leave out.
    pub left_out: BTreeSet<String>,
    /// A restore of etcd that is not done.
    pub restore: Option<EtcdRestore>,
    /// The hosts that a rollback is about.
    pub only: Option<BTreeSet<String>>,
    /// How far runs go.
    pub until: Option<Until>,
    /// The generations from which a run began that has not come to its end.
    begun: Mutex<Option<BTreeMap<String, u64>>>,
    /// Names of the hosts that the last change that came to its end left out.
    last_left_out: Mutex<BTreeSet<String>>,
    /// Asked between what runs interrupt.
    pub pauses: Option<Box<dyn Pauses>>,
    world: SharedWorld,
    hosts: BTreeMap<String, Arc<dyn Host>>,
}

/// What a dry run finds.
pub struct Planned {
    pub plan: Plan,
    pub desired: Desired,
    pub world: World,
    pub key: Option<DigestKey>,
    /// What the plan's minting records.
    pub decisions: Decisions,
}

/// What a run did.
pub struct Ran {
    pub planned: Planned,
    pub result: Result<Finished, Stopped>,
    pub events: Vec<Event>,
    /// Actions as hosts got them, in order, with their host.
    pub log: Vec<(String, Action)>,
}

/// Events are kept.
#[derive(Default)]
struct Collected(Mutex<Vec<Event>>);

impl EventSink for Collected {
    fn emit(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }
}

impl Simulation {
    /// New machines for every host of the inventory, with swap and without a
    /// default route. The seed decides how lanes interleave.
    ///
    /// # Errors
    /// When the inventory is not valid.
    pub fn new(inventory: &str, seed: u64) -> Result<Self> {
        let file = camino::Utf8Path::new("inventory.toml");
        let inventory = crate::inventory::parse(inventory, file)?;
        let machines = inventory.hosts.iter().map(|host| {
            let options = MachineOptions {
                zone: host.zone.clone(),
                address: IpAddr::V4(host.address),
                has_default_route: false,
                has_swap: true,
                has_network_manager: false,
                mtu: 1500,
            };
            Machine::new(&host.name, options)
        });
        let world = SharedWorld::new(Model::new(machines, seed));
        let hosts = inventory.hosts.iter().map(|host| {
            let simulated: Arc<dyn Host> = Arc::new(SimulatedHost {
                name: host.name.clone(),
                world: world.clone(),
            });
            (host.name.clone(), simulated)
        });
        let software = Software::of(bundle_view(""));
        world.with(|world| world.minors.learn(&software.whole));
        Ok(Self {
            hosts: hosts.collect(),
            world,
            inventory,
            software,
            blobs: SimulatedBundle::new(""),
            site: SimulatedSite::default(),
            left_out: BTreeSet::new(),
            restore: None,
            only: None,
            until: None,
            pauses: None,
            begun: Mutex::default(),
            last_left_out: Mutex::default(),
        })
    }

    /// Takes another edition of the bundle from now on.
    pub fn take_bundle(&mut self, edition: &str) {
        self.software = Software::of(bundle_view(edition));
        self.world
            .with(|world| world.minors.learn(&self.software.whole));
        self.blobs.take(edition);
    }

    /// Takes another edition for the control plane, to soak.
    pub fn soak(&mut self, edition: &str) {
        let soaking = bundle_view(edition);
        self.world.with(|world| world.minors.learn(&soaking));
        self.software.soaking = Some(soaking);
        self.blobs.take(edition);
    }

    /// Leaves the jump host without any bundle.
    pub fn lose_bundles(&mut self) {
        self.blobs = SimulatedBundle::default();
    }

    /// Begins to restore etcd from a snapshot of that name.
    pub fn begin_restore(&mut self, snapshot: &str) {
        let (snapshot, size) = self.blobs.add(snapshot);
        self.restore = Some(EtcdRestore {
            token: "restore".to_owned(),
            snapshot,
            size,
        });
    }

    /// Has hosts go back to generations of their own, as `rollback` does. They
    /// keep what that brings until [`Simulation::take_along`]. Returns what goes
    /// back, by host.
    ///
    /// # Errors
    /// When a host can't be asked, or can't go back.
    pub async fn roll_back(&mut self, back: &[&str]) -> Result<BTreeMap<String, BTreeSet<Part>>> {
        let request = ObserveRequest {
            units: ["kube-apiserver.service".to_owned()].into(),
            ..ObserveRequest::default()
        };
        self.world.with(Model::reconnect);
        let mut held = self.site.view().held;
        let mut seen = BTreeMap::new();
        for name in back.iter().filter(|name| !held.contains_key(**name)) {
            let facts = self.observe(name, request.clone()).await?;
            let generations = match self.call(name, Request::ReadGenerations).await? {
                Response::Generations { generations } => generations,
                _ => bail!("{name}: answered something else than generations"),
            };
            seen.insert((*name).to_owned(), (facts, generations));
        }
        let pasts = seen.iter().map(|(name, (facts, generations))| {
            let past = Past { facts, generations };
            (name.clone(), past)
        });
        let pasts: BTreeMap<String, Past> = pasts.collect();
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = begun.clone();
        let left_out = self.last_left_out.lock();
        let left_out = left_out.unwrap_or_else(PoisonError::into_inner).clone();
        let targets = targets(&pasts, begun.as_ref(), &left_out);
        let targets = targets.map_err(|why| anyhow::anyhow!("{why}"))?;
        let mut told = BTreeMap::new();
        for (name, target) in targets {
            let Target::To {
                stored,
                parts,
                left,
            } = target
            else {
                continue;
            };
            let binary = |program: &str, digest| stored_binary(program, digest, stored);
            told.insert(name.to_owned(), parts.clone());
            let kept = Held::new(stored, (parts, left.is_empty()), binary);
            let kept = kept.map_err(|what| anyhow::anyhow!("{name} lacks {what}"))?;
            held.insert(name.to_owned(), kept);
        }
        self.only = Some(told.keys().cloned().collect());
        self.site.hold(held);
        Ok(told)
    }

    /// Has all hosts be as the inventory says again, as `upgrade` does.
    pub fn take_along(&mut self) {
        self.only = None;
        self.site.hold(BTreeMap::new());
    }

    /// Puts a new machine in a host's place.
    pub fn replace(&self, host: &str) {
        self.world.with(|world| {
            if let Some(machine) = world.machines.get_mut(host) {
                *machine = Machine::new(host, machine.options.clone());
            }
            world.forget_disruptions_of(host);
        });
        self.let_time_pass();
    }

    /// Takes another inventory of the same hosts from now on.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn take_inventory(&mut self, inventory: &str) -> Result<()> {
        let file = camino::Utf8Path::new("inventory.toml");
        self.inventory = crate::inventory::parse(inventory, file)?;
        Ok(())
    }

    /// Observes everything and makes the plan.
    ///
    /// # Errors
    /// When a host can't be observed, or desired state can't be made.
    pub async fn plan(&self) -> Result<Planned> {
        self.world.with(Model::reconnect);
        let view = self.site.view();
        let key = view.digest_key.clone();
        let default = ObserveRequest::default();
        let mut first = BTreeMap::new();
        for name in self
            .hosts
            .keys()
            .filter(|name| !self.left_out.contains(*name))
        {
            first.insert(name.clone(), self.observe(name, default.clone()).await?);
        }
        let (mut decisions, mut new) = decide(&view.decisions, &self.inventory, &first);
        if self.restore.is_some() {
            new.extend(restore::decide(&mut decisions, &self.inventory));
        }
        let view = SiteView {
            decisions: decisions.clone(),
            ..view
        };
        let mut desired = desired(&self.inventory, &self.software, &view)?;
        desired.to_decide = new;
        desired.restore.clone_from(&self.restore);
        desired.only.clone_from(&self.only);
        desired.until.clone_from(&self.until);
        self.world.with(|world| world.desire(desired.clone()));
        let mut world = World::default();
        for (name, request) in observe_requests(&desired, key.as_ref()) {
            if self.left_out.contains(&name) {
                continue;
            }
            let facts = self.observe(&name, request).await?;
            world.hosts.insert(name, facts);
        }
        let master = cluster_host(&desired, &world.hosts).unwrap_or_default();
        world.cluster_host = master.to_owned();
        world.cluster = self.observe_cluster(&world.cluster_host, &desired).await;
        Ok(Planned {
            plan: plan(&desired, &world, key.as_ref()),
            desired,
            world,
            key,
            decisions,
        })
    }

    /// Runs a plan, meeting the fault if one is given.
    pub async fn run(&self, planned: Planned, fault: Option<Fault>) -> Ran {
        let (stop, logged) = self.world.with(|world| {
            world.fault = fault.map(|fault| Fault {
                operation: world.operations + fault.operation,
                ..fault
            });
            (world.stop.clone(), world.log.len())
        });
        let events = Collected::default();
        let mut hosts = self.hosts.clone();
        hosts.retain(|name, _| !self.left_out.contains(name));
        let mint = SimulatedMint {
            site: &self.site,
            world: &self.world,
            inventory: &self.inventory,
            software: &self.software,
            decisions: &planned.decisions,
            restore: self.restore.as_ref(),
            only: self.only.as_ref(),
            until: self.until.as_ref(),
        };
        let run = Run {
            plan: &planned.plan,
            desired: planned.desired.clone(),
            world: &planned.world,
            hosts: &hosts,
            blobs: &self.blobs,
            mint: &mint,
            events: &events,
            stop,
            patience: Patience {
                interval: Duration::ZERO,
                attempts: 20,
            },
            pauses: self.pauses.as_deref(),
        };
        let numbers =
            planned.world.hosts.iter().filter_map(|(name, facts)| {
                Some((name.clone(), facts.generation.as_ref()?.number))
            });
        let is_rollback = self.only.is_some();
        if !is_rollback {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            // A host that was left out until now comes along from where it is.
            let noted = begun.take().unwrap_or_default();
            let mut all: BTreeMap<String, u64> = numbers.collect();
            all.extend(noted);
            *begun = Some(all);
        }
        let result = execute(run).await;
        if !is_rollback && result.is_ok() && planned.plan.stops_before.is_empty() {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            *begun = None;
            if !planned.plan.is_empty() {
                let left_out = self.last_left_out.lock();
                left_out
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone_from(&self.left_out);
            }
        }
        let log = self.world.with(|world| world.log.split_off(logged));
        Ran {
            planned,
            result,
            events: events
                .0
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
            log,
        }
    }

    /// Plans and runs.
    ///
    /// # Errors
    /// Those of [`Simulation::plan`]; a run that stops is in the result.
    pub async fn install(&self, fault: Option<Fault>) -> Result<Ran> {
        let planned = self.plan().await?;
        Ok(self.run(planned, fault).await)
    }

    /// Operations so far, for choosing the moment of a fault.
    pub fn operations(&self) -> usize {
        self.world.with(|world| world.operations)
    }

    /// Sane rules that steps of ours have broken.
    pub fn violations(&self) -> Vec<String> {
        self.world.with(|world| world.violations.clone())
    }

    /// Units whose process does not carry what the last plan wanted.
    pub fn stale_units(&self) -> Vec<String> {
        self.world.with(|world| world.stale_units())
    }

    /// Lets a condition be found not to hold for the next so many looks.
    pub fn delay(&self, condition: Condition, looks: u32) {
        self.world
            .with(|world| world.delays.push((condition, looks)));
    }

    /// What hosts and cluster have come to, once all has come up.
    pub fn end_state(&self) -> EndState {
        self.let_time_pass();
        self.world.with(|world| world.end_state())
    }

    /// What is on a machine's disk; empty if there is no such machine.
    pub fn disk(&self, host: &str) -> Disk {
        self.world.with(|world| {
            let machine = world.machines.get(host);
            machine
                .map(|machine| machine.disk.clone())
                .unwrap_or_default()
        })
    }

    /// Long enough for everything that is on its way up.
    pub fn let_time_pass(&self) {
        const MOMENTS: u64 = 10;
        self.world.with(|world| {
            for _ in 0..MOMENTS {
                world.advance();
                world.settle();
            }
        });
    }

    /// Changes a machine behind cofferdam's back; what is changed on its disk
    /// survives.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn tamper(&self, host: &str, change: impl FnOnce(&mut Machine)) -> Result<()> {
        self.world.with(|world| {
            let machine = world.machines.get_mut(host);
            let machine = machine.with_context(|| format!("there is no machine `{host}`"))?;
            change(machine);
            world.forget_disruptions_of(host);
            Ok(())
        })
    }

    /// Changes what is applied in the cluster behind cofferdam's back.
    pub fn tamper_with_manifests(&self, set: &str, yaml: &str) {
        self.world.with(|world| {
            world
                .cluster
                .manifests
                .insert(set.to_owned(), yaml.to_owned());
        });
    }

    /// Takes a host's power away, until it is switched on.
    pub fn switch_off(&self, host: &str) {
        self.world.with(|world| world.switch_off(host));
        self.let_time_pass();
    }

    /// Gives a host its power back.
    pub fn switch_on(&self, host: &str) {
        self.world.with(|world| world.switch_on(host));
        self.let_time_pass();
    }

    /// Cuts a zone off from all others and from the jump host, until it is
    /// healed.
    pub fn cut_zone(&self, zone: &str) {
        self.world
            .with(|world| world.cut_zone(zone, Heals::WhenTold));
        self.let_time_pass();
    }

    /// Lets a zone and the others reach each other again.
    pub fn heal_zone(&self, zone: &str) {
        self.world.with(|world| world.heal(|cut, _| cut == zone));
        self.let_time_pass();
    }

    /// Hosts whose API server reads and writes.
    pub fn ready_api_servers(&self) -> BTreeSet<String> {
        self.world.with(|world| world.ready_api_servers())
    }

    /// Nodes that the cluster has as ready.
    pub fn ready_nodes(&self) -> BTreeSet<String> {
        self.world.with(|world| world.ready_nodes())
    }

    /// Names of the nodes that runs have cordoned.
    pub fn cordoned_nodes(&self) -> BTreeSet<String> {
        self.world.with(|world| world.cluster.cordoned.clone())
    }

    /// Turns hosts off and on again, all at once.
    pub fn power_cycle<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) {
        self.world.with(|world| {
            for host in hosts {
                world.cut_power(host);
            }
        });
        self.let_time_pass();
    }

    async fn observe(&self, name: &str, request: ObserveRequest) -> Result<HostFacts> {
        match self.call(name, Request::Observe(request)).await? {
            Response::Facts(facts) => Ok(*facts),
            _ => bail!("{name}: answered something else than facts"),
        }
    }

    async fn observe_cluster(&self, master: &str, desired: &Desired) -> Option<ClusterFacts> {
        let request = observe_cluster_request(desired);
        match self.call(master, request).await {
            Ok(Response::Cluster(facts)) => Some(*facts),
            _ => None,
        }
    }

    async fn call(&self, name: &str, request: Request) -> Result<Response> {
        let host = self.hosts.get(name);
        let host = host.with_context(|| format!("there is no machine `{name}`"))?;
        let call = Call {
            request,
            body: None,
            notices: &|_| {},
            limit: Duration::from_secs(1),
        };
        Ok(host.call(call).await?)
    }
}
