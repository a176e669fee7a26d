//! What people and programs see of a run: one event stream, rendered as bars
//! on a terminal, as plain lines elsewhere, as JSON lines on request, and
//! always into the run's journal.

mod journal;
mod lines;
mod live;
mod transfer;

pub use journal::Journal;
pub use lines::{failure_lines, seconds};
pub use transfer::TransferProgress;

use crate::event::{EVENT_VERSION, Event, EventSink, TimedEvent};
use live::Live;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bars on a terminal, plain lines elsewhere; on stderr.
    People,
    /// Plain lines even on a terminal.
    Plain,
    /// One JSON object a line, on stdout.
    Json,
    /// Failures only.
    Quiet,
}

/// Renders events. Text for people goes to stderr, data to stdout.
pub struct Output {
    inner: Mutex<Inner>,
    started: Instant,
}

struct Inner {
    style: Style,
    live: Option<Live>,
    plain: lines::Plain,
    journal: Option<Journal>,
}

impl Output {
    pub fn new(style: Style) -> Self {
        let is_live = style == Style::People && io::stderr().is_terminal();
        let inner = Inner {
            style,
            live: is_live.then(Live::new),
            plain: lines::Plain::default(),
            journal: None,
        };
        Self {
            inner: Mutex::new(inner),
            started: Instant::now(),
        }
    }

    /// Writes every event from now on into a journal too.
    pub fn record(&self, journal: Journal) {
        self.inner().journal = Some(journal);
    }

    /// A line for people that is no event, such as a plan or a question.
    pub fn say(&self, text: &str) {
        let inner = self.inner();
        if matches!(inner.style, Style::Json | Style::Quiet) {
            return;
        }
        inner.show(text);
    }

    /// Data, to stdout.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn data(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Seconds since the run began.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Says what still goes on, if nothing was said for a while. To be called
    /// every second or so.
    pub fn tick(&self) {
        let mut inner = self.inner();
        if inner.live.is_some() || matches!(inner.style, Style::Json | Style::Quiet) {
            return;
        }
        let now = self.elapsed();
        for line in inner.plain.overdue(now) {
            inner.show(&line);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn show(&self, text: &str) {
        match &self.live {
            Some(live) => live.print(text),
            None => {
                // Nobody is left to tell if stderr is closed.
                let _ = writeln!(io::stderr().lock(), "{text}");
            }
        }
    }
}

impl EventSink for Output {
    fn emit(&self, event: Event) {
        let event = TimedEvent {
            version: EVENT_VERSION,
            at: self.elapsed(),
            event,
        };
        let mut inner = self.inner();
        if let Some(journal) = &mut inner.journal {
            journal.write(&event);
        }
        match inner.style {
            Style::Json => {
                if let Ok(line) = serde_json::to_string(&event) {
                    let _ = writeln!(io::stdout().lock(), "{line}");
                }
            }
            Style::Quiet => {}
            Style::People | Style::Plain => {
                if let Some(live) = &mut inner.live {
                    live.follow(&event.event);
                }
                let is_live = inner.live.is_some();
                for line in inner.plain.render(&event, is_live) {
                    inner.show(&line);
                }
            }
        }
    }
}
