//! Whether the API outlives the loss that it is to outlive: etcd needs a majority of its members,
//! and one API server must be left.

use std::collections::BTreeMap;

use toml::Spanned;

use super::hosts::HostDraft;
use super::model::{Role, Survive};
use super::problem::{Finding, Report};

const TO_SPREAD: &str = "spread them over three zones (two, and a witness with the role `etcd` \
    alone in a third, will do)";

/// Refuses roles that don't outlive what `survive` names. One master alone outlives nothing, and
/// is not asked to.
pub(super) fn check(hosts: &[HostDraft], survive: Survive, report: &mut Report<'_>) {
    let placement = Placement {
        members: with_role(hosts, Role::Etcd),
        masters: with_role(hosts, Role::ControlPlane),
    };
    if placement.members.is_empty() || placement.masters.is_empty() {
        return;
    }
    let is_one_master = match (&placement.members[..], &placement.masters[..]) {
        ([member], [master]) => std::ptr::eq(*member, *master),
        _ => false,
    };
    let weakness = match survive {
        _ if is_one_master => None,
        Survive::Nothing => None,
        Survive::Host => placement.without_a_host(),
        Survive::Zone => placement.without_a_zone(),
    };
    match weakness {
        Some(weakness) => report.error(placement.finding(&weakness)),
        None => placement.warn_if_even(report),
    }
}

fn with_role(hosts: &[HostDraft], role: Role) -> Vec<&HostDraft> {
    hosts.iter().filter(|host| host.has(role)).collect()
}

/// Which hosts the API hangs on.
struct Placement<'a> {
    members: Vec<&'a HostDraft>,
    masters: Vec<&'a HostDraft>,
}

/// Where a loss stops the API.
struct Weakness<'a> {
    host: &'a HostDraft,
    message: String,
    remedy: String,
}

impl<'a> Placement<'a> {
    /// Members that may be lost, with one less than half of them.
    fn spare(&self) -> usize {
        self.members.len().saturating_sub(1) / 2
    }

    fn without_a_host(&self) -> Option<Weakness<'a>> {
        let weakness = |host, message, remedy: &str| {
            let remedy = remedy.to_owned();
            Some(Weakness {
                host,
                message,
                remedy,
            })
        };
        match (self.members.as_slice(), self.masters.as_slice()) {
            ([only], _) => weakness(
                only,
                match self.masters.len() {
                    1 => "the only etcd member is not on the only control-plane host: the loss \
                          of either stops the API"
                        .to_owned(),
                    masters => format!(
                        "the only etcd member serves {masters} control-plane hosts: its loss \
                         stops the API"
                    ),
                },
                "leave the role `etcd` out, and each control-plane host is a member",
            ),
            ([.., last], _) if self.spare() == 0 => weakness(last, self.even(), "make it three"),
            (members, [only]) => weakness(
                only,
                format!(
                    "the only control-plane host has {} etcd members: its loss stops the API",
                    members.len()
                ),
                "give the role `control-plane` to another host too",
            ),
            _ => None,
        }
    }

    fn without_a_zone(&self) -> Option<Weakness<'a>> {
        let count = self.members.len();
        if count == 1 {
            return self.without_a_host();
        }
        let zones = by_zone(&self.members);
        let fullest = zones.into_iter().max_by_key(|(_, there)| there.len());
        if let Some((zone, there)) = fullest
            && there.len() > self.spare()
            && let Some(host) = there.last()
        {
            let message = if there.len() == count {
                format!("all {count} etcd members are in zone `{zone}`: its loss stops the API")
            } else if count.is_multiple_of(2) {
                format!(
                    "{}; zone `{zone}` holds {}: its loss stops the API",
                    self.even(),
                    there.len()
                )
            } else {
                format!(
                    "zone `{zone}` holds {} of {count} etcd members: its loss stops the API",
                    there.len()
                )
            };
            return Some(Weakness {
                host,
                message,
                remedy: TO_SPREAD.to_owned(),
            });
        }
        let zones = by_zone(&self.masters);
        let mut zones = zones.into_iter();
        if let (Some((zone, there)), None) = (zones.next(), zones.next())
            && let Some(host) = there.last()
        {
            let who = match there.len() {
                1 => "the only control-plane host is".to_owned(),
                masters => format!("all {masters} control-plane hosts are"),
            };
            return Some(Weakness {
                host,
                message: format!("{who} in zone `{zone}`: its loss stops the API"),
                remedy: "give the role `control-plane` to a host of another zone too".to_owned(),
            });
        }
        None
    }

    /// With what may be accepted instead.
    fn finding(&self, weakness: &Weakness<'_>) -> Finding {
        let outlives_a_host = self.without_a_host().is_none();
        let accepted = if outlives_a_host { "host" } else { "nothing" };
        let roles = &weakness.host.roles;
        Finding {
            at: roles.span(),
            key: weakness.host.key("roles"),
            message: weakness.message.clone(),
            remedy: format!(
                "{}; or accept it by `survive = \"{accepted}\"` in [cluster]",
                weakness.remedy
            ),
        }
    }

    fn warn_if_even(&self, report: &mut Report<'_>) {
        let count = self.members.len();
        let Some(last) = self.members.last().filter(|_| count.is_multiple_of(2)) else {
            return;
        };
        report.warning(Finding {
            at: last.roles.span(),
            key: last.key("roles"),
            message: self.even(),
            remedy: format!(
                "give the role `etcd` to {} or {} hosts by naming it on each",
                count - 1,
                count + 1
            ),
        });
    }

    fn even(&self) -> String {
        let count = self.members.len();
        let spare = match self.spare() {
            0 => "none".to_owned(),
            spare => spare.to_string(),
        };
        format!(
            "{count} etcd members survive the loss of {spare}, just as {} would",
            count - 1
        )
    }
}

fn by_zone<'a>(hosts: &[&'a HostDraft]) -> BTreeMap<&'a str, Vec<&'a HostDraft>> {
    let mut zones: BTreeMap<&str, Vec<&HostDraft>> = BTreeMap::new();
    for host in hosts {
        let zone: &Spanned<String> = &host.zone;
        zones.entry(zone.get_ref()).or_default().push(host);
    }
    zones
}
