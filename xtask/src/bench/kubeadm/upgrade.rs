//! The upgrade of a kubeadm cluster to the next minor, scripted as kubeadm's
//! documentation has it: the control plane master by master, then each node
//! drained, its programs replaced, and brought back. All files and images are on
//! the hosts before.

use super::{BINARIES, IMAGES, first_master, kubectl, logged, write_images};
use crate::bench::hosts::{on_hosts, send};
use crate::lab::{Host, Kind, Lab};
use crate::paths;
use crate::upstream::Mirror;
use crate::upstream::tarball::{Entry, write_tar};
use anyhow::Result;
use fs_err as fs;
use std::time::Instant;

/// What of the images' names is another in the next minor.
const CHANGED: [(&str, &str); 2] = [("v1.36.0", "v1.37.0"), ("etcd:3.6.16-0", "etcd:3.7.3-0")];

/// Seconds of the upgrade, once everything lies on the hosts.
pub(super) fn measure(lab: &Lab, mirror: &Mirror) -> Result<f64> {
    let files = paths::lab()?.join("kubeadm-next.tar");
    pack(&files, mirror, lab)?;
    send(lab, &files, "tar -C / -xf -")?;
    fs::remove_file(&files)?;
    let import = "ctr -n k8s.io images import --local --platform linux/amd64 /root/next/images.tar > /dev/null";
    let all: Vec<(&str, &str)> = lab
        .hosts()
        .iter()
        .map(|host| (host.name.as_str(), import))
        .collect();
    on_hosts(lab, &all)?;
    let first = first_master(lab)?;
    // kubeadm keeps the etcd that its configuration names.
    let configuration = kubectl(
        "-n kube-system get configmap kubeadm-config -o yaml | sed 's/3.6.16-0/3.7.3-0/' | ",
    ) + &kubectl("replace -f - > /dev/null");
    lab.ssh_output(&first.name, &configuration)?;

    let begun = Instant::now();
    let masters = lab.hosts().iter().filter(|host| host.kind == Kind::Master);
    for (place, master) in masters.enumerate() {
        let verb = match place {
            0 => "apply v1.37.0 --yes",
            _ => "node",
        };
        control_plane(lab, master, verb)?;
        node(lab, first, master)?;
    }
    for worker in lab.hosts().iter().filter(|host| host.kind == Kind::Worker) {
        control_plane(lab, worker, "node")?;
        node(lab, first, worker)?;
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn pack(path: &camino::Utf8Path, mirror: &Mirror, lab: &Lab) -> Result<()> {
    let images = paths::lab()?.join("kubeadm-images.tar");
    let list = CHANGED
        .iter()
        .fold(IMAGES.to_owned(), |list, (old, new)| list.replace(old, new));
    write_images(&images, &list, mirror, lab.base())?;
    let mut entries = Vec::new();
    for name in BINARIES {
        let place = format!("root/next/{name}");
        entries.push(Entry::executable(&place, mirror.binary(name)?));
    }
    entries.push(Entry::document("root/next/images.tar", images.clone()));
    write_tar(fs::File::create(path)?, &entries)?;
    fs::remove_file(&images)?;
    Ok(())
}

fn control_plane(lab: &Lab, host: &Host, verb: &str) -> Result<()> {
    let upgrade = logged(&format!(
        "kubeadm upgrade {verb} --ignore-preflight-errors=all --skip-phases=addon/coredns"
    ));
    let line = format!("install /root/next/kubeadm /usr/local/bin/ && {upgrade}");
    on_hosts(lab, &[(&host.name, &line)]).map(drop)
}

/// Drained, changed, back, and everything as available as before.
fn node(lab: &Lab, first: &Host, host: &Host) -> Result<()> {
    let name = &host.name;
    // The API server there has just been replaced; people would try again.
    let drain = kubectl(&format!(
        "drain {name} --ignore-daemonsets --delete-emptydir-data --timeout=300s > /tmp/drain 2>&1"
    ));
    let drain =
        format!("for try in 1 2 3; do {drain} && exit; sleep 2; done; cat /tmp/drain >&2; exit 1");
    let change = format!(
        "systemctl stop kubelet containerd && cd /root/next && install {} /usr/local/bin/ && \
         systemctl start containerd kubelet",
        BINARIES.join(" ")
    );
    let back = [
        format!("uncordon {name} > /dev/null"),
        format!("wait --for=condition=Ready --timeout=300s node/{name} > /dev/null"),
        "-n kube-system wait --for=condition=Available --timeout=300s deployment --all > /dev/null"
            .to_owned(),
    ];
    let back: Vec<String> = back.iter().map(|line| kubectl(line)).collect();
    for (host, line) in [
        (&first.name, drain.as_str()),
        (name, change.as_str()),
        (&first.name, back.join(" && ").as_str()),
    ] {
        on_hosts(lab, &[(host, line)])?;
    }
    Ok(())
}
