//! Whole inventories: what they mean, and everything that is said about bad ones.

mod bad_cluster;
mod bad_hosts;
mod bad_syntax;
mod foreign;
mod meaning;
mod placement;

use camino::Utf8Path;

use super::parse;

/// Good but for what is put into it.
const CLUSTER: &str = "[cluster]\nname = \"lab\"\n";
const ZONE: &str = "[zones.a]\n";
const MASTER: &str =
    "[[hosts]]\nname = \"m1\"\naddress = \"10.0.0.1\"\nzone = \"a\"\nroles = [\"control-plane\"]\n";
const WORKER: &str =
    "[[hosts]]\nname = \"w1\"\naddress = \"10.0.0.2\"\nzone = \"a\"\nroles = [\"worker\"]\n";

fn file() -> &'static Utf8Path {
    Utf8Path::new("i.toml")
}

/// The whole message about a text that must not be accepted.
fn complaint(text: &str) -> String {
    match parse(text, file()) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(problems) => problems.to_string(),
    }
}

/// The whole message about a good inventory with `more` in its table `[cluster]`.
fn complaint_about_cluster(more: &str) -> String {
    complaint(&format!("{CLUSTER}{more}\n{ZONE}{MASTER}"))
}

/// The whole message about a good inventory with `more` at the end of its last host.
fn complaint_about_host(more: &str) -> String {
    complaint(&format!("{CLUSTER}{ZONE}{MASTER}{more}\n"))
}

/// One cluster with a host for each `NAME ZONE ROLE,ROLE` line; zones in the order in which they
/// first occur.
fn cluster(lines: &str) -> String {
    let mut text = "[cluster]\nname = \"lab\"\n".to_owned();
    let hosts: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for host in &hosts {
        let header = format!("[zones.{}]\n", host[1]);
        if !text.contains(&header) {
            text.push_str(&header);
        }
    }
    for (index, host) in hosts.iter().enumerate() {
        let (name, zone) = (host[0], host[1]);
        let roles: Vec<String> = host[2].split(',').map(|role| format!("{role:?}")).collect();
        text.push_str(&format!(
            "[[hosts]]\nname = {name:?}\naddress = \"10.0.0.{}\"\nzone = {zone:?}\nroles = [{}]\n",
            index + 1,
            roles.join(", ")
        ));
    }
    text
}
