//! Pod network, service network and hosts' addresses: apart from each other, and large enough.

use std::net::Ipv4Addr;
use std::ops::Range;

use toml::Spanned;

use super::cluster::{ClusterDraft, NetworkDraft, SshDefaults};
use super::hosts::HostDraft;
use super::model::Role;
use super::problem::{Finding, Report};
use super::values;

/// kube-apiserver refuses a `--service-cluster-ip-range` of more than 20 host bits
/// (`maxCIDRBits` in cmd/kube-apiserver/app/options/validation.go).
const SHORTEST_SERVICE_PREFIX: u8 = 12;
/// The DNS Service has the tenth address, and add-ons need a few more: a /28 holds 14.
const LONGEST_SERVICE_PREFIX: u8 = 28;

/// What the networks are held against.
pub(super) struct Addressed<'a> {
    pub(super) cluster: &'a ClusterDraft,
    pub(super) ssh: &'a SshDefaults,
    pub(super) hosts: &'a [HostDraft],
    /// Of a registry that is not cofferdam's.
    pub(super) registry: &'a [Spanned<Ipv4Addr>],
}

pub(super) fn check(addressed: &Addressed<'_>, report: &mut Report<'_>) {
    let cluster = addressed.cluster;
    check_service_size(cluster, report);
    check_pod_size(addressed, report);
    if let (Some(pods), Some(services)) = (&cluster.pod_cidr, &cluster.service_cidr)
        && values::overlap(pods.network, services.network)
    {
        let (written, other) = if services.at.is_some() {
            (services, pods)
        } else {
            (pods, services)
        };
        report.error(Finding {
            at: position(written, cluster),
            key: written.key.to_owned(),
            message: format!("{} overlaps {}", written.network, describe(other, report)),
            remedy: "choose two networks that share no address".to_owned(),
        });
    }
    for (address, key) in addresses(addressed) {
        for network in [&cluster.pod_cidr, &cluster.service_cidr]
            .into_iter()
            .flatten()
        {
            if network.network.contains(address.get_ref()) {
                report.error(Finding {
                    at: address.span(),
                    key: key.clone(),
                    message: format!(
                        "{} lies in {}",
                        address.get_ref(),
                        describe(network, report)
                    ),
                    remedy: format!(
                        "choose a `{}` that no host or server has an address in",
                        network.key.trim_start_matches("cluster.")
                    ),
                });
            }
        }
    }
}

fn check_service_size(cluster: &ClusterDraft, report: &mut Report<'_>) {
    let Some(NetworkDraft {
        key,
        network,
        at: Some(at),
    }) = &cluster.service_cidr
    else {
        return;
    };
    let prefix = network.prefix_len();
    let (message, remedy) = if prefix < SHORTEST_SERVICE_PREFIX {
        (
            format!("{network} is too large: kube-apiserver takes 20 host bits at most"),
            format!("choose a prefix length of {SHORTEST_SERVICE_PREFIX} or more, such as /16"),
        )
    } else if prefix > LONGEST_SERVICE_PREFIX {
        (
            format!("{network} is too small: the cluster's DNS has its tenth address"),
            format!("choose a prefix length of {LONGEST_SERVICE_PREFIX} or less, such as /16"),
        )
    } else {
        return;
    };
    report.error(Finding {
        at: at.clone(),
        key: (*key).to_owned(),
        message,
        remedy,
    });
}

/// Each node takes a share of `pod_mask` out of `pod_cidr`.
fn check_pod_size(addressed: &Addressed<'_>, report: &mut Report<'_>) {
    let cluster = addressed.cluster;
    let (Some(pods), Some(mask)) = (&cluster.pod_cidr, &cluster.pod_mask) else {
        return;
    };
    let mask = *mask.get_ref();
    let is_node = |host: &&HostDraft| host.has(Role::ControlPlane) || host.has(Role::Worker);
    let nodes = addressed.hosts.iter().filter(is_node).count();
    let shares = match mask.checked_sub(pods.network.prefix_len()) {
        Some(bits) => 1_u64 << bits,
        None => 0,
    };
    if shares >= nodes.max(1) as u64 {
        return;
    }
    let noun = if shares == 1 { "node" } else { "nodes" };
    let at = pods
        .at
        .clone()
        .or_else(|| cluster.pod_mask.as_ref().map(Spanned::span));
    report.error(Finding {
        at: at.unwrap_or_else(|| cluster.header.clone()),
        key: pods.key.to_owned(),
        message: format!(
            "{} has room for {shares} {noun} with a /{mask} each (`pod_mask`), not for {nodes}",
            pods.network
        ),
        remedy: "choose a larger `pod_cidr`, or a longer `pod_mask` (fewer pods on a node)"
            .to_owned(),
    });
}

/// Every address of the inventory that must not be a pod's or a Service's, with its key.
fn addresses<'a>(addressed: &'a Addressed<'_>) -> Vec<(&'a Spanned<Ipv4Addr>, String)> {
    let mut found = Vec::new();
    let mut add = |address: &'a Spanned<Ipv4Addr>, key: String| found.push((address, key));
    for host in addressed.hosts {
        if let Some(address) = &host.address {
            add(address, host.key("address"));
        }
        if let Some(address) = &host.ssh.address {
            add(address, host.key("ssh.address"));
        }
    }
    if let Some(address) = &addressed.ssh.jump_host {
        add(address, "ssh.jump_host".to_owned());
    }
    for address in &addressed.cluster.dns_upstreams {
        add(address, "cluster.dns_upstreams".to_owned());
    }
    for address in &addressed.cluster.ntp_servers {
        add(address, "cluster.ntp_servers".to_owned());
    }
    for address in addressed.registry {
        add(address, "registry.addresses".to_owned());
    }
    found
}

fn position(network: &NetworkDraft, cluster: &ClusterDraft) -> Range<usize> {
    network.at.clone().unwrap_or_else(|| cluster.header.clone())
}

fn describe(network: &NetworkDraft, report: &Report<'_>) -> String {
    let key = network.key.trim_start_matches("cluster.");
    match &network.at {
        Some(at) => {
            let line = report.location(at.clone()).line;
            format!("`{key}` {} in line {line}", network.network)
        }
        None => format!("`{key}` {}, the default", network.network),
    }
}
