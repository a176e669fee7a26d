//! Which modules and packages differ between two SBOMs.

use super::document::{Component, Document, Kind};
use crate::bundle::inspect::{row, table};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A module or package whose versions differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartChange {
    /// `golang` for a Go module, `deb` or `apk` for a distribution's package.
    pub kind: String,
    pub name: String,
    /// Versions, sorted as texts; programs may be of several. Empty if it is new.
    pub from: Vec<String>,
    /// Empty if it is gone.
    pub to: Vec<String>,
}

/// What differs, sorted by kind and name.
pub fn part_changes(old: &Document, new: &Document) -> Vec<PartChange> {
    let (old, new) = (versions(old), versions(new));
    let names: BTreeSet<&(String, String)> = old.keys().chain(new.keys()).collect();
    let none = BTreeSet::new();
    let changes = names.into_iter().filter_map(|name| {
        let (from, to) = (
            old.get(name).unwrap_or(&none),
            new.get(name).unwrap_or(&none),
        );
        let listed = |versions: &BTreeSet<String>| versions.iter().cloned().collect();
        (from != to).then(|| PartChange {
            kind: name.0.clone(),
            name: name.1.clone(),
            from: listed(from),
            to: listed(to),
        })
    });
    changes.collect()
}

fn versions(document: &Document) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut versions: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for component in &document.components {
        if let Some(kind) = kind_of(component) {
            let name = (kind.to_owned(), component.name.clone());
            versions
                .entry(name)
                .or_default()
                .insert(component.version.clone());
        }
    }
    versions
}

/// The type of a library's package URL.
fn kind_of(component: &Component) -> Option<&str> {
    let purl = component.purl.as_deref()?;
    let (kind, _) = purl.strip_prefix("pkg:")?.split_once('/')?;
    (component.kind == Kind::Library).then_some(kind)
}

/// A table for people; nothing without a difference.
pub fn render_changes(changes: &[PartChange]) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let mut rows = vec![row(["", "PART", "NAME", "FROM", "TO"])];
    rows.extend(changes.iter().map(|change| {
        let sign = match (change.from.is_empty(), change.to.is_empty()) {
            (true, _) => "+",
            (_, true) => "-",
            _ => "~",
        };
        row([
            sign,
            &change.kind,
            &change.name,
            &change.from.join(", "),
            &change.to.join(", "),
        ])
    }));
    table(&rows)
}
