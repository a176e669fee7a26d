//! The tables `[[hosts]]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use camino::{Utf8Path, Utf8PathBuf};
use toml::Spanned;

use super::cluster::{self, SshDefaults};
use super::model::{Role, SshAccess};
use super::names;
use super::overrides::Overrides;
use super::problem::{Finding, Report};
use super::raw::{RawHost, RawHostSsh};
use super::read_overrides::read_overrides;
use super::suggest;
use super::values;

/// A host as far as it could be read.
pub(super) struct HostDraft {
    pub(super) name: Spanned<String>,
    pub(super) address: Option<Spanned<Ipv4Addr>>,
    pub(super) zone: Spanned<String>,
    /// As written, until [`super::roles::assign`] adds what follows.
    pub(super) roles: Spanned<BTreeSet<Role>>,
    /// Some of the roles could not be read, so that nothing follows from a role's absence.
    pub(super) has_unknown_role: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ssh: SshDraft,
    pub(super) overrides: Overrides,
}

/// How to reach a host, with defaults filled in but for the address.
pub(super) struct SshDraft {
    user: String,
    pub(super) port: u16,
    key: Option<Utf8PathBuf>,
    /// Only if written for SSH on its own.
    pub(super) address: Option<Spanned<Ipv4Addr>>,
}

impl SshDraft {
    pub(super) fn access(self, host_address: Ipv4Addr) -> SshAccess {
        let address = self.address.map_or(host_address, Spanned::into_inner);
        SshAccess {
            user: self.user,
            port: self.port,
            key: self.key,
            address,
        }
    }
}

impl HostDraft {
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.get_ref().contains(&role)
    }

    /// Dotted key of one of the host's fields.
    pub(super) fn key(&self, field: &str) -> String {
        format!("hosts.{}.{field}", self.name.get_ref())
    }
}

/// What is the same for all hosts.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) ssh: &'a SshDefaults,
    /// The inventory's own directory.
    pub(super) directory: &'a Utf8Path,
}

pub(super) fn read_hosts(
    raw: Vec<RawHost>,
    surroundings: Surroundings<'_>,
    report: &mut Report<'_>,
) -> Vec<HostDraft> {
    let hosts: Vec<HostDraft> = raw
        .into_iter()
        .map(|raw| read_host(raw, surroundings, report))
        .collect();
    check_distinct(&hosts, report);
    hosts
}

fn read_host(raw: RawHost, surroundings: Surroundings<'_>, report: &mut Report<'_>) -> HostDraft {
    let prefix = format!("hosts.{}", raw.name.get_ref());
    values::label(&raw.name, &format!("{prefix}.name"), report);
    let address = values::address(&raw.address, &format!("{prefix}.address"), report)
        .map(|address| Spanned::new(raw.address.span(), address));
    let (roles, has_unknown_role) = read_roles(&raw.roles, &format!("{prefix}.roles"), report);
    HostDraft {
        address,
        roles: Spanned::new(raw.roles.span(), roles),
        has_unknown_role,
        labels: read_labels(&raw.labels, &format!("{prefix}.labels"), report),
        ssh: read_ssh(&raw.ssh, &format!("{prefix}.ssh"), surroundings, report),
        overrides: read_overrides(&raw.overrides, &format!("{prefix}.overrides"), report),
        name: raw.name,
        zone: raw.zone,
    }
}

fn read_roles(
    raw: &Spanned<Vec<Spanned<String>>>,
    key: &str,
    report: &mut Report<'_>,
) -> (BTreeSet<Role>, bool) {
    let known = Role::ALL.map(Role::name);
    let mut roles = BTreeSet::new();
    let mut has_unknown_role = false;
    if raw.get_ref().is_empty() {
        report.error(Finding {
            at: raw.span(),
            key: key.to_owned(),
            message: "the host has no role".to_owned(),
            remedy: format!("name at least one of: {}", known.join(", ")),
        });
        has_unknown_role = true;
    }
    for item in raw.get_ref() {
        let name = item.get_ref().as_str();
        let (message, remedy) = match Role::ALL.into_iter().find(|role| role.name() == name) {
            Some(role) if roles.insert(role) => continue,
            Some(_) => (
                format!("role `{name}` is listed twice"),
                "leave one of them out".to_owned(),
            ),
            None => {
                has_unknown_role = true;
                // What other tools call it.
                let remedy = match name {
                    "master" | "server" | "controller" => {
                        "did you mean `control-plane`?".to_owned()
                    }
                    "node" | "agent" => "did you mean `worker`?".to_owned(),
                    _ => suggest::remedy(name, &known, "roles"),
                };
                (format!("unknown role `{name}`"), remedy)
            }
        };
        report.error(Finding {
            at: item.span(),
            key: key.to_owned(),
            message,
            remedy,
        });
    }
    (roles, has_unknown_role)
}

fn read_labels(
    raw: &BTreeMap<Spanned<String>, Spanned<String>>,
    key: &str,
    report: &mut Report<'_>,
) -> BTreeMap<String, String> {
    for (name, value) in raw {
        if let Err(reason) = names::check_label_key(name.get_ref()) {
            report.error(Finding {
                at: name.span(),
                key: key.to_owned(),
                message: format!("`{}` is no label to set: it {reason}", name.get_ref()),
                remedy: "choose another, such as `example.com/rack`".to_owned(),
            });
        }
        if let Err(reason) = names::check_label_value(value.get_ref()) {
            report.error(Finding {
                at: value.span(),
                key: format!("{key}.{}", name.get_ref()),
                message: format!("`{}` is no label's value: it {reason}", value.get_ref()),
                remedy: "choose another, such as `r1`".to_owned(),
            });
        }
    }
    raw.iter()
        .map(|(name, value)| (name.get_ref().clone(), value.get_ref().clone()))
        .collect()
}

fn read_ssh(
    raw: &RawHostSsh,
    prefix: &str,
    surroundings: Surroundings<'_>,
    report: &mut Report<'_>,
) -> SshDraft {
    let defaults = surroundings.ssh;
    let user = cluster::read_user(raw.user.as_ref(), &format!("{prefix}.user"), report);
    let port = values::port(raw.port.as_ref(), &format!("{prefix}.port"), report);
    let key = raw.key.as_ref().and_then(|raw| {
        values::path(
            raw,
            &format!("{prefix}.key"),
            surroundings.directory,
            report,
        )
    });
    let address = raw.address.as_ref().and_then(|raw| {
        let address = values::address(raw, &format!("{prefix}.address"), report)?;
        Some(Spanned::new(raw.span(), address))
    });
    SshDraft {
        user: user.unwrap_or_else(|| defaults.user.clone()),
        port: port.unwrap_or(defaults.port),
        key: key.or_else(|| defaults.key.clone()),
        address,
    }
}

/// Names, addresses, and what SSH connects to are each host's own.
fn check_distinct(hosts: &[HostDraft], report: &mut Report<'_>) {
    let mut names: BTreeMap<&str, &HostDraft> = BTreeMap::new();
    let mut addresses: BTreeMap<Ipv4Addr, &HostDraft> = BTreeMap::new();
    let mut endpoints: BTreeMap<(Ipv4Addr, u16), &HostDraft> = BTreeMap::new();
    for host in hosts {
        let name = host.name.get_ref().as_str();
        if let Some(first) = names.insert(name, host) {
            let line = report.location(first.name.span()).line;
            report.error(Finding {
                at: host.name.span(),
                key: host.key("name"),
                message: format!("a host is called `{name}` already, in line {line}"),
                remedy: "give each host a name of its own".to_owned(),
            });
        }
        let Some(address) = &host.address else {
            continue;
        };
        if let Some(first) = addresses.insert(*address.get_ref(), host) {
            let line = report.location(first.name.span()).line;
            let other = first.name.get_ref();
            report.error(Finding {
                at: address.span(),
                key: host.key("address"),
                message: format!(
                    "{} is the address of host `{other}` already, in line {line}",
                    address.get_ref()
                ),
                remedy: "give each host the address of its own".to_owned(),
            });
            continue;
        }
        let ssh_address = host.ssh.address.as_ref().unwrap_or(address);
        let endpoint = (*ssh_address.get_ref(), host.ssh.port);
        if let Some(first) = endpoints.insert(endpoint, host) {
            let other = first.name.get_ref();
            report.error(Finding {
                at: ssh_address.span(),
                key: host.key("ssh.address"),
                message: format!(
                    "SSH to {}:{} leads to host `{other}` already",
                    endpoint.0, endpoint.1
                ),
                remedy: "write the address or port that leads to this host".to_owned(),
            });
        }
    }
}
