//! Events as plain lines.

use crate::bundle::inspect::human_bytes;
use crate::event::{Event, EventFailure, TimedEvent};
use std::collections::BTreeMap;

/// Width of what stands before the seconds.
const WIDTH: usize = 72;
/// Something is said at least this often while work goes on, in seconds.
const SILENCE: f64 = 10.0;
/// The same wait's reason is told again after this, in seconds.
const REASON_AGAIN: f64 = 10.0;
/// A step that took less shows no time of its own.
const WORTH_TELLING: f64 = 0.05;

/// What is going on, for lines that say so.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// By host and title: since when, and what was last heard.
    running: BTreeMap<(String, String), Running>,
    last_line: f64,
}

#[derive(Debug, Default)]
struct Running {
    since: f64,
    doing: String,
    told: f64,
}

impl Plain {
    /// The lines of an event; few on a terminal, where bars show the rest.
    pub(super) fn render(&mut self, event: &TimedEvent, is_live: bool) -> Vec<String> {
        let lines = self.lines(event, is_live);
        if !lines.is_empty() {
            self.last_line = event.at;
        }
        lines
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
            Event::StageStarted { stage, .. } => vec![format!("stage  {}", stage.title())],
            Event::StageDone { stage, seconds } => {
                vec![timed(&format!("stage  {} done", stage.title()), *seconds)]
            }
            Event::StepStarted { host, title, .. } => {
                let running = Running {
                    since: event.at,
                    told: event.at,
                    ..Running::default()
                };
                self.running.insert((host.clone(), title.clone()), running);
                Vec::new()
            }
            Event::StepDone {
                host,
                title,
                seconds,
                ..
            } => {
                self.running.remove(&(host.clone(), title.clone()));
                vec![timed(&format!("  {host:<8} {title}"), *seconds)]
            }
            Event::StepFailed {
                host,
                title,
                failure,
                ..
            } => {
                self.running.remove(&(host.clone(), title.clone()));
                vec![format!("  {host:<8} {title}: failed: {}", failure.message)]
            }
            Event::StepProgress {
                host,
                item,
                done,
                total,
                ..
            } => {
                let doing = progress(item, *done, *total);
                for (_, running) in self.running.iter_mut().filter(|((of, _), _)| of == host) {
                    running.doing.clone_from(&doing);
                }
                Vec::new()
            }
            Event::StepWaiting { host, reason, .. } => {
                let mut lines = Vec::new();
                for (_, running) in self.running.iter_mut().filter(|((of, _), _)| of == host) {
                    let is_new = running.doing != *reason && event.at - running.since > 2.0;
                    let is_due = event.at - running.told > REASON_AGAIN;
                    if !is_live && (is_new || is_due) {
                        lines.push(format!("  {host:<8} waiting: {reason}"));
                        running.told = event.at;
                    }
                    running.doing.clone_from(reason);
                }
                lines
            }
            Event::Warning { host, message } => {
                let host = host
                    .as_ref()
                    .map_or(String::new(), |host| format!("{host}: "));
                vec![format!("warning: {host}{message}")]
            }
            Event::RunDone { .. }
            | Event::RunStarted { .. }
            | Event::PhaseStarted { .. }
            | Event::HostLog { .. }
            | Event::RunFailed { .. } => Vec::new(),
        }
    }

    /// Lines about what still runs, when nothing was said for a while.
    pub(super) fn overdue(&mut self, now: f64) -> Vec<String> {
        if now - self.last_line < SILENCE {
            return Vec::new();
        }
        self.last_line = now;
        self.running
            .iter()
            .map(|((host, title), running)| {
                let doing = match running.doing.as_str() {
                    "" => String::new(),
                    doing => format!(": {doing}"),
                };
                let since = now - running.since;
                format!("  {host:<8} still: {title} for {since:.0} s{doing}")
            })
            .collect()
    }
}

/// `kubelet 12.1 MB of 31.0 MB`.
pub(super) fn progress(item: &str, done: u64, total: u64) -> String {
    format!("{item} {} of {}", human_bytes(done), human_bytes(total))
}

fn timed(text: &str, duration: f64) -> String {
    if duration < WORTH_TELLING {
        return text.to_owned();
    }
    format!("{text:<WIDTH$} {:>8}", seconds(duration))
}

/// `1.2 s`, `2 m 05 s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 100.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round();
    format!("{:.0} m {:02.0} s", (whole / 60.0).floor(), whole % 60.0)
}

/// A failure as lines: what, why, the host's last words, what to do.
pub fn failure_lines(failure: &EventFailure) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, line) in failure.message.lines().enumerate() {
        let prefix = if index == 0 { "error: " } else { "       " };
        lines.push(format!("{prefix}{line}"));
    }
    lines.extend(
        failure
            .causes
            .iter()
            .map(|cause| format!("  because: {cause}")),
    );
    if !failure.lines.is_empty() {
        lines.push("  last lines from there:".to_owned());
        lines.extend(failure.lines.iter().map(|line| format!("    | {line}")));
    }
    lines.extend(failure.hints.iter().map(|hint| format!("hint: {hint}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Stage;

    fn at(at: f64, event: Event) -> TimedEvent {
        TimedEvent {
            version: 1,
            at,
            event,
        }
    }

    #[test]
    fn a_run_reads_as_short_aligned_lines() {
        let stage = Stage::Etcd;
        let (host, title) = ("m1".to_owned(), "start etcd".to_owned());
        let events = [
            at(
                0.5,
                Event::PhaseDone {
                    phase: "connect".into(),
                    seconds: 0.5,
                    summary: "m1 w1 w2".into(),
                },
            ),
            at(
                1.0,
                Event::StageStarted {
                    stage,
                    hosts: 1,
                    steps: 1,
                },
            ),
            at(
                1.0,
                Event::StepStarted {
                    stage,
                    host: host.clone(),
                    title: title.clone(),
                },
            ),
            at(
                5.0,
                Event::StepWaiting {
                    stage,
                    host: host.clone(),
                    reason: "no leader".into(),
                },
            ),
            at(
                6.0,
                Event::StepWaiting {
                    stage,
                    host: host.clone(),
                    reason: "no leader".into(),
                },
            ),
            at(
                7.5,
                Event::StepDone {
                    stage,
                    host,
                    title,
                    seconds: 6.5,
                },
            ),
            at(
                7.5,
                Event::StageDone {
                    stage,
                    seconds: 106.5,
                },
            ),
        ];
        let mut plain = Plain::default();
        let lines: Vec<String> = events
            .iter()
            .flat_map(|event| plain.render(event, false))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        connect   m1 w1 w2                                                          0.5 s
        stage  etcd
          m1       waiting: no leader
          m1       start etcd                                                       6.5 s
        stage  etcd done                                                         1 m 47 s
        ");
    }

    #[test]
    fn long_steps_are_never_silent() {
        let stage = Stage::Stage;
        let mut plain = Plain::default();
        let (host, title) = ("w1".to_owned(), "pull 4 images".to_owned());
        plain.render(
            &at(
                0.0,
                Event::StepStarted {
                    stage,
                    host: host.clone(),
                    title,
                },
            ),
            false,
        );
        let (done, total) = (1_500_000, 3_000_000);
        let item = "pause".to_owned();
        plain.render(
            &at(
                3.0,
                Event::StepProgress {
                    stage,
                    host,
                    item,
                    done,
                    total,
                },
            ),
            false,
        );
        assert!(plain.overdue(9.0).is_empty());
        let lines = plain.overdue(11.0);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains("still: pull 4 images for 11 s: pause 1.5 MB of 3.0 MB"),
            "{lines:?}"
        );
        assert!(
            plain.overdue(12.0).is_empty(),
            "not more often than every ten seconds"
        );
    }

    #[test]
    fn failures_end_with_what_to_do() {
        let failure = EventFailure {
            message: "m1: starting etcd.service: it failed".into(),
            causes: vec!["exit status 1".into()],
            lines: vec!["bind: address in use".into()],
            hints: vec!["journalctl -u etcd on m1".into()],
        };
        insta::assert_snapshot!(failure_lines(&failure).join("\n"), @r"
        error: m1: starting etcd.service: it failed
          because: exit status 1
          last lines from there:
            | bind: address in use
        hint: journalctl -u etcd on m1
        ");
    }
}
