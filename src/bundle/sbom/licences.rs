//! `cofferdam bundle licenses`: the licences of what a bundle consists of.

use super::document::{Component, Document, Kind};
use crate::bundle::inspect::{row, table};
use std::collections::BTreeSet;

/// Where no licence is known.
const UNKNOWN: &str = "-";

/// A table for people: files and images by their definition's licences, packages by
/// their distribution's. Go programs note no licences of their modules, so these are
/// only counted.
pub fn licences(document: &Document) -> String {
    let mut lines = BTreeSet::new();
    let mut modules = 0;
    for component in &document.components {
        let kind = match kind_of(component) {
            Some(kind) => kind,
            None => {
                modules += usize::from(is_module(component));
                continue;
            }
        };
        let licences: Vec<&str> = component
            .licenses
            .iter()
            .map(|licence| licence.text())
            .collect();
        let licence = match licences.is_empty() {
            true => UNKNOWN.to_owned(),
            false => licences.join(", "),
        };
        lines.insert((kind, &component.name, &component.version, licence));
    }
    let mut rows = vec![row(["KIND", "NAME", "VERSION", "LICENCE"])];
    rows.extend(
        lines
            .into_iter()
            .map(|(kind, name, version, licence)| row([kind, name, version, &licence])),
    );
    let mut text = table(&rows);
    if modules > 0 {
        text.push_str(&format!(
            "\n{modules} Go modules, by name and version in `bundle sbom`; programs carry no \
             licences of theirs\n"
        ));
    }
    text
}

fn kind_of(component: &Component) -> Option<&'static str> {
    match component.kind {
        Kind::Container => Some("image"),
        // Programs in images have the image's licence.
        Kind::Application | Kind::File if component.reference.starts_with("file:") => Some("file"),
        Kind::Library if !is_module(component) => Some("package"),
        _ => None,
    }
}

fn is_module(component: &Component) -> bool {
    let purl = component.purl.as_deref().unwrap_or_default();
    component.kind == Kind::Library && purl.starts_with("pkg:golang/")
}
