//! What happened: one typed, versioned stream. Bars, plain lines, JSON lines
//! and the journal are renderings of it. Events never carry secrets.

use crate::desired::Stage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the event stream's shape; readers refuse a newer major.
pub const EVENT_VERSION: u32 = 1;

/// Names of hosts, by the name of the zone that they stand in.
pub type HostsByZone = BTreeMap<String, BTreeSet<String>>;

/// Takes events as they happen. Must not block for long: lanes emit from
/// within their work.
pub trait EventSink: Send + Sync {
    fn emit(&self, event: Event);
}

/// An event with the time since the run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedEvent {
    /// [`EVENT_VERSION`].
    pub version: u32,
    /// Seconds since the run began.
    pub at: f64,
    #[serde(flatten)]
    pub event: Event,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    RunStarted {
        verb: String,
        cluster: String,
        bundle: Option<String>,
    },
    /// What happens before a plan: verify, read, connect, observe, check.
    PhaseStarted {
        phase: String,
        hosts: usize,
    },
    /// What a phase does now, or whom it waits for. May be dropped when
    /// readers are slow.
    PhaseProgress {
        phase: String,
        doing: String,
    },
    PhaseDone {
        phase: String,
        seconds: f64,
        summary: String,
    },
    StageStarted {
        stage: Stage,
        hosts: usize,
        steps: usize,
        /// Names of the hosts by zone; empty for what happens on the jump
        /// host.
        #[serde(default)]
        zones: HostsByZone,
    },
    /// A further part of a stage, which waited for the end of the one before.
    PartStarted {
        stage: Stage,
        zones: HostsByZone,
        after: HostsByZone,
    },
    /// Somebody is asked whether the run goes on.
    Paused {
        after: HostsByZone,
        before: HostsByZone,
    },
    StageDone {
        stage: Stage,
        seconds: f64,
    },
    StepStarted {
        stage: Stage,
        host: String,
        title: String,
    },
    StepDone {
        stage: Stage,
        host: String,
        title: String,
        seconds: f64,
    },
    StepFailed {
        stage: Stage,
        host: String,
        title: String,
        failure: EventFailure,
    },
    /// May be dropped when readers are slow.
    StepProgress {
        stage: Stage,
        host: String,
        item: String,
        done: u64,
        total: u64,
    },
    /// Why a step still waits. May be dropped when readers are slow.
    StepWaiting {
        stage: Stage,
        host: String,
        reason: String,
    },
    /// A line for the journal and for the failed host's last lines.
    HostLog {
        host: String,
        line: String,
    },
    Warning {
        host: Option<String>,
        message: String,
    },
    RunDone {
        seconds: f64,
        steps: usize,
        /// Over the jump host's link, in all.
        sent_bytes: u64,
        /// The same by zone and host.
        #[serde(default)]
        sent_bytes_by_zone: BTreeMap<String, BTreeMap<String, u64>>,
        next: String,
    },
    /// How far a run came that stopped, right before the last event.
    RunStopped {
        /// By zone and host.
        zones: BTreeMap<String, BTreeMap<String, Standing>>,
        /// The command line that goes on with it.
        again: String,
    },
    /// The last event of a run, or the only thing said of a command that
    /// failed, however early.
    RunFailed {
        seconds: f64,
        kind: FailureKind,
        /// The program's exit code.
        exit: u8,
        /// What went wrong, often on several hosts.
        failures: Vec<EventFailure>,
    },
}

/// How far a host has come: steps that change something, without waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub done: usize,
    pub steps: usize,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.done, self.steps) {
            (_, 0) => formatter.write_str("has nothing to do"),
            (0, _) => formatter.write_str("not begun"),
            (done, steps) if done == steps => formatter.write_str("done"),
            (done, steps) => write!(formatter, "{done} of {steps} steps"),
        }
    }
}

/// What sort of failure ended a run; exit codes are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// What was asked for failed.
    Failed,
    /// Wrong usage, or an inventory, bundle or site that can't be used.
    Input,
    /// Checks of the hosts refused the run; nothing was changed.
    Checks,
    /// Hosts can't be reached or trusted.
    Hosts,
    /// Stopped by the operator.
    Interrupted,
}

/// A failure with its cause chain and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFailure {
    pub message: String,
    pub causes: Vec<String>,
    /// Last lines from the host.
    pub lines: Vec<String>,
    pub hints: Vec<String>,
    /// The host that it happened on, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The places in files that are wrong, where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<EventPlace>,
}

/// A place in a file of the operator's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPlace {
    pub file: String,
    /// From 1; none where the whole file is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// In characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong there, if it is not all of the failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
