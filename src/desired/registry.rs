//! The zone's registry, and how hosts reach registries.

use super::builder::{Access, HostBuilder, UnitSpec, own};
use super::error::DesiredError;
use super::materials::{CLUSTER_CA, REGISTRY_HTTP};
use super::types::{
    Change, Condition, Content, FileKind, RegistryArtifact, RegistryContent, Stage,
};
use crate::inventory::{Component, ForeignRegistry, Host, RegistryAccess};
use crate::layout;
use crate::ports::numbers::REGISTRY_PORT;
use crate::registry_address::api_url;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
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
    let software = builder.inputs.software;
    let artifacts = software.artifacts().map(|artifact| {
        let name = format!("{}:{}", artifact.repository, artifact.tag);
        (name, artifact.clone())
    });
    let artifacts: BTreeMap<String, RegistryArtifact> = artifacts.collect();
    // Programs of the whole that share their tag with what soaks were brought before.
    let needed = artifacts.values().chain(software.whole.artifacts());
    let needed = needed.filter_map(|artifact| {
        let digest = artifact.manifests.last()?.digest;
        Some(format!("{}:{}@{digest}", artifact.repository, artifact.tag))
    });
    let needed = (builder.inputs.site.held.is_empty()).then(|| needed.collect());
    builder.built.registry = Some(RegistryContent { needed, artifacts });
    Ok(())
}

/// What every host needs to read from registries.
pub fn client(builder: &mut HostBuilder<'_>) {
    if let Some(registry) = &builder.inputs.inventory.registry {
        return client_of(builder, registry);
    }
    let name = own("registry-client", builder.host);
    builder.certificate(layout::REGISTRY_CA, CLUSTER_CA);
    builder.certificate(layout::REGISTRY_CLIENT_CERTIFICATE, &name);
    builder.key(layout::REGISTRY_CLIENT_KEY, &name, Access::ROOT);
    let registries = builder.inputs.inventory.registries_for(builder.host);
    builder.built.registries = registries.into_iter().map(address).collect();
}

/// The same for a registry that is not cofferdam's.
fn client_of(builder: &mut HostBuilder<'_>, registry: &ForeignRegistry) {
    let access = registry.access.as_ref();
    let ca = access.map_or(Content::Pending, |access| {
        Content::Plain(access.ca.clone().into())
    });
    let path = layout::FOREIGN_REGISTRY_CA;
    builder.file(path, ca, Access::PUBLIC, FileKind::Trust);
    let text = access.map(|access| {
        let lines = [Some(registry.address.to_string()), access.authorization()];
        lines
            .into_iter()
            .flatten()
            .map(|line| line + "\n")
            .collect()
    });
    builder.secret(layout::FOREIGN_REGISTRY, text, Access::ROOT);
    builder.built.registries = vec![registry.address.to_string()];
}

/// What must be there for a registry to let the host in.
pub fn client_files(builder: &HostBuilder<'_>) -> &'static [&'static str] {
    match &builder.inputs.inventory.registry {
        None => &[
            layout::REGISTRY_CA,
            layout::REGISTRY_CLIENT_CERTIFICATE,
            layout::REGISTRY_CLIENT_KEY,
        ],
        Some(_) => &[layout::FOREIGN_REGISTRY_CA, layout::FOREIGN_REGISTRY],
    }
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
    let way = Way {
        registries: builder.built.registries.clone(),
        foreign: builder.inputs.inventory.registry.as_ref(),
    };
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    if let Some(registry) = way.foreign {
        let name = registry.address.registry.as_str();
        files.insert(name, way.to_itself());
    }
    for upstream in upstreams {
        files.insert(upstream, way.to_upstream(upstream));
    }
    files.insert("_default", way.to_nowhere());
    let mut paths = Vec::new();
    for (name, text) in files {
        let path = format!("{}/{name}/hosts.toml", layout::REGISTRY_HOSTS);
        match way.foreign.filter(|registry| registry.login.is_some()) {
            Some(registry) => {
                let text = registry.access.is_some().then_some(text);
                builder.secret(&path, text, Access::ROOT);
            }
            None => builder.plain(&path, text),
        }
        paths.push(path);
    }
    paths
}

/// How containerd reaches what a bundle carries.
struct Way<'a> {
    /// The nearest first.
    registries: Vec<String>,
    /// The one there is, if it is not cofferdam's.
    foreign: Option<&'a ForeignRegistry>,
}

impl Way<'_> {
    /// Settings of one registry endpoint; containerd keeps them for the root and
    /// for each host separately.
    fn settings(&self, indent: &str) -> String {
        let mut lines = vec![
            "capabilities = [\"pull\", \"resolve\"]".to_owned(),
            "override_path = true".to_owned(),
        ];
        match self.foreign {
            None => lines.extend([
                format!("ca = \"{}\"", layout::REGISTRY_CA),
                format!(
                    "client = [[\"{}\", \"{}\"]]",
                    layout::REGISTRY_CLIENT_CERTIFICATE,
                    layout::REGISTRY_CLIENT_KEY
                ),
                format!("dial_timeout = \"{DIAL_TIMEOUT}\""),
            ]),
            // There is no other to go to, and its name may take a while to resolve.
            Some(registry) => {
                lines.push(format!("ca = \"{}\"", layout::FOREIGN_REGISTRY_CA));
                let access = registry.access.as_ref();
                let authorization = access.and_then(RegistryAccess::authorization);
                lines.extend(authorization.map(|authorization| {
                    format!("header = {{ authorization = \"{authorization}\" }}")
                }));
            }
        }
        lines
            .into_iter()
            .map(|line| format!("{indent}{line}\n"))
            .collect()
    }

    /// `hosts.toml` of one upstream registry. `server` names a registry of ours too:
    /// without it containerd appends the real upstream as last resort.
    fn to_upstream(&self, upstream: &str) -> String {
        let url = |registry: &String| api_url(registry, upstream);
        let is_itself = |registry: &&ForeignRegistry| registry.address.registry == upstream;
        let mut text = match self.foreign.filter(is_itself) {
            Some(_) => self.to_itself(),
            None => {
                let last = self.registries.last().map(url).unwrap_or_default();
                let settings = self.settings("");
                format!("# Written by cofferdam.\nserver = \"{last}\"\n{settings}")
            }
        };
        for registry in &self.registries {
            let url = url(registry);
            let _ = write!(text, "\n[host.\"{url}\"]\n{}", self.settings("  "));
        }
        text
    }

    /// Only a `server`: what no bundle carries gets a 404 here, and no way out.
    fn to_nowhere(&self) -> String {
        let registry = self.registries.first().cloned().unwrap_or_default();
        let url = api_url(&registry, "not-in-any-bundle");
        let settings = self.settings("");
        format!(
            "# Written by cofferdam: registries that no bundle carries end here.\nserver = \"{url}\"\n{settings}"
        )
    }

    /// Images that pods name in the registry itself; they bring their own credentials.
    fn to_itself(&self) -> String {
        let name = self.foreign.map(|registry| &registry.address.registry);
        let name = name.map_or("", String::as_str);
        let ca = layout::FOREIGN_REGISTRY_CA;
        format!(
            "# Written by cofferdam.\nserver = \"https://{name}\"\ncapabilities = [\"pull\", \"resolve\"]\nca = \"{ca}\"\n"
        )
    }
}
