//! What a site keeps of bundles: what all is of, what soaks, what was before, and
//! a change that was begun.

use super::fault::{Exit, Fault};
use crate::desired::software::minor_of;
use crate::desired::{BundleView, Software};
use crate::site::Site;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where a site keeps what is known of the bundle that all is of, and of the one
/// that soaks.
const WHOLE: &str = "software.json";
const SOAKING: &str = "software-soaking.json";
/// And of the one that all was of before.
const BEFORE: &str = "software-before.json";
/// What is known of a change that has not come to its end.
const BEGUN: &str = "change-begun.json";
/// Names of the hosts that the last change has left out.
const LEFT_OUT: &str = "left-out.json";

/// A change that was begun: to which bundle, and from which generations.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begun {
    pub(super) bundle: BundleView,
    /// By host; hosts without one are missing.
    pub(super) generations: BTreeMap<String, u64>,
}

/// The change that was begun here last, unless it came to its end.
pub(super) fn begun(site: &Site) -> Result<Option<Begun>, Fault> {
    recorded(
        site,
        BEGUN,
        "bring what was begun to its end: the same command again",
    )
}

/// Notes a change before its first step. One that was begun before and has not
/// come to its end is gone on with: where it began from stays noted.
pub(super) fn note_change(
    site: &Site,
    software: &Software,
    generations: BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    let known = fs_err::read(site.path(BEGUN)).ok();
    let known: Option<Begun> = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let begun = Begun {
        bundle: software.soaking.as_ref().unwrap_or(&software.whole).clone(),
        generations: from_where(known.map(|known| known.generations), generations),
    };
    site.write(BEGUN, &serde_json::to_vec(&begun)?)
}

/// Where hosts were when a change was begun: as was noted then, and as they are
/// where it has left them out until now.
fn from_where(
    noted: Option<BTreeMap<String, u64>>,
    mut now: BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    now.extend(noted.unwrap_or_default());
    now
}

/// A value that a site keeps as JSON under a name; `remedy` is for one that can't
/// be read.
pub(super) fn recorded<T: DeserializeOwned>(
    site: &Site,
    name: &str,
    remedy: &str,
) -> Result<Option<T>, Fault> {
    let path = site.path(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs_err::read(&path).map_err(Fault::input)?;
    let value = serde_json::from_slice(&bytes).map_err(|error| {
        Fault::new(Exit::Input, format!("{path} can't be read: {error}"))
            .file(&path)
            .hint(remedy)
    })?;
    Ok(Some(value))
}

/// A bundle that a site knows.
fn recorded_bundle(site: &Site, name: &str) -> Result<Option<BundleView>, Fault> {
    let remedy = "remove it, and run `cofferdam install` with the bundle of what runs";
    recorded(site, name, remedy)
}

fn record(site: &Site, name: &str, view: &BundleView) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(view)?;
    let there = fs_err::read(site.path(name)).ok();
    if there.as_ref() != Some(&bytes) {
        site.write(name, &bytes)?;
    }
    Ok(())
}

/// Notes a bundle that is about to soak, without which no other could tell it.
pub(super) fn record_begin(site: &Site, software: &Software) -> anyhow::Result<()> {
    match &software.soaking {
        Some(soaking) => record(site, SOAKING, soaking),
        None => Ok(()),
    }
}

/// Notes which hosts a change that came to its end has left out.
pub(super) fn note_left_out(site: &Site, names: &BTreeSet<String>) -> anyhow::Result<()> {
    site.write(LEFT_OUT, &serde_json::to_vec(names)?)
}

/// Names of the hosts that the last change has left out.
pub(super) fn left_out(site: &Site) -> Result<BTreeSet<String>, Fault> {
    let remedy = "remove it; hosts that the last change left out would go back beyond it";
    Ok(recorded(site, LEFT_OUT, remedy)?.unwrap_or_default())
}

/// Notes the bundle that all of the cluster is of now.
pub(super) fn record_end(site: &Site, software: &Software) -> anyhow::Result<()> {
    let begun = site.path(BEGUN);
    if begun.exists() {
        fs_err::remove_file(begun)?;
    }
    if software.soaks() {
        return Ok(());
    }
    // Nothing soaks any more, if anything did. First, or it would seem to be
    // what comes after.
    let soaked = site.path(SOAKING);
    if soaked.exists() {
        fs_err::remove_file(soaked)?;
    }
    record_whole(site, &software.whole)
}

/// Notes what all is of, and what it was of before.
pub(super) fn record_whole(site: &Site, whole: &BundleView) -> anyhow::Result<()> {
    let known = fs_err::read(site.path(WHOLE)).ok();
    let known: Option<BundleView> = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(known) = known.filter(|known| known.title() != whole.title()) {
        record(site, BEFORE, &known)?;
    }
    record(site, WHOLE, whole)
}

/// The bundles that a cluster is of: what all is of, and what soaks. Registries have their
/// content for as long.
pub(super) fn present_bundles(site: &Site) -> Result<Vec<BundleView>, Fault> {
    let bundles = [whole(site)?, soaking(site)?];
    Ok(bundles.into_iter().flatten().collect())
}

/// The bundles that a site knows: what all is of, what soaks, and what was before.
pub(super) fn known_bundles(site: &Site) -> Result<Vec<BundleView>, Fault> {
    let mut known = Vec::new();
    for name in [WHOLE, SOAKING, BEFORE] {
        known.extend(recorded_bundle(site, name)?);
    }
    Ok(known)
}

/// The bundle that all was of before, if it behaves as the present one.
pub(super) fn before(site: &Site, present: &BundleView) -> Result<Option<BundleView>, Fault> {
    let before = recorded_bundle(site, BEFORE)?;
    Ok(before.filter(|before| minor_of(before) == minor_of(present)))
}

/// What all of the cluster was last brought to.
pub(super) fn whole(site: &Site) -> Result<Option<BundleView>, Fault> {
    recorded_bundle(site, WHOLE)
}

/// What last began to soak.
pub(super) fn soaking(site: &Site) -> Result<Option<BundleView>, Fault> {
    recorded_bundle(site, SOAKING)
}

/// Whether all of the cluster was of some bundle once.
pub(super) fn was_installed(site: &Site) -> bool {
    site.path(WHOLE).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that was left out until now comes along from where it is.
    #[test]
    fn a_change_was_begun_from_what_was_first_noted_of_each_host() {
        let of = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            let pairs = pairs
                .iter()
                .map(|(name, number)| ((*name).to_owned(), *number));
            pairs.collect()
        };
        let begun = of(&[("m1", 3), ("w1", 2)]);
        let now = of(&[("m1", 4), ("w1", 2), ("w9", 7)]);
        let expected = of(&[("m1", 3), ("w1", 2), ("w9", 7)]);
        assert_eq!(from_where(Some(begun), now.clone()), expected);
        assert_eq!(from_where(None, now.clone()), now);
    }
}
