//! Roles that follow from others, and whether all roles together make a cluster.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;

use super::hosts::HostDraft;
use super::model::Role;
use super::problem::{Finding, Report};

/// Adds the roles that follow: etcd follows control-plane unless some host names etcd; each
/// zone's first control-plane host has its registry unless a host of the zone names registry.
pub(super) fn assign(hosts: &mut [HostDraft]) {
    let etcd_is_named = hosts.iter().any(|host| host.has(Role::Etcd));
    let mut zones_with_registry: Vec<String> = hosts
        .iter()
        .filter(|host| host.has(Role::Registry))
        .map(|host| host.zone.get_ref().clone())
        .collect();
    for host in hosts {
        if !host.has(Role::ControlPlane) {
            continue;
        }
        if !etcd_is_named {
            host.roles.get_mut().insert(Role::Etcd);
        }
        if !zones_with_registry.contains(host.zone.get_ref()) {
            zones_with_registry.push(host.zone.get_ref().clone());
            host.roles.get_mut().insert(Role::Registry);
        }
    }
}

/// Checks roles over all hosts; `header` is where to point if there are no hosts.
pub(super) fn check(hosts: &[HostDraft], header: Range<usize>, report: &mut Report<'_>) {
    let Some(first) = hosts.first() else {
        report.error(Finding {
            at: header,
            key: "hosts".to_owned(),
            message: "there is no host".to_owned(),
            remedy: "add at least one `[[hosts]]` with the role `control-plane`".to_owned(),
        });
        return;
    };
    // A role that could not be read may be the one that is missed.
    if hosts.iter().any(|host| host.has_unknown_role) {
        return;
    }
    if !hosts.iter().any(|host| host.has(Role::ControlPlane)) {
        report.error(Finding {
            at: first.roles.span(),
            key: first.key("roles"),
            message: "no host has the role `control-plane`".to_owned(),
            remedy: "give it to one host, or to one in each of three zones".to_owned(),
        });
    }
    check_etcd(hosts, report);
}

/// Members that don't help, or don't where it matters, are worth a warning; they are no error,
/// since a cluster passes through such states when members are added or replaced.
fn check_etcd(hosts: &[HostDraft], report: &mut Report<'_>) {
    let members: Vec<&HostDraft> = hosts.iter().filter(|host| host.has(Role::Etcd)).collect();
    let Some(last) = members.last() else { return };
    let count = members.len();
    let quorum = count / 2 + 1;
    if count.is_multiple_of(2) {
        let spare = match count - quorum {
            0 => "none".to_owned(),
            spare => spare.to_string(),
        };
        let fewer = count - 1;
        report.warning(Finding {
            at: last.roles.span(),
            key: last.key("roles"),
            message: format!(
                "{count} etcd members survive the loss of {spare}, just as {fewer} would"
            ),
            remedy: format!(
                "give the role `etcd` to {fewer} or {} hosts by naming it on each",
                count + 1
            ),
        });
    }
    let mut by_zone: BTreeMap<&str, Vec<&Spanned<String>>> = BTreeMap::new();
    for host in hosts {
        by_zone.entry(host.zone.get_ref()).or_default();
    }
    for member in &members {
        by_zone
            .entry(member.zone.get_ref())
            .or_default()
            .push(&member.name);
    }
    if count < 3 || by_zone.len() < 3 {
        return;
    }
    if let Some((zone, names)) = by_zone
        .iter()
        .find(|(_, names)| count - names.len() < quorum)
        && let Some(name) = names.last()
    {
        report.warning(Finding {
            at: name.span(),
            key: format!("hosts.{}.roles", name.get_ref()),
            message: format!(
                "zone `{zone}` holds {} of {count} etcd members: its loss stops the API",
                names.len()
            ),
            remedy: "spread the members over three zones".to_owned(),
        });
    }
}
