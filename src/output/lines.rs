//! Events as plain lines.

use super::text::{Moving, timed};
use crate::event::{Event, HostsByZone, TimedEvent};
use std::collections::BTreeMap;

/// Something is said at least this often while work goes on, in seconds.
const SILENCE: f64 = 10.0;
/// The same wait's reason is told again after this, in seconds.
const REASON_AGAIN: f64 = 10.0;
/// A wait that is over sooner, in seconds, is not worth a line.
const REASON_AFTER: f64 = 2.0;

/// What is going on, for lines that say so.
#[derive(Debug, Default)]
pub(super) struct Plain {
    is_verbose: bool,
    phase: Option<(String, Running)>,
    /// Steps in hand, by host and title.
    steps: BTreeMap<(String, String), Running>,
    last_line: f64,
}

/// Something in hand: since when, and what was last heard of it.
#[derive(Debug, Default)]
struct Running {
    since: f64,
    doing: String,
    told: f64,
    moving: Option<Moving>,
}

impl Running {
    fn since(at: f64) -> Self {
        Self {
            since: at,
            told: at,
            ..Self::default()
        }
    }
}

impl Plain {
    pub(super) fn new(is_verbose: bool) -> Self {
        Self {
            is_verbose,
            ..Self::default()
        }
    }

    /// The lines of an event; few on a terminal, where bars show the rest.
    pub(super) fn render(&mut self, event: &TimedEvent, is_live: bool) -> Vec<String> {
        self.follow(event);
        let lines = self.lines(event, is_live);
        if !lines.is_empty() {
            self.last_line = event.at;
        }
        lines
    }

    /// What the host's steps in hand are doing, for bars.
    pub(super) fn doing<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a (String, String), &'a str)> {
        self.steps
            .iter()
            .filter(move |((of, _), _)| of == host)
            .map(|(key, running)| (key, running.doing.as_str()))
    }

    /// Lines about what still runs, when nothing was said for a while.
    pub(super) fn overdue(&mut self, now: f64) -> Vec<String> {
        if now - self.last_line < SILENCE {
            return Vec::new();
        }
        let phase = self.phase.iter().map(|(phase, running)| {
            let (since, doing) = (now - running.since, after_colon(&running.doing));
            format!("{phase:<9} still, for {since:.0} s{doing}")
        });
        let steps = self.steps.iter().map(|((host, title), running)| {
            let (since, doing) = (now - running.since, after_colon(&running.doing));
            format!("  {host:<8} still: {title} for {since:.0} s{doing}")
        });
        let lines: Vec<String> = phase.chain(steps).collect();
        if !lines.is_empty() {
            self.last_line = now;
        }
        lines
    }

    /// Keeps track of what is in hand.
    fn follow(&mut self, event: &TimedEvent) {
        let at = event.at;
        match &event.event {
            Event::PhaseStarted { phase, .. } => {
                self.phase = Some((phase.clone(), Running::since(at)));
                // Silence is counted from here, not from a line long ago.
                self.last_line = at;
            }
            Event::PhaseProgress { doing, .. } => {
                if let Some((_, running)) = &mut self.phase {
                    running.doing.clone_from(doing);
                }
            }
            Event::StepStarted { host, title, .. } => {
                let key = (host.clone(), title.clone());
                self.steps.insert(key, Running::since(at));
            }
            Event::StepProgress {
                host,
                item,
                done,
                total,
                ..
            } => {
                for running in self.of_host(host) {
                    if running.moving.as_ref().is_none_or(|old| old.item != *item) {
                        running.moving = Some(Moving {
                            item: item.clone(),
                            since: at,
                            first: *done,
                        });
                    }
                    if let Some(moving) = &running.moving {
                        running.doing = moving.describe(at, *done, Some(*total));
                    }
                }
            }
            Event::StepDone { host, title, .. } | Event::StepFailed { host, title, .. } => {
                self.steps.remove(&(host.clone(), title.clone()));
            }
            Event::PhaseDone { .. } => self.phase = None,
            // A step that was given up has no end of its own.
            Event::StageStarted { .. }
            | Event::PartStarted { .. }
            | Event::Paused { .. }
            | Event::StageDone { .. } => {
                self.steps.clear();
            }
            Event::RunDone { .. } | Event::RunStopped { .. } | Event::RunFailed { .. } => {
                self.phase = None;
                self.steps.clear();
            }
            // What it was waiting for before is needed to tell a new reason.
            Event::StepWaiting { .. }
            | Event::RunStarted { .. }
            | Event::HostLog { .. }
            | Event::Warning { .. } => {}
        }
    }

    fn lines(&mut self, event: &TimedEvent, is_live: bool) -> Vec<String> {
        match &event.event {
            Event::PhaseDone {
                phase,
                seconds,
                summary,
            } => {
                let mut lines = summary.lines();
                let first = lines.next().unwrap_or_default();
                let mut all = vec![timed(&format!("{phase:<9} {first}"), *seconds)];
                all.extend(lines.map(|line| format!("{:<9} {line}", "")));
                all
            }
            Event::StageStarted { stage, zones, .. } => {
                let line = format!("stage  {:<16} {}", stage.title(), by_zone(zones));
                vec![line.trim_end().to_owned()]
            }
            Event::PartStarted { zones, after, .. } => {
                vec![format!(
                    "  now      {}, after {}",
                    by_zone(zones),
                    by_zone(after)
                )]
            }
            Event::Paused { after, before } => {
                vec![format!(
                    "  pause    {} done, {} next",
                    by_zone(after),
                    by_zone(before)
                )]
            }
            Event::StageDone { stage, seconds } => {
                vec![timed(&format!("stage  {} done", stage.title()), *seconds)]
            }
            Event::StepDone {
                host,
                title,
                seconds,
                ..
            } => vec![timed(&format!("  {host:<8} {title}"), *seconds)],
            Event::StepFailed {
                host,
                title,
                failure,
                ..
            } => vec![format!("  {host:<8} {title}: failed: {}", failure.message)],
            Event::StepWaiting { host, reason, .. } => {
                self.waiting(event.at, host, reason, is_live)
            }
            Event::HostLog { host, line } if self.is_verbose => {
                vec![format!("  {host:<8} | {line}")]
            }
            Event::Warning { host, message } => {
                let host = host
                    .as_ref()
                    .map_or(String::new(), |host| format!("{host}: "));
                vec![format!("warning: {host}{message}")]
            }
            Event::RunStopped { zones, again } => {
                let zones = zones.iter().map(|(zone, hosts)| {
                    let hosts = hosts
                        .iter()
                        .map(|(name, standing)| format!("{name} {standing}"));
                    format!("zone {zone}: {}", hosts.collect::<Vec<_>>().join(", "))
                });
                let lines = zones.enumerate().map(|(index, zone)| match index {
                    0 => format!("stopped   {zone}"),
                    _ => format!("          {zone}"),
                });
                let again = format!("next: {again}");
                lines.chain([again]).collect()
            }
            Event::RunDone { .. }
            | Event::RunStarted { .. }
            | Event::RunFailed { .. }
            | Event::PhaseStarted { .. }
            | Event::PhaseProgress { .. }
            | Event::StepStarted { .. }
            | Event::StepProgress { .. }
            | Event::HostLog { .. } => Vec::new(),
        }
    }

    fn waiting(&mut self, at: f64, host: &str, reason: &str, is_live: bool) -> Vec<String> {
        let is_verbose = self.is_verbose;
        let mut is_worth_a_line = false;
        for running in self.of_host(host) {
            let is_new = running.doing != reason;
            let is_late = is_verbose || at - running.since > REASON_AFTER;
            if (is_new && is_late) || at - running.told > REASON_AGAIN {
                is_worth_a_line = true;
                running.told = at;
            }
            reason.clone_into(&mut running.doing);
        }
        match is_worth_a_line && !is_live {
            true => vec![format!("  {host:<8} waiting: {reason}")],
            false => Vec::new(),
        }
    }

    fn of_host<'a>(&'a mut self, host: &'a str) -> impl Iterator<Item = &'a mut Running> {
        self.steps
            .iter_mut()
            .filter(move |((of, _), _)| of == host)
            .map(|(_, running)| running)
    }
}

/// `zone a: m1 w1; zone b: 17 hosts`.
fn by_zone(zones: &HostsByZone) -> String {
    /// More names than this are a number.
    const NAMES: usize = 6;
    let each = zones.iter().map(|(zone, hosts)| match hosts.len() {
        0..=NAMES => {
            let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
            format!("zone {zone}: {}", names.join(" "))
        }
        many => format!("zone {zone}: {many} hosts"),
    });
    each.collect::<Vec<_>>().join("; ")
}

fn after_colon(doing: &str) -> String {
    match doing {
        "" => String::new(),
        doing => format!(": {doing}"),
    }
}
