//! Conditions of this host and of what it runs.

use crate::agent::etcdctl;
use crate::agent::http::{self, TlsFiles};
use crate::agent::observe::{environment_inputs, inputs_of, show_units};
use crate::agent::root::Root;
use crate::layout;
use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use reqwest::Client;
use serde::Deserialize;
use std::time::Duration;

/// What one question may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);
/// The cluster's CA, which signs API servers' certificates.
const CLUSTER_CA: &str = "/etc/kubernetes/pki/ca.crt";
/// Written by flanneld once it has its lease; gone after a reboot.
const FLANNEL_LEASE: &str = "/run/flannel/subnet.env";

pub(super) async fn unit_active(root: &Root, unit: &str) -> Result<()> {
    let shown = show_units(root, &[unit]).await?;
    let shown = shown
        .get(unit)
        .ok_or_else(|| anyhow!("systemd says nothing of it"))?;
    if !shown.is_active() {
        bail!("{}", shown.summary());
    }
    if unit.ends_with(".service")
        && let Some(written) = environment_inputs(root, unit)
        && inputs_of(root, unit, shown) != Some(written)
    {
        bail!("its process does not run with its new configuration yet");
    }
    Ok(())
}

pub(super) async fn registry_serving(root: &Root, address: &str) -> Result<()> {
    let identity = (
        layout::REGISTRY_CLIENT_CERTIFICATE,
        layout::REGISTRY_CLIENT_KEY,
    );
    let files = TlsFiles::load(root, layout::REGISTRY_CA, Some(identity))?;
    let client = http::client(&files, QUESTION_LIMIT)?;
    get_ok(&client, &format!("https://{address}/v2/")).await
}

pub(super) async fn api_ready(root: &Root, address: &str) -> Result<()> {
    let files = TlsFiles::load(root, CLUSTER_CA, None)?;
    let client = http::client(&files, QUESTION_LIMIT)?;
    get_ok(&client, &format!("https://{address}/readyz")).await
}

pub(super) async fn health_endpoint(port: u16) -> Result<()> {
    let client = http::plain(QUESTION_LIMIT)
        .build()
        .context("making an HTTP client")?;
    get_ok(&client, &format!("http://127.0.0.1:{port}/healthz")).await
}

async fn get_ok(client: &Client, url: &str) -> Result<()> {
    let response = client
        .get(url)
        .timeout(QUESTION_LIMIT)
        .send()
        .await
        .map_err(|error| anyhow!("{}", http::reason(&error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = response.text().await.unwrap_or_default();
    match failed_checks(&body) {
        Some(checks) => bail!("status {}: {checks}", status.as_u16()),
        None => bail!("status {}", status.as_u16()),
    }
}

/// The checks that failed, in a health endpoint's answer: lines that begin
/// with `[-]`.
fn failed_checks(body: &str) -> Option<String> {
    let checks: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .map(|check| check.split(" failed").next().unwrap_or(check))
        .collect();
    (!checks.is_empty()).then(|| format!("{} failed", checks.join(", ")))
}

#[derive(Deserialize)]
struct EndpointHealth {
    endpoint: String,
    health: bool,
    #[serde(default)]
    error: String,
}

pub(super) async fn etcd_healthy(root: &Root, endpoints: &[String]) -> Result<()> {
    let finished = etcdctl::program(root, endpoints, QUESTION_LIMIT)?
        .arguments(["endpoint", "health", "-w", "json"])
        .finish()
        .await?;
    judge_health(&finished.stdout, &finished.stderr, endpoints.len())
}

fn judge_health(stdout: &str, stderr: &str, asked: usize) -> Result<()> {
    let Ok(answers) = serde_json::from_str::<Vec<EndpointHealth>>(stdout) else {
        let reason = stderr.lines().last().unwrap_or("it said nothing");
        bail!("asking etcd for its health: {reason}");
    };
    if let Some(bad) = answers.iter().find(|answer| !answer.health) {
        bail!("{}: {}", bad.endpoint, bad.error);
    }
    if answers.len() < asked {
        bail!("only {} of {asked} members answer", answers.len());
    }
    Ok(())
}

pub(super) fn overlay_up(root: &Root) -> Result<()> {
    let lease = fs_err::read_to_string(root.path(FLANNEL_LEASE))
        .ok()
        .and_then(|text| parse_lease(&text))
        .ok_or_else(|| anyhow!("no lease of flanneld in {FLANNEL_LEASE}"))?;
    let rendered = fs_err::read_to_string(root.path(layout::CNI_RENDERED)).map_err(|_| {
        anyhow!(
            "containerd has not rendered {}: kubelet has not told it the node's pod addresses",
            layout::CNI_RENDERED
        )
    })?;
    if !rendered.contains(&format!("\"{lease}\"")) {
        bail!(
            "{} has other pod addresses than the lease {lease}",
            layout::CNI_RENDERED
        );
    }
    Ok(())
}

/// `FLANNEL_SUBNET=10.244.1.1/24`: the address of the bridge.
fn parse_lease(text: &str) -> Option<IpNet> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("FLANNEL_SUBNET="))?;
    Some(value.trim().parse::<IpNet>().ok()?.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn names_the_checks_that_failed() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac/bootstrap-roles failed: not finished\nreadyz check failed\n";
        assert_eq!(
            failed_checks(body).unwrap(),
            "etcd, poststarthook/rbac/bootstrap-roles failed"
        );
        assert_eq!(failed_checks("ok"), None);
    }

    #[test]
    fn etcd_is_healthy_only_as_a_whole() {
        let good = r#"[{"endpoint":"https://a:2379","health":true,"took":"1ms"}]"#;
        let bad = r#"[{"endpoint":"https://a:2379","health":true},{"endpoint":"https://b:2379","health":false,"error":"context deadline exceeded"}]"#;
        assert!(judge_health(good, "", 1).is_ok());
        assert!(judge_health(good, "", 2).is_err());
        let error = judge_health(bad, "", 2).unwrap_err().to_string();
        assert_eq!(error, "https://b:2379: context deadline exceeded");
        assert!(judge_health("", "no such host\n", 1).is_err());
    }

    #[test]
    fn the_overlay_needs_lease_and_matching_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        let write = |path: &str, text: &str| {
            let place = root.path(path);
            fs_err::create_dir_all(place.parent().unwrap()).unwrap();
            fs_err::write(place, text).unwrap();
        };
        let reason = || format!("{:#}", overlay_up(&root).unwrap_err());
        assert!(reason().contains("no lease"));
        let lease = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n";
        write(FLANNEL_LEASE, lease);
        assert!(reason().contains("not rendered"));
        write(layout::CNI_RENDERED, r#"{"subnet": "10.244.2.0/24"}"#);
        assert!(reason().contains("other pod addresses"));
        write(layout::CNI_RENDERED, r#"{"subnet": "10.244.1.0/24"}"#);
        assert!(overlay_up(&root).is_ok());
    }
}
