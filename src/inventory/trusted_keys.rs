//! The tables `[[trusted_keys]]`: whose signature a bundle may bear.

use super::model::NamedKey;
use super::problem::{Finding, Report};
use super::raw::RawTrustedKey;
use crate::trusted_key::TrustedKey;

pub(super) fn read_trusted_keys(raw: &[RawTrustedKey], report: &mut Report<'_>) -> Vec<NamedKey> {
    let mut found: Vec<NamedKey> = Vec::new();
    for (place, raw) in raw.iter().enumerate() {
        let Some(key) = read_key(place, raw, report) else {
            continue;
        };
        if found.iter().any(|known| known.key == key.key) {
            report.error(Finding {
                at: raw.key.span(),
                key: format!("trusted_keys[{place}].key"),
                message: format!("key {} is there twice", key.key.id()),
                remedy: "name each key once".to_owned(),
            });
            continue;
        }
        found.push(key);
    }
    found
}

fn read_key(place: usize, raw: &RawTrustedKey, report: &mut Report<'_>) -> Option<NamedKey> {
    let text = raw.key.get_ref();
    let Ok(key) = TrustedKey::parse(text) else {
        report.error(Finding {
            at: raw.key.span(),
            key: format!("trusted_keys[{place}].key"),
            message: format!("`{}` is no minisign public key", shortened(text)),
            remedy: "write the second line of a .pub file: 56 characters that begin with RW"
                .to_owned(),
        });
        return None;
    };
    // A number that is written is compared: it is what people read to each other.
    if let Some(id) = &raw.id
        && !id.get_ref().eq_ignore_ascii_case(&key.id().to_string())
    {
        report.error(Finding {
            at: id.span(),
            key: format!("trusted_keys[{place}].id"),
            message: format!("the key beside it has the id {}", key.id()),
            remedy: "ask whose key it is before you change either".to_owned(),
        });
    }
    Some(NamedKey {
        key,
        comment: raw.comment.clone().unwrap_or_default(),
    })
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.chars().count() > LONGEST {
        true => text.chars().take(LONGEST).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
