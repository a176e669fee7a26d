//! Progress of downloads, builds and verification, told as phases.

use super::Output;
use super::text::Moving;
use crate::bundle::Progress;
use crate::bundle::inspect::human_bytes;
use crate::event::{Event, EventSink};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Terminals need no more than this, and journals and pipes less.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Tells a bundle's progress: each of its stages becomes a phase.
pub struct TransferProgress {
    output: Arc<Output>,
    /// The phase that it is all part of, if somebody else begins and ends it.
    within: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: Option<Stage>,
}

struct Stage {
    name: String,
    started: Instant,
    told: Instant,
    /// Bytes done and, where known, in all, by item.
    items: BTreeMap<String, (u64, Option<u64>)>,
    /// For the rate of all items together.
    moving: Moving,
}

impl TransferProgress {
    pub fn begin(output: &Arc<Output>) -> Arc<Self> {
        Arc::new(Self {
            output: output.clone(),
            within: None,
            state: Mutex::default(),
        })
    }

    /// Tells progress of a phase that has begun, and leaves its end to whoever
    /// began it.
    pub fn within(output: &Arc<Output>, phase: &str) -> Arc<Self> {
        Arc::new(Self {
            output: output.clone(),
            within: Some(phase.to_owned()),
            state: Mutex::default(),
        })
    }

    /// Says how the last stage ended.
    pub fn end(&self) {
        let ended = self.state().stage.take();
        self.tell_end(ended);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_end(&self, ended: Option<Stage>) {
        let Some(stage) = ended else { return };
        if self.within.is_some() {
            return;
        }
        let count = stage.items.len();
        let items = if count == 1 { "item" } else { "items" };
        self.output.emit(Event::PhaseDone {
            phase: stage.name.clone(),
            seconds: stage.started.elapsed().as_secs_f64(),
            summary: format!("{count} {items}, {}", human_bytes(stage.done())),
        });
    }

    fn stage(&self, name: &str) -> Stage {
        if self.within.is_none() {
            self.output.emit(Event::PhaseStarted {
                phase: name.to_owned(),
                hosts: 0,
            });
        }
        let now = Instant::now();
        Stage {
            name: name.to_owned(),
            started: now,
            told: now,
            items: BTreeMap::new(),
            moving: Moving {
                item: String::new(),
                since: self.output.elapsed(),
                first: 0,
            },
        }
    }
}

impl Stage {
    fn done(&self) -> u64 {
        self.items.values().map(|(done, _)| done).sum()
    }

    /// `kubelet 12.1 MB of 31.0 MB, 4.1 MB/s`, or with several items
    /// `kubelet (2 done), all in all 12.1 MB, 4.1 MB/s`: what is still to come
    /// is not known then, so no total is claimed.
    fn describe(&mut self, now: f64, item: &str) -> String {
        let is_done = |(done, total): &&(u64, Option<u64>)| Some(*done) == *total;
        let done_items = self.items.values().filter(is_done).count();
        let (text, total) = match self.items.values().next() {
            Some((_, total)) if self.items.len() == 1 => (item.to_owned(), *total),
            _ => (format!("{item} ({done_items} done), all in all"), None),
        };
        self.moving.item = text;
        self.moving.describe(now, self.done(), total)
    }
}

impl Progress for TransferProgress {
    fn advance(&self, stage: &str, item: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let mut state = self.state();
        if state.stage.as_ref().is_none_or(|old| old.name != stage) {
            let ended = state.stage.take();
            self.tell_end(ended);
            state.stage = Some(self.stage(stage));
        }
        let Some(stage) = &mut state.stage else {
            return;
        };
        // Threads that work on one item tell how far it is in any order.
        let progress = stage.items.entry(item.to_owned()).or_default();
        *progress = (progress.0.max(done_bytes), total_bytes);
        if stage.told.elapsed() >= TELL_EVERY {
            stage.told = Instant::now();
            let doing = stage.describe(self.output.elapsed(), item);
            let phase = self.within.as_ref().unwrap_or(&stage.name).clone();
            self.output.emit(Event::PhaseProgress { phase, doing });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TimedEvent;
    use crate::output::{Journal, Shape, Style};

    /// What a journal keeps of the progress that is told.
    fn phases(tell: impl Fn(&TransferProgress)) -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        let path = camino::Utf8Path::from_path(directory.path()).unwrap();
        let journal = Journal::create(path, "build").unwrap();
        let file = journal.path().to_owned();
        let output = Arc::new(Output::new(Style {
            shape: Shape::Quiet,
            is_colored: false,
            is_verbose: false,
        }));
        output.record(journal);
        let progress = TransferProgress::begin(&output);
        tell(&progress);
        progress.end();
        let text = fs_err::read_to_string(file).unwrap();
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<TimedEvent>(line).unwrap().event);
        let done = events.filter_map(|event| match event {
            Event::PhaseDone { phase, summary, .. } => Some((phase, summary)),
            _ => None,
        });
        done.collect()
    }

    #[test]
    fn stages_are_phases_and_words_out_of_order_lose_nothing() {
        let found = phases(|progress| {
            progress.advance("download", "a", 2_000, Some(2_000));
            progress.advance("download", "b", 3_000, None);
            progress.advance("verify", "b.tar", 16_000, Some(16_000));
            progress.advance("verify", "b.tar", 1_000, Some(16_000));
        });
        let expected = [
            ("download", "2 items, 5.0 kB"),
            ("verify", "1 item, 16.0 kB"),
        ];
        let expected = expected.map(|(phase, summary)| (phase.to_owned(), summary.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_total_is_claimed_only_where_it_is_known() {
        let moving = Moving {
            item: String::new(),
            since: 0.0,
            first: 0,
        };
        let now = Instant::now();
        let mut stage = Stage {
            name: "download".to_owned(),
            started: now,
            told: now,
            items: [("a".to_owned(), (1_000, Some(4_000)))].into(),
            moving,
        };
        assert_eq!(stage.describe(2.0, "a"), "a 1.0 kB of 4.0 kB, 500 B/s");
        stage.items.insert("b".to_owned(), (2_000, Some(2_000)));
        assert_eq!(
            stage.describe(2.0, "b"),
            "b (1 done), all in all 3.0 kB, 1.5 kB/s"
        );
    }
}
