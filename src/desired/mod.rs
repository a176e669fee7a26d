//! The desired state: a pure function of inventory, bundle and site. No
//! clock, no random, no I/O below this folder.

pub mod builder;
pub mod bundle;
pub mod command_line;
mod containerd;
mod control_plane;
mod error;
pub mod etcd;
pub mod held;
mod kubeconfig;
pub mod manifests;
pub mod materials;
mod node;
mod prepare;
pub mod registry;
pub mod software;
#[cfg(test)]
pub(crate) mod tests;
pub mod types;

pub use bundle::{BundleImage, BundleView};
pub use error::DesiredError;
pub use held::Held;
pub use software::Software;
pub use types::*;

use crate::inventory::{Host, Inventory, Role};
use crate::site::SiteView;
use builder::{HostBuilder, Inputs};
use std::collections::BTreeMap;

/// What hosts and cluster should be like. The site's decisions must be
/// complete for every host; materials may be missing, then the files that
/// hold them are pending.
///
/// # Errors
/// When the three don't fit together: the bundle lacks a platform or file
/// that a host needs, or a manifest can't be rendered.
pub fn desired(
    inventory: &Inventory,
    software: &Software,
    site: &SiteView,
) -> Result<Desired, DesiredError> {
    let specs = materials::materials(inventory);
    let inputs = Inputs {
        inventory,
        software,
        site,
        specs: &specs,
    };
    let mut hosts = BTreeMap::new();
    for host in &inventory.hosts {
        hosts.insert(host.name.clone(), desired_host(inputs, host)?);
    }
    let missing = specs.keys().filter(|name| inputs.material(name).is_none());
    let mut to_mint: Vec<String> = missing.cloned().collect();
    if site.digest_key.is_none() {
        to_mint.push("digest key".to_owned());
    }
    Ok(Desired {
        bundle: software.title(),
        hosts,
        manifests: manifests::manifests(inputs)?,
        to_mint,
        to_decide: Vec::new(),
        restore: None,
        only: None,
        until: None,
        unavailable: unavailable(inventory),
        drain: inventory.drain.clone(),
    })
}

/// How many nodes of each zone may be away at once.
fn unavailable(inventory: &Inventory) -> BTreeMap<String, usize> {
    let zones = inventory.zones.iter().map(|zone| {
        let hosts = inventory.hosts.iter();
        let nodes = hosts.filter(|host| host.is_node() && host.zone == zone.name);
        (zone.name.clone(), zone.max_unavailable.of(nodes.count()))
    });
    zones.collect()
}

/// The administrator's kubeconfig; none before its certificate is minted. It
/// holds a private key. The way to the API is the first of the names that the
/// inventory has for it, else the first master, and beside it each master by a
/// context of its own: none of them is special.
pub fn admin_kubeconfig(inventory: &Inventory, site: &SiteView) -> Option<String> {
    let specs = materials::materials(inventory);
    let software = Software::default();
    let inputs = Inputs {
        inventory,
        software: &software,
        site,
        specs: &specs,
    };
    let cluster = &inventory.cluster.name;
    let url = |host: &str| format!("https://{host}:{}", crate::ports::numbers::API_SERVER_PORT);
    let masters = inventory.control_plane();
    let named = inventory.cluster.api_names.first().map(ToString::to_string);
    let first = named.or_else(|| Some(masters.first()?.address.to_string()))?;
    let mut ways = vec![(cluster.clone(), url(&first))];
    if masters.len() > 1 {
        let each = masters.iter();
        ways.extend(each.map(|master| {
            let name = format!("{cluster}-{}", master.name);
            (name, url(&master.address.to_string()))
        }));
    }
    kubeconfig::with_ways(inputs, materials::ADMIN, &ways)
}

/// One host: a literal list of what its roles bring.
fn desired_host(inputs: Inputs<'_>, host: &Host) -> Result<DesiredHost, DesiredError> {
    let mut builder = HostBuilder::new(inputs, host)?;
    builder.built.zone.clone_from(&host.zone);
    let title = inputs.software.title_on(&host.name);
    let held = inputs.site.held.get(&host.name);
    builder.built.held = held.map(|held| held.generation);
    builder.built.held_images = held.and_then(|held| held.images.clone());
    builder.built.bundle = match held {
        Some(held) => held.title(&title),
        None => title,
    };
    prepare::prepare(&mut builder)?;
    registry::client(&mut builder);
    if host.has(Role::Registry) {
        registry::registry(&mut builder)?;
    }
    if host.is_node() {
        builder.part(Part::Node, containerd::containerd)?;
    }
    if host.has(Role::Etcd) || host.has(Role::ControlPlane) {
        builder.part(Part::Etcd, etcd::client)?;
    }
    if host.has(Role::Etcd) {
        builder.part(Part::Etcd, etcd::member)?;
    }
    if host.has(Role::ControlPlane) {
        builder.part(Part::ControlPlane, control_plane::client)?;
        builder.part(Part::ControlPlane, control_plane::control_plane)?;
    }
    if host.is_node() {
        node::node(&mut builder)?;
    }
    prepare::users(&mut builder);
    prepare::directories(&mut builder);
    Ok(builder.built)
}
