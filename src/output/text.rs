//! Small pieces of text for people: times, rates, failures.

use crate::bundle::inspect::human_bytes;
use crate::event::EventFailure;

/// Width of what stands before the seconds.
const WIDTH: usize = 72;
/// What took less, in seconds, shows no time of its own.
const WORTH_TELLING: f64 = 0.05;
/// A rate over less time than this, in seconds, would be a guess.
const RATE_AFTER: f64 = 1.0;

/// A line with the time it took at its right end.
pub(super) fn timed(text: &str, duration: f64) -> String {
    if duration < WORTH_TELLING {
        return text.to_owned();
    }
    format!("{text:<WIDTH$} {:>8}", seconds(duration))
}

/// `1.2 s`, `2 m 05 s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round();
    format!("{:.0} m {:02.0} s", (whole / 60.0).floor(), whole % 60.0)
}

/// Bytes that move, since they began to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moving {
    pub(super) item: String,
    /// When the first word of it came, in seconds since the run began, and how
    /// many bytes were done by then: what was there before counts for no rate.
    pub(super) since: f64,
    pub(super) first: u64,
}

impl Moving {
    /// `kubelet 12.1 MB of 31.0 MB, 4.1 MB/s`.
    pub(super) fn describe(&self, now: f64, done: u64, total: Option<u64>) -> String {
        let mut text = match total {
            Some(total) => format!(
                "{} {} of {}",
                self.item,
                human_bytes(done),
                human_bytes(total)
            ),
            None => format!("{} {}", self.item, human_bytes(done)),
        };
        let elapsed = now - self.since;
        let moved = done.saturating_sub(self.first);
        if elapsed >= RATE_AFTER && moved > 0 {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate for people"
            )]
            let rate = (moved as f64 / elapsed) as u64;
            text.push_str(&format!(", {}/s", human_bytes(rate)));
        }
        text
    }
}

/// A failure as lines: what, why, the host's last words, what to do.
pub fn failure_lines(failure: &EventFailure) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, line) in failure.message.lines().enumerate() {
        let prefix = if index == 0 { "error: " } else { "       " };
        lines.push(format!("{prefix}{line}").trim_end().to_owned());
    }
    for cause in &failure.causes {
        lines.push(format!("  because: {cause}"));
    }
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

    #[test]
    fn times_read_well_at_every_length() {
        for (given, expected) in [
            (0.04, "0.0 s"),
            (1.25, "1.2 s"),
            (99.94, "99.9 s"),
            (99.96, "1 m 40 s"),
            (125.0, "2 m 05 s"),
            (3599.6, "60 m 00 s"),
        ] {
            assert_eq!(seconds(given), expected);
        }
    }

    #[test]
    fn rates_leave_out_what_was_there_before() {
        let moving = Moving {
            item: "kubelet".to_owned(),
            since: 10.0,
            first: 2_000_000,
        };
        for (now, done, total, expected) in [
            (10.5, 3_000_000, Some(8_000_000), "kubelet 3.0 MB of 8.0 MB"),
            (
                12.0,
                6_000_000,
                Some(8_000_000),
                "kubelet 6.0 MB of 8.0 MB, 2.0 MB/s",
            ),
            (12.0, 6_000_000, None, "kubelet 6.0 MB, 2.0 MB/s"),
            (19.0, 2_000_000, Some(8_000_000), "kubelet 2.0 MB of 8.0 MB"),
        ] {
            assert_eq!(moving.describe(now, done, total), expected);
        }
    }

    #[test]
    fn failures_end_with_what_to_do() {
        let failure = EventFailure {
            message: "m1: starting etcd.service: it failed\n\nsaid twice".into(),
            causes: vec!["exit status 1".into()],
            lines: vec!["bind: address in use".into()],
            hints: vec!["journalctl -u etcd on m1".into()],
            ..EventFailure::default()
        };
        insta::assert_snapshot!(failure_lines(&failure).join("\n"), @r"
        error: m1: starting etcd.service: it failed

               said twice
          because: exit status 1
          last lines from there:
            | bind: address in use
        hint: journalctl -u etcd on m1
        ");
    }
}
