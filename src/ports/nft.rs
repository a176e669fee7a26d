//! The matrix as a script of nftables.
//!
//! Rows within a zone are in it as well. Between routed zones they never match; but a firewall
//! that routes within a zone, or that bridges one while `br_netfilter` hands bridged packets to
//! this hook, would cut the zone without them, and they allow nothing that the cluster doesn't
//! need. The rows between zones don't depend on them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::render::join;
use super::{Matrix, Row, Scope};

/// Groups of rules, in the order of the script.
const SECTIONS: [(Scope, &str); 4] = [
    (Scope::JumpHost, "From the jump host: SSH and nothing else."),
    (Scope::BetweenZones, "Between zones."),
    (Scope::Outside, "To servers that the inventory names."),
    (
        Scope::WithinZone,
        "Within zones: needed only where this firewall sees such packets.",
    ),
];

/// The whole script. Loading it replaces an earlier one in one transaction, so that there is no
/// moment without rules, and connections that are established stay so.
pub(super) fn script(matrix: &Matrix) -> String {
    let mut lines = vec![
        "#!/usr/sbin/nft -f".to_owned(),
        format!(
            "# What cluster {} needs of the firewall between its zones.",
            matrix.cluster
        ),
        "# Everything else that this machine forwards is dropped. Load with `nft -f`;".to_owned(),
        "# loading again replaces these rules at once.".to_owned(),
        String::new(),
        "add table inet cofferdam".to_owned(),
        "flush table inet cofferdam".to_owned(),
        String::new(),
        "table inet cofferdam {".to_owned(),
        "\tchain forward {".to_owned(),
        "\t\ttype filter hook forward priority filter; policy drop;".to_owned(),
        "\t\tct state established,related accept".to_owned(),
    ];
    for (scope, heading) in SECTIONS {
        let rows: Vec<&Row> = matrix
            .rows
            .iter()
            .filter(|row| row.scope == scope)
            .collect();
        if rows.is_empty() {
            continue;
        }
        lines.push(String::new());
        lines.push(format!("\t\t# {heading}"));
        for row in rows {
            lines.extend(rule(row));
        }
    }
    lines.push(String::new());
    lines.push("\t\tcounter drop comment \"nothing that the cluster needs\"".to_owned());
    lines.push("\t}".to_owned());
    lines.push("}".to_owned());
    lines.join("\n") + "\n"
}

/// A comment that names both sides, and the rule; or why there can't be one.
fn rule(row: &Row) -> Vec<String> {
    let title = format!("\t\t# {} to {}", row.from, row.to);
    if row.from.addresses.is_empty() {
        // A rule for any source would be wider than anybody asked for.
        let reason = "left out: the inventory's `ssh.jump_host` doesn't tell the source address";
        return vec![title, format!("\t\t# {reason}")];
    }
    let Row {
        protocol,
        port,
        why,
        ..
    } = row;
    let from = set(&row.from.addresses);
    let to = set(&row.to.addresses);
    vec![
        title,
        format!(
            "\t\tip saddr {from} ip daddr {to} {protocol} dport {port} counter accept comment \"{why}\""
        ),
    ]
}

fn set(addresses: &BTreeSet<Ipv4Addr>) -> String {
    match addresses.len() {
        1 => join(addresses, ""),
        _ => format!("{{ {} }}", join(addresses, ", ")),
    }
}
