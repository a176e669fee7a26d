//! What a dry run tells beside the steps.

use super::fault::Fault;
use super::prospect::Prospect;
use super::rollback;
use crate::event::{Event, EventSink as _, TimedEvent};
use crate::output::Output;
use crate::plan::Comparison;
use crate::plan::outlook::{Earlier, Known, Outlook, outlook};
use crate::site::Site;
use futures_util::future::join_all;

/// Runs of before that are told of.
const EARLIER: usize = 3;

/// Looks ahead of a prospect's plan.
pub(super) async fn look_ahead(
    output: &Output,
    prospect: &Prospect,
    verb: &str,
) -> Result<Outlook, Fault> {
    let mut known = Known {
        usage: prospect.usage.values().next().cloned(),
        earlier: earlier(&prospect.site, verb),
        ..Known::default()
    };
    let reads = prospect.hosts.iter();
    let reads = reads.map(async |(name, host)| (name, rollback::read(host).await));
    for (name, read) in join_all(reads).await {
        match read {
            Ok(generations) => {
                let newest = generations.into_iter().next();
                let newest = newest.map(|newest| (name.clone(), newest));
                known.generations.extend(newest);
            }
            // It only informs.
            Err(fault) => {
                let host = Some(name.clone());
                let failures = fault.failures.into_iter();
                let reasons: Vec<String> = failures.map(|failure| failure.message).collect();
                let message = format!("{}; its files are not compared", reasons.join("; "));
                output.emit(Event::Warning { host, message });
            }
        }
    }
    let view = prospect.site.view().map_err(Fault::input)?;
    let key = view.digest_key.as_ref();
    let comparison = Comparison::new(&prospect.desired, &prospect.world, key);
    Ok(outlook(&comparison, &prospect.plan, known))
}

/// The last runs of a verb that came to their end and did something, as their
/// journals have them. What can't be read is left out: it only informs.
fn earlier(site: &Site, verb: &str) -> Vec<Earlier> {
    let Ok(entries) = site.path("journal").read_dir_utf8() else {
        return Vec::new();
    };
    let suffix = format!("-{verb}.jsonl");
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| name.ends_with(&suffix))
        .collect();
    names.sort_unstable_by(|one, other| other.cmp(one));
    let runs = names.iter().filter_map(|name| {
        let text = fs_err::read_to_string(site.path("journal").join(name)).ok()?;
        let mut events = text.lines().rev();
        events.find_map(|line| {
            let event: TimedEvent = serde_json::from_str(line).ok()?;
            match event.event {
                Event::RunDone {
                    seconds,
                    steps,
                    sent_bytes,
                    ..
                } if steps > 0 => Some(Earlier {
                    begun: name.trim_end_matches(&suffix).to_owned(),
                    seconds: seconds.round() as u64,
                    steps,
                    sent_bytes,
                }),
                _ => None,
            }
        })
    });
    runs.take(EARLIER).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_runs_are_those_that_did_something() {
        let directory = tempfile::tempdir().unwrap();
        let root = camino::Utf8Path::from_path(directory.path()).unwrap();
        let site = Site::open(root, "lab").unwrap();
        let journal = root.join("journal");
        fs_err::create_dir(&journal).unwrap();
        let run = |steps: usize| {
            let event = TimedEvent {
                version: 1,
                at: 2.0,
                event: Event::RunDone {
                    seconds: 339.6,
                    steps,
                    sent_bytes: 8,
                    sent_bytes_by_zone: [].into(),
                    next: String::new(),
                },
            };
            format!("{}\n", serde_json::to_string(&event).unwrap())
        };
        for (name, text) in [
            ("20261101T000000Z-upgrade.jsonl", run(9)),
            ("20261102T000000Z-upgrade.jsonl", run(0)),
            ("20261103T000000Z-upgrade.jsonl", "damaged\n".to_owned()),
            ("20261104T000000Z-install.jsonl", run(5)),
            ("20261105T000000Z-upgrade.jsonl", run(7)),
        ] {
            fs_err::write(journal.join(name), text).unwrap();
        }
        let found = earlier(&site, "upgrade");
        let told: Vec<(&str, usize, u64)> = found
            .iter()
            .map(|run| (run.begun.as_str(), run.steps, run.seconds))
            .collect();
        assert_eq!(
            told,
            [("20261105T000000Z", 7, 340), ("20261101T000000Z", 9, 340)]
        );
    }
}
