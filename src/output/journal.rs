//! The journal of a run: its events as JSON lines, for people who look back.
//! It never decides anything.

use crate::event::{Event, TimedEvent};
use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use std::io::Write;

/// A journal file.
#[derive(Debug)]
pub struct Journal {
    file: fs::File,
    path: Utf8PathBuf,
}

impl Journal {
    /// Makes `DIRECTORY/<UTC time>-<verb>.jsonl`.
    ///
    /// # Errors
    /// When the directory can't be written.
    pub fn create(directory: &Utf8Path, verb: &str) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let path = directory.join(format!("{time}-{verb}.jsonl"));
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { file, path })
    }

    /// Where it lies.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Adds an event. A full disk on the jump host must not stop a run.
    pub(super) fn write(&mut self, event: &TimedEvent) {
        if matches!(
            event.event,
            Event::StepProgress { .. } | Event::PhaseProgress { .. }
        ) {
            return;
        }
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.file.write_all(&line);
        }
    }
}
