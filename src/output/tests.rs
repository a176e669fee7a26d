//! The same events in every rendering.

use super::lines::Plain;
use super::live::Live;
use super::{Journal, Output, Shape, Style};
use crate::desired::Stage;
use crate::event::{Event, EventFailure, EventSink, FailureKind, HostsByZone, TimedEvent};
use indicatif::ProgressDrawTarget;

const STAGE: Stage = Stage::Etcd;

fn at(at: f64, event: Event) -> TimedEvent {
    TimedEvent {
        version: 1,
        at,
        event,
    }
}

fn phase_started(phase: &str) -> Event {
    Event::PhaseStarted {
        phase: phase.to_owned(),
        hosts: 3,
    }
}

fn phase_progress(phase: &str, doing: &str) -> Event {
    Event::PhaseProgress {
        phase: phase.to_owned(),
        doing: doing.to_owned(),
    }
}

fn phase_done(phase: &str, seconds: f64, summary: &str) -> Event {
    Event::PhaseDone {
        phase: phase.to_owned(),
        seconds,
        summary: summary.to_owned(),
    }
}

fn started(host: &str, title: &str) -> Event {
    Event::StepStarted {
        stage: STAGE,
        host: host.to_owned(),
        title: title.to_owned(),
    }
}

fn done(host: &str, title: &str, seconds: f64) -> Event {
    Event::StepDone {
        stage: STAGE,
        host: host.to_owned(),
        title: title.to_owned(),
        seconds,
    }
}

fn waiting(host: &str, reason: &str) -> Event {
    Event::StepWaiting {
        stage: STAGE,
        host: host.to_owned(),
        reason: reason.to_owned(),
    }
}

fn progress(host: &str, done: u64) -> Event {
    Event::StepProgress {
        stage: STAGE,
        host: host.to_owned(),
        item: "pause".to_owned(),
        done,
        total: 9_000_000,
    }
}

fn zones(zones: &[(&str, &[&str])]) -> HostsByZone {
    let owned = zones.iter().map(|(zone, hosts)| {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        ((*zone).to_owned(), hosts)
    });
    owned.collect()
}

fn a_run() -> Vec<TimedEvent> {
    let failure = EventFailure {
        message: "m1: it failed".to_owned(),
        ..EventFailure::default()
    };
    vec![
        at(0.0, phase_started("connect")),
        at(0.3, phase_progress("connect", "waiting for w2")),
        at(0.5, phase_done("connect", 0.5, "m1 w1 w2\nagent brought")),
        at(
            1.0,
            Event::StageStarted {
                stage: STAGE,
                hosts: 2,
                steps: 3,
                zones: zones(&[("a", &["m1"]), ("b", &["w1"])]),
            },
        ),
        at(
            1.0,
            Event::PartStarted {
                stage: STAGE,
                zones: zones(&[("b", &["w1"])]),
                after: zones(&[("a", &["m1", "m2", "m3", "m4", "m5", "m6", "m7"])]),
            },
        ),
        at(1.0, started("m1", "start etcd")),
        at(1.0, started("w1", "pull 4 images")),
        at(2.0, waiting("m1", "no leader")),
        at(2.0, progress("w1", 1_000_000)),
        at(4.0, progress("w1", 5_000_000)),
        at(5.0, waiting("m1", "no leader, 1 of 3 members")),
        at(
            5.5,
            Event::HostLog {
                host: "m1".to_owned(),
                line: "etcd: elected".to_owned(),
            },
        ),
        at(
            6.0,
            Event::Warning {
                host: Some("w1".to_owned()),
                message: "the clock is 4 s ahead".to_owned(),
            },
        ),
        at(7.5, done("m1", "start etcd", 6.5)),
        at(
            7.6,
            Event::StepFailed {
                stage: STAGE,
                host: "w1".to_owned(),
                title: "pull 4 images".to_owned(),
                failure: failure.clone(),
            },
        ),
        at(
            107.5,
            Event::StageDone {
                stage: STAGE,
                seconds: 106.5,
            },
        ),
        at(
            108.0,
            Event::RunFailed {
                seconds: 108.0,
                kind: FailureKind::Failed,
                exit: 1,
                failures: vec![failure],
            },
        ),
    ]
}

#[test]
fn as_plain_lines_a_run_is_short_and_aligned() {
    let mut plain = Plain::new(false);
    let lines: Vec<String> = a_run()
        .iter()
        .flat_map(|event| plain.render(event, false))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    connect   m1 w1 w2                                                          0.5 s
              agent brought
    stage  etcd             zone a: m1; zone b: w1
      now      zone b: w1, after zone a: 7 hosts
      m1       waiting: no leader, 1 of 3 members
    warning: w1: the clock is 4 s ahead
      m1       start etcd                                                       6.5 s
      w1       pull 4 images: failed: m1: it failed
    stage  etcd done                                                         1 m 47 s
    ");
}

#[test]
fn verbose_lines_show_hosts_logs_and_every_wait() {
    let (mut plain, mut verbose) = (Plain::new(false), Plain::new(true));
    let mut more = Vec::new();
    for event in a_run() {
        let few = plain.render(&event, false);
        let all = verbose.render(&event, false);
        more.extend(all.into_iter().filter(|line| !few.contains(line)));
    }
    assert_eq!(
        more,
        [
            "  m1       waiting: no leader",
            "  m1       | etcd: elected"
        ]
    );
}

#[test]
fn bars_show_what_is_in_hand_and_none_is_left() {
    let (mut plain, mut live) = (Plain::new(false), Live::on(ProgressDrawTarget::hidden()));
    let mut shown: Vec<String> = Vec::new();
    let mut lines: Vec<String> = Vec::new();
    for event in a_run() {
        lines.extend(plain.render(&event, true));
        live.follow(&event.event, &plain);
        let steps = live.steps.values();
        shown.extend(steps.chain(&live.phase).map(|bar| bar.message()));
    }
    for expected in [
        "waiting for w2",
        "start etcd: no leader, 1 of 3 members",
        "pull 4 images: pause 5.0 MB of 9.0 MB, 2.0 MB/s",
    ] {
        assert!(
            shown.iter().any(|message| message == expected),
            "{shown:#?}"
        );
    }
    assert!(live.phase.is_none() && live.steps.is_empty());
    let waits = lines.iter().find(|line| line.contains("waiting"));
    assert_eq!(waits, None, "bars show waits");
}

#[test]
fn long_work_is_never_silent_and_a_rate_is_told() {
    let mut plain = Plain::new(false);
    let mut feed = |seconds: f64, event: Event| {
        plain.render(&at(seconds, event), false);
    };
    feed(0.0, started("w1", "pull 4 images"));
    feed(1.0, progress("w1", 1_000_000));
    feed(3.0, progress("w1", 3_000_000));
    assert!(plain.overdue(9.0).is_empty());
    assert_eq!(
        plain.overdue(11.0),
        ["  w1       still: pull 4 images for 11 s: pause 3.0 MB of 9.0 MB, 1.0 MB/s"]
    );
    assert!(plain.overdue(12.0).is_empty(), "not more often than that");
    assert_eq!(plain.overdue(22.0).len(), 1);
}

#[test]
fn long_phases_are_never_silent_and_name_whom_they_wait_for() {
    let mut plain = Plain::new(false);
    plain.render(&at(100.0, phase_started("connect")), false);
    let doing = phase_progress("connect", "waiting for w2");
    plain.render(&at(101.0, doing), false);
    assert!(plain.overdue(109.0).is_empty(), "counted from the start");
    assert_eq!(
        plain.overdue(111.0),
        ["connect   still, for 11 s: waiting for w2"]
    );
    plain.render(&at(112.0, phase_done("connect", 12.0, "all")), false);
    assert!(plain.overdue(140.0).is_empty(), "nothing is in hand");
}

#[test]
fn a_step_that_was_given_up_is_not_said_to_run() {
    let mut plain = Plain::new(false);
    plain.render(&at(0.0, started("w1", "wait until ready")), false);
    let failed = Event::RunFailed {
        seconds: 1.0,
        kind: FailureKind::Failed,
        exit: 1,
        failures: Vec::new(),
    };
    plain.render(&at(1.0, failed), false);
    assert!(plain.overdue(60.0).is_empty());
}

#[test]
fn the_journal_is_private_and_reads_back_without_noise() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = camino::Utf8Path::from_path(directory.path()).unwrap();
    let journal = Journal::create(&path.join("journal"), "install").unwrap();
    let file = journal.path().to_owned();
    assert!(file.as_str().ends_with("Z-install.jsonl"), "{file}");
    let mode = fs_err::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = Output::new(Style {
        shape: Shape::Quiet,
        is_colored: false,
        is_verbose: false,
    });
    output.record(journal);
    for timed in a_run() {
        output.emit(timed.event);
    }
    let text = fs_err::read_to_string(&file).unwrap();
    let events: Vec<TimedEvent> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let worth_keeping = |event: &TimedEvent| {
        !matches!(
            event.event,
            Event::StepProgress { .. } | Event::PhaseProgress { .. }
        )
    };
    let expected: Vec<Event> = a_run()
        .into_iter()
        .filter(worth_keeping)
        .map(|timed| timed.event)
        .collect();
    let found: Vec<Event> = events.into_iter().map(|timed| timed.event).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_json_line_is_flat_and_says_its_version() {
    let event = at(1.5, waiting("m1", "no leader"));
    insta::assert_snapshot!(
        serde_json::to_string(&event).unwrap(),
        @r#"{"version":1,"at":1.5,"event":"step-waiting","stage":"etcd","host":"m1","reason":"no leader"}"#
    );
}
