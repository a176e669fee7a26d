//! The same cluster by kubeadm, scripted as its documentation has it, on the
//! same kind of hosts and with the same binaries: what an install stands
//! beside. All its files lie on the hosts before its time begins.

mod upgrade;

use super::hosts::{on_hosts, send};
use super::memory::{self, Memory};
use super::{Figure, figure};
use crate::lab::{self, Host, Kind, Lab};
use crate::paths;
use crate::product::wait_until;
use crate::shell;
use crate::upstream::tarball::{Entry, write_tar};
use crate::upstream::{self, Mirror, image_archive};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use std::time::{Duration, Instant};

const BINARIES: &[&str] = &[
    "kubeadm",
    "kubelet",
    "kubectl",
    "containerd",
    "ctr",
    "containerd-shim-runc-v2",
    "runc",
];
const PLUGINS: &[&str] = &["bridge", "host-local", "loopback", "portmap"];
const TEXTS: &[(&str, &str)] = &[
    (
        "etc/containerd/config.toml",
        include_str!("containerd.toml"),
    ),
    (
        "etc/systemd/system/containerd.service",
        include_str!("containerd.service"),
    ),
    (
        "etc/systemd/system/kubelet.service",
        include_str!("kubelet.service"),
    ),
    (
        "etc/systemd/system/pod-network.service",
        include_str!("pod-network.service"),
    ),
    ("usr/local/bin/pod-network", include_str!("pod-network.sh")),
    // Nobody answers there, as in an air gap, and no loop is seen in it.
    ("etc/kubernetes/resolv.conf", "nameserver 10.77.9.1\n"),
    ("root/flannel.yaml", include_str!("flannel.yaml")),
];
const IMAGES: &str = include_str!("images.toml");
/// Images that have `nft` beside their own binary.
const WITH_NFT: &[&str] = &["kube-proxy", "flannel"];
/// Stands in for iptables in flannel's image.
const IPTABLES: &[&str] = &["usr/sbin/iptables", "usr/sbin/ip6tables"];
/// What a wait for the finished cluster may take.
const READY_LIMIT: Duration = Duration::from_secs(300);

/// What was measured.
pub(super) struct Measured {
    /// From files in place to nodes that are Ready, and add-ons that answer, in
    /// seconds.
    pub(super) total: f64,
    /// Seconds, by name.
    pub(super) parts: Vec<(&'static str, f64)>,
    /// The first master's, idle.
    pub(super) memory: Memory,
    /// Seconds of an upgrade to the next minor, where one was asked for.
    pub(super) upgrade: Option<f64>,
}

/// Installs on bare hosts of a lab of its own, which is gone afterwards.
pub(super) fn measure(minor: &str, next: Option<&str>, wanted: lab::Wanted) -> Result<Measured> {
    let mirror = upstream::ensure(minor)?;
    let lab = super::hosts::fresh_lab(lab::Options {
        wanted,
        // kubelet and flannel reach the API by a ClusterIP, which needs some
        // route.
        default_route: lab::DefaultRoute::ToRouter,
        bandwidth: None,
        rules: lab::Rules::Permissive,
    })?;
    let files = paths::lab()?.join("kubeadm.tar");
    pack(&files, &mirror, &lab)?;
    send(&lab, &files, "tar -C / -xf -")?;
    fs::remove_file(&files)?;
    for host in lab.hosts() {
        configure(&lab, host)?;
    }
    let mut measured = install(&lab)?;
    if let Some(next) = next {
        measured.upgrade = Some(upgrade::measure(&lab, &upstream::ensure(next)?)?);
    }
    lab.down()?;
    Ok(measured)
}

fn install(lab: &Lab) -> Result<Measured> {
    let first = first_master(lab)?;
    let of_kind = |kind: Kind| lab.hosts().iter().filter(move |host| host.kind == kind);
    let begun = Instant::now();
    let mut parts = Vec::new();
    let mut last = begun;
    let mut done = |name: &'static str| {
        parts.push((name, last.elapsed().as_secs_f64()));
        last = Instant::now();
    };

    let all: Vec<(&str, &str)> = lab
        .hosts()
        .iter()
        .map(|host| (host.name.as_str(), PREPARE))
        .collect();
    on_hosts(lab, &all)?;
    done("import of images");
    on_hosts(
        lab,
        &[(
            &first.name,
            &logged(
                "kubeadm init --config /root/kubeadm.yaml --upload-certs --ignore-preflight-errors=all",
            ),
        )],
    )?;
    on_hosts(
        lab,
        &[(
            &first.name,
            &kubectl("apply -f /root/flannel.yaml -f /root/metrics-server.yaml > /dev/null"),
        )],
    )?;
    done("init of the first master");
    let join = logged("kubeadm join --config /root/kubeadm.yaml --ignore-preflight-errors=all");
    // One master at a time, as etcd's members join; workers meanwhile.
    std::thread::scope(|scope| {
        let workers: Vec<(&str, &str)> = of_kind(Kind::Worker)
            .map(|host| (host.name.as_str(), join.as_str()))
            .collect();
        let workers = scope.spawn(move || on_hosts(lab, &workers));
        for master in of_kind(Kind::Master).skip(1) {
            on_hosts(lab, &[(&master.name, &join)])?;
        }
        workers
            .join()
            .map_err(|_| anyhow::anyhow!("a thread ended early"))?
    })?;
    done("join of the others");
    let count = lab.hosts().len();
    wait_until("all nodes Ready", READY_LIMIT, || {
        let nodes = lab.ssh_output(&first.name, &kubectl("get nodes --no-headers"))?;
        ensure!(
            nodes
                .lines()
                .filter(|line| line.contains(" Ready "))
                .count()
                == count,
            "{nodes}"
        );
        Ok(())
    })?;
    done("nodes Ready");
    lab.ssh_output(&first.name, &kubectl("-n kube-system wait --for=condition=Available --timeout=300s deployment/coredns deployment/metrics-server > /dev/null"))?;
    lab.ssh_output(&first.name, &kubectl("wait --for=condition=Available --timeout=300s apiservice/v1beta1.metrics.k8s.io > /dev/null"))?;
    done("add-ons that answer");
    let total = begun.elapsed().as_secs_f64();
    Ok(Measured {
        total,
        parts,
        memory: memory::idle(lab, &first.name)?,
        upgrade: None,
    })
}

/// Its figures, where nothing stands beside them.
pub(super) fn figures(measured: &Measured) -> Vec<Figure> {
    let total = figure("kubeadm", (measured.total, "s"), None, "");
    let parts = measured.parts.iter();
    let parts = parts.map(|(name, seconds)| figure(format!("  {name}"), (*seconds, "s"), None, ""));
    let memory = memory::figures(&measured.memory, None);
    let upgrade = measured.upgrade;
    let upgrade = upgrade.map(|seconds| figure("kubeadm upgrade", (seconds, "s"), None, ""));
    let all = [total].into_iter().chain(parts).chain(upgrade);
    all.chain(memory).collect()
}

/// On every host, all at once.
const PREPARE: &str = "set -e; sysctl -qw net.ipv4.ip_forward=1; systemctl daemon-reload; \
     systemctl enable --quiet --now containerd; systemctl enable --quiet kubelet; \
     systemctl enable --quiet pod-network; systemctl start --no-block pod-network; \
     ctr -n k8s.io images import --local --platform linux/amd64 /root/images.tar > /dev/null";

fn kubectl(arguments: &str) -> String {
    format!("kubectl --kubeconfig /etc/kubernetes/admin.conf {arguments}")
}

/// Keeps what a command says, and shows its end only if it fails.
fn logged(command: &str) -> String {
    format!("{command} > /root/kubeadm.log 2>&1 || {{ tail -n 30 /root/kubeadm.log >&2; exit 1; }}")
}

fn first_master(lab: &Lab) -> Result<&Host> {
    let mut hosts = lab.hosts().iter();
    hosts
        .find(|host| host.kind == Kind::Master)
        .context("no master")
}

/// kubeadm's configuration for one host.
fn configure(lab: &Lab, host: &Host) -> Result<()> {
    let first = first_master(lab)?;
    let mut text = match host.name == first.name {
        true => include_str!("init.yaml").to_owned(),
        false => include_str!("join.yaml").to_owned(),
    };
    if host.kind == Kind::Master && host.name != first.name {
        text.push_str(include_str!("control-plane.yaml"));
    }
    let text = text
        .replace("@NAME@", &host.name)
        .replace("@ZONE@", &host.zone)
        .replace("@ADDRESS@", &host.address.to_string())
        .replace("@FIRST@", &first.address.to_string());
    lab.put(&host.name, "/root/kubeadm.yaml", text.as_bytes())
}

/// All that a host needs, as one tar from the root.
fn pack(path: &Utf8Path, mirror: &Mirror, lab: &Lab) -> Result<()> {
    let images = paths::lab()?.join("kubeadm-images.tar");
    write_images(&images, IMAGES, mirror, lab.base())?;
    let mut entries = Vec::new();
    for name in BINARIES {
        entries.push(Entry::executable(
            &format!("usr/local/bin/{name}"),
            mirror.binary(name)?,
        ));
    }
    for name in PLUGINS {
        entries.push(Entry::executable(
            &format!("opt/cni/bin/{name}"),
            mirror.binary(name)?,
        ));
    }
    entries.extend(TEXTS.iter().map(|(path, text)| Entry::text(path, text)));
    entries.push(Entry::text("root/metrics-server.yaml", &metrics_server()?));
    entries.push(Entry::document("root/images.tar", images.clone()));
    write_tar(fs::File::create(path)?, &entries)?;
    fs::remove_file(&images)?;
    shell::say("what kubeadm needs is packed");
    Ok(())
}

/// Images as a list names them, with what some need beside their own binary.
fn write_images(path: &Utf8Path, list: &str, mirror: &Mirror, base: &Utf8Path) -> Result<()> {
    let nft = needed_by(base, "/usr/sbin/nft")?;
    let stand_in = tempfile::NamedTempFile::new()?;
    fs::write(stand_in.path(), include_str!("iptables.sh"))?;
    let stand_in = stand_in
        .path()
        .to_str()
        .context("an odd temporary path")?
        .to_owned();
    image_archive::write(path, list, &|name| mirror.binary(name), &|reference| {
        let mut more: Vec<(String, Utf8PathBuf)> = Vec::new();
        if WITH_NFT.iter().any(|name| reference.contains(name)) {
            more.extend(nft.iter().map(|path| {
                let inside = path.trim_start_matches('/').to_owned();
                (inside.clone(), base.join(inside))
            }));
        }
        if reference.contains("flannel") {
            more.extend(
                IPTABLES
                    .iter()
                    .map(|path| ((*path).to_owned(), stand_in.clone().into())),
            );
        }
        more
    })
}

/// A program and the libraries that it is linked with, as paths in a root file
/// system.
fn needed_by(base: &Utf8Path, program: &str) -> Result<Vec<String>> {
    let said =
        shell::read(std::process::Command::new("chroot").args([base.as_str(), "ldd", program]))?;
    let libraries = said.lines().filter_map(|line| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(str::to_owned)
    });
    Ok([program.to_owned()].into_iter().chain(libraries).collect())
}

/// Our manifest of it, for kubelets whose serving certificates nobody signed.
fn metrics_server() -> Result<String> {
    let path = paths::repository()?.join("bundles/manifests/metrics-server.yaml");
    let image = "registry.k8s.io/metrics-server/metrics-server";
    let values = serde_json::json!({
        "cluster": {"replicas": 2, "zones": 3},
        "images": {image: format!("{image}:v0.9.0")},
    });
    let mut renderer = minijinja::Environment::new();
    renderer.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let values = minijinja::value::Serde(&values);
    let text = renderer.render_str(&fs::read_to_string(path)?, values)?;
    Ok(text.replace(
        "--kubelet-certificate-authority=/var/run/cluster-ca/ca.crt",
        "--kubelet-insecure-tls",
    ))
}
