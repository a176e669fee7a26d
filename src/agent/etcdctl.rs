//! How `etcdctl` is run: its TLS files by environment, so that no command
//! line needs to repeat them.

use super::command::Program;
use super::root::Root;
use anyhow::Result;
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
