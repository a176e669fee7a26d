//! What people and programs see of a run: one event stream, rendered as bars
//! on a terminal, as plain lines elsewhere, as JSON lines on request, and
//! always into the run's journal.

mod journal;
mod lines;
mod live;
mod style;
#[cfg(test)]
mod tests;
mod text;
mod transfer;

pub use journal::Journal;
pub use style::{Color, Shape, Style, paint};
pub use text::{failure_lines, seconds};
pub use transfer::TransferProgress;

use crate::event::{EVENT_VERSION, Event, EventSink, TimedEvent};
use live::Live;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often it is looked whether something has to be said.
const TICK: Duration = Duration::from_secs(1);

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
        let is_live = style.shape == Shape::People && io::stderr().is_terminal();
        let inner = Inner {
            style,
            live: is_live.then(Live::new),
            plain: lines::Plain::new(style.is_verbose),
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
        if matches!(inner.style.shape, Shape::Json | Shape::Quiet) {
            return;
        }
        inner.show(text);
    }

    /// A question, which is shown whatever the style.
    pub fn ask(&self, text: &str) {
        self.inner().show(text);
    }

    /// Data, to stdout. A reader that has seen enough, as `head` has, is fine.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn data(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Whether events go to standard output, for programs.
    pub fn is_for_programs(&self) -> bool {
        self.inner().style.shape == Shape::Json
    }

    /// Seconds since the run began.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Says what still goes on whenever nothing was said for a while, for as
    /// long as the output lives. A thread, since a runtime's own may be busy.
    pub fn keep_speaking(self: &Arc<Self>) {
        let output = Arc::downgrade(self);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TICK);
                match output.upgrade() {
                    Some(output) => output.tick(),
                    None => return,
                }
            }
        });
    }

    /// Takes bars away, before a question or an error.
    pub fn clear(&self) {
        if let Some(live) = &mut self.inner().live {
            live.clear();
        }
    }

    fn tick(&self) {
        let mut inner = self.inner();
        if inner.live.is_some() || matches!(inner.style.shape, Shape::Json | Shape::Quiet) {
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
        for line in text.lines() {
            let line = paint(line, self.style.is_colored);
            match &self.live {
                Some(live) => live.print(&line),
                None => {
                    // Nobody is left to tell if stderr is closed.
                    let _ = writeln!(io::stderr().lock(), "{line}");
                }
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
        match inner.style.shape {
            Shape::Json => {
                if let Ok(line) = serde_json::to_string(&event) {
                    let _ = writeln!(io::stdout().lock(), "{line}");
                }
            }
            Shape::Quiet => {}
            Shape::People | Shape::Plain => {
                let is_live = inner.live.is_some();
                let lines = inner.plain.render(&event, is_live);
                let Inner { live, plain, .. } = &mut *inner;
                if let Some(live) = live {
                    live.follow(&event.event, plain);
                }
                for line in lines {
                    inner.show(&line);
                }
            }
        }
    }
}
