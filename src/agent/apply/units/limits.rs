//! How long units may take.

use crate::agent::observe::Shown;
use std::time::Duration;

/// A component that is not up by then will not come up by itself: images and
/// binaries are there, and what it waits for started before it.
pub(super) const START_LIMIT: Duration = Duration::from_secs(90);
/// On top of it, a restart may take as long as the unit may take to stop, but
/// no longer than this: the longest is an API server that drains.
pub(super) const LONGEST_STOP: Duration = Duration::from_secs(600);
/// A reload hands over to a successor, which has its own shorter limits.
pub(super) const RELOAD_LIMIT: Duration = Duration::from_secs(120);

/// How long a unit may take to stop, with some room for systemd itself.
pub(super) fn stop_limit(shown: &Shown) -> Duration {
    parse_span(shown.get("TimeoutStopUSec"))
        .unwrap_or(LONGEST_STOP)
        .min(LONGEST_STOP)
        + Duration::from_secs(10)
}

/// A span of time as systemd prints it: `1min 30s`, `infinity`.
fn parse_span(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for part in text.split_whitespace() {
        let digits = part.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, unit) = part.split_at(digits);
        let number: u64 = number.parse().ok()?;
        total += match unit {
            "us" => Duration::from_micros(number),
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "min" => Duration::from_secs(number * 60),
            "h" => Duration::from_secs(number * 3600),
            "d" => Duration::from_secs(number * 86_400),
            _ => return None,
        };
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_spans_of_time() {
        let seconds = |text| parse_span(text).map(|span| span.as_secs());
        assert_eq!(seconds("1min 30s"), Some(90));
        assert_eq!(seconds("2h 1min"), Some(7260));
        assert_eq!(seconds("infinity"), None);
        assert_eq!(seconds(""), None);
    }
}
