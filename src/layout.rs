//! Where things lie on a host. Everything that cofferdam writes there is
//! below one of these paths or is a file named in the desired state.

use crate::digest::Digest;

/// Programs: the agent and the bundle's binaries.
pub const ROOT: &str = "/opt/cofferdam";
/// cofferdam's own binary, started over SSH for the length of a run. Fixed for
/// ever, so that one sudo rule is enough.
pub const AGENT: &str = "/opt/cofferdam/agent";
/// Content of binaries, each file named by the sha256 of its bytes (hex).
pub const STORE: &str = "/opt/cofferdam/store";
/// Links from names to the store, one for each binary in use.
pub const BIN: &str = "/opt/cofferdam/bin";
/// cofferdam's state on a host.
pub const STATE: &str = "/var/lib/cofferdam";
/// Numbered manifests of software, `<number>.json`, and the content of their
/// configuration files below `content/`.
pub const GENERATIONS: &str = "/var/lib/cofferdam/generations";
/// Names software that no generation names yet; gone once one does.
pub const PENDING_MANIFEST: &str = "/var/lib/cofferdam/pending.json";
/// Manifest of trust: the paths of keys, certificates and kubeconfigs.
pub const TRUST_MANIFEST: &str = "/var/lib/cofferdam/trust.json";
/// Compressed blobs that came over the jump host's link, named by digest.
pub const STAGING: &str = "/var/lib/cofferdam/staging";
/// Environment files, `<unit>.env`, that carry the digest of what a unit's
/// process reads only at its start. Outside the generations: written last
/// before a (re)start.
pub const INPUTS: &str = "/var/lib/cofferdam/inputs";
/// The same for units that start before `/var` need be mounted, so on the file
/// system of `/etc`, without which nothing starts.
pub const EARLY_INPUTS: &str = "/etc/cofferdam/inputs";
/// Units of the system's own that cofferdam configures. A change is taken up by
/// the process that runs, but they are never enabled, started or stopped.
pub const SYSTEM_UNITS: [&str; 2] = [NETWORK_MANAGER, JOURNALD];
/// Starts first of all services, and so before `/var` is mounted.
pub const JOURNALD: &str = "systemd-journald.service";
/// Is reloaded: its process stays, with the environment that it has.
pub const NETWORK_MANAGER: &str = "NetworkManager.service";
/// Our settings for NetworkManager.
pub const NETWORK_MANAGER_FILE: &str = "/etc/NetworkManager/conf.d/90-cofferdam.conf";
/// Store of the zone's registry (the distribution server's root directory).
pub const REGISTRY: &str = "/var/lib/cofferdam/registry";
/// Says which cluster of which site the host belongs to. Written before any
/// key, so that no other site's run takes the host over.
pub const SITE_MARK: &str = "/var/lib/cofferdam/site";
/// Volatile state: the lock, short-lived sockets, temporary kubeconfigs.
pub const RUN: &str = "/run/cofferdam";
/// Locked exclusively by the agent of a run that may change the host.
pub const LOCK: &str = "/run/cofferdam/lock";
/// Socket of the short-lived writable registry instance, in a directory that
/// only root and the registry's user may enter.
pub const SEED_SOCKET: &str = "/run/cofferdam/seed/registry.sock";
/// The environment variable that carries a unit's inputs digest.
pub const INPUTS_VARIABLE: &str = "COFFERDAM_INPUTS";
/// Protocol number of routes that cofferdam made (`ip route … proto 67`), so
/// that observation can tell them from those that it found.
pub const ROUTE_PROTOCOL: u8 = 67;
/// Where our units' own files are.
pub const UNITS: &str = "/etc/systemd/system/";
/// Field manager of everything that cofferdam applies in the cluster.
pub const FIELD_MANAGER: &str = "cofferdam";
/// Annotation of nodes that a drain of ours cordoned.
pub const CORDONED: &str = "cofferdam/cordoned";
/// Kubeconfig of the cluster's administrator on masters, mode 0600.
pub const ADMIN_KUBECONFIG: &str = "/etc/kubernetes/admin.kubeconfig";
/// Directory of containerd's registry configuration (`hosts.toml` files).
pub const REGISTRY_HOSTS: &str = "/etc/containerd/certs.d";
/// The names of protocols that the C library, and so `nft`, knows.
pub const PROTOCOLS_FILE: &str = "/etc/protocols";
/// First line of files in which `#` begins a comment.
pub const HEADER: &str = "# Written by cofferdam.\n";
/// The CNI configuration that containerd renders from its template, once.
pub const CNI_RENDERED: &str = "/etc/cni/net.d/10-containerd-net.conflist";
/// Template of the CNI configuration; outside containerd's `conf_dir`.
pub const CNI_TEMPLATE: &str = "/etc/containerd/cni.conflist.template";
/// Client certificate and key with which a host reads from registries, and
/// the CA that it trusts there.
pub const REGISTRY_CLIENT_CERTIFICATE: &str = "/etc/containerd/pki/registry-client.crt";
/// See [`REGISTRY_CLIENT_CERTIFICATE`].
pub const REGISTRY_CLIENT_KEY: &str = "/etc/containerd/pki/registry-client.key";
/// See [`REGISTRY_CLIENT_CERTIFICATE`].
pub const REGISTRY_CA: &str = "/etc/containerd/pki/ca.crt";
/// A registry that is not cofferdam's, and in a second line, if it wants a login, what
/// requests to it say in `Authorization`.
pub const FOREIGN_REGISTRY: &str = "/etc/containerd/pki/foreign-registry";
/// The CAs that its certificate may be of.
pub const FOREIGN_REGISTRY_CA: &str = "/etc/containerd/pki/foreign-registry-ca.crt";

/// State of containerd: images and containers.
pub const CONTAINERD: &str = "/var/lib/containerd";
/// State of kubelet: volumes of pods.
pub const KUBELET: &str = "/var/lib/kubelet";
/// Snapshots of etcd, for root alone.
pub const SNAPSHOTS: &str = "/var/lib/cofferdam/snapshots";
/// Data of the host's etcd member.
pub const ETCD: &str = "/var/lib/etcd";
/// Holds the token of the last restore of etcd that was done on the host.
pub const ETCD_RESTORED: &str = "/var/lib/cofferdam/etcd-restored";
/// Logs of pods, audit logs of API servers, the journal.
pub const LOGS: &str = "/var/log";
/// Directories that cofferdam or what it installs writes to, of which each
/// may be a file system of its own.
pub const PLACES: [&str; 13] = [
    "/etc",
    ROOT,
    STORE,
    "/run",
    STATE,
    GENERATIONS,
    REGISTRY,
    STAGING,
    SNAPSHOTS,
    CONTAINERD,
    ETCD,
    KUBELET,
    LOGS,
];

/// Where the link of a binary in [`BIN`] leads.
pub fn stored_target(digest: &Digest) -> String {
    format!("../store/{}", digest.hex())
}

/// The environment file of a unit, `…/inputs/<unit>.env`; `unit` may carry
/// its suffix.
pub fn inputs_file(unit: &str) -> String {
    let suffix = ".service";
    let name = unit.strip_suffix(suffix).unwrap_or(unit);
    let directory = match JOURNALD.strip_suffix(suffix) {
        Some(journald) if journald == name => EARLY_INPUTS,
        _ => INPUTS,
    };
    format!("{directory}/{name}.env")
}
