//! Every port number of a cluster, in one place; paths are in [`crate::layout`].
//!
//! Desired state, preflight checks, the port matrix and the proxy all read them here, so that a
//! firewall row can't disagree with the flag of the component that listens.

/// API server, HTTPS, on every control-plane host. Upstream's default.
pub const API_SERVER_PORT: u16 = 6443;
/// Node-local API proxy, loopback only, on every node. It differs from [`API_SERVER_PORT`] since
/// control-plane hosts run both.
pub const API_PROXY_PORT: u16 = 6444;
/// etcd's client port, TLS with client certificates.
pub const ETCD_CLIENT_PORT: u16 = 2379;
/// etcd's peer port, TLS with peer certificates.
pub const ETCD_PEER_PORT: u16 = 2380;
/// kubelet's API: logs, exec, metrics.
pub const KUBELET_PORT: u16 = 10250;
/// kubelet's health endpoint, loopback only.
pub const KUBELET_HEALTH_PORT: u16 = 10248;
/// Controller-manager's HTTPS endpoint for health and metrics, loopback only.
pub const CONTROLLER_MANAGER_PORT: u16 = 10257;
/// Scheduler's HTTPS endpoint for health and metrics, loopback only.
pub const SCHEDULER_PORT: u16 = 10259;
/// kube-proxy's health endpoint, loopback only.
pub const KUBE_PROXY_HEALTH_PORT: u16 = 10256;
/// kube-proxy's metrics endpoint, loopback only.
pub const KUBE_PROXY_METRICS_PORT: u16 = 10249;
/// Zone registry, TLS with node certificates.
pub const REGISTRY_PORT: u16 = 5000;
/// flannel's VXLAN, UDP. It is the Linux kernel's default, not IANA's 4789.
pub const VXLAN_PORT: u16 = 8472;
/// SSH, unless the inventory says otherwise.
pub const SSH_PORT: u16 = 22;
/// DNS, over UDP and, for long answers, TCP.
pub const DNS_PORT: u16 = 53;
/// NTP, UDP.
pub const NTP_PORT: u16 = 123;
