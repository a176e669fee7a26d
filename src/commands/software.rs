//! Which bundles the cluster is to be of: what was given, beside what the site
//! knows that it is of, and what its masters run now.

use super::fault::{Exit, Fault};
use super::observe;
use super::phase::Phase;
use crate::desired::software::{kubernetes_of, minor_of};
use crate::desired::{BundleView, Software};
use crate::digest::Digest;
use crate::facts::ObserveRequest;
use crate::host::remote::RemoteHost;
use crate::inventory::{Inventory, Role};
use crate::layout;
use crate::plan::Intent;
use crate::plan::diff::linked;
use crate::site::Site;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a site keeps what is known of the bundle that all is of.
const RECORD: &str = "software.json";
const API_SERVER: &str = "kube-apiserver";
const API_SERVER_UNIT: &str = "kube-apiserver.service";

/// What a master's API server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Master {
    name: String,
    /// What its link leads to.
    program: Option<Digest>,
    emulated: Option<String>,
}

/// The bundle that all of the cluster was last brought to, if the site knows.
pub(super) fn recorded(site: &Site) -> Result<Option<BundleView>, Fault> {
    let path = site.path(RECORD);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs_err::read(&path).map_err(Fault::input)?;
    let view = serde_json::from_slice(&bytes).map_err(|error| {
        Fault::new(Exit::Input, format!("{path} can't be read: {error}"))
            .file(&path)
            .hint("remove it, and run `cofferdam install` with the bundle of what runs")
    })?;
    Ok(Some(view))
}

/// Notes the bundle that all of the cluster is of now.
pub(super) fn record(site: &Site, software: &Software) -> Result<(), Fault> {
    if software.soaking.is_some() {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&software.whole).map_err(anyhow::Error::from)?;
    let there = fs_err::read(site.path(RECORD)).ok();
    if there.as_ref() == Some(&bytes) {
        return Ok(());
    }
    site.write(RECORD, &bytes).map_err(Fault::input)
}

/// The software that is wanted. Masters are asked only where it depends on them.
pub(super) async fn resolve(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    inventory: &Inventory,
    site: &Site,
    given: BundleView,
    intent: Intent,
) -> Result<Software, Fault> {
    let current = recorded(site)?;
    let is_other = |current: &BundleView| minor_of(current) != minor_of(&given);
    if current.as_ref().is_some_and(|current| !is_other(current)) && intent != Intent::Finish {
        return Ok(Software::of(given));
    }
    let masters = ask_masters(phase, hosts, inventory).await?;
    choose(given, current, &masters, intent)
}

async fn ask_masters(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    inventory: &Inventory,
) -> Result<Vec<Master>, Fault> {
    let masters = inventory
        .hosts
        .iter()
        .filter(|host| host.has(Role::ControlPlane));
    let link = format!("{}/{API_SERVER}", layout::BIN);
    let requests = masters.map(|host| {
        let request = ObserveRequest {
            files: [link.clone()].into(),
            units: [API_SERVER_UNIT.to_owned()].into(),
            ..ObserveRequest::default()
        };
        (host.name.clone(), request)
    });
    let seen = observe::look(phase, hosts, requests.collect()).await?;
    let masters = seen.facts.into_iter().map(|(name, facts)| Master {
        program: linked(API_SERVER, &facts),
        emulated: facts
            .units
            .get(API_SERVER_UNIT)
            .and_then(|unit| unit.emulated.clone()),
        name,
    });
    Ok(masters.collect())
}

/// What follows from all that.
fn choose(
    given: BundleView,
    current: Option<BundleView>,
    masters: &[Master],
    intent: Intent,
) -> Result<Software, Fault> {
    let has = |master: &Master, view: &BundleView| {
        let programs = view
            .files
            .values()
            .filter_map(|files| files.get(API_SERVER));
        let mut programs = programs.map(|program| program.digest);
        programs.any(|digest| Some(digest) == master.program)
    };
    let names = |wanted: &dyn Fn(&Master) -> bool| -> Vec<&str> {
        let masters = masters.iter().filter(|master| wanted(master));
        masters.map(|master| master.name.as_str()).collect()
    };
    let new = names(&|master| has(master, &given));
    let soaking = names(&|master| has(master, &given) && master.emulated.is_some());
    let lifted = names(&|master| has(master, &given) && master.emulated.is_none());
    let others = names(&|master| !has(master, &given) && master.emulated.is_some());
    let title = format!("{} {}", given.name, given.version);
    let refuse = |message: String, hint: &str| Err(Fault::new(Exit::Input, message).hint(hint));
    if let [first, ..] = others[..]
        && intent.upgrades()
    {
        return refuse(
            format!("{first}: its control plane soaks, and not with {title}"),
            "finish that upgrade first: `cofferdam upgrade --finish` with its bundle",
        );
    }
    let begun = !soaking.is_empty() && !lifted.is_empty();
    match intent {
        Intent::Install if begun => refuse(
            format!(
                "an upgrade to {title} is being finished: {} behaves as the new minor, {} as \
                 the old one",
                lifted.join(", "),
                soaking.join(", ")
            ),
            "go on with `cofferdam upgrade --finish`",
        ),
        Intent::Install if !new.is_empty() && new == soaking && new.len() == masters.len() => {
            soak(given, current)
        }
        Intent::Install | Intent::UpgradeAtOnce => Ok(Software::of(given)),
        Intent::Upgrade => {
            let is_next = current.as_ref().and_then(minor_of) != minor_of(&given);
            if !is_next && current.is_some() {
                return Ok(Software::of(given));
            }
            match lifted[..] {
                [first, ..] if current.is_some() => refuse(
                    format!("{first} behaves as {title} already: there is nothing to soak"),
                    "go on with `cofferdam upgrade --finish` where a finish was begun, else with \
                     `--no-soak`",
                ),
                _ => soak(given, current),
            }
        }
        Intent::Finish => {
            let left = names(&|master| !has(master, &given));
            match left[..] {
                [first, ..] => refuse(
                    format!("{first} does not run {title} yet: there is nothing to finish"),
                    "run `cofferdam upgrade` without `--finish` first",
                ),
                [] => Ok(Software::of(given)),
            }
        }
    }
}

fn soak(given: BundleView, current: Option<BundleView>) -> Result<Software, Fault> {
    let Some(current) = current else {
        return Err(Fault::new(
            Exit::Input,
            "the site does not know which bundle the cluster is of, to which it could go back",
        )
        .hint(
            "run `cofferdam install` with that bundle once; or upgrade in one go, with `--no-soak`",
        ));
    };
    if kubernetes_of(&current) > kubernetes_of(&given) {
        // The checks say why not.
        return Ok(Software::of(given));
    }
    Ok(Software {
        whole: current,
        soaking: Some(given),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Binary;

    /// A bundle with an API server of that version.
    fn bundle(version: &str) -> BundleView {
        let minor = &version[..4];
        let binary = Binary {
            digest: Digest::of(version),
            size: 1,
            blob: Digest::of("blob"),
            blob_size: 1,
            repository: "cofferdam/file/kube-apiserver".to_owned(),
            version: version.to_owned(),
        };
        let files = [(API_SERVER.to_owned(), binary)].into();
        BundleView {
            name: format!("kubernetes-{minor}"),
            version: version.to_owned(),
            files: [("linux/amd64".to_owned(), files)].into(),
            ..BundleView::default()
        }
    }

    /// Masters `m1`, `m2`, …, each `VERSION` or `VERSION/EMULATED`.
    fn masters(texts: &str) -> Vec<Master> {
        let texts = texts.split_whitespace().enumerate();
        texts
            .map(|(index, text)| {
                let (version, emulated) = match text.split_once('/') {
                    Some((version, emulated)) => (version, Some(emulated.to_owned())),
                    None => (text, None),
                };
                Master {
                    name: format!("m{}", index + 1),
                    program: Some(Digest::of(version)),
                    emulated,
                }
            })
            .collect()
    }

    #[test]
    fn what_is_wanted_follows_from_bundle_site_and_masters() {
        use Intent::{Finish, Install, Upgrade, UpgradeAtOnce};
        let soaks = "kubernetes-1.37 1.37.0, emulating 1.36";
        let whole = "kubernetes-1.37 1.37.0";
        let next = "1.37.0";
        for (intent, given, current, running, expected) in [
            // The first install, and one whose site knows nothing.
            (Install, next, None, "", whole),
            (
                Upgrade,
                next,
                None,
                "1.36.0 1.36.0",
                "m? the site does not know",
            ),
            (UpgradeAtOnce, next, None, "1.36.0", whole),
            // A patch release.
            (
                Upgrade,
                "1.36.4",
                Some("1.36.0"),
                "1.36.0 1.36.0",
                "kubernetes-1.36 1.36.4",
            ),
            // A minor: begun, gone on with, and kept by an install.
            (Upgrade, next, Some("1.36.0"), "1.36.0 1.36.0", soaks),
            (Upgrade, next, Some("1.36.0"), "1.37.0/1.36 1.36.0", soaks),
            (
                Upgrade,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.37.0/1.36",
                soaks,
            ),
            (
                Install,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.37.0/1.36",
                soaks,
            ),
            // An install that is no way on: the checks refuse it.
            (Install, next, Some("1.36.0"), "1.37.0/1.36 1.36.0", whole),
            // The finish.
            (
                Finish,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.37.0/1.36",
                whole,
            ),
            (Finish, next, Some("1.36.0"), "1.37.0 1.37.0/1.36", whole),
            (
                Finish,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.36.0",
                "m2 does not run kubernetes-1.37 1.37.0 yet",
            ),
            (
                Install,
                next,
                Some("1.36.0"),
                "1.37.0 1.37.0/1.36",
                "an upgrade to kubernetes-1.37 1.37.0 is being finished: m1 behaves as the new minor, m2 as the old one",
            ),
            (
                Upgrade,
                next,
                Some("1.36.0"),
                "1.37.0 1.37.0/1.36",
                "m1 behaves as kubernetes-1.37 1.37.0 already",
            ),
            (UpgradeAtOnce, next, Some("1.36.0"), "1.37.0 1.36.0", whole),
            // The next one, before this one is finished.
            (
                Upgrade,
                "1.38.0",
                Some("1.36.0"),
                "1.37.0/1.36 1.37.0/1.36",
                "m1: its control plane soaks, and not with kubernetes-1.38 1.38.0",
            ),
            // Back: the checks refuse it.
            (
                Upgrade,
                "1.35.0",
                Some("1.36.0"),
                "1.36.0",
                "kubernetes-1.35 1.35.0",
            ),
        ] {
            let current = current.map(bundle);
            let found = choose(bundle(given), current, &masters(running), intent);
            let found = match found {
                Ok(software) => software.title(),
                Err(fault) => fault.failures[0].message.clone(),
            };
            let expected = expected.trim_start_matches("m? ");
            assert!(
                found.starts_with(expected),
                "{intent:?} {given} with {running}: {found}"
            );
        }
    }
}
