//! The container runtime, its images, and the pod interfaces that it makes.

use super::builder::{HostBuilder, UnitSpec};
use super::error::DesiredError;
use super::registry;
use super::types::{Change, NodeImage, Stage};
use crate::inventory::Component;
use crate::layout;
use serde_json::json;

/// The sandbox of every pod; containerd must find it without asking anybody.
pub const PAUSE: &str = "registry.k8s.io/pause";
const CONFIG: &str = "/etc/containerd/config.toml";

/// The CNI plugins that the rendered configuration calls.
const CNI_PLUGINS: [&str; 5] = ["bandwidth", "bridge", "host-local", "loopback", "portmap"];

/// containerd with runc, the CNI plugins, mirrors and pinned images.
///
/// # Errors
/// When the bundle lacks a file or the sandbox image.
pub fn containerd(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    for name in ["containerd", "containerd-shim-runc-v2", "ctr", "runc"] {
        builder.binary(name)?;
    }
    for name in CNI_PLUGINS {
        builder.binary(name)?;
    }
    images(builder);
    let bundle = &builder.inputs.software.whole;
    let pause = bundle.image(PAUSE).ok_or_else(|| DesiredError::Image {
        bundle: bundle.name.clone(),
        repository: PAUSE.to_owned(),
    })?;
    let base = json!({
        "version": 3,
        "root": layout::CONTAINERD,
        "state": "/run/containerd",
        "grpc": {"address": "/run/containerd/containerd.sock"},
        "plugins": {
            "io.containerd.cri.v1.images": {
                "pinned_images": {"sandbox": pause.reference},
                "registry": {"config_path": layout::REGISTRY_HOSTS},
            },
            "io.containerd.cri.v1.runtime": {
                "containerd": {
                    "default_runtime_name": "runc",
                    "runtimes": {"runc": {
                        "runtime_type": "io.containerd.runc.v2",
                        "options": {
                            "BinaryName": format!("{}/runc", layout::BIN),
                            "SystemdCgroup": true,
                        },
                    }},
                },
                "cni": {
                    "bin_dirs": [layout::BIN],
                    "conf_dir": "/etc/cni/net.d",
                    "conf_template": layout::CNI_TEMPLATE,
                },
            },
        },
    });
    let config = builder.overridden_config(Component::Containerd, base);
    let text = toml::to_string(&config).map_err(|error| DesiredError::Render {
        what: CONFIG.to_owned(),
        reason: error.to_string(),
    })?;
    builder.plain(CONFIG, format!("# Written by cofferdam.\n{text}"));
    let template = cni_template(builder);
    builder.plain(layout::CNI_TEMPLATE, template);
    let mirrors = builder.outside(registry::mirrors);

    let command = format!("{}/containerd --config {CONFIG}", layout::BIN);
    let text = super::builder::render(
        "containerd.service",
        include_str!("../../templates/systemd/containerd.service"),
        minijinja::context! { command, inputs_file => layout::inputs_file("containerd") },
    )?;
    let mut follows: Vec<&str> = mirrors.iter().map(String::as_str).collect();
    follows.extend(registry::client_files(builder));
    builder.unit(UnitSpec {
        name: "containerd.service",
        // It must run before images can be pulled, and those before kubelet.
        stage: Stage::Stage,
        text,
        // The template is read when a node's share is first known.
        reads: &[CONFIG],
        follows: &[&follows[..], &[layout::CNI_TEMPLATE]].concat(),
        binaries: &["containerd", "containerd-shim-runc-v2", "ctr", "runc"],
        change: Change::Restart,
        ready: None,
    });
    Ok(())
}

/// Every image of the bundle for the host's platform is on every node.
fn images(builder: &mut HostBuilder<'_>) {
    let platform = &builder.decisions.platform;
    for image in &builder.inputs.software.whole.images {
        let (Some(digest), Some(size)) = (image.digest(), image.sizes.get(platform)) else {
            continue;
        };
        let node_image = NodeImage {
            digest,
            size: *size,
        };
        builder
            .built
            .images
            .insert(image.reference.clone(), node_image);
    }
}

/// Rendered by containerd with the node's share of the pod addresses, once it
/// knows it. Masquerading is flanneld's: the bridge's own would rewrite
/// traffic between pods of different nodes. Hairpin lets a pod reach itself
/// through its Service.
fn cni_template(builder: &HostBuilder<'_>) -> String {
    let mtu = builder.inputs.site.decisions.pod_mtu;
    let mtu = mtu.map_or(String::new(), |mtu| format!("\n      \"mtu\": {mtu},"));
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "cofferdam",
  "plugins": [
    {{
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,{mtu}
      "ipam": {{
        "type": "host-local",
        "ranges": [[{{"subnet": "{{{{.PodCIDR}}}}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }},
    {{
      "type": "portmap",
      "backend": "nftables",
      "capabilities": {{"portMappings": true}}
    }},
    {{
      "type": "bandwidth",
      "capabilities": {{"bandwidth": true}}
    }}
  ]
}}
"#
    )
}
