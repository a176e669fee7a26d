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
        DrainRule {
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
        }
    };
    let timeout = raw.timeout_seconds.as_ref();
    let timeout_seconds = seconds(timeout, "drain.timeout_seconds", SECONDS, report);
    let rules = raw.pods.iter().enumerate();
    Drain {
        timeout_seconds: timeout_seconds.unwrap_or(Drain::default().timeout_seconds),
        pods: rules.map(|each| rule(each, report)).collect(),
    }
}

/// A label selector as kubectl takes it. It is handed on as one word, so only what
/// can't be one at all is refused here.
fn check_selector(raw: &Spanned<String>, key: &str, report: &mut Report<'_>) {
    let text = raw.get_ref();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=!,() ".contains(letter);
    if !text.trim().is_empty() && text.chars().all(is_plain) {
        return;
    }
    report.error(Finding {
        at: raw.span(),
        key: key.to_owned(),
        message: format!("`{text}` is no label selector"),
        remedy: "write one such as `app=db` or `tier in (cache, db)`".to_owned(),
    });
}
