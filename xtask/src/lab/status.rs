//! Showing what a lab is doing.

use super::control::{Lab, is_running};
use super::layout::{Host, Kind};
use super::ready;
use super::router::{Flow, RouterCounters};
use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A host that is up answers within milliseconds.
const DIAL_LIMIT: Duration = Duration::from_millis(500);
/// Flows shown to people; JSON has them all.
const FLOWS_SHOWN: usize = 20;

/// The state of a lab and its hosts.
#[derive(Debug, Serialize)]
pub struct Status {
    pub directory: Utf8PathBuf,
    pub hosts: Vec<HostStatus>,
    pub router: RouterCounters,
}

/// One host's state.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    pub name: String,
    pub zone: String,
    pub address: Ipv4Addr,
    pub kind: Kind,
    /// `up` or `down`.
    pub state: &'static str,
    /// `answers`, or why not.
    pub sshd: String,
}

/// Looks at the hosts, all at once, and at the router.
pub fn status(lab: &Lab) -> Result<Status> {
    let hosts = std::thread::scope(|scope| {
        let looking: Vec<_> = lab
            .hosts()
            .iter()
            .map(|host| scope.spawn(|| look(host)))
            .collect();
        looking
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("looking at a host"))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(Status {
        directory: lab.directory().to_owned(),
        hosts,
        router: lab.router_counters()?,
    })
}

fn look(host: &Host) -> Result<HostStatus> {
    let running = is_running(host)?;
    let sshd = if running {
        ready::greeting(host, DIAL_LIMIT)
            .err()
            .unwrap_or_else(|| "answers".into())
    } else {
        "-".into()
    };
    Ok(HostStatus {
        name: host.name.clone(),
        zone: host.zone.clone(),
        address: host.address,
        kind: host.kind,
        state: if running { "up" } else { "down" },
        sshd,
    })
}

/// The table for people.
pub fn render(status: &Status) -> String {
    let mut text = format!(
        "{:<6} {:<11} {:<13} {:<7} {:<5} SSHD\n",
        "HOST", "ZONE", "ADDRESS", "KIND", "STATE"
    );
    for host in &status.hosts {
        let kind = match host.kind {
            Kind::Master => "master",
            Kind::Worker => "worker",
            Kind::Witness => "witness",
        };
        text.push_str(&format!(
            "{:<6} {:<11} {:<13} {kind:<7} {:<5} {}\n",
            host.name, host.zone, host.address, host.state, host.sshd
        ));
    }
    let router = &status.router;
    text.push_str(&format!(
        "\nrouter: {} packets tried to leave the lab, {} were dropped between zones, {} were meant for the router\n",
        router.left.packets, router.dropped.packets, router.to_router.packets
    ));
    for (title, flows) in [
        ("tried to leave the lab", &router.leaving_flows),
        (
            "asked for between zones and never passed",
            &router.blocked_flows,
        ),
    ] {
        if flows.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{title}:\n"));
        for flow in flows.iter().take(FLOWS_SHOWN) {
            text.push_str(&format!("  {}\n", line(flow)));
        }
        if flows.len() > FLOWS_SHOWN {
            text.push_str(&format!(
                "  … and {} more (--json has them all)\n",
                flows.len() - FLOWS_SHOWN
            ));
        }
    }
    text.push_str(&format!(
        "\ninventory, key and fingerprints: {}\n",
        status.directory
    ));
    text
}

/// The state as JSON.
pub fn json(status: &Status) -> Result<String> {
    let text = serde_json::to_string_pretty(status).context("writing the lab's state as JSON")?;
    Ok(text + "\n")
}

fn line(flow: &Flow) -> String {
    format!(
        "{} -> {} {}/{}",
        flow.from, flow.to, flow.port, flow.protocol
    )
}

#[cfg(test)]
mod tests {
    use super::super::router::Count;
    use super::*;

    #[test]
    fn the_table_names_hosts_and_blocked_flows() {
        let status = Status {
            directory: "/lab".into(),
            hosts: vec![HostStatus {
                name: "m1".into(),
                zone: "a".into(),
                address: Ipv4Addr::new(10, 77, 1, 11),
                kind: Kind::Master,
                state: "up",
                sshd: "answers".into(),
            }],
            router: RouterCounters {
                dropped: Count {
                    packets: 4,
                    bytes: 240,
                },
                blocked_flows: vec![Flow {
                    from: "10.77.1.11".into(),
                    to: "10.77.2.22".into(),
                    protocol: "tcp".into(),
                    port: 10250,
                }],
                ..RouterCounters::default()
            },
        };
        assert_eq!(
            render(&status),
            "\
HOST   ZONE        ADDRESS       KIND    STATE SSHD
m1     a           10.77.1.11    master  up    answers

router: 0 packets tried to leave the lab, 4 were dropped between zones, 0 were meant for the router

asked for between zones and never passed:
  10.77.1.11 -> 10.77.2.22 10250/tcp

inventory, key and fingerprints: /lab
"
        );
    }
}
