//! The last lines of a unit's log, which say why it did not come up.

use super::command::Program;
use super::failure::{FAILURE_LINES, last_lines};
use super::root::Root;
use crate::host::Failure;
use std::time::Duration;

/// A journal of gigabytes is searched from its end.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// The last lines of a unit's log; none if there is no journal.
pub async fn lines(root: &Root, unit: &str) -> Vec<String> {
    let Ok(path) = root.program("journalctl") else {
        return Vec::new();
    };
    let count = FAILURE_LINES.to_string();
    let text = Program::new(path)
        .arguments(["--unit", unit, "--lines", &count])
        .arguments(["--output", "cat", "--no-pager", "--quiet"])
        .limit(READ_LIMIT)
        .succeed()
        .await
        .unwrap_or_default();
    last_lines(&text)
}

/// A failure that a unit is the reason of.
pub async fn failure(root: &Root, unit: &str, message: String) -> Failure {
    Failure {
        message,
        lines: lines(root, unit).await,
        hint: Some(format!(
            "look at its log on the host: `journalctl -u {unit}`"
        )),
    }
}
