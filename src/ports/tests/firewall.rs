//! nft itself reads the script.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::worlds::parsed;
use crate::ports::{Format, Matrix, render};

const EXAMPLE: &str = include_str!("../../../inventory.example.toml");

/// Feeds a script to nft within a network namespace of its own, so that nothing outside changes.
fn nft(command: &str, script: &str) -> Output {
    let started = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.expect("starting `unshare` (package util-linux)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command} (package nftables): {errors}\n\n{script}"
    );
    output
}

fn script() -> String {
    let servers =
        "name = \"example\"\ndns_upstreams = [\"192.0.2.53\"]\nntp_servers = [\"192.0.2.1\"]";
    let inventory = parsed(&EXAMPLE.replace("name = \"example\"", servers));
    render(&Matrix::of(&inventory), Format::Nft).unwrap()
}

#[test]
fn nft_accepts_the_script() {
    nft("nft --check --file -", &script());
}

#[test]
fn loading_again_replaces_the_rules() {
    let script = script();
    // The second reading of the same rules, with those of an older inventory in force.
    let once = nft("nft --file - && nft list table inet cofferdam", &script);
    let older = "nft add table inet cofferdam && \
                 nft 'add chain inet cofferdam forward { type filter hook forward priority filter; policy drop; }' && \
                 nft add rule inet cofferdam forward tcp dport 1 accept && \
                 nft --file - && nft list table inet cofferdam";
    let replaced = nft(older, &script);
    assert_eq!(
        String::from_utf8_lossy(&once.stdout),
        String::from_utf8_lossy(&replaced.stdout)
    );
    let rules = String::from_utf8_lossy(&once.stdout)
        .matches(" accept comment ")
        .count();
    assert_eq!(rules, script.matches(" accept comment ").count());
}
