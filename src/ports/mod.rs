//! Which connections a cluster needs: the rows that firewalls between its zones must let pass.
//!
//! [`Matrix::of`] is a pure function of the inventory, and [`render`] turns its value into text.
//! The matrix presumes stateful firewalls, which let replies and related ICMP (fragmentation
//! needed) pass by themselves. It holds what the cluster itself needs; NodePorts and load
//! balancers are its users' matter.

mod nft;
pub mod numbers;
mod render;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

pub use render::{Format, render};

/// All rows of one cluster. No two of them cover the same connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// The cluster's name.
    pub cluster: String,
    /// By purpose, then by zones in the inventory's order.
    pub rows: Vec<Row>,
}

/// Every address of `from` may open connections to every address of `to`.
///
/// Where a host is on both sides, the row covers its way to itself as well, which never leaves the
/// host; a row for nothing else is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub from: Endpoint,
    pub to: Endpoint,
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    pub scope: Scope,
    pub why: &'static str,
}

/// One side of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub group: Group,
    /// Absent outside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Empty only for a jump host whose address the inventory doesn't tell.
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// What the addresses of an endpoint have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    JumpHost,
    Hosts,
    Nodes,
    ControlPlane,
    Etcd,
    /// Hosts on which something asks etcd: masters and members.
    EtcdClients,
    Registries,
    /// A registry that is not cofferdam's.
    Registry,
    DnsServers,
    NtpServers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Which way a row's connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// From the jump host into a zone.
    JumpHost,
    /// From one zone to another.
    BetweenZones,
    /// From a zone to servers that are no hosts of the cluster.
    Outside,
    /// Between hosts of one zone. Usually this doesn't cross the firewall between zones.
    WithinZone,
}

impl Row {
    /// Whether the row allows this very connection.
    pub fn covers(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        self.from.addresses.contains(&from) && self.to.addresses.contains(&to)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(formatter, "zone {zone} {}", self.group),
            None => self.group.fmt(formatter),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::JumpHost => "jump host",
            Self::Hosts => "hosts",
            Self::Nodes => "nodes",
            Self::ControlPlane => "control plane",
            Self::Etcd => "etcd",
            Self::EtcdClients => "control plane and etcd",
            Self::Registries => "registries",
            Self::Registry => "registry",
            Self::DnsServers => "DNS servers",
            Self::NtpServers => "NTP servers",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::JumpHost => "jump host",
            Self::BetweenZones => "between zones",
            Self::Outside => "outside",
            Self::WithinZone => "within zone",
        })
    }
}
