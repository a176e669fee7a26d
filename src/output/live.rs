//! Bars on a terminal: one for the phase and one for each step in hand.

use super::lines::Plain;
use crate::event::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// How often a bar's spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// The bars of what is in hand.
pub(super) struct Live {
    bars: MultiProgress,
    pub(super) phase: Option<ProgressBar>,
    /// By host and title.
    pub(super) steps: BTreeMap<(String, String), ProgressBar>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    pub(super) fn on(target: ProgressDrawTarget) -> Self {
        Self {
            bars: MultiProgress::with_draw_target(target),
            phase: None,
            steps: BTreeMap::new(),
        }
    }

    /// A line above the bars. It is written as any other, with a line break:
    /// the bars' own way fills lines up to a width that may be wrong.
    pub(super) fn print(&self, line: &str) {
        self.bars.suspend(|| {
            // Nobody is left to tell if the terminal is gone.
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }

    /// Adds, moves and removes bars. `plain` has followed the event already.
    pub(super) fn follow(&mut self, event: &Event, plain: &Plain) {
        match event {
            Event::PhaseStarted { phase, .. } => {
                self.clear();
                self.phase = Some(self.bar("{prefix:<9} {spinner} {wide_msg} {elapsed}", phase));
            }
            Event::PhaseProgress { doing, .. } => {
                if let Some(bar) = &self.phase {
                    bar.set_message(doing.clone());
                }
            }
            Event::StepStarted { host, title, .. } => {
                let bar = self.bar("  {prefix:<8} {spinner} {wide_msg} {elapsed}", host);
                bar.set_message(title.clone());
                self.steps.insert((host.clone(), title.clone()), bar);
            }
            Event::StepProgress { host, .. } | Event::StepWaiting { host, .. } => {
                for (key, doing) in plain.doing(host) {
                    if let Some(bar) = self.steps.get(key) {
                        bar.set_message(format!("{}: {doing}", key.1));
                    }
                }
            }
            Event::StepDone { host, title, .. } | Event::StepFailed { host, title, .. } => {
                if let Some(bar) = self.steps.remove(&(host.clone(), title.clone())) {
                    bar.finish_and_clear();
                }
            }
            Event::PhaseDone { .. }
            | Event::StageDone { .. }
            | Event::RunDone { .. }
            | Event::RunStopped { .. }
            | Event::RunFailed { .. } => self.clear(),
            Event::RunStarted { .. }
            | Event::StageStarted { .. }
            | Event::PartStarted { .. }
            | Event::Paused { .. }
            | Event::HostLog { .. }
            | Event::Warning { .. } => {}
        }
    }

    /// Takes all bars away, so that questions and errors stand alone.
    pub(super) fn clear(&mut self) {
        let steps = std::mem::take(&mut self.steps).into_values();
        for bar in self.phase.take().into_iter().chain(steps) {
            bar.finish_and_clear();
        }
    }

    fn bar(&self, template: &str, prefix: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        // The templates are constants, their parts are known to be right.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(prefix.to_owned());
        bar.enable_steady_tick(TURN);
        bar
    }
}
