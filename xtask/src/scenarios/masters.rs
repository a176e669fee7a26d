//! What a cluster stands of its masters: one that is off, two of three, one
//! whose etcd is gone.

use super::Context;
use super::failures::asked;
use super::pods;
use super::zones::{
    API_LIMIT, KUBECTL, all_answer, all_well, bring_kubectl, is_worker, masters, node_names,
};
use crate::lab::{Host, Lab};
use crate::probe::{Connections, Credentials, Probes};
use crate::product::{Product, outcome, wait_until};
use crate::shell;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first master loses its power, which is no special one.
pub fn first_master_off(context: &Context) -> Result<()> {
    masters_off(context, 1)
}

/// Each master in turn loses its power.
pub fn each_master_off(context: &Context) -> Result<()> {
    masters_off(context, usize::MAX)
}

/// The API answers through every other node's proxy, nobody else goes
/// NotReady, Services go on, and the master comes back by itself.
fn masters_off(context: &Context, count: usize) -> Result<()> {
    let lab = context.lab()?;
    pods::deploy_on(&context.product, &["w1", "w2"])?;
    for master in masters(&lab).take(count) {
        // A boot takes what was brought before.
        bring_kubectl(&lab, &node_names(&lab))?;
        let others: Vec<&Host> = lab.hosts().iter().filter(|host| *host != master).collect();
        let watch = Watch::start(&lab, others.iter().copied().find(|host| is_worker(host)))?;
        let credentials = Arc::new(Credentials::read(&lab)?);
        let established = Probes::start(&credentials, &others, Connections::Kept)?;
        let service = pods::cluster_ip(&context.product, "web")?;
        let asked = Asked::start(&service, &others)?;
        let begun = Instant::now();
        lab.kill(&master.name)?;
        let answered = others.iter().try_for_each(|host| api_answers(&lab, host));
        shell::say(&format!(
            "        {} off: the proxies of all {} others were asked in turn within {:.1} s",
            master.name,
            others.len(),
            begun.elapsed().as_secs_f64()
        ));
        let result = answered
            .and_then(|()| told(context, 1, &master.name))
            .and_then(|()| asked.all_answered())
            .and_then(|()| pulls_from_elsewhere(context, &lab, master))
            .and_then(|()| established.longest_silences(begun));
        let unready = watch.not_ready()?;
        lab.boot(&master.name)?;
        let silences = result.with_context(|| format!("{} off", master.name))?;
        let longest = silences.iter().map(|(_, seconds)| *seconds);
        shell::say(&format!(
            "        {} off: established connections had their next answer within {:.1} s",
            master.name,
            longest.fold(0.0, f64::max)
        ));
        let innocent: Vec<&String> = unready
            .iter()
            .filter(|name| **name != master.name)
            .collect();
        ensure!(innocent.is_empty(), "NotReady though up: {innocent:?}");
        all_well(&context.product)?;
    }
    Ok(())
}

/// The API answers through the host's own proxy, on a new connection.
fn api_answers(lab: &Lab, host: &Host) -> Result<()> {
    wait_until("the API", API_LIMIT, || {
        lab.ssh_output(&host.name, &format!("{KUBECTL} get --raw /readyz"))
    })
    .with_context(|| format!("through the proxy of {}", host.name))
    .map(drop)
}

/// The exit code of `cofferdam status`, and whom it names.
fn told(context: &Context, status: i32, host: &str) -> Result<()> {
    let inventory = context.product.inventory.as_str();
    let outcome = outcome(&mut context.product.command(&["status", "-i", inventory]))?;
    ensure!(
        outcome.status == status && outcome.stdout.contains(host),
        "exit {}: {}",
        outcome.status,
        outcome.stdout
    );
    Ok(())
}

/// A Service that is asked from several hosts while something happens.
struct Asked(Vec<(String, JoinHandle<Result<String>>)>);

impl Asked {
    fn start(service: &str, hosts: &[&Host]) -> Result<Self> {
        const TIMES: u32 = 300;
        let each = hosts.iter().map(|host| {
            let (name, line) = (host.name.clone(), asked(service, TIMES));
            let thread = std::thread::spawn({
                let name = name.clone();
                move || Lab::open()?.ssh_output(&name, &line)
            });
            (name, thread)
        });
        let asked = Self(each.collect());
        std::thread::sleep(Duration::from_secs(1));
        Ok(asked)
    }

    fn all_answered(self) -> Result<()> {
        for (host, thread) in self.0 {
            let answers = thread.join();
            let answers = answers.map_err(|_| anyhow::anyhow!("asking from {host} failed"))??;
            ensure!(!answers.contains("failed"), "from {host}:\n{answers}");
            ensure!(answers.contains("w1"), "from {host}:\n{answers}");
        }
        Ok(())
    }
}

/// A worker in the zone of a master that is off pulls from another zone: its
/// own zone's registry is not just refusing, it is silent.
fn pulls_from_elsewhere(context: &Context, lab: &Lab, master: &Host) -> Result<()> {
    let mut workers = lab.hosts().iter().filter(|host| is_worker(host));
    match workers.find(|host| host.zone == master.zone) {
        Some(worker) => pods::pull_anew(&context.product, &worker.name)
            .with_context(|| format!("{} while its registry's host is off", worker.name)),
        None => Ok(()),
    }
}

/// Two of three masters are off: no majority, and said so before anybody waits
/// for it.
pub fn majority_lost(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    lab.kill("m2")?;
    lab.kill("m3")?;
    let product = &context.product;
    let inventory = product.inventory.as_str();
    let status = outcome(&mut product.command(&["status", "-i", inventory]));
    let without = ["--yes", "--without", "m2", "--without", "m3"];
    let install = outcome(&mut product.verb("install", &without));
    lab.boot("m2")?;
    lab.boot("m3")?;
    let (status, install) = (status?, install?);
    ensure!(
        status.status == 2 && status.stdout.contains("etcd has no majority"),
        "exit {}: {}",
        status.status,
        status.stdout
    );
    ensure!(
        install.status == 2 && install.stderr.contains("1 of 3 members of etcd"),
        "exit {}: {}",
        install.status,
        install.stderr
    );
    all_well(product).map(drop)
}

/// The first master is up, and its etcd is not: clients that are connected to
/// its API server move on, and the tools go by who serves.
pub fn etcd_stopped(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let product = &context.product;
    pods::deploy_on(product, &["w1", "w2"])?;
    // All that happens now is new to kube-proxy.
    product.kubectl(&[
        "delete",
        "service",
        "-n",
        "check",
        "late",
        "--ignore-not-found",
    ])?;
    lab.ssh_output("m1", "systemctl stop etcd")?;
    let result = clients_move_on(product, &lab);
    lab.ssh_output("m1", "systemctl start etcd")?;
    result?;
    product.kubectl(&["delete", "service", "-n", "check", "late"])?;
    all_well(product).map(drop)
}

fn clients_move_on(product: &Product, lab: &Lab) -> Result<()> {
    /// The proxies part with the API server after thirty seconds.
    const MOVED_LIMIT: Duration = Duration::from_secs(90);
    product.etcdctl(&["member", "list"])?;
    let expose = [
        "expose",
        "deployment",
        "web-w2",
        "-n",
        "check",
        "--name=late",
    ];
    product.kubectl(&[&expose[..], &["--port=8080"]].concat())?;
    let service = pods::cluster_ip(product, "late")?;
    let begun = Instant::now();
    for host in lab.hosts() {
        wait_until("a Service that is new", MOVED_LIMIT, || {
            all_answer(lab, host, &service)
        })
        .with_context(|| format!("on {}", host.name))?;
    }
    shell::say(&format!(
        "        without m1's etcd, all nodes knew a new Service after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Follows nodes from a worker, through its proxy, and keeps who was NotReady.
struct Watch {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Watch {
    fn start(lab: &Lab, host: Option<&Host>) -> Result<Self> {
        let host = host.context("no worker")?;
        // It ends with who reads it: kubectl may fail and the loop goes on, but
        // not without anybody to tell.
        let follow =
            format!("while sleep 1; do {KUBECTL} get nodes --no-headers; echo || exit; done");
        let (child, stdout) = lab.ssh_follow(&host.name, &follow)?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Names of nodes that were seen NotReady.
    ///
    /// # Errors
    /// If none was seen at all.
    fn not_ready(mut self) -> Result<BTreeSet<String>> {
        // What it follows ends with the connection; that it can't be killed
        // twice is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines: Vec<String> = (self.lines.try_iter().filter(|line| !line.is_empty())).collect();
        ensure!(!lines.is_empty(), "no node was seen");
        let unready = lines.iter().filter(|line| line.contains("NotReady"));
        let names = unready.filter_map(|line| line.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }
}
