//! An install from bare hosts, and a second one, on the hosts of the lab.

use super::{Figure, figure};
use crate::demo;
use crate::lab::{self, Lab};
use crate::product::{Product, run_quietly};
use crate::scenarios::pods;
use anyhow::{Context, Result, ensure};
use fs_err as fs;
use std::process::{Child, Stdio};
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
    /// Shell lines, each on a host, all at once.
    lines: &'static [(&'static str, &'static str)],
}

const RESTARTS: &[Restart] = &[
    Restart {
        stage: "etcd",
        what: "systemctl restart etcd",
        lines: &[("m1", "systemctl restart etcd")],
    },
    Restart {
        stage: "control-plane",
        what: "systemctl restart of its units, till /readyz",
        lines: &[(
            "m1",
            "systemctl restart kube-apiserver kube-controller-manager kube-scheduler; \
             until /opt/cofferdam/bin/kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig get --raw /readyz > /dev/null 2>&1; do sleep 0.1; done",
        )],
    },
    Restart {
        stage: "nodes",
        what: "systemctl restart of its units",
        lines: &[("m1", NODE_UNITS), ("w1", NODE_UNITS), ("w2", NODE_UNITS)],
    },
    Restart {
        stage: "network",
        what: "systemctl restart flanneld",
        lines: &[("m1", OVERLAY), ("w1", OVERLAY), ("w2", OVERLAY)],
    },
];
const NODE_UNITS: &str = "systemctl restart containerd kubelet kube-proxy";
const OVERLAY: &str = "systemctl restart flanneld";

/// An install by stage, its bytes, and a second one.
pub(super) fn figures(product: &Product) -> Result<Vec<Figure>> {
    let lab = bare_hosts(product)?;
    let copied = copy_everywhere(&lab, product)?;
    let begun = Instant::now();
    let events = run_quietly(&mut product.verb("install", &["--yes", "--json"]))?;
    let total = begun.elapsed().as_secs_f64();
    let told = Told::read(&events)?;
    pods::nodes_ready(product)?;
    let restarted = restarts(&lab)?;
    let hosts = lab.hosts().len() as f64;

    let transfer: f64 = told
        .stages
        .iter()
        .filter(|(name, _)| TRANSFER.contains(&name.as_str()))
        .map(|(_, seconds)| seconds)
        .sum();
    let mut figures = vec![
        figure("install, from bare hosts", (total, "s"), None, ""),
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
    let mebibytes = |bytes: f64| bytes / 1_048_576.0;
    let bundle = fs::metadata(&product.bundle)?.len() as f64;
    let agents = hosts * fs::metadata(&product.binary)?.len() as f64;
    figures.push(figure(
        "bytes over the jump host's link",
        (mebibytes(told.sent_bytes), "MiB"),
        Some(("one bundle and the agents", mebibytes(bundle + agents))),
        "1.0",
    ));
    let (mut second, mut logins) = (f64::MAX, f64::MAX);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        let said = crate::product::outcome(&mut product.verb("install", &["--yes"]))?.stderr;
        second = second.min(begun.elapsed().as_secs_f64());
        ensure!(said.contains("nothing to do"), "a second install:\n{said}");
        let names: Vec<&str> = lab.hosts().iter().map(|host| host.name.as_str()).collect();
        let lines: Vec<(&str, &str)> = names.iter().map(|name| (*name, "true")).collect();
        logins = logins.min(on_hosts(&lab, &lines)?);
    }
    figures.push(figure(
        "second install",
        (second, "s"),
        Some(("ssh HOST true, all at once", logins)),
        "5 s",
    ));
    lab.down()?;
    Ok(figures)
}

fn bare_hosts(product: &Product) -> Result<Lab> {
    if let Ok(lab) = Lab::open() {
        lab.down()?;
    }
    demo::clear_site()?;
    let lab = lab::up(&lab::Options {
        wanted: lab::Wanted {
            masters: 1,
            workers: 2,
            zones: Vec::new(),
        },
        default_route: lab::DefaultRoute::Absent,
        rules: lab::Rules::Binary(product.binary.clone()),
    })?;
    product.trust_hosts()?;
    Ok(lab)
}

/// What an install tells in its events.
#[derive(Default)]
struct Told {
    /// Seconds, by name.
    phases: Vec<(String, f64)>,
    /// Seconds, by name.
    stages: Vec<(String, f64)>,
    sent_bytes: f64,
}

impl Told {
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

/// Seconds that plain ssh takes to bring the whole bundle to each host, all at
/// once: what a person would do who has nothing but scripts.
fn copy_everywhere(lab: &Lab, product: &Product) -> Result<f64> {
    let begun = Instant::now();
    let mut children = Vec::new();
    for host in lab.hosts() {
        let mut command = lab.ssh_command(&host.name)?;
        command.arg("cat > /var/tmp/bundle && rm /var/tmp/bundle");
        command.stdin(fs::File::open(&product.bundle)?.into_parts().0);
        children.push((host.name.clone(), command.spawn()?));
    }
    wait(children)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds for each of [`RESTARTS`].
fn restarts(lab: &Lab) -> Result<Vec<f64>> {
    RESTARTS
        .iter()
        .map(|restart| {
            let seconds = on_hosts(lab, restart.lines);
            seconds.with_context(|| format!("restarting what stage {} started", restart.stage))
        })
        .collect()
}

/// Seconds until shell lines on hosts have all ended, run at the same time.
fn on_hosts(lab: &Lab, lines: &[(&str, &str)]) -> Result<f64> {
    let begun = Instant::now();
    let mut children = Vec::new();
    for (host, line) in lines {
        let mut command = lab.ssh_command(host)?;
        command.arg(line).stdin(Stdio::null());
        children.push(((*host).to_owned(), command.spawn()?));
    }
    wait(children)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn wait(children: Vec<(String, Child)>) -> Result<()> {
    for (host, mut child) in children {
        let status = child.wait()?;
        ensure!(status.success(), "{host}: ssh: {status}");
    }
    Ok(())
}
