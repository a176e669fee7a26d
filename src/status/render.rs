//! A status as text.

use super::{EtcdStatus, Health, HostStatus, NodeStatus, Part, Status};

const HEADER: [&str; 6] = ["zone", "host", "etcd", "API server", "registry", "node"];

/// A table with a line a host, and then what is wrong. Lines end in newlines.
pub fn text(status: &Status) -> String {
    let mut text = headline(status);
    text.push('\n');
    let rows: Vec<[String; 6]> = std::iter::once(HEADER.map(str::to_owned))
        .chain(rows(&status.hosts))
        .collect();
    let widths: Vec<usize> = (0..HEADER.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    if !status.problems.is_empty() {
        text.push('\n');
    }
    for problem in &status.problems {
        let host = problem.host.as_ref();
        let host = host.map_or(String::new(), |host| format!("{host}: "));
        // A reason that names its host needs no second name.
        let message = match problem.message.contains(host.trim_end_matches(": ")) {
            true => problem.message.clone(),
            false => format!("{host}{}", problem.message),
        };
        text.push_str(&format!("{message}\n"));
        if let Some(hint) = &problem.hint {
            text.push_str(&format!("  {hint}\n"));
        }
    }
    text
}

fn headline(status: &Status) -> String {
    let health = match status.health {
        Health::Fine => "fine",
        Health::Degraded => "degraded",
        Health::Broken => "broken",
    };
    let version = status.version.as_ref();
    let version = version.map_or(String::new(), |version| format!(", Kubernetes {version}"));
    let emulated = status.hosts.iter().find_map(|host| host.emulated.as_ref());
    let emulated = emulated.map_or(String::new(), |minor| {
        format!(", behaving as {minor} until `cofferdam upgrade --finish`")
    });
    format!("{}: {health}{version}{emulated}\n", status.cluster)
}

/// A zone's name stands on its first line only.
fn rows(hosts: &[HostStatus]) -> impl Iterator<Item = [String; 6]> {
    let mut zone = "";
    hosts.iter().map(move |host| {
        let is_first = zone != host.zone;
        zone = &host.zone;
        [
            if is_first { &host.zone } else { "" }.to_owned(),
            match host.reached {
                true => host.name.clone(),
                false => format!("{} (not reached)", host.name),
            },
            host.etcd.as_ref().map_or_else(none, etcd),
            host.api_server
                .map_or_else(none, |part| word(part, "ready").to_owned()),
            host.registry
                .map_or_else(none, |part| word(part, "serves").to_owned()),
            host.node.as_ref().map_or_else(none, node),
        ]
    })
}

fn none() -> String {
    "-".to_owned()
}

fn word(part: Part, up: &'static str) -> &'static str {
    match part {
        Part::Up => up,
        Part::Down => "DOWN",
        Part::Unknown => "?",
    }
}

fn etcd(etcd: &EtcdStatus) -> String {
    let role = match (etcd.leader, etcd.learner) {
        (true, _) => "leader",
        (_, true) => "learner",
        _ => "member",
    };
    match etcd.entries_behind {
        Some(behind) if etcd.state == Part::Up && behind > 0 => format!("{role}, {behind} behind"),
        _ => word(etcd.state, role).to_owned(),
    }
}

fn node(node: &NodeStatus) -> String {
    let version = node.kubelet_version.as_deref().unwrap_or_default();
    let cordoned = if node.unschedulable { ", cordoned" } else { "" };
    match node.state {
        Part::Up => format!("Ready {version}{cordoned}"),
        Part::Down if version.is_empty() => "DOWN".to_owned(),
        Part::Down => format!("NotReady {version}{cordoned}"),
        Part::Unknown => "?".to_owned(),
    }
}
