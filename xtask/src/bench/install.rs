//! An install over three zones from bare hosts, and a second one.

use super::hosts::{fresh_lab, on_hosts, send};
use super::{Figure, figure, kubeadm};
use crate::lab::{self, Kind, Lab};
use crate::product::{Product, outcome, run_quietly};
use crate::scenarios::{pods, zones};
use anyhow::{Context, Result, ensure};
use fs_err as fs;
use std::collections::BTreeSet;
use std::time::Instant;

/// Second installs that are timed; the fastest is reported, as is the fastest
/// of what stands beside it: other work of the machine only ever adds.
const REPEATS: usize = 5;

/// Stages that bring bytes to hosts.
const TRANSFER: [&str; 3] = ["prepare", "registry", "stage"];

/// A stage that starts units, and the units started again by hand.
struct Restart {
    stage: &'static str,
    what: &'static str,
    /// A shell line for all hosts, or all masters, at once.
    line: &'static str,
    masters_only: MastersOnly,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MastersOnly {
    Yes,
    No,
}

const RESTARTS: &[Restart] = &[
    Restart {
        stage: "etcd",
        what: "systemctl restart etcd",
        line: "systemctl restart etcd",
        masters_only: MastersOnly::Yes,
    },
    Restart {
        stage: "control-plane",
        what: "systemctl restart of its units, till /readyz",
        line: "systemctl restart kube-apiserver kube-controller-manager kube-scheduler; \
             until /opt/cofferdam/bin/kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig get --raw /readyz > /dev/null 2>&1; do sleep 0.1; done",
        masters_only: MastersOnly::Yes,
    },
    Restart {
        stage: "nodes",
        what: "systemctl restart of its units",
        line: "systemctl restart containerd kubelet kube-proxy",
        masters_only: MastersOnly::No,
    },
    Restart {
        stage: "network",
        what: "systemctl restart flanneld",
        line: "systemctl restart flanneld",
        masters_only: MastersOnly::No,
    },
];

/// Bare hosts that the product is about to be installed on.
pub(super) fn bare_hosts(
    product: &Product,
    wanted: lab::Wanted,
    bandwidth: Option<&str>,
) -> Result<Lab> {
    let lab = fresh_lab(lab::Options {
        wanted,
        default_route: lab::DefaultRoute::Absent,
        bandwidth: bandwidth.map(str::to_owned),
        rules: lab::Rules::Binary(product.binary.clone()),
    })?;
    product.trust_hosts()?;
    Ok(lab)
}

/// An install by stage, its bytes, and a second one. The cluster stays up.
pub(super) fn figures(
    product: &Product,
    lab: &Lab,
    peer: Option<&kubeadm::Measured>,
) -> Result<Vec<Figure>> {
    let copied = copy_everywhere(lab, product)?;
    let begun = Instant::now();
    let told = Told::by_install(product)?;
    let total = begun.elapsed().as_secs_f64();
    pods::nodes_ready(product)?;

    let transfer: f64 = told
        .stages
        .iter()
        .filter(|(name, _)| TRANSFER.contains(&name.as_str()))
        .map(|(_, seconds)| seconds)
        .sum();
    let mut figures = vec![
        figure(
            "install, from bare hosts",
            (total, "s"),
            peer.map(|peer| {
                (
                    "kubeadm, its files and images on the hosts before",
                    peer.total,
                )
            }),
            "0.7",
        ),
        figure(
            "  bytes in place (prepare, registry, stage)",
            (transfer, "s"),
            Some(("ssh 'cat >' of the bundle to each host", copied)),
            "",
        ),
    ];
    for (name, seconds) in &told.phases {
        figures.push(figure(format!("  {name}"), (*seconds, "s"), None, ""));
    }
    let restarted = restarts(lab)?;
    zones::all_well(product)?;
    for (name, seconds) in &told.stages {
        let beside = RESTARTS
            .iter()
            .zip(&restarted)
            .find(|(restart, _)| restart.stage == name)
            .map(|(restart, seconds)| (restart.what, *seconds));
        figures.push(figure(
            format!("  stage {name}"),
            (*seconds, "s"),
            beside,
            "",
        ));
    }
    figures.push(link(product, lab, &told)?);
    figures.push(second(product, lab)?);
    Ok(figures)
}

/// Bytes that went over the jump host's link, beside the bundle once for each
/// zone with a registry, which is each with a master, and the agents.
pub(super) fn link(product: &Product, lab: &Lab, told: &Told) -> Result<Figure> {
    let mebibytes = |bytes: f64| bytes / 1_048_576.0;
    let bundle = fs::metadata(&product.bundle)?.len() as f64;
    let agent = fs::metadata(&product.binary)?.len() as f64;
    let masters = lab.hosts().iter();
    let masters = masters.filter(|host| host.kind == Kind::Master);
    let registries: BTreeSet<&str> = masters.map(|host| host.zone.as_str()).collect();
    let floor = bundle * registries.len() as f64 + agent * lab.hosts().len() as f64;
    Ok(figure(
        "bytes over the jump host's link",
        (mebibytes(told.sent_bytes), "MiB"),
        Some((
            "the bundle for each registry, and the agents",
            mebibytes(floor),
        )),
        "1.0",
    ))
}

fn second(product: &Product, lab: &Lab) -> Result<Figure> {
    let (mut second, mut logins) = (f64::MAX, f64::MAX);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        let said = outcome(&mut product.verb("install", &["--yes"]))?.stderr;
        second = second.min(begun.elapsed().as_secs_f64());
        ensure!(said.contains("nothing to do"), "a second install:\n{said}");
        let lines: Vec<(&str, &str)> = lab
            .hosts()
            .iter()
            .map(|host| (host.name.as_str(), "true"))
            .collect();
        logins = logins.min(on_hosts(lab, &lines)?);
    }
    Ok(figure(
        "second install",
        (second, "s"),
        Some(("ssh HOST true, all at once", logins)),
        "5 s",
    ))
}

/// What an install tells in its events.
#[derive(Default)]
pub(super) struct Told {
    /// Seconds, by name.
    phases: Vec<(String, f64)>,
    /// Seconds, by name.
    pub(super) stages: Vec<(String, f64)>,
    sent_bytes: f64,
}

impl Told {
    /// Installs.
    pub(super) fn by_install(product: &Product) -> Result<Self> {
        Self::read(&run_quietly(
            &mut product.verb("install", &["--yes", "--json"]),
        )?)
    }

    fn read(events: &str) -> Result<Self> {
        let mut told = Self::default();
        for line in events.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            let seconds = event["seconds"].as_f64().unwrap_or_default();
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("stage-done") => told.stages.push((text("stage"), seconds)),
                Some("phase-done") => told.phases.push((text("phase"), seconds)),
                Some("run-done") => {
                    told.sent_bytes = event["sent_bytes"].as_f64().context("no bytes")?;
                }
                _ => {}
            }
        }
        ensure!(told.sent_bytes > 0.0, "the install sent no bytes");
        Ok(told)
    }
}

/// Seconds that plain ssh takes to bring the whole bundle to each host.
pub(super) fn copy_everywhere(lab: &Lab, product: &Product) -> Result<f64> {
    let line = "cat > /var/tmp/bundle && rm /var/tmp/bundle";
    send(lab, &product.bundle, line)
}

/// Seconds for each of [`RESTARTS`].
fn restarts(lab: &Lab) -> Result<Vec<f64>> {
    RESTARTS
        .iter()
        .map(|restart| {
            let lines: Vec<(&str, &str)> = lab
                .hosts()
                .iter()
                .filter(|host| restart.masters_only == MastersOnly::No || host.kind == Kind::Master)
                .map(|host| (host.name.as_str(), restart.line))
                .collect();
            let seconds = on_hosts(lab, &lines);
            seconds.with_context(|| format!("restarting what stage {} started", restart.stage))
        })
        .collect()
}
