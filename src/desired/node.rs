//! What every node runs: the API proxy, kubelet, kube-proxy and flanneld.

use super::builder::{Access, HostBuilder, UnitSpec, own};
use super::command_line::flags;
use super::error::DesiredError;
use super::materials::CLUSTER_CA;
use super::types::{Change, Condition, Content, FileKind, Node, Part, Stage};
use crate::inventory::Component;
use crate::layout;
use crate::ports::numbers::{
    API_PROXY_PORT, API_SERVER_PORT, KUBE_PROXY_HEALTH_PORT, KUBE_PROXY_METRICS_PORT,
    KUBELET_HEALTH_PORT, KUBELET_PORT,
};
use crate::proxy::configuration::{BackendConfiguration, ProxyConfiguration};
use camino::Utf8PathBuf;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const CA: &str = "/etc/kubernetes/pki/ca.crt";
const RESOLV_CONF: &str = "/etc/kubernetes/resolv.conf";
/// Rules in the language of nft.
const MASQUERADE: &str = "/etc/kubernetes/masquerade.nft";
const PROXY_USER: &str = "cofferdam-api-proxy";
const PROXY_CONFIG: &str = "/etc/cofferdam/api-proxy.toml";
const PROXY_CA: &str = "/etc/cofferdam/pki/cluster-ca.crt";

/// flanneld clears rules that it may once have made with iptables before it
/// makes its own with nftables, and gives up if there is no iptables at all
/// (`CleanUp` in 0.28's `pkg/trafficmngr/iptables`). On such a host it finds
/// these at the end of its path: there are no such rules.
const IPTABLES_STAND_INS: [&str; 2] = [
    "/etc/cofferdam/flanneld/iptables",
    "/etc/cofferdam/flanneld/ip6tables",
];
const IPTABLES_STAND_IN: &str = "#!/bin/sh\n# Written by cofferdam. Stands in for iptables where a host has none, so that\n# flanneld finds that it never made rules with it.\nif [ \"$1\" = --version ]; then\n  echo 'iptables v1.8.0 (nf_tables)'\n  exit 0\nfi\nexit 1\n";

/// Where every client of a node finds an API server.
fn proxy_server() -> String {
    format!("https://127.0.0.1:{API_PROXY_PORT}")
}

/// All of a node but its container runtime.
///
/// # Errors
/// When the bundle lacks a file.
pub fn node(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    let host = builder.host;
    builder.built.node = Some(Node {
        health_port: None,
        name: host.name.clone(),
        zone: host.zone.clone(),
        is_tainted: builder.inputs.inventory.is_tainted(host),
    });
    builder.certificate(CA, CLUSTER_CA);
    api_proxy(builder)?;
    builder.part(Part::Node, |builder| {
        kubelet(builder)?;
        kube_proxy(builder)?;
        flanneld(builder)
    })
}

fn api_proxy(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.user(PROXY_USER);
    builder.binary("cofferdam")?;
    builder.certificate(PROXY_CA, CLUSTER_CA);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PROXY_PORT));
    let servers = builder.inputs.inventory.api_servers_for(builder.host);
    let configuration = ProxyConfiguration {
        listen,
        zone: builder.host.zone.clone(),
        certificate_authority: Utf8PathBuf::from(PROXY_CA),
        backends: servers
            .into_iter()
            .map(|server| BackendConfiguration {
                name: server.name.clone(),
                zone: server.zone.clone(),
                address: SocketAddr::new(IpAddr::V4(server.address), API_SERVER_PORT),
            })
            .collect(),
    };
    let text = configuration
        .to_toml()
        .map_err(|error| DesiredError::Render {
            what: PROXY_CONFIG.to_owned(),
            reason: error.to_string(),
        })?;
    builder.plain(PROXY_CONFIG, format!("# Written by cofferdam.\n{text}"));
    let values = minijinja::context! {
        program => format!("{}/cofferdam", layout::BIN),
        configuration => PROXY_CONFIG,
        environment_file => layout::inputs_file("cofferdam-api-proxy"),
        listen => listen.to_string(),
    };
    let socket = super::builder::render(
        "cofferdam-api-proxy.socket",
        include_str!("../../templates/systemd/cofferdam-api-proxy.socket"),
        values.clone(),
    )?;
    builder.processless_unit("cofferdam-api-proxy.socket", Stage::Nodes, socket);
    let service = super::builder::render(
        "cofferdam-api-proxy.service",
        include_str!("../../templates/systemd/cofferdam-api-proxy.service"),
        values.clone(),
    )?;
    builder.unit(UnitSpec {
        name: "cofferdam-api-proxy.service",
        stage: Stage::Nodes,
        text: service,
        reads: &[PROXY_CONFIG],
        follows: &[PROXY_CA],
        binaries: &["cofferdam"],
        change: Change::Reload,
        ready: None,
    });
    Ok(())
}

fn kubelet(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.binary("kubelet")?;
    let host = builder.host;
    let inventory = builder.inputs.inventory;
    let kubeconfig = "/etc/kubernetes/kubelet.kubeconfig";
    let config_file = "/etc/kubernetes/kubelet.yaml";
    let (serving, serving_key) = (
        "/etc/kubernetes/pki/kubelet.crt",
        "/etc/kubernetes/pki/kubelet.key",
    );
    builder.kubeconfig(
        kubeconfig,
        &own("kubelet-client", host),
        &proxy_server(),
        Access::ROOT,
    );
    builder.certificate(serving, &own("kubelet-server", host));
    builder.key(serving_key, &own("kubelet-server", host), Access::ROOT);
    let resolvers: String = inventory
        .cluster
        .dns_upstreams
        .iter()
        .map(|resolver| format!("nameserver {resolver}\n"))
        .collect();
    builder.plain(RESOLV_CONF, format!("# Written by cofferdam.\n{resolvers}"));
    let taints = if inventory.is_tainted(host) {
        json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
    } else {
        json!([])
    };
    let base = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": host.address.to_string(),
        "port": KUBELET_PORT,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": CA},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd",
        "clusterDNS": [inventory.cluster_dns_ip().to_string()],
        "clusterDomain": inventory.cluster.domain,
        "containerLogMaxFiles": 5,
        "containerLogMaxSize": "10Mi",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enableServer": true,
        "failSwapOn": inventory.cluster.swap == crate::inventory::Swap::Off,
        "registerWithTaints": taints,
        "resolvConf": RESOLV_CONF,
        "rotateCertificates": true,
        "serverTLSBootstrap": false,
        "tlsCertFile": serving,
        "tlsPrivateKeyFile": serving_key,
        "tlsMinVersion": "VersionTLS12",
    });
    let rules = masquerade(&inventory.cluster.pod_cidr.to_string());
    builder.plain(MASQUERADE, rules);
    let config = builder.overridden_config(Component::Kubelet, base);
    builder.plain(config_file, yaml(config_file, &config)?);
    let held = builder.held().and_then(|held| held.files.get(config_file));
    let held = held.and_then(|file| serde_yaml_ng::from_slice(&file.bytes()?).ok());
    let config = held.unwrap_or(config);
    if let Some(node) = &mut builder.built.node {
        node.health_port = health_port(&config);
    }
    let arguments = builder.overridden_flags(
        Component::Kubelet,
        flags([
            ("config", config_file.into()),
            ("kubeconfig", kubeconfig.into()),
            ("cert-dir", format!("{}/pki", layout::KUBELET)),
            ("hostname-override", host.name.clone()),
            ("node-ip", host.address.to_string()),
            (
                "node-labels",
                format!("topology.kubernetes.io/zone={}", host.zone),
            ),
        ]),
    );
    let text = builder.unit_text(
        "kubelet",
        include_str!("../../templates/systemd/kubelet.service"),
        "kubelet",
        &arguments,
    )?;
    builder.unit(UnitSpec {
        name: "kubelet.service",
        stage: Stage::Nodes,
        text,
        // The kubeconfig's certificate is only the first; kubelet renews it.
        reads: &[config_file, CA, RESOLV_CONF, MASQUERADE],
        follows: &[kubeconfig, serving, serving_key],
        binaries: &["kubelet"],
        change: Change::Restart,
        ready: Some(Condition::NodeHasPodAddresses {
            name: builder.host.name.clone(),
        }),
    });
    Ok(())
}

/// By default, kubelet says that it is well on a port of its own.
fn health_port(config: &serde_json::Value) -> Option<u16> {
    let port = match config.get("healthzPort") {
        None => KUBELET_HEALTH_PORT,
        Some(port) => u16::try_from(port.as_u64()?).ok()?,
    };
    let address = config
        .get("healthzBindAddress")
        .and_then(|text| text.as_str());
    let is_local = matches!(address, None | Some("127.0.0.1" | "0.0.0.0"));
    (port != 0 && is_local).then_some(port)
}

/// What pods send out of the pod network goes under their node's address from
/// the first packet on. flanneld sees to that too, and keeps it so, but only
/// once it has heard of its lease: the first pods of a boot are up before.
fn masquerade(pod_cidr: &str) -> String {
    format!(
        r#"# Written by cofferdam.
table ip cofferdam
delete table ip cofferdam
table ip cofferdam {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pod_cidr} ip daddr != {{ {pod_cidr}, 224.0.0.0/4 }} masquerade fully-random
  }}
}}
"#
    )
}

fn kube_proxy(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.binary("kube-proxy")?;
    let host = builder.host;
    let kubeconfig = "/etc/kubernetes/kube-proxy.kubeconfig";
    let config_file = "/etc/kubernetes/kube-proxy.yaml";
    builder.kubeconfig(
        kubeconfig,
        &own("kube-proxy", host),
        &proxy_server(),
        Access::ROOT,
    );
    let base = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": builder.inputs.inventory.cluster.pod_cidr.to_string(),
        "healthzBindAddress": format!("127.0.0.1:{KUBE_PROXY_HEALTH_PORT}"),
        "hostnameOverride": host.name,
        "metricsBindAddress": format!("127.0.0.1:{KUBE_PROXY_METRICS_PORT}"),
        "mode": "nftables",
    });
    let config = builder.overridden_config(Component::KubeProxy, base);
    builder.plain(config_file, yaml(config_file, &config)?);
    let arguments = builder.overridden_flags(
        Component::KubeProxy,
        flags([("config", config_file.into())]),
    );
    let text = builder.unit_text(
        "kube-proxy",
        include_str!("../../templates/systemd/kube-proxy.service"),
        "kube-proxy",
        &arguments,
    )?;
    let mut reads = vec![config_file, kubeconfig];
    if builder.decisions.protocol_names {
        reads.push(layout::PROTOCOLS_FILE);
    }
    builder.unit(UnitSpec {
        name: "kube-proxy.service",
        stage: Stage::Nodes,
        text,
        reads: &reads,
        follows: &[],
        binaries: &["kube-proxy"],
        change: Change::Restart,
        ready: Some(Condition::HealthEndpoint {
            port: KUBE_PROXY_HEALTH_PORT,
        }),
    });
    Ok(())
}

fn flanneld(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.binary("flanneld")?;
    let host = builder.host;
    let kubeconfig = "/etc/kubernetes/flanneld.kubeconfig";
    let network_file = "/etc/kubernetes/flannel.json";
    builder.kubeconfig(
        kubeconfig,
        &own("flanneld", host),
        &proxy_server(),
        Access::ROOT,
    );
    let network = json!({
        "Network": builder.inputs.inventory.cluster.pod_cidr.to_string(),
        "EnableNFTables": true,
        "Backend": {"Type": "vxlan"},
    });
    builder.plain(network_file, format!("{network}\n"));
    for stand_in in IPTABLES_STAND_INS {
        let content = Content::Plain(IPTABLES_STAND_IN.into());
        let access = Access {
            mode: 0o755,
            ..Access::PUBLIC
        };
        builder.file(stand_in, content, access, FileKind::Software);
    }
    let arguments = builder.overridden_flags(
        Component::Flanneld,
        flags([
            ("kube-subnet-mgr", "true".into()),
            ("kubeconfig-file", kubeconfig.into()),
            ("net-config-path", network_file.into()),
            ("iface", host.address.to_string()),
            ("ip-masq", "true".into()),
        ]),
    );
    let text = builder.unit_text(
        "flanneld",
        include_str!("../../templates/systemd/flanneld.service"),
        "flanneld",
        &arguments,
    )?;
    builder.unit(UnitSpec {
        name: "flanneld.service",
        stage: Stage::Network,
        text,
        reads: &[network_file, kubeconfig],
        follows: &IPTABLES_STAND_INS,
        binaries: &["flanneld"],
        change: Change::Restart,
        ready: Some(Condition::OverlayUp),
    });
    Ok(())
}

fn yaml(path: &str, value: &serde_json::Value) -> Result<String, DesiredError> {
    let text = serde_yaml_ng::to_string(value).map_err(|error| DesiredError::Render {
        what: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(format!("# Written by cofferdam.\n{text}"))
}
