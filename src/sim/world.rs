//! All machines, the cluster on them, and the fault that a run meets.

use super::cluster::Cluster;
use super::disruption::Disrupted;
use super::machine::{Machine, START_TICKS, is_systems};
use super::skew::Minors;
use super::zones::{Cut, Heals, Link};
use crate::desired::{Condition, Desired, RegistryArtifact};
use crate::digest::Digest;
use crate::layout;
use crate::plan::Action;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// A fault at a moment of a run: before the operation of that number. An
/// operation is the smallest change that a host makes, such as a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub operation: usize,
    pub kind: FaultKind,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The run on the jump host is killed. Agents bring a disruptive step in
    /// hand to its end.
    RunKilled,
    /// The agent of the host is killed in the middle of an action.
    AgentKilled,
    /// The action is done to its end, but the answer is lost.
    AnswerLost,
    /// The host loses power, what was not synced with it, and boots again.
    PowerCut,
    /// The host's zone is cut off from all others: for so many moments of the
    /// model, or until the run has ended. Moments, since a run that only waits
    /// does no operations.
    ZoneLost { heals_after: Option<u64> },
    /// Somebody presses Ctrl-C.
    Interrupted,
}

impl FaultKind {
    pub const ALL: [Self; 7] = [
        Self::RunKilled,
        Self::AgentKilled,
        Self::AnswerLost,
        Self::PowerCut,
        Self::ZoneLost { heals_after: None },
        Self::ZoneLost {
            heals_after: Some(20),
        },
        Self::Interrupted,
    ];
}

/// What is left of a world after a run, as a line for each thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndState(BTreeSet<String>);

impl EndState {
    /// What only one of the two has: its own lines with `-`, the other's with
    /// `+`. Empty if both are equal.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let own = self.0.difference(&other.0).map(|line| format!("- {line}"));
        let others = other.0.difference(&self.0);
        own.chain(others.map(|line| format!("+ {line}"))).collect()
    }
}

/// The world behind all hosts of a simulation.
pub(super) struct World {
    pub machines: BTreeMap<String, Machine>,
    pub cluster: Cluster,
    /// What units read is taken from here instead of from their command
    /// lines.
    pub desired: Desired,
    /// What was ever to be in a registry, by the manifest that a tag names.
    pub artifacts: BTreeMap<Digest, RegistryArtifact>,
    /// Time, advanced by every request.
    pub now: u64,
    /// Operations done so far.
    pub operations: usize,
    pub fault: Option<Fault>,
    /// What Ctrl-C cancels in the run that goes on.
    pub stop: CancellationToken,
    /// How often a condition is still found not to hold.
    pub delays: Vec<(Condition, u32)>,
    /// Hosts whose connection is gone until the next run.
    pub lost: BTreeSet<String>,
    /// Zones that are cut off.
    pub cut: BTreeMap<String, Cut>,
    /// Hosts whose connection was silent for too long. Their agents bring a
    /// disruptive step in hand to its end.
    pub given_up: BTreeSet<String>,
    /// Hosts without power.
    pub off: BTreeSet<String>,
    /// Whether the run itself is gone.
    pub run_is_dead: bool,
    /// Hosts whose next answer does not arrive.
    pub answers_lost: BTreeSet<String>,
    /// Actions as hosts got them, in order.
    pub log: Vec<(String, Action)>,
    /// What is down by steps of ours.
    pub disrupted: Disrupted,
    pub minors: Minors,
    /// Rules of a sane cluster that were broken by a step of ours.
    pub violations: Vec<String>,
    /// Nothing becomes ready by itself after this moment.
    pub unsettled_until: u64,
    random: u64,
}

/// The connection to a host, or the run, is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Whether an operation goes on when its run dies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InHand {
    /// Stop, swap, start: the agent brings it to its end.
    Finished,
    /// Given up where it is.
    GivenUp,
}

/// Whether an operation survives a power cut that comes after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    Synced,
    Unsynced,
}

impl World {
    pub(super) fn new(machines: impl IntoIterator<Item = Machine>, seed: u64) -> Self {
        let machines = machines.into_iter();
        Self {
            machines: machines
                .map(|machine| (machine.name.clone(), machine))
                .collect(),
            cluster: Cluster::default(),
            desired: Desired::default(),
            artifacts: BTreeMap::new(),
            now: 0,
            operations: 0,
            fault: None,
            stop: CancellationToken::new(),
            delays: Vec::new(),
            lost: BTreeSet::new(),
            cut: BTreeMap::new(),
            given_up: BTreeSet::new(),
            off: BTreeSet::new(),
            run_is_dead: false,
            answers_lost: BTreeSet::new(),
            log: Vec::new(),
            disrupted: Disrupted::new(),
            minors: Minors::default(),
            violations: Vec::new(),
            unsettled_until: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// Below `bound`, by the seed (xorshift).
    pub(super) fn random(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    /// One operation on a host, unless a fault is due or was.
    pub(super) fn operate(
        &mut self,
        host: &str,
        in_hand: InHand,
        durability: Durability,
        change: impl FnOnce(&mut Machine, u64),
    ) -> Result<(), Gone> {
        self.meet_fault(host);
        let run_is_gone = self.link(host) == Link::Gone && in_hand == InHand::GivenUp;
        if run_is_gone || self.lost.contains(host) || self.off.contains(host) {
            return Err(Gone);
        }
        self.advance();
        let now = self.now;
        let had_quorum = self.etcd_has_quorum();
        // Nothing else stops a unit.
        let served = match in_hand {
            InHand::Finished => self.serving(host),
            InHand::GivenUp => Vec::new(),
        };
        let Some(machine) = self.machines.get_mut(host) else {
            return Err(Gone);
        };
        change(machine, now);
        if durability == Durability::Synced {
            machine.sync();
        }
        // A restore stops all that has to do with etcd, which is announced.
        let is_restored = self.desired.restore.is_some();
        // One or two members can't be restarted without; that is announced.
        if !is_restored && had_quorum && !self.etcd_has_quorum() && self.etcd_voters().len() > 2 {
            self.violations
                .push(format!("{host}: a step of ours cost etcd its quorum"));
        }
        if !is_restored {
            self.note_disruptions(host, &served);
        }
        self.note_skew();
        self.unsettle();
        Ok(())
    }

    /// Something changed, of which more may follow.
    pub(super) fn unsettle(&mut self) {
        self.unsettled_until = self.now + START_TICKS;
        self.settle();
    }

    /// One moment later.
    pub(super) fn pass_time(&mut self) {
        self.advance();
        if self.now <= self.unsettled_until {
            self.settle();
        }
    }

    /// Lets the fault happen if this is its moment.
    pub(super) fn meet_fault(&mut self, host: &str) {
        let operation = self.operations;
        self.operations += 1;
        let Some(fault) = self.fault.filter(|fault| fault.operation == operation) else {
            return;
        };
        self.fault = None;
        match fault.kind {
            FaultKind::RunKilled => self.run_is_dead = true,
            FaultKind::Interrupted => self.stop.cancel(),
            FaultKind::AgentKilled => {
                self.lost.insert(host.to_owned());
            }
            FaultKind::AnswerLost => {
                self.answers_lost.insert(host.to_owned());
            }
            FaultKind::ZoneLost { heals_after } => {
                let heals = match heals_after {
                    Some(moments) => Heals::At(self.now + moments),
                    None => Heals::WithTheNextRun,
                };
                if let Some(zone) = self.zone_of(host).map(str::to_owned) {
                    self.cut_zone(&zone, heals);
                }
            }
            FaultKind::PowerCut => {
                self.lost.insert(host.to_owned());
                self.cut_power(host);
            }
        }
    }

    /// The host loses what is not synced and what is in memory, and boots.
    pub(super) fn cut_power(&mut self, host: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(host) else {
            return;
        };
        machine.lose_unsynced();
        machine.reset_memory(now);
        let mut waiting = machine.disk.enabled.clone();
        self.forget_disruptions_of(host);
        waiting.retain(|unit| !is_systems(unit));
        // Units whose time has not come are tried again, as systemd does.
        loop {
            let startable = waiting
                .iter()
                .find(|unit| self.why_not_startable(host, unit).is_none());
            let Some(unit) = startable.cloned() else {
                break;
            };
            waiting.remove(&unit);
            if let Some(machine) = self.machines.get_mut(host) {
                machine.start_process(&unit, now);
            }
        }
        self.unsettle();
    }

    /// Takes a host's power away, until it is switched on.
    pub(super) fn switch_off(&mut self, host: &str) {
        let now = self.now;
        if let Some(machine) = self.machines.get_mut(host) {
            machine.lose_unsynced();
            machine.reset_memory(now);
            self.off.insert(host.to_owned());
            self.forget_disruptions_of(host);
        }
        self.unsettle();
    }

    /// Gives a host its power back.
    pub(super) fn switch_on(&mut self, host: &str) {
        if self.off.remove(host) {
            self.cut_power(host);
        }
    }

    /// The next run finds all connections whole and its own life ahead.
    pub(super) fn reconnect(&mut self) {
        self.heal(|_, heals| heals != Heals::WhenTold);
        self.resume_units();
        self.lost.clear();
        self.given_up.clear();
        self.answers_lost.clear();
        self.run_is_dead = false;
        self.stop = CancellationToken::new();
        self.fault = None;
        for machine in self.machines.values_mut() {
            // It ends with the agent that started it.
            machine.memory.is_seeding = false;
        }
    }

    /// systemd lets them go on; a run that could have is to have done so.
    fn resume_units(&mut self) {
        let mut left = Vec::new();
        for (name, machine) in &mut self.machines {
            let is_cut_off = self.lost.contains(name) || self.given_up.contains(name);
            if machine.memory.suspended.is_empty() {
                continue;
            }
            machine.memory.suspended.clear();
            if !is_cut_off && !self.run_is_dead {
                left.push(format!("{name}: units were left suspended"));
            }
        }
        self.violations.extend(left);
    }

    /// Counts down a condition that takes its time.
    pub(super) fn is_delayed(&mut self, condition: &Condition) -> bool {
        let mut delays = self.delays.iter_mut();
        match delays.find(|(known, left)| known == condition && *left > 0) {
            Some((_, left)) => {
                *left -= 1;
                true
            }
            None => false,
        }
    }

    /// Units whose process does not carry what is desired.
    pub(super) fn stale_units(&self) -> Vec<String> {
        let mut stale = Vec::new();
        for (name, host) in &self.desired.hosts {
            for unit in host.units.iter().filter(|unit| unit.inputs.is_some()) {
                let machine = self.machines.get(name);
                if unit.name == layout::NETWORK_MANAGER {
                    if machine.is_some_and(Machine::has_stale_network_manager) {
                        stale.push(format!("{name}: {}", unit.name));
                    }
                    continue;
                }
                let process = machine.and_then(|machine| machine.memory.processes.get(&unit.name));
                if process.and_then(|process| process.inputs) != unit.inputs {
                    stale.push(format!("{name}: {}", unit.name));
                }
            }
        }
        stale
    }

    /// What is left.
    pub(super) fn end_state(&self) -> EndState {
        let mut lines = BTreeSet::new();
        for machine in self.machines.values() {
            let name = &machine.name;
            let own = machine.describe().into_iter();
            lines.extend(own.map(|line| format!("{name}: {line}")));
            if self.node_is_ready(name) {
                lines.insert(format!("{name}: ready"));
            }
        }
        let members = self.cluster.members.iter();
        lines.extend(members.map(|(name, vote)| format!("etcd has {name} as {vote:?}")));
        let manifests = self.cluster.manifests.iter();
        lines.extend(manifests.map(|(name, yaml)| format!("applied {name} {}", Digest::of(yaml))));
        EndState(lines)
    }
}

/// The world as hosts and site share it.
#[derive(Clone)]
pub(super) struct SharedWorld(Arc<Mutex<World>>);

impl SharedWorld {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut world)
    }

    /// An operation on the jump host: only the death of the run matters there.
    pub(super) fn site_operation(&self) -> anyhow::Result<()> {
        self.with(|world| {
            world.meet_fault(crate::plan::SITE);
            if world.run_is_dead {
                anyhow::bail!("the run was killed");
            }
            Ok(())
        })
    }
}
