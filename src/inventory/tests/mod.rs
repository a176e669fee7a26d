//! Whole inventories: what they mean, and everything that is said about bad ones.

mod bad_cluster;
mod bad_hosts;
mod bad_syntax;
mod meaning;

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

/// What an inventory is warned about.
fn warnings(text: &str) -> String {
    match parse(text, file()) {
        Ok(inventory) => {
            let lines: Vec<String> = inventory
                .warnings
                .iter()
                .map(|warning| warning.display(file()))
                .collect();
            lines.join("\n\n")
        }
        Err(problems) => panic!("{problems}"),
    }
}
