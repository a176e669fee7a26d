//! What makes a host fit for Kubernetes, kept over reboots.

use super::builder::HostBuilder;
use super::builder::{Access, UnitSpec};
use super::command_line::flags;
use super::error::DesiredError;
use super::materials::CLUSTER_CA;
use super::types::{Change, Content, FileKind, KeptRoute, Stage, Swap};
use crate::digest::Digest;
use crate::layout::{self, HEADER};

/// Modules that the node's network and containerd's snapshots need.
const MODULES: [&str; 4] = ["br_netfilter", "nf_conntrack", "overlay", "vxlan"];

/// Forwarding for pods; bridged traffic through nftables, for Services whose
/// endpoint is on the caller's own bridge; loose return paths (2, which wins
/// over an interface's 1), since strict ones drop replies that come back over
/// the overlay; and room for the watches of many pods.
const NODE_SYSCTLS: [(&str, &str); 7] = [
    ("fs.inotify.max_user_instances", "8192"),
    ("fs.inotify.max_user_watches", "524288"),
    ("net.bridge.bridge-nf-call-ip6tables", "1"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.ipv4.conf.all.rp_filter", "2"),
    ("net.ipv4.conf.default.rp_filter", "2"),
    ("net.ipv4.ip_forward", "1"),
];

/// Connections end 25 s after their other side went silent, instead of a
/// quarter of an hour. etcd's members keep theirs as long as the kernel does,
/// which waits longer and longer between its tries: after a minute in which a
/// zone was cut off, its member would be out of step for 40 s more.
const RETRIES: (&str, &str) = ("net.ipv4.tcp_retries2", "6");

/// A host whose disk is filled by its journal takes etcd down with it.
const JOURNALD: &str = "# Written by cofferdam.\n[Journal]\nSystemMaxUse=1G\nSystemKeepFree=1G\nRateLimitIntervalSec=30s\nRateLimitBurst=10000\n";

/// NetworkManager would take the pod network's interfaces for its own.
const NETWORK_MANAGER: &str = "# Written by cofferdam.\n[keyfile]\nunmanaged-devices=interface-name:cni0;interface-name:flannel.*;interface-name:veth*\n";

/// `nft` prints a protocol's number where a host lacks its name. kube-proxy
/// looks for names in what `nft` lists: at each of its starts it would take
/// the elements of all Services for leftovers, and remove them.
const PROTOCOLS: &str = "tcp\t6\tTCP\nudp\t17\tUDP\nsctp\t132\tSCTP\n";

/// Path of the file that systemd-sysusers makes our users from.
pub const SYSUSERS: &str = "/etc/sysusers.d/cofferdam.conf";
pub const MODULES_FILE: &str = "/etc/modules-load.d/cofferdam.conf";
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/99-zz-cofferdam.conf";
const ROUTE_UNIT: &str = "cofferdam-route.service";
const JOURNALD_FILE: &str = "/etc/systemd/journald.conf.d/90-cofferdam.conf";
const JOURNALD_DROP_IN: &str = "/etc/systemd/system/systemd-journald.service.d/90-cofferdam.conf";

/// Settings of the machine itself.
///
/// # Errors
/// When the bundle lacks cofferdam's own binary for the host's platform.
pub fn prepare(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    site_mark(builder);
    builder.plain(JOURNALD_FILE, JOURNALD.to_owned());
    let inputs_file = layout::inputs_file(layout::JOURNALD);
    builder.plain(
        JOURNALD_DROP_IN,
        format!("{HEADER}[Service]\nEnvironmentFile=-{inputs_file}\n"),
    );
    builder.system_unit(
        layout::JOURNALD,
        Change::Restart,
        &[JOURNALD_FILE, JOURNALD_DROP_IN],
    );
    if builder.decisions.network_manager {
        let file = layout::NETWORK_MANAGER_FILE;
        builder.plain(file, NETWORK_MANAGER.to_owned());
        builder.system_unit(layout::NETWORK_MANAGER, Change::Reload, &[file]);
    }
    builder.built.swap = match builder.inputs.inventory.cluster.swap {
        crate::inventory::Swap::Off => Swap::Off,
        crate::inventory::Swap::Keep => Swap::Keep,
    };
    let mut wanted = vec![RETRIES];
    if builder.host.is_node() {
        wanted.splice(..0, NODE_SYSCTLS);
        node_settings(builder)?;
    }
    sysctls(builder, &wanted);
    Ok(())
}

/// The cluster's CA is what makes a site this one and no other.
fn site_mark(builder: &mut HostBuilder<'_>) {
    let authority = builder.inputs.material(CLUSTER_CA);
    let certificate = authority.and_then(|authority| authority.certificate.as_ref());
    let name = &builder.inputs.inventory.cluster.name;
    let content = certificate.map_or(Content::Pending, |pem| {
        Content::Plain(format!("{name} {}\n", Digest::of(pem)).into_bytes())
    });
    builder.file(
        layout::SITE_MARK,
        content,
        Access::PUBLIC,
        FileKind::Software,
    );
}

fn sysctls(builder: &mut HostBuilder<'_>, wanted: &[(&str, &str)]) {
    let lines = wanted
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"));
    let lines: String = lines.collect();
    builder.plain(SYSCTL_FILE, format!("{HEADER}{lines}"));
    let owned = wanted
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    builder.built.sysctls = owned.collect();
}

fn node_settings(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.built.modules = MODULES.map(str::to_owned).into();
    builder.plain(MODULES_FILE, format!("{HEADER}{}\n", MODULES.join("\n")));
    if builder.decisions.protocol_names {
        builder.plain(layout::PROTOCOLS_FILE, format!("{HEADER}{PROTOCOLS}"));
    }
    if let Some(route) = &builder.decisions.service_route {
        let destination = builder.inputs.inventory.cluster.service_cidr;
        builder.binary("cofferdam")?;
        let arguments = flags([
            ("destination", destination.to_string()),
            ("interface", route.interface.clone()),
            ("source", route.source.to_string()),
        ]);
        let command = super::command_line::exec_start("cofferdam", &arguments).replacen(
            "/cofferdam ",
            "/cofferdam route ",
            1,
        );
        let text = super::builder::render(
            ROUTE_UNIT,
            include_str!("../../templates/systemd/cofferdam-route.service"),
            minijinja::context! {
                command,
                inputs_file => layout::inputs_file("cofferdam-route"),
            },
        )?;
        builder.built.service_route = Some(KeptRoute {
            unit: ROUTE_UNIT.to_owned(),
            destination: destination.into(),
            interface: route.interface.clone(),
            source: route.source,
        });
        builder.unit(UnitSpec {
            name: ROUTE_UNIT,
            stage: Stage::Stage,
            text,
            reads: &[],
            follows: &[],
            binaries: &["cofferdam"],
            change: Change::Restart,
            ready: None,
        });
    }
    Ok(())
}

/// The file that makes the users, once all of them are known.
pub fn users(builder: &mut HostBuilder<'_>) {
    if builder.built.users.is_empty() {
        return;
    }
    let lines: String = builder
        .built
        .users
        .iter()
        .map(|user| format!("u {user} - \"cofferdam {user}\" - -\n"))
        .collect();
    builder.plain(SYSUSERS, format!("{HEADER}{lines}"));
}

/// Directories whose mode matters.
pub fn directories(builder: &mut HostBuilder<'_>) {
    let readable = Access {
        user: "root",
        group: "root",
        mode: 0o755,
    };
    let parents: std::collections::BTreeSet<String> = builder
        .built
        .files
        .keys()
        .filter(|path| path.contains("/pki/"))
        .filter_map(|path| path.rsplit_once('/').map(|(parent, _)| parent.to_owned()))
        .collect();
    for parent in parents {
        builder.directory(&parent, readable);
    }
}
