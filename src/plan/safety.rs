//! "May this be interrupted now?": a pure function with typed reasons. It is
//! asked when a plan is made, and by the executor on fresh facts right before
//! each step that interrupts something. The answer can be out of date a moment
//! later (a host can lose power at any time); what it promises is that we add
//! no outage to one that is there.

use super::Disruption;
use super::diff::{Comparison, is_running};
use super::membership::{self, Standing, standing};
use crate::desired::{Desired, DesiredHost, Stage};
use crate::facts::{EtcdMember, HostFacts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

const LEFT_OUT: &str = "it was left out";

/// What serves, where: the part of the world that safety depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// For one kind of service: the hosts that are to have it.
    pub hosts: BTreeMap<String, Server>,
    /// Why etcd as a whole is not healthy, where it was asked.
    pub etcd_error: Option<String>,
}

/// One host's part of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub zone: String,
    /// None if it serves, else why it doesn't.
    pub down: Option<String>,
    /// Whether people left it out of the run, so that nobody waits for it.
    pub is_left_out: bool,
    /// Whether it is a node that any pod may come to.
    pub takes_pods: bool,
}

/// It may be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Others go on serving, or nothing is served now anyway.
    Safe,
    /// No other can take over: clients wait until it is back. Part of the
    /// plan that is confirmed.
    Announced,
}

/// Why something may not be interrupted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Refusal {
    /// Fewer members would be left than etcd needs to accept writes.
    EtcdQuorum {
        host: String,
        /// Voting members in all, and how many of them must serve.
        members: usize,
        needed: usize,
        /// Members that don't serve, with the reason.
        down: BTreeMap<String, String>,
    },
    /// All members run, but etcd does not answer as it should.
    EtcdUnhealthy { host: String, error: String },
    /// Something of the same kind is down in another zone, and no two zones
    /// are interrupted at once.
    OtherZone {
        host: String,
        zone: String,
        what: Disruption,
        down: BTreeMap<String, String>,
    },
    /// There are others, but none of them serves.
    LastServing {
        host: String,
        what: Disruption,
        down: BTreeMap<String, String>,
    },
}

/// Whether the host's part of a service may be interrupted now.
///
/// # Errors
/// The reason why not.
pub fn may_disrupt(host: &str, what: Disruption, serving: &Serving) -> Result<Consent, Refusal> {
    let others = || serving.hosts.iter().filter(|(name, _)| *name != host);
    let down: BTreeMap<String, String> = others()
        .filter_map(|(name, server)| Some((name.clone(), server.down.clone()?)))
        .collect();
    let left = others().count() - down.len();
    let own = serving.hosts.get(host);
    let serves_now = own.is_some_and(|server| server.down.is_none());
    let members = serving.hosts.len();
    if members <= 1 {
        return Ok(Consent::Announced);
    }
    if !serves_now {
        return Ok(Consent::Safe);
    }
    if what == Disruption::EtcdMember {
        // etcd accepts writes while a majority of its voting members agrees:
        // https://etcd.io/docs/v3.6/faq/#what-is-failure-tolerance
        let needed = members / 2 + 1;
        let has_quorum = left + 1 >= needed;
        if !has_quorum {
            return Ok(Consent::Safe);
        }
        if members - 1 < needed && down.is_empty() {
            // Of two members both are needed: there is no way around it.
            return Ok(Consent::Announced);
        }
        if left < needed {
            return Err(Refusal::EtcdQuorum {
                host: host.to_owned(),
                members,
                needed,
                down,
            });
        }
        if let Some(error) = &serving.etcd_error {
            return Err(Refusal::EtcdUnhealthy {
                host: host.to_owned(),
                error: error.clone(),
            });
        }
    }
    let zone = own.map(|server| server.zone.as_str()).unwrap_or_default();
    let has_others_like = |other: &Server| {
        let mut servers = serving.hosts.values();
        servers
            .any(|server| server.zone == other.zone && server.down.is_none() && server.takes_pods)
    };
    let elsewhere = |name: &String| {
        let other = serving.hosts.get(name);
        other.is_some_and(|other| {
            // Its pods are long gone to others of its zone, which is whole but for it.
            let is_made_do_without =
                what == Disruption::Node && other.is_left_out && has_others_like(other);
            other.zone != zone && !is_made_do_without
        })
    };
    if down.keys().any(elsewhere) {
        return Err(Refusal::OtherZone {
            host: host.to_owned(),
            zone: zone.to_owned(),
            what,
            down: down
                .into_iter()
                .filter(|(name, _)| elsewhere(name))
                .collect(),
        });
    }
    // Nodes of one zone share its fate, and their pods go on meanwhile.
    if left == 0 && what != Disruption::Node {
        return Err(Refusal::LastServing {
            host: host.to_owned(),
            what,
            down,
        });
    }
    Ok(Consent::Safe)
}

/// What of the cluster the units of a stage serve; none for what may be
/// restarted at any time.
pub fn disruption_of(stage: Stage) -> Option<Disruption> {
    match stage {
        Stage::Registry => Some(Disruption::Registry),
        Stage::Etcd => Some(Disruption::EtcdMember),
        Stage::ControlPlane => Some(Disruption::ApiServer),
        Stage::Stage | Stage::Nodes | Stage::Network => Some(Disruption::Node),
        Stage::Site | Stage::Prepare | Stage::AddOns | Stage::Verify => None,
    }
}

/// The stage whose units serve what is interrupted; `own` is that of the step.
pub fn stage_of(what: Disruption, own: Stage) -> Stage {
    match what {
        Disruption::Registry => Stage::Registry,
        Disruption::EtcdMember => Stage::Etcd,
        Disruption::ApiServer => Stage::ControlPlane,
        Disruption::Node => own,
    }
}

/// Names of the units whose running makes up the host's part of a service:
/// those of the stage. What comes in later stages needn't be there yet.
pub fn serving_units(host: &DesiredHost, stage: Stage) -> impl Iterator<Item = &str> {
    let units = host.units.iter().filter(move |unit| unit.stage == stage);
    units.map(|unit| unit.name.as_str())
}

/// Who serves what the units of a stage are for, by fresh facts. A host that
/// could not be asked is down for the reason given, one that is missing was left
/// out.
pub fn serving(
    desired: &Desired,
    facts: &BTreeMap<String, Result<HostFacts, String>>,
    stage: Stage,
) -> Serving {
    let mut serving = Serving::default();
    let known = facts.values().filter_map(|facts| facts.as_ref().ok());
    let members = membership::members(known);
    for (name, host) in &desired.hosts {
        let own = facts.get(name).and_then(|facts| facts.as_ref().ok());
        if !is_part(host, own, members, stage) {
            continue;
        }
        let down = match facts.get(name) {
            None => Some(LEFT_OUT.to_owned()),
            Some(Err(reason)) => Some(reason.clone()),
            Some(Ok(facts)) => {
                if stage == Stage::Etcd
                    && let Some(error) = etcd_error(name, facts)
                {
                    serving.etcd_error = Some(error);
                }
                first_unit_down(host, facts, stage)
            }
        };
        let server = Server {
            zone: host.zone.clone(),
            down,
            is_left_out: !facts.contains_key(name),
            takes_pods: takes_pods(host),
        };
        serving.hosts.insert(name.clone(), server);
    }
    serving
}

fn takes_pods(host: &DesiredHost) -> bool {
    host.node.as_ref().is_some_and(|node| !node.is_tainted)
}

/// Why etcd is not healthy as a host sees it.
fn etcd_error(host: &str, facts: &HostFacts) -> Option<String> {
    let etcd = facts.etcd.as_ref()?;
    let error = etcd.error.as_ref().or(etcd.unhealthy.as_ref())?;
    Some(format!("as {host} sees it: {error}"))
}

/// Whether a host has a part in what the units of a stage are for. A member of
/// etcd has none until it has its vote.
fn is_part(
    host: &DesiredHost,
    facts: Option<&HostFacts>,
    members: Option<&[EtcdMember]>,
    stage: Stage,
) -> bool {
    let counts = || match (stage, members) {
        (Stage::Etcd, Some(_)) => standing(host, facts, members) == Some(Standing::Voter),
        _ => true,
    };
    serving_units(host, stage).next().is_some() && counts()
}

/// The refusals that a plan of this comparison would meet, taking for granted
/// that what it starts will serve.
pub(super) fn review(comparison: &Comparison) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for stage in Stage::ALL {
        let Some(what) = disruption_of(stage) else {
            continue;
        };
        let serving = predicted(comparison, stage);
        for host in &comparison.hosts {
            // An API server is stopped with its host's member of etcd.
            let goes_with_etcd = stage == Stage::ControlPlane
                && host.interrupts(Stage::Etcd)
                && serving_units(host.desired, stage).any(|unit| host.runs(unit));
            if (goes_with_etcd || host.interrupts(stage))
                && let Err(refusal) = may_disrupt(host.name, what, &serving)
            {
                refusals.push(refusal);
            }
        }
    }
    refusals
}

/// Who will serve once the plan has started what is down. What else is wrong
/// with etcd may be what the plan mends (a certificate, a damaged binary), and
/// is asked for right before the step.
pub(super) fn predicted(comparison: &Comparison, stage: Stage) -> Serving {
    let members = membership::members(comparison.world.hosts.values());
    let hosts = comparison.desired.hosts.iter().filter_map(|(name, host)| {
        let facts = comparison.world.hosts.get(name);
        let server = Server {
            zone: host.zone.clone(),
            down: facts.is_none().then(|| LEFT_OUT.to_owned()),
            is_left_out: facts.is_none(),
            takes_pods: takes_pods(host),
        };
        is_part(host, facts, members, stage).then(|| (name.clone(), server))
    });
    Serving {
        hosts: hosts.collect(),
        etcd_error: None,
    }
}

fn first_unit_down(host: &DesiredHost, facts: &HostFacts, stage: Stage) -> Option<String> {
    serving_units(host, stage).find_map(|name| match facts.units.get(name) {
        Some(unit) if is_running(unit) => None,
        Some(unit) => Some(format!("{name} is {} ({})", unit.active, unit.sub)),
        None => Some(format!("{name} is not there")),
    })
}

impl fmt::Display for Disruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EtcdMember => "etcd member",
            Self::ApiServer => "API server",
            Self::Registry => "registry",
            Self::Node => "node",
        })
    }
}

impl Refusal {
    /// The host that it is about.
    pub fn host(&self) -> &str {
        match self {
            Self::EtcdQuorum { host, .. }
            | Self::EtcdUnhealthy { host, .. }
            | Self::OtherZone { host, .. }
            | Self::LastServing { host, .. } => host,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |down: &BTreeMap<String, String>| {
            let reasons = down
                .iter()
                .map(|(host, reason)| format!("{host}: {reason}"));
            reasons.collect::<Vec<_>>().join("; ")
        };
        match self {
            Self::EtcdQuorum {
                host,
                members,
                needed,
                down,
            } => write!(
                formatter,
                "{host}: its etcd member can't be interrupted now, since {needed} of {members} \
                 members must serve and these don't: {}; bring them back, then run the same \
                 command again",
                list(down)
            ),
            Self::EtcdUnhealthy { host, error } => write!(
                formatter,
                "{host}: its etcd member can't be interrupted now, since etcd is not healthy \
                 ({error}); look at `journalctl -u etcd` there, then run the same command again"
            ),
            Self::OtherZone {
                host,
                zone,
                what,
                down,
            } => write!(
                formatter,
                "{host}: its {what} in zone {zone} can't be interrupted now, since another zone \
                 is not whole ({}); bring it back, then run the same command again",
                list(down)
            ),
            Self::LastServing { host, what, down } => write!(
                formatter,
                "{host}: its {what} can't be interrupted now, since it is the last one that \
                 serves ({}); bring another back, then run the same command again",
                list(down)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hosts as `name/zone`, with a `!` behind those that are down, and a `?`
    /// behind those that are left out.
    fn serving_of(hosts: &str) -> Serving {
        let hosts = hosts.split_whitespace().map(|text| {
            let (name, zone) = text.split_once('/').unwrap();
            let server = Server {
                zone: zone.trim_end_matches(['!', '?']).to_owned(),
                down: zone.ends_with(['!', '?']).then(|| "off".to_owned()),
                is_left_out: zone.ends_with('?'),
                takes_pods: name.starts_with('w'),
            };
            (name.to_owned(), server)
        });
        Serving {
            hosts: hosts.collect(),
            etcd_error: None,
        }
    }

    #[test]
    fn answers_for_every_shape_of_cluster() {
        use Disruption::{ApiServer, EtcdMember, Node, Registry};
        for (what, hosts, expected) in [
            (EtcdMember, "m1/a", "announced"),
            (EtcdMember, "m1/a!", "announced"),
            (EtcdMember, "m1/a m2/b m3/c", "safe"),
            (EtcdMember, "m1/a m2/b! m3/c", "quorum"),
            // Quorum is lost already: a restart can only help.
            (EtcdMember, "m1/a m2/b! m3/c!", "safe"),
            (EtcdMember, "m1/a! m2/b m3/c", "safe"),
            (EtcdMember, "m1/a! m2/b! m3/c", "safe"),
            // With two members both are needed.
            (EtcdMember, "m1/a m2/b", "announced"),
            (EtcdMember, "m1/a m2/b!", "safe"),
            (EtcdMember, "m1/a m2/a m3/b m4/b m5/c!", "other zone"),
            (EtcdMember, "m1/a m2/a! m3/b m4/b m5/c", "safe"),
            (ApiServer, "m1/a", "announced"),
            (ApiServer, "m1/a m2/b m3/c", "safe"),
            (ApiServer, "m1/a m2/b! m3/c", "other zone"),
            (ApiServer, "m1/a! m2/b! m3/c", "safe"),
            (ApiServer, "m1/a m2/a!", "last"),
            (Registry, "m1/a m2/b", "safe"),
            (Registry, "m1/a m2/b!", "other zone"),
            (Node, "m1/a w1/a! w2/a!", "safe"),
            (Node, "m1/a w1/a w2/b!", "other zone"),
            // People do without one, while there are others of its zone.
            (Node, "m1/a w1/a w2/b? w3/b", "safe"),
            (Node, "m1/a w1/a w2/b? w3/b!", "other zone"),
            (Node, "m1/a w1/a w2/b? w3/b?", "other zone"),
            (Node, "m1/a w1/a w2/b? m2/b", "other zone"),
            (Registry, "m1/a w2/b? w3/b", "other zone"),
            (ApiServer, "m1/a m2/b? m3/b m4/c", "other zone"),
        ] {
            let answer = match may_disrupt("m1", what, &serving_of(hosts)) {
                Ok(Consent::Safe) => "safe",
                Ok(Consent::Announced) => "announced",
                Err(Refusal::EtcdQuorum { .. }) => "quorum",
                Err(Refusal::EtcdUnhealthy { .. }) => "unhealthy",
                Err(Refusal::OtherZone { .. }) => "other zone",
                Err(Refusal::LastServing { .. }) => "last",
            };
            assert_eq!(answer, expected, "{what} with {hosts}");
        }
    }

    #[test]
    fn a_member_stays_up_while_etcd_is_unhealthy() {
        let mut serving = serving_of("m1/a m2/b m3/c");
        serving.etcd_error = Some("m2 lags behind".to_owned());
        let refusal = may_disrupt("m1", Disruption::EtcdMember, &serving).unwrap_err();
        let text = refusal.to_string();
        assert!(
            text.contains("m1") && text.contains("m2 lags behind"),
            "{text}"
        );
        // Unless it is the one that is down.
        serving.hosts.extend(serving_of("m1/a!").hosts);
        let consent = may_disrupt("m1", Disruption::EtcdMember, &serving);
        assert_eq!(consent, Ok(Consent::Safe));
    }
}
