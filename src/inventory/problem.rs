//! What is wrong with an inventory, with the place where it is written.

use std::fmt;
use std::ops::Range;

use camino::{Utf8Path, Utf8PathBuf};

/// How much a problem weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The inventory can't be used.
    Error,
    /// The inventory can be used, but its author should know.
    Warning,
}

/// A place in the inventory's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Number of characters to underline, at least 1.
    pub width: usize,
    /// The whole line, without its end.
    pub text: String,
}

/// One problem: where, which key, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Absent only where the text gives no place.
    pub location: Option<Location>,
    /// Dotted key, where hosts stand under their names: `hosts.w1.zone`. Empty if the text could
    /// not be read as TOML.
    pub key: String,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// All problems of one file, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    pub file: Utf8PathBuf,
    pub problems: Vec<Problem>,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// `Ok` if there is no error; warnings alone don't make one.
    pub fn into_result(self) -> Result<(), Self> {
        if self.has_errors() { Err(self) } else { Ok(()) }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.problems.len() == 1 {
            "problem"
        } else {
            "problems"
        };
        write!(
            formatter,
            "checking `{}`: {} {noun}",
            self.file,
            self.problems.len()
        )?;
        for problem in &self.problems {
            write!(formatter, "\n\n{}", problem.display(&self.file))?;
        }
        Ok(())
    }
}

impl Problem {
    /// Renders the problem as `file:line:column: key: message`, the line with a caret, and the
    /// remedy, without a trailing newline.
    pub fn display(&self, file: &Utf8Path) -> String {
        let mut text = file.to_string();
        if let Some(location) = &self.location {
            text.push_str(&format!(":{}:{}", location.line, location.column));
        }
        text.push_str(": ");
        if self.severity == Severity::Warning {
            text.push_str("warning: ");
        }
        if !self.key.is_empty() {
            text.push_str(&format!("`{}`: ", printable(&self.key)));
        }
        text.push_str(&printable(&self.message));
        let gutter = match &self.location {
            Some(location) => {
                let number = location.line.to_string();
                let gutter = " ".repeat(number.len());
                let line = visible(&location.text);
                text.push_str(&format!(
                    "\n{gutter} |\n{}",
                    format!("{number} | {line}").trim_end()
                ));
                text.push_str(&format!("\n{gutter} | {}", location.underline()));
                gutter
            }
            None => String::new(),
        };
        if !self.remedy.is_empty() {
            text.push_str(&format!("\n{gutter} = {}", printable(&self.remedy)));
        }
        text
    }
}

impl Location {
    /// Finds the line of a byte range of `text`. A range that spans lines is cut at its first
    /// line's end; a range past the end points behind the last character.
    pub fn of(text: &str, span: Range<usize>) -> Self {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |length| start + length);
        let mut end = span.end.clamp(start, line_end);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let width = text[start..end].trim_end_matches('\r').chars().count();
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: width.max(1),
            text: text[line_start..line_end].trim_end_matches('\r').to_owned(),
        }
    }

    /// Blanks and carets below the line. Tabs stay tabs, so that carets stand right whatever a
    /// terminal makes of them.
    fn underline(&self) -> String {
        let blanks = self.text.chars().take(self.column - 1);
        let blanks: String = blanks.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        format!("{blanks}{}", "^".repeat(self.width))
    }
}

/// Text on one line, whatever a value in it holds: control characters, which could move a
/// terminal's cursor, are escaped.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// A line as it is, so that carets stand right, but with a sign for control characters.
fn visible(line: &str) -> String {
    let replace = |c: char| {
        if c.is_control() && c != '\t' {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    line.chars().map(replace).collect()
}

/// A problem to be reported at a byte range of the text.
pub(super) struct Finding {
    pub(super) at: Range<usize>,
    pub(super) key: String,
    pub(super) message: String,
    pub(super) remedy: String,
}

/// Collects problems of one text while it is checked.
pub(super) struct Report<'text> {
    text: &'text str,
    found: Vec<(usize, Problem)>,
}

impl<'text> Report<'text> {
    pub(super) fn new(text: &'text str) -> Self {
        Self {
            text,
            found: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, finding: Finding) {
        self.add(Severity::Error, finding);
    }

    pub(super) fn warning(&mut self, finding: Finding) {
        self.add(Severity::Warning, finding);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found
            .iter()
            .any(|(_, problem)| problem.severity == Severity::Error)
    }

    pub(super) fn location(&self, at: Range<usize>) -> Location {
        Location::of(self.text, at)
    }

    /// Where a key below the one at `top` stands, or that one itself if it can't be found.
    pub(super) fn key_below(&self, top: Range<usize>, path: &[&str]) -> Range<usize> {
        super::syntax::key_below(self.text, &top, path).unwrap_or(top)
    }

    /// All that was found, in the order of the text.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|(offset, _)| *offset);
        self.found.into_iter().map(|(_, problem)| problem).collect()
    }

    fn add(&mut self, severity: Severity, finding: Finding) {
        let location = Some(self.location(finding.at.clone()));
        let Finding {
            at,
            key,
            message,
            remedy,
        } = finding;
        self.found.push((
            at.start,
            Problem {
                severity,
                location,
                key,
                message,
                remedy,
            },
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let text = "one = 1\r\n\tzwölf = 12\nlast";
        let cases = [
            (0..3, 1, 1, 3, "one = 1"),
            (6..40, 1, 7, 1, "one = 1"),
            (10..16, 2, 2, 5, "\tzwölf = 12"),
            (13..14, 2, 4, 1, "\tzwölf = 12"),
            (text.len()..text.len(), 3, 5, 1, "last"),
            (900..901, 3, 5, 1, "last"),
        ];
        for (span, line, column, width, line_text) in cases {
            let expected = Location {
                line,
                column,
                width,
                text: line_text.to_owned(),
            };
            assert_eq!(Location::of(text, span.clone()), expected, "{span:?}");
        }
        assert_eq!(Location::of("", 0..0).line, 1);
        assert_eq!(Location::of("a\n", 2..2).line, 2);
    }

    #[test]
    fn control_characters_are_not_printed() {
        let problem = Problem {
            severity: Severity::Error,
            location: Some(Location::of("a = \u{1b}[2J", 4..5)),
            key: "a\nb".to_owned(),
            message: "`\u{1b}` is wrong".to_owned(),
            remedy: String::new(),
        };
        assert_eq!(
            problem.display("i.toml".into()),
            "i.toml:1:5: `a\\nb`: `\\u{1b}` is wrong\n  |\n1 | a = \u{fffd}[2J\n  |     ^"
        );
    }

    #[test]
    fn carets_stand_below_what_they_mean() {
        let problem = Problem {
            severity: Severity::Warning,
            location: Some(Location::of("a = 1\n\tö = 22\n", 12..14)),
            key: "ö".to_owned(),
            message: "too much".to_owned(),
            remedy: "write less".to_owned(),
        };
        assert_eq!(
            problem.display("i.toml".into()),
            "i.toml:2:6: warning: `ö`: too much\n  |\n2 | \tö = 22\n  | \t    ^^\n  = write less"
        );
    }
}
