//! `cofferdam rollback` of what does not soak: hosts go back to generations of
//! their own, and stay with them until they are upgraded.

use super::fault::{Exit, Fault};
use super::observe;
use super::phase::Phase;
use super::record;
use crate::desired::held::stored_binary;
use crate::desired::{Binary, BundleView, Held, Part, Software};
use crate::digest::Digest;
use crate::event::{Event, EventSink};
use crate::facts::{HostFacts, ObserveRequest, StoredGeneration};
use crate::host::remote::RemoteHost;
use crate::host::{Call, Host as _, HostError, Notice, Request, Response};
use crate::inventory::Inventory;
use crate::output::Output;
use crate::plan::Intent;
use crate::plan::rollback::{NoWayBack, Past, Target, targets};
use crate::site::{Site, SiteView};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const API_SERVER_UNIT: &str = "kube-apiserver.service";
/// A few hundred files of a few kilobytes.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// What a rollback takes back, and how.
pub(super) struct Returning {
    /// What all hosts keep from now on, by name.
    pub(super) held: BTreeMap<String, Held>,
    /// The hosts that it is about; none for all of the cluster.
    pub(super) only: Option<BTreeSet<String>>,
    /// What all is of once it is done, where that is another bundle than before.
    pub(super) whole: Option<BundleView>,
    /// A line for each host.
    lines: Vec<String>,
}

impl Returning {
    /// What goes back, for people.
    pub(super) fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// Finds out where the named hosts go back to.
pub(super) async fn find(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    (inventory, site, view): (&Inventory, &Site, &SiteView),
    software: &Software,
    back: &BTreeSet<String>,
) -> Result<Returning, Fault> {
    let begun = record::begun(site)?;
    let (already, wanted): (BTreeSet<&String>, BTreeSet<&String>) =
        back.iter().partition(|name| view.held.contains_key(*name));
    let facts = look(phase, hosts, &wanted).await?;
    let mut generations = BTreeMap::new();
    for name in wanted {
        let Some(host) = hosts.get(name) else {
            continue;
        };
        phase.doing(format!("{name}: reading its generations"));
        generations.insert(name.clone(), read(host).await?);
    }
    let pasts: BTreeMap<String, Past> = facts
        .iter()
        .filter_map(|(name, facts)| {
            let generations = generations.get(name)?;
            Some((name.clone(), Past { facts, generations }))
        })
        .collect();
    let numbers = begun.as_ref().map(|begun| &begun.generations);
    let left_out = record::left_out(site)?;
    let targets = targets(&pasts, numbers, &left_out).map_err(|why| refuse(&why))?;
    let known = record::known_bundles(site)?;
    let mut held = view.held.clone();
    let mut lines = Vec::new();
    for name in already {
        let number = view.held[name].generation;
        lines.push(line(name, &format!("to generation {number}, as before")));
    }
    for (name, target) in &targets {
        let (stored, parts, left) = match target {
            Target::Stays => {
                lines.push(line(name, "stays: the change has not reached it"));
                continue;
            }
            Target::To {
                stored,
                parts,
                left,
            } => (*stored, parts, left),
        };
        let binary = |program: &str, digest| binary_of(program, digest, stored, &known);
        let kept = Held::new(stored, (parts.clone(), left.is_empty()), binary).map_err(|what| {
            let number = stored.generation.number;
            let message = format!("{name}: {what} of its generation {number} is gone or damaged");
            Fault::new(Exit::Checks, message).hint(
                "it can't go back to that: leave it out of `--on`, or take it along with \
                 `cofferdam upgrade`",
            )
        })?;
        lines.push(told(name, &kept, left));
        held.insert((*name).to_owned(), kept);
    }
    // Those that stay are as the bundle of before has them, if all the others
    // are back with it.
    let is_all = inventory
        .hosts
        .iter()
        .all(|host| held.contains_key(&host.name));
    let whole = match is_all {
        true => record::before(site, &software.whole)?.filter(|before| {
            let title = before.title();
            let mut held = held.values();
            held.all(|kept| kept.is_whole && kept.bundle == title)
        }),
        false => None,
    };
    Ok(Returning {
        only: whole.is_none().then(|| {
            let back = back.iter().filter(|name| held.contains_key(*name));
            back.cloned().collect()
        }),
        held,
        whole,
        lines,
    })
}

/// What a run of that kind leaves held, and what is told of it.
pub(super) fn tell_of_held(output: &Output, view: &SiteView, intent: Intent) {
    if intent != Intent::Install {
        return;
    }
    for (name, held) in &view.held {
        let message = format!(
            "a rollback took it to generation {} ({}), which it keeps; `cofferdam upgrade` takes it \
             along again",
            held.generation, held.bundle
        );
        let host = Some(name.clone());
        output.emit(Event::Warning { host, message });
    }
}

async fn look(
    phase: &Phase<'_>,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
    wanted: &BTreeSet<&String>,
) -> Result<BTreeMap<String, HostFacts>, Fault> {
    let request = ObserveRequest {
        units: [API_SERVER_UNIT.to_owned()].into(),
        ..ObserveRequest::default()
    };
    let requests = wanted.iter().map(|name| ((*name).clone(), request.clone()));
    Ok(observe::look(phase, hosts, requests.collect()).await?.facts)
}

/// A host's generations, the newest first.
pub(super) async fn read(host: &RemoteHost) -> Result<Vec<StoredGeneration>, Fault> {
    let call = Call {
        request: Request::ReadGenerations,
        body: None,
        notices: &|_: Notice| (),
        limit: READ_LIMIT,
    };
    match host.call(call).await {
        Ok(Response::Generations { generations }) => Ok(generations),
        Ok(_) => Err(Fault::from(HostError::Lost {
            host: host.name().to_owned(),
            doing: "reading its generations".to_owned(),
            reason: "it answered something else".to_owned(),
        })),
        Err(error) => Err(Fault::from(error)),
    }
}

fn refuse(why: &NoWayBack) -> Fault {
    let fault = Fault::new(Exit::Checks, why.to_string());
    match why {
        NoWayBack::NoGeneration { .. } => fault.hint(
            "hosts keep what they are and what they were before; leave this one out of `--on`",
        ),
        NoWayBack::Newer { .. } => {
            fault.hint("it went back before: `cofferdam upgrade` goes forward")
        }
        NoWayBack::Unknown { .. } => fault.hint(
            "go forward instead: bring the upgrade to its end, or take a later patch release",
        ),
    }
}

/// A program of a generation, as a bundle that is known has it, or the host's
/// own store.
fn binary_of(
    program: &str,
    digest: Digest,
    stored: &StoredGeneration,
    known: &[BundleView],
) -> Option<Binary> {
    let all = known.iter().flat_map(|bundle| bundle.files.values());
    let mut of_bundles = all.filter_map(|files| files.get(program));
    if let Some(binary) = of_bundles.find(|binary| binary.digest == digest) {
        return Some(binary.clone());
    }
    stored_binary(program, digest, stored)
}

fn line(name: &str, text: &str) -> String {
    format!("back      {name:<8} {text}")
}

fn told(name: &str, kept: &Held, left: &[(Part, String)]) -> String {
    let parts: Vec<String> = kept.parts.iter().map(Part::to_string).collect();
    let text = format!(
        "{} as in generation {} ({})",
        parts.join(", "),
        kept.generation,
        kept.bundle
    );
    let stays = left
        .iter()
        .map(|(part, why)| line("", &format!("{part} stays: {why}")));
    let lines: Vec<String> = std::iter::once(line(name, &text)).chain(stays).collect();
    lines.join("\n")
}
