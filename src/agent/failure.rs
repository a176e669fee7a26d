//! From errors inside the agent to what is told to the caller.

use crate::host::Failure;

/// Lines of output or of a log that go with a failure.
pub const FAILURE_LINES: usize = 20;

/// Flattens an error's chain onto one line; a [`Failure`] anywhere in the
/// chain gives its lines and its hint.
pub fn failure_of(error: &anyhow::Error) -> Failure {
    let mut failure = Failure {
        message: String::new(),
        lines: Vec::new(),
        hint: None,
    };
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(inner) = cause.downcast_ref::<Failure>() {
            failure.lines.clone_from(&inner.lines);
            failure.hint.clone_from(&inner.hint);
        }
        let message = one_line(&cause.to_string());
        // Some libraries repeat their cause in their own message.
        if !messages.iter().any(|earlier| earlier.contains(&message)) {
            messages.push(message);
        }
    }
    failure.message = messages.join(": ");
    failure
}

/// The last lines of a text, without empty ones.
pub fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(FAILURE_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn keeps_the_chain_the_lines_and_the_hint() {
        let inner = Failure {
            message: "starting etcd.service: it failed".to_owned(),
            lines: vec!["bind: address already in use".to_owned()],
            hint: Some("journalctl -u etcd.service".to_owned()),
        };
        let error = Err::<(), _>(inner).context("doing the\nstep").unwrap_err();
        let failure = failure_of(&error);
        assert_eq!(
            failure.message,
            "doing the step: starting etcd.service: it failed"
        );
        assert_eq!(failure.lines.len(), 1);
        assert_eq!(failure.hint.as_deref(), Some("journalctl -u etcd.service"));
    }

    #[test]
    fn keeps_the_last_lines_only() {
        let text: String = (0..50).map(|number| format!("line {number}\n\n")).collect();
        let lines = last_lines(&text);
        assert_eq!(lines.len(), FAILURE_LINES);
        assert_eq!(lines.first().unwrap(), "line 30");
        assert_eq!(lines.last().unwrap(), "line 49");
        assert!(last_lines("").is_empty());
    }
}
