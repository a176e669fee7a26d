//! Progress of downloads, builds and verification.

use super::{Output, seconds};
use crate::bundle::Progress;
use crate::bundle::inspect::human_bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A line at least this often while something moves.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Renders a bundle's progress: a line for each stage, and one every few
/// seconds while it lasts.
pub struct TransferProgress {
    output: Arc<Output>,
    state: Mutex<State>,
}

struct State {
    stage: String,
    stage_started: Instant,
    last_line: Instant,
    /// Bytes done and, where known, in all, by item.
    items: BTreeMap<String, (u64, Option<u64>)>,
}

impl TransferProgress {
    pub fn begin(output: &Arc<Output>) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            stage: String::new(),
            stage_started: now,
            last_line: now,
            items: BTreeMap::new(),
        };
        Arc::new(Self {
            output: output.clone(),
            state: Mutex::new(state),
        })
    }

    /// Says how the last stage ended.
    pub fn end(&self) {
        let state = self.state();
        self.say_done(&state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_done(&self, state: &State) {
        if state.stage.is_empty() {
            return;
        }
        let bytes: u64 = state.items.values().map(|(done, _)| done).sum();
        let elapsed = seconds(state.stage_started.elapsed().as_secs_f64());
        let (stage, count) = (&state.stage, state.items.len());
        self.output.say(&format!(
            "{stage:<10} {count:>3} items {:>10} {elapsed:>9}",
            human_bytes(bytes)
        ));
    }
}

impl Progress for TransferProgress {
    fn advance(&self, stage: &str, item: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let mut state = self.state();
        if state.stage != stage {
            self.say_done(&state);
            let now = Instant::now();
            *state = State {
                stage: stage.to_owned(),
                stage_started: now,
                last_line: now,
                items: BTreeMap::new(),
            };
        }
        state
            .items
            .insert(item.to_owned(), (done_bytes, total_bytes));
        if state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            let moved = match total_bytes {
                Some(total) => format!("{} of {}", human_bytes(done_bytes), human_bytes(total)),
                None => human_bytes(done_bytes),
            };
            self.output.say(&format!("{stage:<10} {item} {moved}"));
        }
    }
}
