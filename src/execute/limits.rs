//! How long a host may take for an action, in all. These are far above what
//! slow disks and links need: they only turn a hang into an error.

use crate::plan::Action;
use std::time::Duration;

/// Small writes, each synced, on a disk that is busy.
const FILES: Duration = Duration::from_secs(180);
/// One call of a system tool such as `systemd-sysusers` or `modprobe`.
const SYSTEM_TOOL: Duration = Duration::from_secs(60);
/// Turning swap off reads all of it back into memory.
const SWAP_OFF: Duration = Duration::from_secs(900);
/// Hundreds of megabytes over a link of some Mbit/s between zones.
const TRANSFER: Duration = Duration::from_secs(3600);
/// Registries that are silent one after the other, while nothing moves. What
/// moves counts anew.
const REGISTRIES: Duration = Duration::from_secs(600);
/// One unit: the agent gives it up to ten minutes to stop and 90 s to run
/// again.
const UNIT: Duration = Duration::from_secs(720);
/// kubectl, several documents, an API server that has just started.
const APPLY: Duration = Duration::from_secs(300);
/// The agent gives each half of it half an hour.
const SNAPSHOT: Duration = Duration::from_secs(3700);
/// Killing a node's pods: the agent gives up after a minute and a half.
const POD_RESET: Duration = Duration::from_secs(180);
/// Cordoning a node, and taking that back.
const CORDONS: Duration = Duration::from_secs(120);
/// What the agent may take beyond a wait's own limit before it says so.
const WAIT_GRACE: Duration = Duration::from_secs(30);
/// Any answer to a request without work, such as an observation.
pub(super) const ANSWER: Duration = Duration::from_secs(60);
/// The slowest disk that makes a blob's bytes lasting at its end, in bytes per
/// second.
const SLOWEST_DISK: u64 = 8 << 20;

/// How long the action may take.
pub(super) fn limit(action: &Action) -> Duration {
    match action {
        Action::WriteFiles { .. } | Action::Commit { .. } => FILES,
        Action::Mint { .. }
        | Action::CreateUsers { .. }
        | Action::LoadModules { .. }
        | Action::SetSysctls { .. } => SYSTEM_TOOL,
        Action::SwapOff => SWAP_OFF,
        Action::PutBlobs { .. }
        | Action::Seed { .. }
        | Action::InstallBinaries { .. }
        | Action::FetchBinaries { .. }
        | Action::PullImages { .. } => TRANSFER,
        Action::CopyArtifacts { artifacts, .. } => {
            let blobs = artifacts.iter().flat_map(|artifact| &artifact.blobs);
            let largest = blobs.map(|blob| blob.size).max();
            REGISTRIES + blob_limit(largest.unwrap_or_default())
        }
        Action::StartUnits { units, .. } => UNIT * count(units.len()),
        Action::SwitchUnits { stop, units, .. } => FILES + UNIT * count(stop.len() + units.len()),
        Action::StopUnits { units } => UNIT * count(units.len()),
        Action::Uncordon { .. } => APPLY,
        Action::SnapshotEtcd { .. } | Action::PrepareEtcdData { .. } => SNAPSHOT,
        Action::SwitchEtcdData { stop, .. } => FILES + UNIT * count(stop.len()),
        Action::Drain {
            limit_seconds,
            rules,
            ..
        } => {
            let each = rules.iter();
            let each = each.map(|rule| rule.timeout_seconds.unwrap_or(*limit_seconds));
            let sum: u64 = each.chain([*limit_seconds]).map(u64::from).sum();
            Duration::from_secs(sum) + WAIT_GRACE * count(rules.len() + 1) + CORDONS
        }
        Action::Wait { limit_seconds, .. }
        | Action::AddEtcdLearner { limit_seconds, .. }
        | Action::PromoteEtcdLearner { limit_seconds, .. } => {
            Duration::from_secs(u64::from(*limit_seconds)) + WAIT_GRACE
        }
        Action::Apply { .. } => APPLY,
        Action::ResetCni { .. } => POD_RESET,
    }
}

/// How long nothing of a blob of this size may move, and its end may take. What
/// moves may take as long as the link needs.
pub(super) fn blob_limit(size: u64) -> Duration {
    ANSWER + Duration::from_secs(size / SLOWEST_DISK)
}

fn count(units: usize) -> u32 {
    u32::try_from(units.max(1)).unwrap_or(u32::MAX)
}
