//! From desired state and facts to a plan: pure, printable, serialisable.

pub mod action;
pub mod checks;
pub mod decisions;
pub mod diff;
pub mod generation;
pub mod membership;
mod order;
pub mod outlook;
mod pace;
pub mod render;
pub mod restore;
pub mod rollback;
pub mod safety;
mod stages;
pub(crate) mod title;
pub mod versions;
pub mod world;

use crate::desired::{Desired, DigestKey, Stage};
pub use action::*;
pub use diff::Comparison;
pub use render::{before, json, text};
pub use safety::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
pub use world::{World, cluster_host, observe_requests};

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// Hosts and cluster as the inventory says, in the versions that they have.
    #[default]
    Install,
    /// To the versions of the bundle; to a new minor with the control plane
    /// first, which behaves as the old one until it is finished.
    Upgrade,
    /// To the versions of the bundle in one go.
    UpgradeAtOnce,
    /// From a control plane that soaks to all that the bundle has.
    Finish,
    /// From a control plane that soaks to what it was before.
    Rollback,
}

impl Intent {
    /// Whether versions may go forward.
    pub fn upgrades(self) -> bool {
        !matches!(self, Self::Install | Self::Rollback)
    }
}

/// The name under which steps on the jump host appear.
pub const SITE: &str = "site";

/// The ordered list of stages. A dry run prints this value, a run executes
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub stages: Vec<StagePlan>,
    /// Why it can't be run as the hosts are now. Empty for a plan that can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// The hosts whose turn comes next, where the plan was asked to end before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stops_before: Vec<String>,
}

/// A stage or a part of one: its lanes run side by side, and it ends when all
/// of them have. A stage that interrupts what runs has several, one after the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    pub stage: Stage,
    pub lanes: Vec<Lane>,
}

/// The steps for one host within a stage, one after the other. A step may be
/// done elsewhere: a master is asked whether the host's node is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    pub host: String,
    pub steps: Vec<Step>,
}

impl StagePlan {
    /// Whether a step of it interrupts something.
    pub fn interrupts(&self) -> bool {
        self.lanes.iter().any(order::is_disruptive)
    }
}

impl Plan {
    /// All steps, stage by stage, lane by lane.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages
            .iter()
            .flat_map(|stage| &stage.lanes)
            .flat_map(|lane| &lane.steps)
    }

    /// Leaves out what is for other hosts, and what only a bundle could bring.
    fn keep_only(&mut self, hosts: &BTreeSet<String>) {
        let is_of_bundle = |step: &Step| {
            matches!(
                step.action,
                Action::Seed { .. } | Action::CopyArtifacts { .. } | Action::PullImages { .. }
            )
        };
        for stage in &mut self.stages {
            for lane in &mut stage.lanes {
                lane.steps.retain(|step| !is_of_bundle(step));
            }
            stage.lanes.retain(|lane| {
                let is_kept = lane.host == SITE || hosts.contains(&lane.host);
                is_kept && !lane.steps.is_empty()
            });
        }
        self.stages.retain(|stage| !stage.lanes.is_empty());
        self.refusals
            .retain(|refusal| hosts.contains(refusal.host()));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps().next().is_none()
    }
}

/// What makes the world as desired, in the order in which it is safe. `key`
/// is the site's key for digests of secrets, none before the first minting.
///
/// The list below is the order of every run: what a line returns is done, on
/// all its hosts, before the next line begins.
pub fn plan(desired: &Desired, world: &World, key: Option<&DigestKey>) -> Plan {
    let without_etcd = restore::without_etcd(desired, world);
    let world = without_etcd.as_ref().unwrap_or(world);
    let comparison = Comparison::new(desired, world, key);
    let mut plan = Plan {
        refusals: safety::review(&comparison),
        ..Plan::default()
    };
    for (stage, parts) in [
        (Stage::Site, stages::mint as stages::Part),
        (Stage::Prepare, stages::make_hosts_fit),
        (Stage::Registry, stages::bring_up_registries),
        (Stage::Stage, stages::lay_down),
        (Stage::Stage, stages::hand_over),
        (Stage::Etcd, stages::restore_etcd),
        (Stage::Etcd, stages::bring_up_etcd),
        (Stage::Etcd, stages::save_snapshots),
        (Stage::ControlPlane, stages::start_units),
        (Stage::ControlPlane, stages::change_masters),
        (Stage::ControlPlane, stages::apply_manifests),
        (Stage::Nodes, stages::start_units),
        (Stage::Nodes, stages::change_nodes),
        (Stage::Nodes, stages::apply_manifests),
        (Stage::Network, stages::start_units),
        (Stage::Network, stages::reset_pod_networks),
        (Stage::Network, stages::apply_manifests),
        (Stage::AddOns, stages::start_units),
        (Stage::AddOns, stages::apply_manifests),
        (Stage::Verify, stages::start_units),
        (Stage::Verify, stages::apply_manifests),
        (Stage::Verify, stages::remove_what_is_no_longer_desired),
    ] {
        plan.stages.extend(parts(&comparison, stage));
    }
    // What is waited for at the end depends on what came before.
    if let Some(only) = &desired.only {
        plan.keep_only(only);
    }
    let verification = stages::verify(&comparison, &plan);
    plan.stages.extend(verification);
    let commits = stages::commit(&comparison, &plan);
    plan.stages.extend(commits);
    if let Some(until) = &desired.until {
        plan.stop_after(until, desired);
    }
    plan
}
