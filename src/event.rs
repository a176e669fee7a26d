//! What happened: one typed, versioned stream. Bars, plain lines, JSON lines
//! and the journal are renderings of it. Events never carry secrets.

use crate::desired::Stage;
use serde::{Deserialize, Serialize};

/// Version of the event stream's shape; readers refuse a newer major.
pub const EVENT_VERSION: u32 = 1;

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
        sent_bytes: u64,
        next: String,
    },
    RunFailed {
        seconds: f64,
        failure: EventFailure,
    },
}

/// A failure with its cause chain and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFailure {
    pub message: String,
    pub causes: Vec<String>,
    /// Last lines from the host.
    pub lines: Vec<String>,
    pub hints: Vec<String>,
}
