//! What programs that read standard output are told of failures.

use crate::world::{Outcome, World};
use serde_json::Value;

/// The one event of a failure: the only line, or the last one of a run.
#[track_caller]
fn failure_of(outcome: &Outcome) -> Value {
    let values: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let failed = |value: &&Value| value["event"] == "run-failed";
    assert_eq!(
        values.iter().filter(failed).count(),
        1,
        "{}",
        outcome.text()
    );
    let last = values.last().unwrap();
    assert_eq!(last["event"], "run-failed", "{}", outcome.text());
    assert_eq!(last["exit"], outcome.code);
    last.clone()
}

/// Before a run has begun there is no other event, and people read the same on
/// stderr as without JSON.
#[test]
fn a_failure_before_the_first_event_is_one_object() {
    let world = World::new();
    let good = world.read("inventory.toml");
    let bad = good
        .replace("zone = \"a\"", "zone = \"b\"")
        .replace("192.0.2.11", "10.244.1.1");
    world.write("bad.toml", &bad);
    fs_err::create_dir(world.path.join("site-other")).unwrap();
    world.write("site-other/site.toml", "schema = 1\ncluster = \"prod\"\n");
    let other = good.replace("name = \"lab\"", "name = \"other\"");
    world.write("other.toml", &other);
    let bundle = "--bundle no.tar --trusted-key no.pub";
    for (line, option, file, lines) in [
        (
            format!("install --yes -i bad.toml {bundle}"),
            "--json",
            "bad.toml",
            vec![8, 12, 13],
        ),
        (
            format!("plan -i bad.toml {bundle}"),
            "--json",
            "bad.toml",
            vec![8, 12, 13],
        ),
        (
            "ports -i bad.toml".to_owned(),
            "--format json",
            "bad.toml",
            vec![8, 12, 13],
        ),
        (
            format!("install -i no.toml {bundle}"),
            "--json",
            "no.toml",
            vec![],
        ),
        (
            "ports -i no.toml".to_owned(),
            "--format=json",
            "no.toml",
            vec![],
        ),
        (
            "bundle inspect no.tar".to_owned(),
            "--json",
            "no.tar",
            vec![],
        ),
        (
            "bundle inspect bad.toml".to_owned(),
            "--json",
            "bad.toml",
            vec![],
        ),
        (
            "bundle verify no.tar --trusted-key no.pub".to_owned(),
            "--json",
            "no.pub",
            vec![],
        ),
        (
            format!("install -i other.toml {bundle}"),
            "--json",
            "",
            vec![],
        ),
        ("install --yes".to_owned(), "--json", "", vec![]),
        ("plan --no-such-option".to_owned(), "--json", "", vec![]),
    ] {
        let people = world.run(&line);
        let programs = world.run(&format!("{line} {option}"));
        assert_eq!(people.code, 2, "{line}: {}", people.text());
        assert_eq!(people.stdout, "", "{line}");
        assert_eq!(programs.code, 2, "{line}: {}", programs.text());
        // The words of a wrong command line are shown as they were given.
        if !people.stderr.contains("Usage:") {
            assert_eq!(programs.stderr, people.stderr, "{line}");
        }
        assert_eq!(programs.stdout.lines().count(), 1, "{line}");
        let event = failure_of(&programs);
        assert_eq!(event["kind"], "input", "{line}");
        let failure = &event["failures"][0];
        let message = failure["message"].as_str().unwrap().lines().next().unwrap();
        assert!(people.stderr.contains(message), "{line}: {message}");
        let no_places = Vec::new();
        let places = failure["places"].as_array().unwrap_or(&no_places);
        let found: Vec<i64> = places
            .iter()
            .filter_map(|place| place["line"].as_i64())
            .collect();
        assert_eq!(found, lines, "{line}: {event}");
        if !file.is_empty() {
            assert!(places.iter().all(|place| place["file"] == file), "{event}");
            assert!(!places.is_empty(), "{line}: {event}");
        }
    }
}

#[test]
fn a_failure_later_on_names_host_or_file_and_comes_once() {
    let world = World::new();
    world.bundle("small", "linux/amd64");
    let good = fs_err::read(world.path.join("small.tar")).unwrap();
    fs_err::write(world.path.join("half.tar"), &good[..good.len() / 2]).unwrap();
    for verb in ["plan --json", "install --yes --json"] {
        let run = world.run(&format!("{verb} --bundle half.tar --trusted-key key.pub"));
        let event = failure_of(&run);
        assert_eq!((run.code, &event["kind"]), (2, &"input".into()));
        assert_eq!(event["failures"][0]["places"][0]["file"], "half.tar");
        let run = world.run(&format!("{verb} --bundle small.tar --trusted-key key.pub"));
        let event = failure_of(&run);
        assert_eq!((run.code, &event["kind"]), (4, &"hosts".into()));
        let failure = &event["failures"][0];
        assert_eq!(failure["host"], "m1");
        let hint = failure["hints"][0].as_str().unwrap();
        assert!(hint.contains("check that m1 is up"), "{event}");
    }
    fs_err::remove_file(world.path.join("id")).unwrap();
    let run = world.run("plan --json --bundle small.tar --trusted-key key.pub");
    let event = failure_of(&run);
    assert_eq!((run.code, &event["kind"]), (2, &"input".into()));
    assert_eq!(event["failures"][0]["places"][0]["file"], "id");
}

/// What `verify` finds names the damages itself.
#[test]
fn a_damaged_bundle_is_still_one_object() {
    let world = World::new();
    world.bundle("small", "linux/amd64");
    let mut bytes = fs_err::read(world.path.join("small.tar")).unwrap();
    let compressed = bytes
        .windows(4)
        .position(|window| window == [0x28, 0xb5, 0x2f, 0xfd])
        .unwrap();
    bytes[compressed + 10] ^= 1;
    fs_err::write(world.path.join("flipped.tar"), bytes).unwrap();
    let run = world.run("bundle verify flipped.tar --trusted-key key.pub --json");
    run.expect(2, &["error: the bundle flipped.tar is damaged"]);
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(value["damages"].as_array().unwrap().len(), 1);
}
