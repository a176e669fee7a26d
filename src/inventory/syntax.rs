//! What `toml` and serde find wrong, as problems like the others.

use std::ops::Range;

use camino::Utf8Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Location, Problem, Problems, Severity};
use super::suggest;

/// The one problem of a text that is no TOML, or whose keys or types don't fit.
pub(super) fn problems_of(error: &toml::de::Error, text: &str, file: &Utf8Path) -> Problems {
    let span = error.span();
    let key = span
        .as_ref()
        .map(|span| key_path_at(text, span.start))
        .unwrap_or_default();
    let (message, mut remedy) = reword(error.message());
    if key == "hosts" && message.ends_with("expected a list") {
        "write `[[hosts]]` for each host".clone_into(&mut remedy);
    }
    let problem = Problem {
        severity: Severity::Error,
        location: span.map(|span| Location::of(text, span)),
        key,
        message,
        remedy,
    };
    Problems {
        file: file.to_owned(),
        problems: vec![problem],
    }
}

/// serde's words in ours, and what to do.
fn reword(message: &str) -> (String, String) {
    // "unknown field `x`, expected one of `a`, `b`": the names stand between backticks.
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.as_slice() {
        [unknown, known @ ..] if message.starts_with("unknown field") => (
            format!("unknown key `{unknown}`"),
            suggest::remedy(unknown, known, "keys here"),
        ),
        [missing] if message.starts_with("missing field") => (
            format!("key `{missing}` is missing"),
            format!("add `{missing} = …` to this table"),
        ),
        _ if message == "duplicate key" => (
            "the key is there already".to_owned(),
            "write each key and table once".to_owned(),
        ),
        _ if message.ends_with("expected a string") => {
            (message.to_owned(), "write the value in quotes".to_owned())
        }
        _ if message.ends_with("expected i64") => {
            let message = message.replace("i64", "a whole number");
            (message, "write a number without quotes".to_owned())
        }
        _ if message.ends_with("expected a sequence") => {
            let message = message.replace("a sequence", "a list");
            (message, "write a list, such as [\"a\", \"b\"]".to_owned())
        }
        _ if message.contains("expected struct") => {
            let (found, _) = message
                .split_once(", expected struct")
                .unwrap_or((message, ""));
            (
                format!("{found}, expected a table"),
                "see `inventory.example.toml`".to_owned(),
            )
        }
        _ => (
            message.to_owned(),
            "see `inventory.example.toml` for how it is written".to_owned(),
        ),
    }
}

/// The dotted key whose name or value covers the byte at `offset`; hosts are named by their
/// names. Empty if there is none, or if the text is no TOML.
fn key_path_at(text: &str, offset: usize) -> String {
    let Ok(table) = DeTable::parse(text) else {
        return String::new();
    };
    let mut path = Vec::new();
    descend(table.get_ref(), offset, &mut path);
    path.join(".")
}

/// Where the last key of `path` stands, which leads downwards from the value of the key that
/// stands at `top`. None if the text has no such keys.
pub(super) fn key_below(text: &str, top: &Range<usize>, path: &[&str]) -> Option<Range<usize>> {
    let table = DeTable::parse(text).ok()?;
    let mut value = value_of_key(table.get_ref(), top)?;
    let mut place = None;
    for name in path {
        let (key, below) = value.as_table()?.get_key_value(*name)?;
        place = Some(key.span());
        value = below.get_ref();
    }
    place
}

fn value_of_key<'a, 'text>(
    table: &'a DeTable<'text>,
    place: &Range<usize>,
) -> Option<&'a DeValue<'text>> {
    table.iter().find_map(|(key, value)| {
        if key.span() == *place {
            return Some(value.get_ref());
        }
        value_of_key_within(value.get_ref(), place)
    })
}

fn value_of_key_within<'a, 'text>(
    value: &'a DeValue<'text>,
    place: &Range<usize>,
) -> Option<&'a DeValue<'text>> {
    match value {
        DeValue::Table(table) => value_of_key(table, place),
        DeValue::Array(items) => items
            .iter()
            .find_map(|item| value_of_key_within(item.get_ref(), place)),
        _ => None,
    }
}

fn descend(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>) {
    for (key, value) in table {
        let covers_key = key.span().contains(&offset);
        if covers_key || covers(value, offset) {
            path.push(key.get_ref().to_string());
            if !covers_key {
                descend_value(value, offset, path);
            }
            return;
        }
    }
}

fn descend_value(value: &Spanned<DeValue<'_>>, offset: usize, path: &mut Vec<String>) {
    match value.get_ref() {
        DeValue::Table(table) => descend(table, offset, path),
        DeValue::Array(items) => {
            let found = items
                .iter()
                .enumerate()
                .find(|(_, item)| covers(item, offset));
            let Some((index, item)) = found else { return };
            if let DeValue::Table(table) = item.get_ref() {
                let name = table.get("name").and_then(|name| name.get_ref().as_str());
                path.push(name.map_or_else(|| (index + 1).to_string(), str::to_owned));
            }
            descend_value(item, offset, path);
        }
        _ => {}
    }
}

/// Whether a value or anything in it covers the byte. A table's own span is its header alone, so
/// what is in it is asked too.
fn covers(value: &Spanned<DeValue<'_>>, offset: usize) -> bool {
    let within = match value.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .any(|(key, value)| key.span().contains(&offset) || covers(value, offset)),
        DeValue::Array(items) => items.iter().any(|item| covers(item, offset)),
        _ => false,
    };
    within || value.span().contains(&offset)
}
