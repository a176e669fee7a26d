//! Why a command did not succeed, as it is told to people and to scripts.

use crate::bundle::BundleError;
use crate::bundle::definition::DefinitionError;
use crate::event::{Event, EventFailure, EventPlace, FailureKind};
use crate::execute::{StepError, Stopped};
use crate::host::HostError;
use crate::host::remote::RemoteError;
use crate::inventory::{LoadError, Problem, Problems};
use camino::Utf8Path;

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

impl Exit {
    fn kind(self) -> FailureKind {
        match self {
            Self::Failed => FailureKind::Failed,
            Self::Input => FailureKind::Input,
            Self::Checks => FailureKind::Checks,
            Self::Hosts => FailureKind::Hosts,
            Self::Interrupted => FailureKind::Interrupted,
        }
    }
}

/// A failure with its exit code, causes, the host's last lines, and hints.
#[derive(Debug)]
pub struct Fault {
    pub exit: Exit,
    pub failures: Vec<EventFailure>,
    /// Whether programs that read standard output know of it already.
    pub is_told: bool,
}

impl Fault {
    /// A failure with a message of its own.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let failure = EventFailure {
            message: message.into(),
            ..EventFailure::default()
        };
        Self::with(exit, vec![failure])
    }

    fn with(exit: Exit, failures: Vec<EventFailure>) -> Self {
        Self {
            exit,
            failures,
            is_told: false,
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
            places: places(error),
            ..EventFailure::default()
        };
        Self::with(exit, vec![failure])
    }

    /// One fault of many, with the first one's exit code. Equal hints are told
    /// once, at the end. None if there is none.
    pub fn merge(faults: Vec<Self>) -> Option<Self> {
        let mut faults = faults.into_iter();
        let mut all = faults.next()?;
        for fault in faults {
            all.failures.extend(fault.failures);
        }
        let mut told: Vec<String> = Vec::new();
        for failure in all.failures.iter_mut().rev() {
            failure.hints.retain(|hint| !told.contains(hint));
            told.extend(failure.hints.iter().cloned());
        }
        Some(all)
    }

    /// A bundle that can't be opened, with what to do about it.
    pub fn bundle(error: BundleError) -> Self {
        let hint = error.hint();
        let path = error.path().to_owned();
        let fault = Self::input(error).file(&path);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    /// Names the file that it is about, unless places in it are known.
    #[must_use]
    pub fn file(mut self, file: &Utf8Path) -> Self {
        for failure in &mut self.failures {
            if failure.places.is_empty() {
                failure.places.push(EventPlace {
                    file: file.to_string(),
                    ..EventPlace::default()
                });
            }
        }
        self
    }

    /// Names the host that it is about.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        for failure in &mut self.failures {
            failure.host.get_or_insert_with(|| host.to_owned());
        }
        self
    }

    /// For what programs that read standard output know already.
    #[must_use]
    pub fn told(mut self) -> Self {
        self.is_told = true;
        self
    }

    /// The event that tells it.
    pub fn event(&self, seconds: f64) -> Event {
        Event::RunFailed {
            seconds,
            kind: self.exit.kind(),
            exit: self.exit as u8,
            failures: self.failures.clone(),
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

/// Places in files that an error names.
fn places(error: &anyhow::Error) -> Vec<EventPlace> {
    let problems = error.chain().find_map(|cause| {
        let of_inventory = match cause.downcast_ref() {
            Some(LoadError::Invalid(problems)) => Some(problems),
            _ => None,
        };
        let of_definition = match cause.downcast_ref() {
            Some(DefinitionError::Invalid(problems)) => Some(problems),
            _ => None,
        };
        let plain = cause.downcast_ref::<Problems>();
        plain.or(of_inventory).or(of_definition)
    });
    let Some(Problems { file, problems }) = problems else {
        return Vec::new();
    };
    let place = |problem: &Problem| EventPlace {
        file: file.to_string(),
        line: problem.location.as_ref().map(|location| location.line),
        column: problem.location.as_ref().map(|location| location.column),
        message: problem.message.clone(),
    };
    problems.iter().map(place).collect()
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

impl From<HostError> for Fault {
    fn from(error: HostError) -> Self {
        let exit = match error {
            HostError::Lost { .. } | HostError::Timeout { .. } => Exit::Hosts,
            HostError::Failed { .. } | HostError::Body { .. } => Exit::Failed,
        };
        Self::with(exit, vec![StepError::from(error).to_event()])
    }
}

impl From<RemoteError> for Fault {
    fn from(error: RemoteError) -> Self {
        let (hint, host) = (error.hint(), error.host().to_owned());
        let exit = match error {
            RemoteError::NoAgent { .. } | RemoteError::Bundle { .. } => Exit::Input,
            _ => Exit::Hosts,
        };
        let fault = Self::of(exit, &error.into()).host(&host);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
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
        Self::with(Exit::Failed, failures.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn causes_are_told_once_and_in_order() {
        let error = anyhow!("disk full")
            .context("writing a.toml")
            .context("recording decisions");
        let fault = Fault::of(Exit::Failed, &error);
        assert_eq!(fault.failures[0].message, "recording decisions");
        assert_eq!(fault.failures[0].causes, ["writing a.toml", "disk full"]);
        let repeating = anyhow!("no route").context("connecting to m1: no route");
        assert!(Fault::input(repeating).failures[0].causes.is_empty());
    }

    #[test]
    fn many_faults_are_one_and_equal_hints_come_once_at_the_end() {
        let fault = |message: &str, hint: &str| Fault::new(Exit::Hosts, message).hint(hint);
        let merged = Fault::merge(vec![
            fault("m1: no", "trust them"),
            fault("w1: no", "start it"),
            fault("w2: no", "trust them"),
        ])
        .unwrap();
        assert_eq!(merged.exit, Exit::Hosts);
        let hints: Vec<&[String]> = merged.failures.iter().map(|each| &each.hints[..]).collect();
        assert_eq!(
            hints,
            [
                &[][..],
                &["start it".to_owned()],
                &["trust them".to_owned()]
            ]
        );
        assert!(Fault::merge(Vec::new()).is_none());
    }

    #[test]
    fn a_lost_host_says_so_in_the_exit_code() {
        let (host, doing) = ("w1".to_owned(), "observing".to_owned());
        let reason = "reset by peer".to_owned();
        let fault = Fault::from(HostError::Lost {
            host,
            doing,
            reason,
        });
        assert_eq!(fault.exit, Exit::Hosts);
        assert!(fault.failures[0].hints[0].contains("check that w1 is up"));
    }
}
