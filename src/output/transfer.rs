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
        let progress = (done_bytes, total_bytes);
        stage.items.insert(item.to_owned(), progress);
        if stage.told.elapsed() >= TELL_EVERY {
            stage.told = Instant::now();
            let doing = stage.describe(self.output.elapsed(), item);
            let phase = self.within.as_ref().unwrap_or(&stage.name).clone();
            self.output.emit(Event::PhaseProgress { phase, doing });
        }
    }
}
