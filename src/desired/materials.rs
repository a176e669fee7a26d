//! The keys and certificates that a cluster needs, by name.
//!
//! Names are `KIND` for what the cluster has once and `KIND@HOST` for what
//! each host has of its own.

use crate::inventory::{ApiName, Host, Inventory, Role};
use crate::site::{CertificateSpec, MaterialSpec, Usage};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

pub const CLUSTER_CA: &str = "ca/cluster";
pub const ETCD_CA: &str = "ca/etcd";
pub const FRONT_PROXY_CA: &str = "ca/front-proxy";
pub const SERVICE_ACCOUNT: &str = "service-account";
pub const ENCRYPTION: &str = "encryption";
pub const REGISTRY_HTTP: &str = "registry-http";
/// Certificate of the administrator, in the site's and the masters'
/// kubeconfig.
pub const ADMIN: &str = "admin";

/// secretbox takes exactly 32 bytes.
const ENCRYPTION_KEY_BYTES: usize = 32;
/// As long as the HMAC key that the registry makes of it.
const REGISTRY_SECRET_BYTES: usize = 32;

/// The name of a host's own material.
pub fn of(kind: &str, host: &Host) -> String {
    format!("{kind}@{}", host.name)
}

/// Everything that the site must hold for this inventory.
pub fn materials(inventory: &Inventory) -> BTreeMap<String, MaterialSpec> {
    let authority = |name: &str| MaterialSpec::Authority {
        common_name: format!("{} {name}", inventory.cluster.name),
    };
    let mut all: BTreeMap<String, MaterialSpec> = [
        (CLUSTER_CA.to_owned(), authority("cluster CA")),
        (ETCD_CA.to_owned(), authority("etcd CA")),
        (FRONT_PROXY_CA.to_owned(), authority("front-proxy CA")),
        (SERVICE_ACCOUNT.to_owned(), MaterialSpec::KeyPair),
        (
            ENCRYPTION.to_owned(),
            MaterialSpec::Secret {
                bytes: ENCRYPTION_KEY_BYTES,
            },
        ),
        (
            ADMIN.to_owned(),
            user(CLUSTER_CA, "kubernetes-admin", &["system:masters"]),
        ),
    ]
    .into();
    if inventory.registry.is_none() {
        let bytes = REGISTRY_SECRET_BYTES;
        all.insert(REGISTRY_HTTP.to_owned(), MaterialSpec::Secret { bytes });
    }
    for host in &inventory.hosts {
        all.extend(host_materials(inventory, host));
    }
    all
}

fn host_materials(inventory: &Inventory, host: &Host) -> Vec<(String, MaterialSpec)> {
    let mut all = Vec::new();
    if inventory.registry.is_none() {
        let name = format!("cofferdam:registry-client:{}", host.name);
        all.push((of("registry-client", host), user(CLUSTER_CA, &name, &[])));
    }
    if host.has(Role::Etcd) {
        all.push((of("etcd-server", host), server(ETCD_CA, host, Usage::Both)));
        all.push((of("etcd-peer", host), server(ETCD_CA, host, Usage::Both)));
    }
    if host.has(Role::Etcd) || host.has(Role::ControlPlane) {
        all.push((
            of("etcd-client", host),
            user(ETCD_CA, "cofferdam:etcdctl", &[]),
        ));
    }
    if host.has(Role::ControlPlane) {
        all.push((of("apiserver", host), api_server(inventory, host)));
        all.push((
            of("apiserver-etcd-client", host),
            user(ETCD_CA, "kube-apiserver", &[]),
        ));
        all.push((
            of("apiserver-kubelet-client", host),
            user(CLUSTER_CA, "kube-apiserver-kubelet-client", &[]),
        ));
        all.push((
            of("front-proxy-client", host),
            user(FRONT_PROXY_CA, "front-proxy-client", &[]),
        ));
        all.push((
            of("controller-manager", host),
            user(CLUSTER_CA, "system:kube-controller-manager", &[]),
        ));
        all.push((
            of("scheduler", host),
            user(CLUSTER_CA, "system:kube-scheduler", &[]),
        ));
    }
    if host.is_node() {
        let name = format!("system:node:{}", host.name);
        all.push((
            of("kubelet-client", host),
            user(CLUSTER_CA, &name, &["system:nodes"]),
        ));
        all.push((
            of("kubelet-server", host),
            server(CLUSTER_CA, host, Usage::Server),
        ));
        all.push((
            of("kube-proxy", host),
            user(CLUSTER_CA, "system:kube-proxy", &[]),
        ));
        all.push((
            of("flanneld", host),
            user(CLUSTER_CA, "cofferdam:flanneld", &[]),
        ));
    }
    if host.has(Role::Registry) {
        all.push((
            of("registry-server", host),
            server(CLUSTER_CA, host, Usage::Server),
        ));
    }
    all
}

/// A client certificate for a Kubernetes or etcd user.
fn user(authority: &str, common_name: &str, organizations: &[&str]) -> MaterialSpec {
    MaterialSpec::Certificate(CertificateSpec {
        authority: authority.to_owned(),
        common_name: common_name.to_owned(),
        organizations: organizations.iter().map(|&name| name.to_owned()).collect(),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
    })
}

/// A serving certificate for a host's address, name and loopback.
fn server(authority: &str, host: &Host, usage: Usage) -> MaterialSpec {
    MaterialSpec::Certificate(CertificateSpec {
        authority: authority.to_owned(),
        common_name: host.name.clone(),
        organizations: Vec::new(),
        dns_names: vec![host.name.clone(), "localhost".to_owned()],
        addresses: vec![IpAddr::V4(host.address), IpAddr::V4(Ipv4Addr::LOCALHOST)],
        usage,
    })
}

/// The API server's: also the names of the `kubernetes` Service, its address,
/// and what the inventory adds.
fn api_server(inventory: &Inventory, host: &Host) -> MaterialSpec {
    let domain = &inventory.cluster.domain;
    let mut dns_names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        &format!("kubernetes.default.svc.{domain}"),
        "localhost",
        &host.name,
    ]
    .map(str::to_owned)
    .into();
    let mut addresses = vec![
        IpAddr::V4(host.address),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(inventory.kubernetes_service_ip()),
    ];
    for name in &inventory.cluster.api_names {
        match name {
            ApiName::Dns(name) => dns_names.push(name.clone()),
            ApiName::Address(address) => addresses.push(IpAddr::V4(*address)),
        }
    }
    MaterialSpec::Certificate(CertificateSpec {
        authority: CLUSTER_CA.to_owned(),
        common_name: "kube-apiserver".to_owned(),
        organizations: Vec::new(),
        dns_names,
        addresses,
        usage: Usage::Server,
    })
}
