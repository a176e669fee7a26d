//! What is known of one API server, as a pure state machine: probes and dials
//! go in with their times, and out comes what to do.

use std::io;
use std::time::{Duration, Instant};

use super::choice::Readiness;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// `/readyz` answered 200.
    Ready,
    /// The server took the connection, but did not say that it is ready.
    NotReady(String),
    /// The dial failed, though not because the host is silent: it refused (a
    /// host that refuses is alive, and its server may still be finishing
    /// requests on established connections), or the fault is this node's own.
    DialFailed(String),
    /// Nothing came back from the host in time.
    Silent(String),
}

/// What follows from a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// The readiness changed: worth a line in the log.
    pub changed: bool,
    /// The host has been silent for so long that its established connections
    /// are to be reset: after a power cut nobody sends a FIN, and clients
    /// would wait for minutes.
    pub reset_connections: bool,
}

/// The state of one API server.
#[derive(Clone, Debug)]
pub struct Health {
    readiness: Readiness,
    reason: String,
    /// When a probe first got an answer without readiness, since the server
    /// was last ready or not to be reached by a probe.
    unready_since: Option<Instant>,
    silent_since: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            readiness: Readiness::Unknown,
            reason: "not probed yet".to_owned(),
            unready_since: None,
            silent_since: None,
        }
    }
}

impl Health {
    /// What new connections go by.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// Why it is so, for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether at `now` the server has answered probes for longer than `limit`,
    /// each time without being ready. Dials of clients that failed in between
    /// don't count: an overloaded server loses some.
    pub fn answers_unready_for(&self, limit: Duration, now: Instant) -> bool {
        self.unready_since
            .is_some_and(|since| now.saturating_duration_since(since) > limit)
    }

    /// Takes in a probe that began at `started` and ended at `ended`; the host
    /// counts as dead when it has been silent for `reset_after`.
    pub fn record_probe(
        &mut self,
        result: ProbeResult,
        started: Instant,
        ended: Instant,
        reset_after: Duration,
    ) -> Consequence {
        self.silent_since = match result {
            ProbeResult::Silent(_) => Some(self.silent_since.unwrap_or(started)),
            _ => None,
        };
        self.unready_since = match result {
            ProbeResult::NotReady(_) => Some(self.unready_since.unwrap_or(ended)),
            _ => None,
        };
        let (readiness, reason) = match result {
            ProbeResult::Ready => (Readiness::Ready, "ready".to_owned()),
            ProbeResult::NotReady(reason) => (Readiness::NotReady, reason),
            ProbeResult::DialFailed(reason) | ProbeResult::Silent(reason) => {
                (Readiness::Unreachable, reason)
            }
        };
        let reset_connections = self
            .silent_since
            .is_some_and(|since| ended.saturating_duration_since(since) >= reset_after);
        Consequence {
            changed: self.change(readiness, reason),
            reset_connections,
        }
    }

    /// Takes in that a client's connection could not be made, which tells
    /// earlier than the next probe. Connections are never reset on this alone:
    /// only probes measure for how long a host is silent.
    pub fn record_failed_dial(&mut self, reason: String) -> Consequence {
        Consequence {
            changed: self.change(Readiness::Unreachable, reason),
            reset_connections: false,
        }
    }

    fn change(&mut self, readiness: Readiness, reason: String) -> bool {
        let changed = self.readiness != readiness;
        self.readiness = readiness;
        self.reason = reason;
        changed
    }
}

/// Sorts a failed dial: silence of the host, or anything else.
///
/// Refusals show a kernel that answers. What this node lacks (descriptors,
/// ports, buffers, permission) tells nothing about the host.
pub fn classify_dial_error(error: &io::Error) -> ProbeResult {
    let reason = format!("dialing: {error}");
    match error.kind() {
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => ProbeResult::Silent(reason),
        _ => ProbeResult::DialFailed(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET_AFTER: Duration = Duration::from_secs(3);

    fn silent() -> ProbeResult {
        ProbeResult::Silent("timed out".to_owned())
    }

    fn refused() -> ProbeResult {
        ProbeResult::DialFailed("refused".to_owned())
    }

    /// Each case is a row of probes as (start, end, result) in seconds, and
    /// what each must lead to as (readiness, changed, reset).
    #[test]
    fn probes_lead_to_readiness_and_resets() {
        use Readiness::{NotReady, Ready, Unreachable};
        type Row = (u64, u64, ProbeResult, (Readiness, bool, bool));
        let unready = || ProbeResult::NotReady("500".to_owned());
        let cases: Vec<(&str, Vec<Row>)> = vec![
            (
                "ready stays ready",
                vec![
                    (0, 0, ProbeResult::Ready, (Ready, true, false)),
                    (1, 1, ProbeResult::Ready, (Ready, false, false)),
                ],
            ),
            (
                "not ready never resets",
                vec![
                    (0, 0, unready(), (NotReady, true, false)),
                    (60, 60, unready(), (NotReady, false, false)),
                    (61, 61, ProbeResult::Ready, (Ready, true, false)),
                ],
            ),
            (
                "a silent host is reset after three seconds, and on",
                vec![
                    (0, 0, ProbeResult::Ready, (Ready, true, false)),
                    (1, 2, silent(), (Unreachable, true, false)),
                    (2, 3, silent(), (Unreachable, false, false)),
                    (3, 4, silent(), (Unreachable, false, true)),
                    (4, 5, silent(), (Unreachable, false, true)),
                    (5, 5, ProbeResult::Ready, (Ready, true, false)),
                ],
            ),
            (
                "an answer in between starts the count again",
                vec![
                    (0, 1, silent(), (Unreachable, true, false)),
                    (1, 2, silent(), (Unreachable, false, false)),
                    (2, 2, unready(), (NotReady, true, false)),
                    (3, 4, silent(), (Unreachable, true, false)),
                    (4, 5, silent(), (Unreachable, false, false)),
                    (5, 6, silent(), (Unreachable, false, true)),
                ],
            ),
            (
                "a host that refuses is alive",
                vec![
                    (0, 0, refused(), (Unreachable, true, false)),
                    (10, 10, refused(), (Unreachable, false, false)),
                ],
            ),
        ];
        let origin = Instant::now();
        for (name, rows) in cases {
            let mut health = Health::default();
            for (row, (start, end, result, expected)) in rows.into_iter().enumerate() {
                let at = |seconds| origin + Duration::from_secs(seconds);
                let consequence = health.record_probe(result, at(start), at(end), RESET_AFTER);
                let got = (
                    health.readiness(),
                    consequence.changed,
                    consequence.reset_connections,
                );
                assert_eq!(got, expected, "{name}, row {row}");
            }
        }
    }

    #[test]
    fn a_failed_dial_counts_at_once_but_resets_nothing() {
        let now = Instant::now();
        let mut health = Health::default();
        health.record_probe(ProbeResult::Ready, now, now, RESET_AFTER);
        let consequence = health.record_failed_dial("timed out".to_owned());
        assert_eq!(
            consequence,
            Consequence {
                changed: true,
                reset_connections: false
            }
        );
        assert_eq!(health.readiness(), Readiness::Unreachable);
        assert_eq!(health.reason(), "timed out");
        health.record_probe(ProbeResult::Ready, now, now, RESET_AFTER);
        assert_eq!(health.readiness(), Readiness::Ready);
    }

    #[test]
    fn only_a_server_that_answers_can_be_unready_for_long() {
        const LIMIT: Duration = Duration::from_secs(60);
        let unready = || ProbeResult::NotReady("500".to_owned());
        let cases = [
            (
                "unready for long",
                vec![(0, unready()), (61, unready())],
                true,
            ),
            ("not yet", vec![(0, unready()), (60, unready())], false),
            (
                "from another reason to be unready",
                vec![(0, refused()), (50, unready()), (61, unready())],
                false,
            ),
            (
                "refused for long",
                vec![(0, refused()), (61, refused())],
                false,
            ),
            (
                "ready for long",
                vec![(0, ProbeResult::Ready), (61, ProbeResult::Ready)],
                false,
            ),
        ];
        let origin = Instant::now();
        for (name, probes, expected) in cases {
            let mut health = Health::default();
            let mut last = origin;
            for (second, result) in probes {
                last = origin + Duration::from_secs(second);
                health.record_probe(result, last, last, RESET_AFTER);
            }
            assert_eq!(health.answers_unready_for(LIMIT, last), expected, "{name}");
        }
        assert!(!Health::default().answers_unready_for(LIMIT, origin));
    }

    #[test]
    fn a_lost_dial_of_a_client_makes_no_server_look_as_if_it_just_started() {
        const LIMIT: Duration = Duration::from_secs(60);
        let origin = Instant::now();
        let at = |seconds| origin + Duration::from_secs(seconds);
        let mut health = Health::default();
        for second in [0, 30, 61] {
            let unready = ProbeResult::NotReady("500".to_owned());
            health.record_probe(unready, at(second), at(second), RESET_AFTER);
            health.record_failed_dial("timed out".to_owned());
        }
        assert!(health.answers_unready_for(LIMIT, at(61)));
    }

    #[test]
    fn dial_errors_are_sorted() {
        let cases = [
            (io::ErrorKind::TimedOut, true),
            (io::ErrorKind::HostUnreachable, true),
            (io::ErrorKind::NetworkUnreachable, true),
            (io::ErrorKind::ConnectionRefused, false),
            (io::ErrorKind::ConnectionReset, false),
            (io::ErrorKind::AddrNotAvailable, false),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::Other, false),
        ];
        for (kind, is_silent) in cases {
            let result = classify_dial_error(&io::Error::from(kind));
            assert_eq!(
                matches!(result, ProbeResult::Silent(_)),
                is_silent,
                "{kind:?}"
            );
        }
    }
}
