//! Roles that follow from others, and whether all roles together make a cluster.

use super::cluster::ClusterDraft;
use super::hosts::HostDraft;
use super::model::Role;
use super::placement;
use super::problem::{Finding, Report};

/// Adds the role that follows from others: etcd follows control-plane unless some host names etcd.
pub(super) fn assign_members(hosts: &mut [HostDraft]) {
    if hosts.iter().any(|host| host.has(Role::Etcd)) {
        return;
    }
    for host in hosts {
        if host.has(Role::ControlPlane) {
            host.roles.get_mut().insert(Role::Etcd);
        }
    }
}

/// Each zone's first control-plane host has its registry unless a host of the zone names registry.
pub(super) fn assign_registries(hosts: &mut [HostDraft]) {
    let mut zones_with_registry: Vec<String> = hosts
        .iter()
        .filter(|host| host.has(Role::Registry))
        .map(|host| host.zone.get_ref().clone())
        .collect();
    for host in hosts {
        if host.has(Role::ControlPlane) && !zones_with_registry.contains(host.zone.get_ref()) {
            zones_with_registry.push(host.zone.get_ref().clone());
            host.roles.get_mut().insert(Role::Registry);
        }
    }
}

/// Checks roles over all hosts; `[cluster]` is where to point if there are none.
pub(super) fn check(hosts: &[HostDraft], cluster: &ClusterDraft, report: &mut Report<'_>) {
    let Some(first) = hosts.first() else {
        report.error(Finding {
            at: cluster.header.clone(),
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
    if let Some(survive) = cluster.survive {
        placement::check(hosts, survive, report);
    }
}
