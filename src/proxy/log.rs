//! Lines for the journal.

use std::io::Write as _;

/// Writes lines to standard error; under systemd with the level in front, as
/// the journal reads it.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    with_level: bool,
}

impl Log {
    /// Levels are written only when the journal reads this process's output.
    pub fn from_environment() -> Self {
        Self {
            with_level: std::env::var_os("JOURNAL_STREAM").is_some(),
        }
    }

    /// What is good to know later.
    pub fn info(self, message: &str) {
        self.write(6, message);
    }

    /// What somebody should look at.
    pub fn warning(self, message: &str) {
        self.write(4, message);
    }

    fn write(self, level: u8, message: &str) {
        let line = if self.with_level {
            format!("<{level}>{message}\n")
        } else {
            format!("{message}\n")
        };
        // A log that can't be written is no reason to stop serving.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
