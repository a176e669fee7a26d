//! Why a run stopped.

use crate::desired::Stage;
use crate::event::{Event, EventFailure};
use crate::host::HostError;
use crate::plan::{Refusal, Step};
use std::fmt;

/// A run that did not come to its end.
#[derive(Debug)]
pub struct Stopped {
    /// In the order in which they happened. Empty if it was interrupted.
    pub failures: Vec<StepFailure>,
}

/// A step that failed.
#[derive(Debug)]
pub struct StepFailure {
    pub stage: Stage,
    pub host: String,
    pub title: String,
    pub error: StepError,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Host(#[from] HostError),
    /// What the step interrupts is needed now.
    #[error("{0}")]
    Refused(Refusal),
    #[error("site: minting keys and certificates: {0:#}")]
    Mint(anyhow::Error),
    /// What was minted leads to other steps than those that were confirmed.
    #[error(
        "site: after minting, the plan is another one than was confirmed: it had `{planned}`, now `{found}`; run the same command again"
    )]
    PlanChanged { planned: String, found: String },
    /// The desired state lacks what the step needs.
    #[error(
        "{host}: {what} is not part of the desired state; this is a fault in cofferdam, please report it with the run's journal"
    )]
    Missing { host: String, what: String },
    #[error(
        "{host}: reading blob {digest} from the bundle: {source}; check the bundle with `cofferdam bundle verify`"
    )]
    Blob {
        host: String,
        digest: String,
        source: std::io::Error,
    },
    /// The host answered something that does not fit the request.
    #[error("{host}: unexpected answer to {what}: {answer}")]
    Answer {
        host: String,
        what: String,
        answer: String,
    },
    /// Others failed, or the run was interrupted, while this step waited.
    #[error("{host}: stopped while waiting")]
    Abandoned { host: String },
}

impl StepFailure {
    pub(super) fn new(step: &Step, error: StepError) -> Self {
        Self {
            stage: step.stage,
            host: step.host.clone(),
            title: step.title.clone(),
            error,
        }
    }

    pub(super) fn event(&self) -> Event {
        Event::StepFailed {
            stage: self.stage,
            host: self.host.clone(),
            title: self.title.clone(),
            failure: self.error.to_event(),
        }
    }
}

impl StepError {
    pub(super) fn not_for_site(step: &Step) -> Self {
        Self::Missing {
            host: step.host.clone(),
            what: format!("`{}` on the jump host", step.title),
        }
    }

    /// The host; none if it is the jump host.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Host(error) => Some(error.host()),
            Self::Refused(refusal) => Some(refusal.host()),
            Self::Missing { host, .. }
            | Self::Blob { host, .. }
            | Self::Answer { host, .. }
            | Self::Abandoned { host } => Some(host),
            Self::Mint(_) | Self::PlanChanged { .. } => None,
        }
    }

    /// The failure with its causes, last lines and hints, for events.
    pub fn to_event(&self) -> EventFailure {
        let mut failure = EventFailure {
            message: self.to_string(),
            host: self.host().map(str::to_owned),
            ..EventFailure::default()
        };
        match self {
            Self::Host(HostError::Failed { failure: told, .. }) => {
                failure.lines.clone_from(&told.lines);
                failure.hints.extend(told.hint.clone());
            }
            Self::Host(HostError::Lost { host, .. } | HostError::Timeout { host, .. }) => {
                failure.hints.push(format!(
                    "check that {host} is up and in reach by SSH, then run the same command again: it goes on from where it stopped"
                ));
            }
            Self::Mint(error) => {
                failure.causes = error.chain().skip(1).map(ToString::to_string).collect();
            }
            _ => {}
        }
        failure
    }
}

impl Stopped {
    pub(super) fn by(failures: Vec<StepFailure>) -> Self {
        Self { failures }
    }

    /// The plan itself says that it can't be run.
    pub(super) fn before_anything(refusal: Refusal) -> Self {
        let failure = StepFailure {
            stage: Stage::Site,
            host: refusal.host().to_owned(),
            title: "ask whether it is safe".to_owned(),
            error: StepError::Refused(refusal),
        };
        Self::by(vec![failure])
    }

    /// Whether nothing failed, but somebody stopped the run.
    pub fn is_interrupted(&self) -> bool {
        self.failures.is_empty()
    }

    /// What comes of the whole run, for its last event.
    pub fn to_event(&self) -> EventFailure {
        let Some(first) = self.failures.first() else {
            return EventFailure {
                message: self.to_string(),
                ..EventFailure::default()
            };
        };
        let mut failure = first.error.to_event();
        let others = self.failures.iter().skip(1);
        failure
            .causes
            .extend(others.map(|other| format!("also {}: {}", other.title, other.error)));
        failure
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failures[..] {
            [] => formatter.write_str("interrupted; run the same command again to go on"),
            [only] => write!(formatter, "{}: {}", only.title, only.error),
            [first, rest @ ..] => write!(
                formatter,
                "{}: {} (and {} more)",
                first.title,
                first.error,
                rest.len()
            ),
        }
    }
}

impl std::error::Error for Stopped {}
