//! Traces of other installers of Kubernetes.

use crate::agent::root::Root;
use crate::layout;

/// Paths that are never cofferdam's.
const FOREIGN: [&str; 13] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/rancher",
    "/var/lib/rancher",
    "/etc/k0s",
    "/var/lib/k0s",
    "/var/snap/microk8s",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
    "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
    "/etc/kubernetes/kubeadm-config.yaml",
];

/// Paths that other installers use as well as cofferdam: somebody else's where
/// cofferdam has no state on the host.
const SHARED: [&str; 5] = [
    "/var/lib/etcd/member",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/pki",
    "/etc/kubernetes/pki",
    "/etc/cni/net.d",
];

/// Units that only other installers bring.
pub(super) const FOREIGN_UNITS: [&str; 9] = [
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "k0scontroller.service",
    "k0sworker.service",
    "snap.microk8s.daemon-kubelite.service",
    "docker.service",
    "crio.service",
];

/// Units that other installers name as cofferdam does: somebody else's where
/// cofferdam has no state on the host.
pub(super) const SHARED_UNITS: [&str; 4] = [
    "containerd.service",
    "kubelet.service",
    "etcd.service",
    "kube-apiserver.service",
];

/// Whether cofferdam has ever written to the host.
pub(super) fn is_ours(root: &Root) -> bool {
    root.path(layout::STATE).exists()
}

pub(super) fn observe(root: &Root) -> Vec<String> {
    let mut remains: Vec<String> = FOREIGN
        .iter()
        .filter(|path| root.path(path).exists())
        .map(|path| (*path).to_owned())
        .collect();
    // Static pods: an empty directory, as packages leave it, runs nothing.
    remains.extend(children(root, "/etc/kubernetes/manifests"));
    if !is_ours(root) {
        let shared = SHARED.iter().filter(|path| is_filled(root, path));
        remains.extend(shared.map(|path| (*path).to_owned()));
    }
    remains
}

fn children(root: &Root, directory: &str) -> Vec<String> {
    let mut paths: Vec<String> = fs_err::read_dir(root.path(directory))
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .map(|name| format!("{directory}/{name}"))
                .collect()
        })
        .unwrap_or_default();
    paths.sort();
    paths
}

/// A file, or a directory with something in it.
fn is_filled(root: &Root, path: &str) -> bool {
    let place = root.path(path);
    if place.is_dir() {
        !children(root, path).is_empty()
    } else {
        place.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn tells_others_traces_from_ours() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        let make = |path: &str| {
            let place = root.path(path);
            fs_err::create_dir_all(place.parent().unwrap()).unwrap();
            fs_err::write(place, "").unwrap();
        };
        fs_err::create_dir_all(root.path("/etc/cni/net.d")).unwrap();
        fs_err::create_dir_all(root.path("/etc/kubernetes/manifests")).unwrap();
        assert!(observe(&root).is_empty());
        make("/etc/kubernetes/manifests/etcd.yaml");
        make("/var/lib/etcd/member/snap");
        let both = [
            "/etc/kubernetes/manifests/etcd.yaml",
            "/var/lib/etcd/member",
        ];
        assert_eq!(observe(&root), both);
        fs_err::create_dir_all(root.path(layout::STATE)).unwrap();
        assert_eq!(observe(&root), both[..1]);
    }
}
