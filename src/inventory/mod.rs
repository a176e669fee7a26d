//! The operator's inventory: cluster, zones, hosts, roles and options.
//!
//! [`parse`] reads text in two layers: `raw` holds what is written, with the place of every value;
//! the check turns it into an [`Inventory`] in which every default is resolved, or into
//! [`Problems`]: all of them at once, each with line, column, key and remedy.

mod cluster;
mod drain;
mod foreign;
mod hosts;
mod model;
mod names;
mod networks;
mod overrides;
mod placement;
mod problem;
mod queries;
mod raw;
mod read_overrides;
mod roles;
mod settings;
mod suggest;
mod syntax;
#[cfg(test)]
mod tests;
mod trusted_keys;
mod values;
mod zones;

use camino::Utf8Path;
use toml::Spanned;

pub use foreign::{ForeignRegistry, RegistryAccess};
pub use model::{
    ApiName, Cluster, Drain, DrainRule, Host, Inventory, MaxUnavailable, NamedKey, Role, SshAccess,
    Survive, Swap, Zone,
};
pub use overrides::{Component, OverridePlace, Overrides, merge_tables};
pub use problem::{Location, Problem, Problems, Severity};

use cluster::{ClusterDraft, SshDefaults};
use hosts::{HostDraft, Surroundings};
use problem::Report;
use raw::RawInventory;

/// Why an inventory could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read; the cause names it.
    #[error("reading the inventory")]
    Read(#[source] std::io::Error),
    /// A file that the inventory names.
    #[error("reading `{key}`: {reason}")]
    File { key: &'static str, reason: String },
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Reads and checks the inventory at `path`.
pub fn load(path: &Utf8Path) -> Result<Inventory, LoadError> {
    let text = fs_err::read_to_string(path).map_err(LoadError::Read)?;
    Ok(parse(&text, path)?)
}

/// Checks an inventory's text. `file` is where it came from: for messages, and as what relative
/// paths in it are relative to.
///
/// Text that is no TOML, an unknown key or a wrong type is the only problem then; everything else
/// is found at once.
pub fn parse(text: &str, file: &Utf8Path) -> Result<Inventory, Problems> {
    let raw: RawInventory =
        toml::from_str(text).map_err(|error| syntax::problems_of(&error, text, file))?;
    let mut report = Report::new(text);
    let checked = check(raw, file, &mut report);
    let has_errors = report.has_errors();
    let problems = report.into_problems();
    match checked {
        Some(inventory) if !has_errors => Ok(Inventory {
            warnings: problems,
            ..inventory
        }),
        _ => Err(Problems {
            file: file.to_owned(),
            problems,
        }),
    }
}

/// The inventory, if what is needed could be read; the report says what is wrong with it.
fn check(raw: RawInventory, file: &Utf8Path, report: &mut Report<'_>) -> Option<Inventory> {
    let directory = file.parent().unwrap_or(Utf8Path::new(""));
    let cluster = cluster::read_cluster(raw.cluster, report);
    let ssh = cluster::read_ssh(&raw.ssh, directory, report);
    let site_path = cluster::read_site(&raw.site, &cluster.name, directory, report);
    let zones = zones::read_zones(raw.zones, cluster.header.clone(), report);
    let mut hosts = hosts::read_hosts(
        raw.hosts,
        Surroundings {
            ssh: &ssh,
            directory,
        },
        report,
    );
    let overrides = read_overrides::read_overrides(&raw.overrides, "overrides", report);
    let drain = drain::read_drain(&raw.drain, report);
    let trusted_keys = trusted_keys::read_trusted_keys(&raw.trusted_keys, report);

    let foreign = raw.registry.as_ref();
    let foreign = foreign.map(|raw| foreign::read_foreign(raw, directory, report));
    let foreign = foreign.map(|draft| (draft.registry, draft.addresses));
    let (registry, registry_addresses) = foreign.unzip();

    match registry {
        Some(_) => foreign::check(&hosts, report),
        None => roles::assign_registries(&mut hosts),
    }
    roles::assign_members(&mut hosts);
    roles::check(&hosts, &cluster, report);
    zones::check_membership(&zones, &hosts, report);
    let addressed = networks::Addressed {
        cluster: &cluster,
        ssh: &ssh,
        hosts: &hosts,
        registry: registry_addresses.as_deref().unwrap_or_default(),
    };
    networks::check(&addressed, report);
    let zones = zones::resolve(&zones, &hosts, report);

    let SshDefaults { jump_host, .. } = ssh;
    Some(Inventory {
        file: file.to_owned(),
        cluster: finish_cluster(cluster)?,
        jump_host: jump_host.map(Spanned::into_inner),
        site_path,
        zones,
        hosts: hosts
            .into_iter()
            .map(finish_host)
            .collect::<Option<Vec<Host>>>()?,
        drain,
        registry: registry.flatten(),
        trusted_keys,
        warnings: Vec::new(),
        overrides,
    })
}

fn finish_cluster(draft: ClusterDraft) -> Option<Cluster> {
    Some(Cluster {
        name: draft.name,
        domain: draft.domain,
        pod_cidr: draft.pod_cidr?.network,
        pod_mask: draft.pod_mask?.into_inner(),
        service_cidr: draft.service_cidr?.network,
        api_names: draft.api_names,
        dns_upstreams: draft
            .dns_upstreams
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        ntp_servers: draft
            .ntp_servers
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        survive: draft.survive?,
        swap: draft.swap?,
        mtu: draft.mtu,
    })
}

fn finish_host(draft: HostDraft) -> Option<Host> {
    let address = draft.address?.into_inner();
    Some(Host {
        name: draft.name.into_inner(),
        address,
        zone: draft.zone.into_inner(),
        roles: draft.roles.into_inner(),
        labels: draft.labels,
        ssh: draft.ssh.access(address),
        overrides: draft.overrides,
    })
}
