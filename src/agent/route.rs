//! The route that makes ClusterIPs reachable from a host that has no other
//! route to them. kube-proxy rewrites packets only after the route look-up.

use super::netlink;
use crate::layout::ROUTE_PROTOCOL;
use anyhow::{Result, anyhow};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// The kernel tells of every change but may lose messages under load.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Changes come in bursts, such as those of an interface that goes down and up.
const SETTLE: Duration = Duration::from_millis(200);

/// Makes the route and makes it again whenever something takes it away: an
/// interface that goes down takes its routes with it, and whoever configures
/// the network knows nothing of ours. `tell` gets every change of how it
/// stands, and is first called once the route is there.
///
/// # Errors
/// If the route can't be made at first, or the kernel tells no changes. Later
/// on, as when its interface is gone, it is tried again.
pub fn keep(
    destination: IpNet,
    interface: &str,
    source: IpAddr,
    tell: impl Fn(&Result<(), String>),
) -> Result<()> {
    // Before the first look, so that no change is missed.
    let changes = netlink::Changes::subscribe()?;
    ensure(destination, interface, source)?;
    let mut told = Ok(());
    tell(&told);
    loop {
        changes.wait(LOOK_EVERY)?;
        std::thread::sleep(SETTLE);
        changes.forget()?;
        let standing = ensure(destination, interface, source).map_err(|error| format!("{error:#}"));
        if standing != told {
            tell(&standing);
            told = standing;
        }
    }
}

/// Makes the route, marked by cofferdam's protocol number, or leaves it if it
/// is there already. A route to the same destination that is not ours is left
/// alone and makes ours needless.
///
/// # Errors
/// If the interface is missing or the kernel refuses the route.
pub fn ensure(destination: IpNet, interface: &str, source: IpAddr) -> Result<()> {
    let links = netlink::links()?;
    let link = links
        .iter()
        .find(|link| link.name == interface)
        .ok_or_else(|| {
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            anyhow!(
                "making the route to {destination}: there is no interface `{interface}`, only {}",
                names.join(", ")
            )
        })?;
    let present = netlink::routes()?
        .into_iter()
        .filter(|route| route.destination == destination.trunc())
        .collect::<Vec<_>>();
    let is_right = |route: &netlink::Route| {
        route.link_index == link.index && route.source == Some(source) && route.gateway.is_none()
    };
    if present
        .iter()
        .any(|route| route.protocol != ROUTE_PROTOCOL || is_right(route))
    {
        return Ok(());
    }
    netlink::replace_route(destination, link.index, source, ROUTE_PROTOCOL)
}
