//! How `etcdctl` is run: its TLS files by environment, so that no command
//! line needs to repeat them; and what it tells of etcd's members.

use super::command::Program;
use super::root::Root;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::time::Duration;

const CA: &str = "/etc/etcd/pki/ca.crt";
const CERTIFICATE: &str = "/etc/etcd/pki/client.crt";
const KEY: &str = "/etc/etcd/pki/client.key";

/// `etcdctl` ends by itself shortly before its process would be ended.
const GRACE: Duration = Duration::from_secs(1);

/// Whether this host has the program and a client certificate.
pub fn is_available(root: &Root) -> bool {
    root.binary("etcdctl").is_ok() && root.path(CERTIFICATE).exists()
}

/// The environment that `etcdctl` needs.
pub fn environment() -> [(&'static str, &'static str); 4] {
    [
        ("ETCDCTL_CACERT", CA),
        ("ETCDCTL_CERT", CERTIFICATE),
        ("ETCDCTL_KEY", KEY),
        // Two dials fit into a question's limit.
        ("ETCDCTL_DIAL_TIMEOUT", "2s"),
    ]
}

/// `etcdctl` for these endpoints; each question takes at most `limit`.
///
/// # Errors
/// If it is not installed.
pub fn program(root: &Root, endpoints: &[String], limit: Duration) -> Result<Program> {
    let mut program = Program::new(root.binary("etcdctl")?).limit(limit + GRACE);
    for (name, value) in environment() {
        program = program.environment(name, value);
    }
    Ok(program
        .argument(format!("--endpoints={}", endpoints.join(",")))
        .argument(format!("--command-timeout={}s", limit.as_secs())))
}

#[derive(Deserialize)]
struct MemberList {
    members: Vec<Member>,
}

/// A member as `etcdctl member list -w json` tells it.
#[derive(Debug, Deserialize)]
pub struct Member {
    #[serde(rename = "ID")]
    pub id: u64,
    /// Empty until it has started.
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

/// The members in an answer of `etcdctl member list -w json`.
///
/// # Errors
/// If it is no such answer; `stderr` tells why.
pub fn parse_members(stdout: &str, stderr: &str) -> Result<Vec<Member>> {
    let list: MemberList = serde_json::from_str(stdout).with_context(|| {
        let reason = stderr.lines().last().unwrap_or("it said nothing");
        format!("asking etcd for its members: {reason}")
    })?;
    Ok(list.members)
}

/// An identifier as `etcdctl` takes it: hex without prefix.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}
