//! A phase of a verb, timed, and what it waits for.

use crate::event::{Event, EventSink};
use crate::output::Output;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A phase that has begun.
pub(super) struct Phase<'a> {
    output: &'a Output,
    name: &'static str,
    started: Instant,
}

impl<'a> Phase<'a> {
    pub(super) fn begin(output: &'a Output, name: &'static str, hosts: usize) -> Self {
        output.emit(Event::PhaseStarted {
            phase: name.to_owned(),
            hosts,
        });
        Self {
            output,
            name,
            started: Instant::now(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Says what it does now.
    pub(super) fn doing(&self, doing: String) {
        let phase = self.name.to_owned();
        self.output.emit(Event::PhaseProgress { phase, doing });
    }

    /// Does something for all hosts side by side, and says whom it still waits
    /// for. The results are in the order of the hosts.
    pub(super) async fn for_all<T, W>(
        &self,
        hosts: impl IntoIterator<Item = (String, W)>,
    ) -> Vec<(String, T)>
    where
        W: Future<Output = T>,
    {
        let hosts: Vec<(String, W)> = hosts.into_iter().collect();
        let names = hosts.iter().map(|(name, _)| name.clone());
        let outstanding: Mutex<BTreeSet<String>> = Mutex::new(names.collect());
        let each = hosts.into_iter().map(|(name, work)| {
            let outstanding = &outstanding;
            async move {
                let result = work.await;
                let mut left = outstanding.lock().unwrap_or_else(PoisonError::into_inner);
                left.remove(&name);
                if !left.is_empty() {
                    let names: Vec<&str> = left.iter().map(String::as_str).collect();
                    self.doing(format!("waiting for {}", names.join(" ")));
                }
                (name, result)
            }
        });
        join_all(each).await
    }

    pub(super) fn done(self, summary: String) {
        self.output.emit(Event::PhaseDone {
            phase: self.name.to_owned(),
            seconds: self.started.elapsed().as_secs_f64(),
            summary,
        });
    }
}
