//! Lines that tell how far the work is, and that it is still alive.

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::shell::say;

/// Often enough not to look stuck, seldom enough not to fill a log.
const HEARTBEAT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How many of the last lines of a failed program are shown.
const SHOWN_LINES: usize = 20;

/// Counts the pieces of work.
pub struct Progress {
    total: usize,
    number: usize,
}

/// One piece of work, from its beginning to its end.
pub struct Item {
    label: String,
    started: Instant,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        Self { total, number: 0 }
    }

    /// Starts the next piece of work. Nothing is printed yet.
    pub fn next(&mut self, what: &str) -> Item {
        self.number += 1;
        let width = self.total.to_string().len();
        Item {
            label: format!("[{:width$}/{}] {what}", self.number, self.total),
            started: Instant::now(),
        }
    }
}

impl Item {
    pub fn cached(&self) {
        say(&format!("{}: is there", self.label));
    }

    pub fn begun(&self, doing: &str) {
        say(&format!("{}: {doing}", self.label));
    }

    pub fn done(&self, what: &str) {
        say(&format!(
            "{}: {what} in {}",
            self.label,
            seconds(self.started.elapsed())
        ));
    }

    /// Runs a command to its end with its output in `log`, telling every few
    /// seconds how long it has been and what it said last. The command is
    /// ended when this process dies.
    pub fn run(&self, command: &mut Command, log: &Utf8Path) -> Result<()> {
        let line = format!("{command:?}");
        let output = fs_err::File::create(log)?.into_parts().0;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {line}"))?;
        let mut told = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if told.elapsed() >= HEARTBEAT {
                let elapsed = seconds(self.started.elapsed());
                let said = last_lines(&fs_err::read(log)?, 1);
                say(format!("{} … {elapsed} {said}", self.label).trim_end());
                told = Instant::now();
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        if !status.success() {
            bail!(
                "{line}: {status}; its last lines:\n{}",
                last_lines(&fs_err::read(log)?, SHOWN_LINES)
            );
        }
        Ok(())
    }
}

/// The last lines of a log, trimmed.
pub fn last_lines(log: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A program that the kernel kills when the thread that started it ends, so
/// that nothing outlives a killed task.
pub fn tied_to_this_process(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// A duration as people read it: `48s`, `2m05s`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (given, expected) in [(0, "0s"), (59, "59s"), (60, "1m00s"), (125, "2m05s")] {
            assert_eq!(seconds(Duration::from_secs(given)), expected);
        }
    }

    #[test]
    fn numbers_line_up() {
        let mut progress = Progress::new(12);
        assert_eq!(progress.next("etcd").label, "[ 1/12] etcd");
    }

    #[test]
    fn a_failed_command_shows_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let error = Progress::new(1)
            .next("x")
            .run(
                Command::new("sh").args(["-c", "echo first; echo why >&2; exit 3"]),
                Utf8Path::from_path(&log).unwrap(),
            )
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.ends_with("why"),
            "{error}"
        );
    }
}
