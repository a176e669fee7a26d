//! Bars on a terminal: one for each step in hand.

use super::lines::progress;
use crate::event::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a bar's spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// The bars of steps in hand.
pub(super) struct Live {
    bars: MultiProgress,
    running: BTreeMap<(String, String), ProgressBar>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            running: BTreeMap::new(),
        }
    }

    /// A line above the bars.
    pub(super) fn print(&self, text: &str) {
        for line in text.lines() {
            let _ = self.bars.println(line);
        }
    }

    /// Adds, moves and removes bars.
    pub(super) fn follow(&mut self, event: &Event) {
        match event {
            Event::StepStarted { host, title, .. } => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                // The template is a constant, its parts are known to be right.
                if let Ok(style) =
                    ProgressStyle::with_template("  {prefix:<8} {spinner} {msg} [{elapsed}]")
                {
                    bar.set_style(style);
                }
                bar.set_prefix(host.clone());
                bar.set_message(title.clone());
                bar.enable_steady_tick(TURN);
                self.running.insert((host.clone(), title.clone()), bar);
            }
            Event::StepDone { host, title, .. } | Event::StepFailed { host, title, .. } => {
                if let Some(bar) = self.running.remove(&(host.clone(), title.clone())) {
                    bar.finish_and_clear();
                }
            }
            Event::StepProgress {
                host,
                item,
                done,
                total,
                ..
            } => {
                self.tell(host, &progress(item, *done, *total));
            }
            Event::StepWaiting { host, reason, .. } => self.tell(host, reason),
            _ => {}
        }
    }

    fn tell(&self, host: &str, doing: &str) {
        for ((of, title), bar) in &self.running {
            if of == host {
                bar.set_message(format!("{title}: {doing}"));
            }
        }
    }
}
