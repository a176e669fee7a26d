//! The table `[drain]`: how long pods may take to leave a node.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::model::{Drain, DrainRule};
use super::problem::{Finding, Report};
use super::raw::{RawDrain, RawDrainRule};
use super::values::{self, Limits};

/// A day: what takes longer is looked after by people.
const SECONDS: RangeInclusive<i64> = 1..=86_400;
/// No grace at all kills at once, which kubectl takes 0 for.
const GRACE_SECONDS: RangeInclusive<i64> = 0..=86_400;

pub(super) fn read_drain(raw: &RawDrain, report: &mut Report<'_>) -> Drain {
    let seconds = |raw: Option<&Spanned<i64>>, key: &str, range, report: &mut Report<'_>| {
        let limits = Limits {
            key,
            range,
            noun: "number of seconds",
        };
        values::number(raw?, limits, report)
    };
    let rule = |(place, raw): (usize, &RawDrainRule), report: &mut Report<'_>| {
        let key = |name: &str| format!("drain.pods[{place}].{name}");
        check_selector(&raw.selector, &key("selector"), report);
        let rule = DrainRule {
            selector: raw.selector.get_ref().clone(),
            grace_seconds: seconds(
                raw.grace_seconds.as_ref(),
                &key("grace_seconds"),
                GRACE_SECONDS,
                report,
            ),
            timeout_seconds: seconds(
                raw.timeout_seconds.as_ref(),
                &key("timeout_seconds"),
                SECONDS,
                report,
            ),
        };
        if let (Some(grace), Some(timeout), Some(at)) = (
            rule.grace_seconds,
            rule.timeout_seconds,
            raw.timeout_seconds.as_ref(),
        ) && grace > timeout
        {
            report.error(Finding {
                at: at.span(),
                key: key("timeout_seconds"),
                message: format!("{timeout} s are over before the pods' {grace} s of grace"),
                remedy: "let it be more than `grace_seconds`".to_owned(),
            });
        }
        rule
    };
    let timeout = raw.timeout_seconds.as_ref();
    let timeout_seconds = seconds(timeout, "drain.timeout_seconds", SECONDS, report);
    let rules = raw.pods.iter().enumerate();
    Drain {
        timeout_seconds: timeout_seconds.unwrap_or(Drain::default().timeout_seconds),
        pods: rules.map(|each| rule(each, report)).collect(),
    }
}

/// A label selector as kubectl takes it: requirements with commas between them.
fn check_selector(raw: &Spanned<String>, key: &str, report: &mut Report<'_>) {
    let text = raw.get_ref();
    if requirements(text).is_some_and(|all| all.into_iter().all(is_requirement)) {
        return;
    }
    report.error(Finding {
        at: raw.span(),
        key: key.to_owned(),
        message: format!("`{text}` is no label selector"),
        remedy: "write one such as `app=db` or `tier in (cache, db)`".to_owned(),
    });
}

/// The parts between commas that are in no parentheses; none if these don't match.
fn requirements(text: &str) -> Option<Vec<&str>> {
    let (mut all, mut begin, mut is_within) = (Vec::new(), 0, false);
    for (place, letter) in text.char_indices() {
        match letter {
            '(' if !is_within => is_within = true,
            ')' if is_within => is_within = false,
            '(' | ')' => return None,
            ',' if !is_within => {
                all.push(&text[begin..place]);
                begin = place + 1;
            }
            _ => {}
        }
    }
    all.push(&text[begin..]);
    (!is_within).then_some(all)
}

/// `key`, `!key`, `key=value`, `key==value`, `key!=value`, `key in (a, b)`, `key
/// notin (a)`: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.
fn is_requirement(text: &str) -> bool {
    let is_word = |word: &str| {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
        !word.is_empty() && word.chars().all(is_plain)
    };
    let is_value = |word: &str| word.is_empty() || is_word(word) && !word.contains('/');
    let text = text.trim();
    if let Some((key, rest)) = text.split_once('(') {
        let mut words = key.split_whitespace();
        let is_set = words.next().is_some_and(is_word)
            && matches!(words.next(), Some("in" | "notin"))
            && words.next().is_none();
        let values = rest.strip_suffix(')');
        return is_set
            && values.is_some_and(|values| values.split(',').all(|value| is_value(value.trim())));
    }
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_word(key.trim()) && is_value(value.trim());
        }
    }
    is_word(text.strip_prefix('!').unwrap_or(text).trim())
}
