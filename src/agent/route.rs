//! The route that makes ClusterIPs reachable from a host that has no other
//! route to them. kube-proxy rewrites packets only after the route look-up.

use super::netlink;
use crate::layout::ROUTE_PROTOCOL;
use anyhow::{Result, anyhow};
use ipnet::IpNet;
use std::net::IpAddr;

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
