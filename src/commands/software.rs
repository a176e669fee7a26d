//! Which bundles the cluster is to be of: what was given, beside what the site
//! knows that it is of, and what its masters run now.

use super::bundle_content::AGENT_FILE;
use super::fault::{Exit, Fault};
use super::phase::Phase;
use super::{observe, record};
use crate::desired::software::{kubernetes_of, minor_of};
use crate::desired::{BundleView, Software};
use crate::digest::Digest;
use crate::facts::ObserveRequest;
use crate::host::remote::RemoteHost;
use crate::inventory::{Host, Inventory, Role};
use crate::layout;
use crate::plan::Intent;
use crate::plan::diff::linked;
use crate::site::Site;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What tells which bundle a host's part of the software is of.
const API_SERVER: &str = "kube-apiserver";
const API_SERVER_UNIT: &str = "kube-apiserver.service";

/// What the software depends on.
pub(super) struct Wanted<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) site: &'a Site,
    /// None to go back.
    pub(super) given: Option<BundleView>,
    pub(super) intent: Intent,
    /// Names of hosts that go back.
    pub(super) back: &'a BTreeSet<String>,
}

/// The software that is wanted.
pub(super) struct Resolved {
    pub(super) software: Software,
    /// Whether hosts go back to generations of their own; the software is what
    /// there is now then.
    pub(super) by_generations: bool,
}

impl Resolved {
    fn of(software: Software) -> Self {
        Self {
            software,
            by_generations: false,
        }
    }
}

/// The software that is wanted. Hosts are asked only where it depends on them.
pub(super) async fn resolve(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    wanted: Wanted<'_>,
) -> Result<Resolved, Fault> {
    let known = Known {
        given: wanted.given,
        whole: record::whole(wanted.site)?,
        soaking: record::soaking(wanted.site)?,
    };
    // Nothing ever soaked here, and nothing is to.
    let is_same = |whole: &BundleView| known.given.as_ref().map(minor_of) == Some(minor_of(whole));
    if let (Intent::Install, Some(given), None) = (wanted.intent, &known.given, &known.soaking)
        && known.whole.as_ref().is_none_or(is_same)
    {
        return Ok(Resolved::of(Software::of(given.clone())));
    }
    let seen = ask(phase, hosts, wanted.inventory).await?;
    let by_generations = wanted.intent == Intent::Rollback && !soaks(&known, &seen);
    let software = choose(known, &seen, wanted.intent, wanted.back)?;
    Ok(Resolved {
        software,
        by_generations,
    })
}

/// Whether a control plane behaves as an older one, on all masters that have
/// begun to.
fn soaks(known: &Known, seen: &[Seen]) -> bool {
    let is_lifted = |next: &BundleView| {
        let mut masters = seen.iter().filter(|host| host.is_master());
        masters.any(|master| master.is_lifted(next))
    };
    known.soaking.as_ref().is_some_and(|next| !is_lifted(next))
}

async fn ask(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    inventory: &Inventory,
) -> Result<Vec<Seen>, Fault> {
    let program_of = |host: &Host| match host.has(Role::ControlPlane) {
        true => API_SERVER,
        false => AGENT_FILE,
    };
    let requests = inventory.hosts.iter().map(|host| {
        let request = ObserveRequest {
            files: [format!("{}/{}", layout::BIN, program_of(host))].into(),
            units: [API_SERVER_UNIT.to_owned()].into(),
            ..ObserveRequest::default()
        };
        (host.name.clone(), request)
    });
    let seen = observe::look(phase, hosts, requests.collect()).await?;
    let hosts = inventory.hosts.iter().filter_map(|host| {
        let facts = seen.facts.get(&host.name)?;
        let unit = facts.units.get(API_SERVER_UNIT);
        let program = program_of(host);
        Some(Seen {
            name: host.name.clone(),
            program,
            content: linked(program, facts),
            running: unit.and_then(|unit| unit.executable),
            emulated: unit.and_then(|unit| unit.emulated.clone()),
        })
    });
    Ok(hosts.collect())
}

/// The bundles that may be meant.
struct Known {
    given: Option<BundleView>,
    /// What all was last brought to.
    whole: Option<BundleView>,
    /// What last began to soak.
    soaking: Option<BundleView>,
}

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    name: String,
    /// What tells it, and what its link leads to.
    program: &'static str,
    content: Option<Digest>,
    /// What its API server's process is; none while it has none.
    running: Option<Digest>,
    emulated: Option<String>,
}

impl Seen {
    fn is_master(&self) -> bool {
        self.program == API_SERVER
    }

    /// Whether its API server behaves as its own minor. One whose process is
    /// still another program has yet to begin.
    fn is_lifted(&self, view: &BundleView) -> bool {
        let is_begun = self.running.is_none() || self.running == self.content;
        self.is_of(view) && is_begun && self.emulated.is_none()
    }

    fn is_of(&self, view: &BundleView) -> bool {
        let mut files = view.files.values();
        files.any(|files| {
            let binary = files.get(self.program);
            binary.is_some_and(|binary| Some(binary.digest) == self.content)
        })
    }
}

/// What follows from all that.
fn choose(
    known: Known,
    seen: &[Seen],
    intent: Intent,
    back: &BTreeSet<String>,
) -> Result<Software, Fault> {
    let Known {
        given,
        whole,
        soaking,
    } = known;
    let refuse = |message: String, hint: &str| Err(Fault::new(Exit::Input, message).hint(hint));
    // The bundle that soaks or is to; to go back, and for an install with the
    // old one, the site knows it.
    let is_old = |view: &BundleView| {
        whole
            .as_ref()
            .is_some_and(|whole| minor_of(whole) == minor_of(view))
    };
    let next = given.clone().filter(|given| !is_old(given)).or(soaking);
    let Some(next) = next else {
        return match (given, whole, intent) {
            (Some(given), _, Intent::Install | Intent::Upgrade | Intent::UpgradeAtOnce) => {
                Ok(Software::of(given))
            }
            (_, Some(whole), Intent::Rollback) => Ok(Software::of(whole)),
            // The run that finished it was killed after it had noted so.
            (Some(given), Some(whole), Intent::Finish) if given.title() == whole.title() => {
                Ok(Software::of(given))
            }
            (_, None, Intent::Rollback) => refuse(
                "the site does not know which bundle the cluster is of".to_owned(),
                "run `cofferdam install` with that bundle once",
            ),
            _ => refuse(
                "no new minor soaks".to_owned(),
                "`cofferdam status` shows what runs",
            ),
        };
    };
    let title = next.title();
    let masters = || seen.iter().filter(|host| host.is_master());
    let names = |is_wanted: &dyn Fn(&Seen) -> bool| -> Vec<&str> {
        let masters = masters().filter(|master| is_wanted(master));
        masters.map(|master| master.name.as_str()).collect()
    };
    let soaks = names(&|master| master.is_of(&next) && !master.is_lifted(&next));
    let lifted = names(&|master| master.is_lifted(&next));
    let others = names(&|master| !master.is_of(&next) && master.emulated.is_some());
    let is_finishing = !soaks.is_empty() && !lifted.is_empty();
    match intent {
        Intent::Install | Intent::Rollback if is_finishing => refuse(
            format!(
                "an upgrade to {title} is being finished: {} behaves as the new minor, {} as \
                 the old one",
                lifted.join(", "),
                soaks.join(", ")
            ),
            "go on with `cofferdam upgrade --finish`",
        ),
        // Hosts keep what they have.
        Intent::Install if !soaks.is_empty() && whole.is_some() => {
            let as_before = seen.iter().filter(|host| !host.is_of(&next));
            let as_before = as_before.map(|host| host.name.clone()).collect();
            soak(next, whole, as_before)
        }
        Intent::Install => Ok(Software::of(given.unwrap_or(next))),
        Intent::Upgrade | Intent::UpgradeAtOnce | Intent::Finish if !others.is_empty() => refuse(
            format!(
                "{}: its control plane soaks, and not with {title}",
                others[0]
            ),
            "finish that upgrade first: `cofferdam upgrade --finish` with its bundle",
        ),
        Intent::UpgradeAtOnce => Ok(Software::of(given.unwrap_or(next))),
        Intent::Upgrade if given.as_ref().is_some_and(is_old) => {
            Ok(Software::of(given.unwrap_or(next)))
        }
        Intent::Upgrade => match lifted[..] {
            [first, ..] => refuse(
                format!("{first} behaves as {title} already: there is nothing to soak"),
                "go on with `cofferdam upgrade --finish` where a finish was begun, else with \
                 `--no-soak`",
            ),
            [] => soak(next, whole, BTreeSet::new()),
        },
        Intent::Finish => match names(&|master| !master.is_of(&next))[..] {
            [first, ..] => refuse(
                format!("{first} does not run {title} yet: there is nothing to finish"),
                "run `cofferdam upgrade` without `--finish` first",
            ),
            [] => Ok(Software::of(next)),
        },
        // There is no way back from what it has stored, but for nodes.
        Intent::Rollback if !lifted.is_empty() => Ok(Software::of(next)),
        Intent::Rollback => go_back(next, whole, seen, back),
    }
}

/// To the whole where hosts are to go back or are already, as far as every
/// master is of one of the two.
fn go_back(
    next: BundleView,
    whole: Option<BundleView>,
    seen: &[Seen],
    back: &BTreeSet<String>,
) -> Result<Software, Fault> {
    let Some(whole) = whole.filter(|whole| kubernetes_of(whole) < kubernetes_of(&next)) else {
        return soak(next, None, BTreeSet::new());
    };
    let mut masters = seen.iter().filter(|host| host.is_master());
    if let Some(other) = masters.find(|host| !host.is_of(&next) && !host.is_of(&whole)) {
        return Err(Fault::new(
            Exit::Input,
            format!(
                "{} runs neither {} nor {}, between which this would go back",
                other.name,
                next.title(),
                whole.title()
            ),
        )
        .hint("bring it to its end with the command that was used last"));
    }
    let as_before = seen.iter().filter(|host| !host.is_of(&next));
    let as_before: BTreeSet<String> = as_before
        .map(|host| &host.name)
        .chain(back)
        .cloned()
        .collect();
    if seen.iter().all(|host| as_before.contains(&host.name)) {
        return Ok(Software::of(whole));
    }
    soak(next, Some(whole), as_before)
}

fn soak(
    next: BundleView,
    whole: Option<BundleView>,
    as_before: BTreeSet<String>,
) -> Result<Software, Fault> {
    let Some(whole) = whole else {
        return Err(Fault::new(
            Exit::Input,
            "the site does not know which bundle the cluster is of, to which it could go back",
        )
        .hint(
            "run `cofferdam install` with that bundle once; or upgrade in one go, with `--no-soak`",
        ));
    };
    if kubernetes_of(&whole) > kubernetes_of(&next) {
        // The checks say why not.
        return Ok(Software::of(next));
    }
    Ok(Software {
        whole,
        soaking: Some(next),
        as_before,
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
    fn masters(texts: &str) -> Vec<Seen> {
        let texts = texts.split_whitespace().enumerate();
        texts
            .map(|(index, text)| {
                let (version, emulated) = match text.split_once('/') {
                    Some((version, emulated)) => (version, Some(emulated.to_owned())),
                    None => (text, None),
                };
                Seen {
                    name: format!("m{}", index + 1),
                    program: API_SERVER,
                    content: Some(Digest::of(version)),
                    running: Some(Digest::of(version)),
                    emulated,
                }
            })
            .collect()
    }

    #[test]
    fn what_is_wanted_follows_from_bundle_site_and_masters() {
        use Intent::{Finish, Install, Rollback, Upgrade, UpgradeAtOnce};
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
            (
                Install,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.36.0",
                "kubernetes-1.37 1.37.0, emulating 1.36, but m2",
            ),
            // Back on m1.
            (
                Rollback,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.37.0/1.36",
                "kubernetes-1.37 1.37.0, emulating 1.36, but m1",
            ),
            (
                Rollback,
                next,
                Some("1.36.0"),
                "1.37.0/1.36 1.36.0",
                // All of it.
                "kubernetes-1.36 1.36.0",
            ),
            (
                Rollback,
                next,
                Some("1.36.0"),
                "1.37.1 1.37.0/1.36",
                "m1 runs neither kubernetes-1.37 1.37.0 nor kubernetes-1.36 1.36.0",
            ),
            (
                UpgradeAtOnce,
                "1.38.0",
                Some("1.36.0"),
                "1.37.0/1.36 1.37.0/1.36",
                "m1: its control plane soaks, and not with kubernetes-1.38 1.38.0",
            ),
            (
                Rollback,
                next,
                Some("1.36.0"),
                "1.37.0 1.37.0",
                // Nodes alone, by their own generations.
                whole,
            ),
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
            // Gone on with, though it had come to its end.
            (Finish, next, Some("1.37.0"), "1.37.0 1.37.0", whole),
            (
                Finish,
                "1.37.1",
                Some("1.37.0"),
                "1.37.0 1.37.0",
                "no new minor soaks",
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
            let is_back = intent == Rollback;
            let known = Known {
                given: (!is_back).then(|| bundle(given)),
                whole: current.map(bundle),
                soaking: is_back.then(|| bundle(given)),
            };
            let back = is_back.then(|| "m1".to_owned()).into_iter().collect();
            let found = choose(known, &masters(running), intent, &back);
            let found = match found {
                Ok(software) if !software.as_before.is_empty() => {
                    let names: Vec<&str> = software.as_before.iter().map(String::as_str).collect();
                    format!("{}, but {}", software.title(), names.join(" "))
                }
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
