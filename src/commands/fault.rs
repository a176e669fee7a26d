//! Why a command did not succeed, as it is told to people and to scripts.

use crate::event::EventFailure;
use crate::execute::Stopped;
use crate::host::HostError;
use crate::host::remote::RemoteError;

/// Exit codes. They are part of the interface: `cofferdam help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for failed.
    Failed = 1,
    /// Wrong usage, or an inventory, bundle or site that can't be used.
    Input = 2,
    /// Checks of the hosts refused the run; nothing was changed.
    Checks = 3,
    /// Hosts can't be reached or trusted.
    Hosts = 4,
    /// Stopped by the operator.
    Interrupted = 130,
}

/// A failure with its exit code, causes, the host's last lines, and hints.
#[derive(Debug)]
pub struct Fault {
    pub exit: Exit,
    pub failures: Vec<EventFailure>,
}

impl Fault {
    /// A failure with a message of its own.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let failure = EventFailure {
            message: message.into(),
            ..EventFailure::default()
        };
        Self {
            exit,
            failures: vec![failure],
        }
    }

    /// Bad input.
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Self::of(Exit::Input, &error.into())
    }

    /// An error and its causes.
    pub fn of(exit: Exit, error: &anyhow::Error) -> Self {
        let message = error.to_string();
        let mut causes: Vec<String> = Vec::new();
        for cause in error.chain().skip(1) {
            let text = cause.to_string();
            let said = |earlier: &String| earlier.contains(&text);
            if !message.contains(&text) && !causes.iter().any(said) {
                causes.push(text);
            }
        }
        let failure = EventFailure {
            message,
            causes,
            ..EventFailure::default()
        };
        Self {
            exit,
            failures: vec![failure],
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(failure) = self.failures.last_mut() {
            failure.hints.push(hint.into());
        }
        self
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

impl From<HostError> for Fault {
    fn from(error: HostError) -> Self {
        let mut failure = EventFailure {
            message: error.to_string(),
            ..EventFailure::default()
        };
        if let HostError::Failed { failure: told, .. } = &error {
            failure.lines.clone_from(&told.lines);
            failure.hints.extend(told.hint.clone());
        }
        Self {
            exit: Exit::Failed,
            failures: vec![failure],
        }
    }
}

impl From<RemoteError> for Fault {
    fn from(error: RemoteError) -> Self {
        let hints = error.hint().into_iter().collect();
        let exit = match error {
            RemoteError::NoAgent { .. } => Exit::Input,
            _ => Exit::Hosts,
        };
        let fault = Self::of(exit, &error.into());
        let failures = fault
            .failures
            .into_iter()
            .map(|failure| EventFailure {
                hints: Vec::clone(&hints),
                ..failure
            })
            .collect();
        Self { exit, failures }
    }
}

impl From<Stopped> for Fault {
    fn from(stopped: Stopped) -> Self {
        if stopped.failures.is_empty() {
            let message = "interrupted: the steps in hand were finished";
            return Self::new(Exit::Interrupted, message)
                .hint("run the same command again: it goes on from where it stopped");
        }
        let failures = stopped.failures.iter().map(|failure| {
            let mut event = failure.error.to_event();
            event.message = format!("{} ({})", event.message, failure.title);
            event
        });
        Self {
            exit: Exit::Failed,
            failures: failures.collect(),
        }
    }
}
