//! Network namespaces, bridges and links: one router, one bridge per zone, one
//! leg to the machine itself, which plays the jump host.

use super::layout::{
    Host, JUMP_ADDRESS, JUMP_LINK, LAB_NETWORK, Layout, PREFIX, ROUTER_ADDRESS, ROUTER_JUMP_LINK,
    ROUTER_NAMESPACE, Zone, hardware_address,
};
use crate::shell;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::{Command, Stdio};

/// Whether hosts have a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultRoute {
    /// Routes to the lab's own networks only, as behind a real air gap.
    Absent,
    /// A default route to the router, which counts and drops what takes it.
    ToRouter,
}

/// Where `ip netns` keeps its namespaces.
pub const NAMESPACES: &str = "/run/netns";

/// Settings of the router's namespace. Frames within a zone are bridged, not
/// routed: without the second and third they would pass the forward chain too,
/// and in-zone traffic is not the firewall's. IPv6 is off since nothing in the
/// lab has such addresses.
const ROUTER_SETTINGS: &[(&str, &str)] = &[
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    ("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"),
    ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0"),
    ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
];

/// Makes the router with its bridges and the leg to the jump host. Forwarding
/// stays off until [`open_router`], after the rules are loaded.
pub fn make_router(layout: &Layout) -> Result<()> {
    batch(None, &router_outside())?;
    batch(Some(ROUTER_NAMESPACE), &router_inside(layout))
}

/// Gives each zone's link to the rest a bandwidth, such as `100mbit`: what is
/// routed into a zone waits for its turn. Within a zone nothing does, since
/// bridged frames don't pass the bridge's own queue.
pub fn limit_links(layout: &Layout, rate: &str) -> Result<()> {
    for zone in &layout.zones {
        shell::read(
            Command::new("tc")
                .args(["-n", ROUTER_NAMESPACE])
                .args(shape(zone, rate)),
        )
        .with_context(|| format!("giving zone {} a link of {rate}", zone.name))?;
    }
    Ok(())
}

/// Arguments of tc. A burst of a few milliseconds, and a queue as deep as that
/// of a switch.
fn shape(zone: &Zone, rate: &str) -> Vec<String> {
    let bridge = zone.bridge();
    let words = ["qdisc", "replace", "dev", &bridge, "root", "tbf"];
    let tail = ["rate", rate, "burst", "256k", "latency", "50ms"];
    words.iter().chain(&tail).map(ToString::to_string).collect()
}

/// Turns forwarding on.
pub fn open_router() -> Result<()> {
    for (path, value) in ROUTER_SETTINGS {
        // A kernel without bridge filtering or IPv6 lacks the file, and the need.
        let script = format!("[ ! -e {path} ] || echo {value} >{path}");
        shell::read(Command::new("ip").args([
            "netns",
            "exec",
            ROUTER_NAMESPACE,
            "sh",
            "-c",
            &script,
        ]))
        .with_context(|| format!("setting {path} to {value} in the router"))?;
    }
    Ok(())
}

/// Makes a host's namespace and its link to the zone's bridge.
pub fn make_host(host: &Host, zone: &Zone, default_route: DefaultRoute) -> Result<()> {
    let namespace = host.namespace();
    batch(None, &format!("netns add {namespace}\n"))?;
    batch(Some(&namespace), &host_inside(host, zone, default_route))?;
    batch(
        Some(ROUTER_NAMESPACE),
        &format!("link set {} master {} up\n", host.name, zone.bridge()),
    )
}

/// Deletes a host's link and namespace; what is not there is fine. The kernel
/// takes a namespace apart in its own time, and until then its links keep
/// their names: so the link goes first, at once.
pub fn delete_host(host: &Host) -> Result<()> {
    if namespaces(ROUTER_NAMESPACE).is_empty() {
        return delete_namespace(&host.namespace());
    }
    delete_link(Some(ROUTER_NAMESPACE), &host.name)?;
    delete_namespace(&host.namespace())
}

/// Deletes whatever bears the lab's prefix: the jump host's link and, with it,
/// its route, then all namespaces.
pub fn sweep() -> Result<()> {
    delete_link(None, JUMP_LINK)?;
    for namespace in namespaces(PREFIX) {
        delete_namespace(&namespace)?;
    }
    Ok(())
}

/// The network namespaces whose name starts with `prefix`.
pub fn namespaces(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(NAMESPACES) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Refuses to go on when the lab's network is somebody else's already.
pub fn check_free() -> Result<()> {
    let routes = shell::read(Command::new("ip").args(["-4", "route", "show"]))?;
    if let Some(route) = routes.lines().find(|route| route.starts_with("10.77.")) {
        bail!(
            "this machine has a route into {LAB_NETWORK} already ({}): remove it, the lab needs that network",
            route.trim()
        );
    }
    Ok(())
}

fn delete_namespace(name: &str) -> Result<()> {
    let is_there = || namespaces(name).iter().any(|found| found == name);
    if !is_there() {
        return Ok(());
    }
    match batch(None, &format!("netns delete {name}\n")) {
        Err(error) if is_there() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes a link in a namespace, and the other end with it. It may vanish by
/// itself meanwhile.
fn delete_link(namespace: Option<&str>, name: &str) -> Result<()> {
    if !is_link(namespace, name) {
        return Ok(());
    }
    match batch(namespace, &format!("link delete {name}\n")) {
        Err(error) if is_link(namespace, name) => Err(error),
        _ => Ok(()),
    }
}

fn is_link(namespace: Option<&str>, name: &str) -> bool {
    let mut show = ip(namespace);
    shell::read(show.args(["link", "show", "dev", name])).is_ok()
}

/// The program `ip`, acting in a namespace or the machine's own.
fn ip(namespace: Option<&str>) -> Command {
    let mut ip = shell::attached("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    ip
}

/// Commands in the machine's own namespace.
fn router_outside() -> String {
    format!(
        "netns add {ROUTER_NAMESPACE}\n\
         link add {JUMP_LINK} type veth peer name {ROUTER_JUMP_LINK} netns {ROUTER_NAMESPACE}\n\
         address add {JUMP_ADDRESS}/24 dev {JUMP_LINK}\n\
         link set {JUMP_LINK} up\n\
         route add {LAB_NETWORK} via {ROUTER_ADDRESS} dev {JUMP_LINK} src {JUMP_ADDRESS}\n"
    )
}

/// Commands in the router's namespace. A bridge takes the address of one of its
/// ports unless it has its own, so that hosts would lose their router whenever
/// that port goes.
fn router_inside(layout: &Layout) -> String {
    let mut commands = format!(
        "link set lo up\n\
         address add {ROUTER_ADDRESS}/24 dev {ROUTER_JUMP_LINK}\n\
         link set {ROUTER_JUMP_LINK} up\n"
    );
    for zone in &layout.zones {
        let (bridge, address) = (zone.bridge(), zone.router());
        commands.push_str(&format!(
            "link add {bridge} address {} type bridge\n\
             address add {address}/24 dev {bridge}\n\
             link set {bridge} up\n",
            hardware_address(address)
        ));
    }
    commands
}

/// Commands in a host's namespace.
fn host_inside(host: &Host, zone: &Zone, default_route: DefaultRoute) -> String {
    let destination = match default_route {
        DefaultRoute::Absent => LAB_NETWORK,
        DefaultRoute::ToRouter => "default",
    };
    format!(
        "link set lo up\n\
         link add eth0 address {} type veth peer name {} netns {ROUTER_NAMESPACE}\n\
         address add {}/24 dev eth0\n\
         link set eth0 up\n\
         route add {destination} via {}\n",
        host.hardware_address(),
        host.name,
        host.address,
        zone.router(),
    )
}

/// Runs several commands of `ip` at once, in a namespace or the machine's own.
fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    let mut child = ip(namespace)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(commands.as_bytes())
            .context("writing to ip")?;
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    if !output.status.success() {
        bail!(
            "changing the network of {}: {}\nwith the commands:\n{commands}",
            namespace.unwrap_or("this machine"),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layout::Wanted;
    use super::*;

    fn layout() -> Layout {
        Layout::spread(&Wanted {
            masters: 1,
            workers: 2,
            ..Wanted::default()
        })
        .unwrap()
    }

    #[test]
    fn the_router_has_a_bridge_with_a_lasting_address_for_each_zone() {
        assert_eq!(
            router_inside(&layout()),
            "link set lo up\n\
             address add 10.77.9.1/24 dev jump\n\
             link set jump up\n\
             link add zone-a address 02:00:0a:4d:01:01 type bridge\n\
             address add 10.77.1.1/24 dev zone-a\n\
             link set zone-a up\n\
             link add zone-b address 02:00:0a:4d:02:01 type bridge\n\
             address add 10.77.2.1/24 dev zone-b\n\
             link set zone-b up\n"
        );
    }

    #[test]
    fn a_link_is_shaped_where_it_enters_its_zone() {
        assert_eq!(
            shape(&layout().zones[1], "100mbit").join(" "),
            "qdisc replace dev zone-b root tbf rate 100mbit burst 256k latency 50ms"
        );
    }

    #[test]
    fn a_host_has_a_route_to_the_lab_alone_unless_told_otherwise() {
        let layout = layout();
        let host = layout.host("w2").unwrap();
        let zone = layout.zone(host).unwrap();
        let last = |route| {
            host_inside(host, zone, route)
                .lines()
                .last()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            last(DefaultRoute::Absent),
            "route add 10.77.0.0/16 via 10.77.2.1"
        );
        assert_eq!(
            last(DefaultRoute::ToRouter),
            "route add default via 10.77.2.1"
        );
    }
}
