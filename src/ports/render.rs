//! The matrix as text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Endpoint, Group, Matrix, nft};

/// How a matrix is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For reading: aligned columns, then each group's addresses.
    Table,
    /// For spreadsheets and firewall teams, as in RFC 4180 but for line ends.
    Csv,
    /// For tickets and wikis.
    Markdown,
    /// For programs: the matrix' fields as they are.
    Json,
    /// For an nftables firewall: a script that replaces its table at once.
    Nft,
}

const HEADINGS: [&str; 8] = [
    "from",
    "from addresses",
    "to",
    "to addresses",
    "protocol",
    "port",
    "scope",
    "why",
];
/// What stands for a jump host's address where the inventory doesn't tell it.
const UNKNOWN_ADDRESS: &str = "unknown: set ssh.jump_host";

/// The whole text, with a line's end at its end.
pub fn render(matrix: &Matrix, format: Format) -> Result<String, serde_json::Error> {
    Ok(match format {
        Format::Table => table(matrix),
        Format::Csv => csv(matrix),
        Format::Markdown => markdown(matrix),
        Format::Json => serde_json::to_string_pretty(matrix)? + "\n",
        Format::Nft => nft::script(matrix),
    })
}

fn table(matrix: &Matrix) -> String {
    let mut groups: BTreeMap<(Option<&str>, Group), BTreeSet<&BTreeSet<Ipv4Addr>>> =
        BTreeMap::new();
    let endpoints = matrix.rows.iter().flat_map(|row| [&row.from, &row.to]);
    for endpoint in endpoints.clone() {
        let key = (endpoint.zone.as_deref(), endpoint.group);
        groups.entry(key).or_default().insert(&endpoint.addresses);
    }
    // Hosts of one zone may differ in their addresses or ports for SSH; then a group's name alone
    // doesn't tell its addresses.
    let is_clear = |endpoint: &Endpoint| {
        let key = (endpoint.zone.as_deref(), endpoint.group);
        groups.get(&key).is_some_and(|sets| sets.len() == 1)
    };
    let label = |endpoint: &Endpoint| {
        if is_clear(endpoint) {
            endpoint.to_string()
        } else {
            format!("{endpoint} ({})", addresses(endpoint, ", "))
        }
    };
    let mut lines = vec![["FROM", "TO", "PROTOCOL", "PORT", "SCOPE", "WHY"].map(str::to_owned)];
    for row in &matrix.rows {
        lines.push([
            label(&row.from),
            label(&row.to),
            row.protocol.to_string(),
            row.port.to_string(),
            row.scope.to_string(),
            row.why.to_owned(),
        ]);
    }
    let mut legend: Vec<[String; 2]> = Vec::new();
    for endpoint in endpoints.filter(|endpoint| is_clear(endpoint)) {
        let line = [endpoint.to_string(), addresses(endpoint, ", ")];
        if !legend.contains(&line) {
            legend.push(line);
        }
    }
    align(&lines) + "\n" + &align(&legend)
}

/// Columns padded to their widest cell, two blanks apart, without blanks at lines' ends.
fn align<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn csv(matrix: &Matrix) -> String {
    let quote = |cell: &String| {
        if cell.contains([',', '"', '\n']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    let mut text = HEADINGS.join(",") + "\n";
    for cells in cells(matrix, " ") {
        text.push_str(&cells.iter().map(quote).collect::<Vec<_>>().join(","));
        text.push('\n');
    }
    text
}

fn markdown(matrix: &Matrix) -> String {
    let mut text = format!(
        "| {} |\n|{}\n",
        HEADINGS.join(" | "),
        " --- |".repeat(HEADINGS.len())
    );
    for cells in cells(matrix, ", ") {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// Rows as text in the order of [`HEADINGS`].
fn cells(matrix: &Matrix, separator: &str) -> Vec<[String; HEADINGS.len()]> {
    let rows = matrix.rows.iter();
    rows.map(|row| {
        [
            row.from.to_string(),
            addresses(&row.from, separator),
            row.to.to_string(),
            addresses(&row.to, separator),
            row.protocol.to_string(),
            row.port.to_string(),
            row.scope.to_string(),
            row.why.to_owned(),
        ]
    })
    .collect()
}

fn addresses(endpoint: &Endpoint, separator: &str) -> String {
    if endpoint.group == Group::JumpHost && endpoint.addresses.is_empty() {
        return UNKNOWN_ADDRESS.to_owned();
    }
    join(&endpoint.addresses, separator)
}

pub(super) fn join(addresses: &BTreeSet<Ipv4Addr>, separator: &str) -> String {
    addresses
        .iter()
        .map(Ipv4Addr::to_string)
        .collect::<Vec<_>>()
        .join(separator)
}
