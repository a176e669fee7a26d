//! The zone's registry, and how hosts reach registries.

use super::builder::{Access, HostBuilder, UnitSpec, own};
use super::error::DesiredError;
use super::materials::{CLUSTER_CA, REGISTRY_HTTP};
use super::types::{Change, Condition, RegistryContent, Stage};
use crate::inventory::{Component, Host};
use crate::layout;
use crate::ports::numbers::REGISTRY_PORT;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const USER: &str = "cofferdam-registry";
const CONFIG: &str = "/etc/cofferdam/registry.yaml";
const CA: &str = "/etc/cofferdam/pki/registry-ca.crt";
const CERTIFICATE: &str = "/etc/cofferdam/pki/registry.crt";
const KEY: &str = "/etc/cofferdam/pki/registry.key";

/// How long containerd tries a registry before it takes the next one. A zone
/// that is cut off must not cost a pod's start more than this.
const DIAL_TIMEOUT: &str = "2s";

/// `10.77.1.11:5000`.
pub fn address(host: &Host) -> String {
    format!("{}:{REGISTRY_PORT}", host.address)
}

/// The serving, read-only instance and what it holds.
///
/// # Errors
/// When the bundle lacks the registry.
pub fn registry(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.user(USER);
    builder.binary("registry")?;
    let mine = Access::only(USER);
    let server = own("registry-server", builder.host);
    builder.certificate(CA, CLUSTER_CA);
    builder.certificate(CERTIFICATE, &server);
    builder.key(KEY, &server, mine);
    builder.directory(
        layout::REGISTRY,
        Access {
            mode: 0o750,
            ..mine
        },
    );
    let secret = builder.inputs.material(REGISTRY_HTTP);
    let config = secret.map(|secret| {
        let hex: String = secret
            .secret
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let base = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": layout::REGISTRY},
                "delete": {"enabled": false},
                "maintenance": {
                    "uploadpurging": {"enabled": false},
                    "readonly": {"enabled": true},
                },
            },
            "http": {
                "addr": address(builder.host),
                "secret": hex,
                "tls": {
                    "certificate": CERTIFICATE,
                    "key": KEY,
                    "clientcas": [CA],
                    "minimumtls": "tls1.2",
                },
            },
        });
        let config = builder.overridden_config(Component::Registry, base);
        serde_yaml_ng::to_string(&config).unwrap_or_default()
    });
    builder.secret(CONFIG, config, mine);
    let command = format!("{}/registry serve {CONFIG}", layout::BIN);
    let text = super::builder::render(
        "registry.service",
        include_str!("../../templates/systemd/registry.service"),
        minijinja::context! { command, inputs_file => layout::inputs_file("registry") },
    )?;
    let ready = Condition::RegistryServing {
        address: address(builder.host),
    };
    builder.unit(UnitSpec {
        name: "registry.service",
        stage: Stage::Registry,
        text,
        // The server reads its certificate once.
        reads: &[CONFIG, CA, CERTIFICATE, KEY],
        // Whether it serves is asked with the host's own certificate.
        follows: &[
            layout::REGISTRY,
            layout::REGISTRY_CA,
            layout::REGISTRY_CLIENT_CERTIFICATE,
            layout::REGISTRY_CLIENT_KEY,
        ],
        binaries: &["registry"],
        change: Change::Restart,
        ready: Some(ready),
    });
    let artifacts = builder.inputs.software.artifacts();
    builder.built.registry = Some(RegistryContent {
        artifacts: artifacts
            .map(|artifact| {
                (
                    format!("{}:{}", artifact.repository, artifact.tag),
                    artifact.clone(),
                )
            })
            .collect(),
    });
    Ok(())
}

/// What every host needs to read from registries.
pub fn client(builder: &mut HostBuilder<'_>) {
    let name = own("registry-client", builder.host);
    builder.certificate(layout::REGISTRY_CA, CLUSTER_CA);
    builder.certificate(layout::REGISTRY_CLIENT_CERTIFICATE, &name);
    builder.key(layout::REGISTRY_CLIENT_KEY, &name, Access::ROOT);
    let registries = builder.inputs.inventory.registries_for(builder.host);
    builder.built.registries = registries.into_iter().map(address).collect();
}

/// containerd's `hosts.toml` for every upstream registry of the bundle, and
/// for those that nobody listed. Returns the paths.
pub fn mirrors(builder: &mut HostBuilder<'_>) -> Vec<String> {
    let upstreams: BTreeSet<&str> = builder
        .inputs
        .software
        .whole
        .images
        .iter()
        .map(|image| image.upstream_registry())
        .collect();
    let mut paths = Vec::new();
    let registries = builder.built.registries.clone();
    for upstream in upstreams {
        let path = format!("{}/{upstream}/hosts.toml", layout::REGISTRY_HOSTS);
        builder.plain(&path, hosts_toml(&registries, upstream));
        paths.push(path);
    }
    let path = format!("{}/_default/hosts.toml", layout::REGISTRY_HOSTS);
    builder.plain(&path, default_hosts_toml(&registries));
    paths.push(path);
    paths
}

/// Settings of one registry endpoint; containerd keeps them for the root and
/// for each host separately.
fn endpoint_settings(indent: &str) -> String {
    let (ca, certificate, key) = (
        layout::REGISTRY_CA,
        layout::REGISTRY_CLIENT_CERTIFICATE,
        layout::REGISTRY_CLIENT_KEY,
    );
    format!(
        "{indent}capabilities = [\"pull\", \"resolve\"]\n{indent}override_path = true\n{indent}ca = \"{ca}\"\n{indent}client = [[\"{certificate}\", \"{key}\"]]\n{indent}dial_timeout = \"{DIAL_TIMEOUT}\"\n"
    )
}

/// `hosts.toml` of one upstream registry. `server` names a zone registry too:
/// without it containerd appends the real upstream as last resort.
fn hosts_toml(registries: &[String], upstream: &str) -> String {
    let url = |registry: &String| format!("https://{registry}/v2/{upstream}");
    let last = registries.last().map(url).unwrap_or_default();
    let mut text = format!(
        "# Written by cofferdam.\nserver = \"{last}\"\n{}",
        endpoint_settings("")
    );
    for registry in registries {
        let _ = write!(
            text,
            "\n[host.\"{}\"]\n{}",
            url(registry),
            endpoint_settings("  ")
        );
    }
    text
}

/// Only a `server`: what no bundle carries gets a 404 here, and no way out.
fn default_hosts_toml(registries: &[String]) -> String {
    let registry = registries.first().cloned().unwrap_or_default();
    format!(
        "# Written by cofferdam: registries that no bundle carries end here.\nserver = \"https://{registry}/v2/not-in-any-bundle\"\n{}",
        endpoint_settings("")
    )
}
