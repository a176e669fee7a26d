//! How a run is shown: decided once, from flags and where the output goes.

use std::borrow::Cow;
use std::io::{self, IsTerminal};

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub shape: Shape,
    /// Whether text for people is colored.
    pub is_colored: bool,
    /// Whether lines of hosts' logs are shown too.
    pub is_verbose: bool,
}

/// In which form events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Bars on a terminal, plain lines elsewhere; on stderr.
    People,
    /// Plain lines even on a terminal.
    Plain,
    /// One JSON object a line, on stdout.
    Json,
    /// Failures only.
    Quiet,
}

/// When text for people is colored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    // On a terminal, unless NO_COLOR is set. A doc comment here would make
    // every help text twice as long.
    Auto,
    Always,
    Never,
}

impl Color {
    /// Whether to color what goes to stderr.
    pub fn is_wanted(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            // https://no-color.org: any value but the empty one counts.
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                !refused && io::stderr().is_terminal()
            }
        }
    }
}

/// Beginnings of lines, and the terminal's code for them.
const PAINT: [(&str, &str); 5] = [
    ("error:", "1;31"),
    ("warning:", "1;33"),
    ("hint:", "1;36"),
    ("stage ", "1"),
    ("next:", "1;32"),
];

/// Colors the beginning of a line that people look for.
pub fn paint(line: &str, is_colored: bool) -> Cow<'_, str> {
    if is_colored {
        for (beginning, code) in PAINT {
            if let Some(rest) = line.strip_prefix(beginning) {
                return Cow::Owned(format!("\u{1b}[{code}m{beginning}\u{1b}[0m{rest}"));
            }
        }
    }
    Cow::Borrowed(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_beginnings_are_colored_and_only_on_request() {
        for (line, is_colored, expected) in [
            ("error: no", true, "\u{1b}[1;31merror:\u{1b}[0m no"),
            ("hint: do", true, "\u{1b}[1;36mhint:\u{1b}[0m do"),
            ("error: no", false, "error: no"),
            ("an error: no", true, "an error: no"),
        ] {
            assert_eq!(paint(line, is_colored), expected);
        }
    }
}
