//! A cluster that grows while it is used: one master becomes three, and a
//! worker joins while a master is off.

use super::zones::{KUBECTL, all_well, bring_kubectl};
use super::{Context, pods};
use crate::lab::{Host, Lab};
use crate::probe::{Connections, Credentials, Probes};
use crate::product::{Product, run_quietly, wait_until};
use crate::{paths, shell};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WRITES_LIMIT: Duration = Duration::from_secs(60);

/// One host with all roles runs pods, and nothing is left to do.
pub(super) fn serves_alone(alone: &Product) -> Result<()> {
    pods::deploy_on(alone, &["m1"])?;
    let client = pods::pod_on(alone, "client", "m1")?;
    let answer = pods::fetch(alone, &client, "http://web-m1:8080/name")?;
    ensure!(answer.trim() == "m1", "{answer:?}");
    ensure!(alone.plan()?.is_empty(), "steps are left");
    Ok(())
}

/// The others join etcd while ConfigMaps are written through a proxy: none that
/// was acknowledged is lost.
pub fn one_becomes_three(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    bring_kubectl(&lab, &["m1"])?;
    let writer = Writer::start(&lab, "m1")?;
    // A connection that goes on through the proxy's hand-over, once it knows
    // the new API servers.
    let credentials = Arc::new(Credentials::read(&lab)?);
    let first: Vec<&Host> = lab.hosts().iter().take(1).collect();
    let established = Probes::start(&credentials, &first, Connections::Kept)?;
    let begun = Instant::now();
    let three = with_hosts(context, "three", &["m1", "m2", "m3", "w1"])?;
    let grown = three.install();
    let writes = writer.end();
    let silences = established.longest_silences(begun);
    grown?;
    for (host, seconds) in silences? {
        shell::say(&format!(
            "        a connection through {}'s proxy waited {seconds:.1} s at most",
            host.name
        ));
    }
    let writes = writes?;
    ensure!(!writes.acknowledged.is_empty(), "nothing was written");
    writes.are_all_there(&three)?;
    shell::say(&format!(
        "        {} writes were acknowledged while etcd grew, none is lost; {} were refused",
        writes.acknowledged.len(),
        writes.refused
    ));
    let members = three.etcdctl(&["member", "list"])?;
    let voters = members.lines().filter(|line| line.ends_with("false"));
    ensure!(voters.count() == 3, "not three voters:\n{members}");
    Ok(())
}

/// Another worker joins through the other masters.
pub fn worker_joins_without_the_first_master(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    lab.kill("m1")?;
    let joined = join_without_m1(&context.product);
    lab.boot("m1")?;
    joined?;
    // What is left to do is what m1 itself is told of the newcomer.
    wait_until(
        "an install with all hosts",
        Duration::from_secs(120),
        || context.product.install(),
    )?;
    all_well(&context.product).map(drop)
}

fn join_without_m1(product: &Product) -> Result<()> {
    let refused = crate::product::outcome(&mut product.verb("install", &["--yes"]))?;
    ensure!(
        refused.status == 4 && refused.stderr.contains("`--without m1`"),
        "exit {}: {}",
        refused.status,
        refused.stderr
    );
    // Whatever else there is works without it too.
    run_quietly(&mut product.verb("plan", &["--without", "m1"]))?;
    product.etcdctl(&["member", "list"])?;
    let inventory = product.inventory.as_str();
    run_quietly(&mut product.command(&["ports", "-i", inventory]))?;
    shell::run(&mut product.verb("install", &["--yes", "--without", "m1"]))?;
    let nodes = product.kubectl(&["get", "nodes", "--no-headers"])?;
    let is_ready = |line: &str| line.starts_with("w2 ") && line.contains(" Ready ");
    ensure!(nodes.lines().any(is_ready), "w2 is not Ready:\n{nodes}");
    Ok(())
}

/// The product with an inventory of some of the lab's hosts.
pub(super) fn with_hosts(context: &Context, name: &str, hosts: &[&str]) -> Result<Product> {
    let text = fs_err::read_to_string(&context.product.inventory)?;
    let mut inventory: toml::Table = toml::from_str(&text)?;
    let all = inventory["hosts"].as_array_mut().context("no hosts")?;
    all.retain(|host| {
        let name = host["name"].as_str();
        name.is_some_and(|name| hosts.contains(&name))
    });
    let zones: Vec<String> = all
        .iter()
        .filter_map(|host| host["zone"].as_str().map(str::to_owned))
        .collect();
    let tables = inventory["zones"].as_table_mut().context("no zones")?;
    tables.retain(|zone, _| zones.iter().any(|known| known == zone));
    let path = paths::lab()?.join(format!("inventory-{name}.toml"));
    fs_err::write(&path, toml::to_string(&inventory)?)?;
    Ok(Product {
        inventory: path,
        ..context.product.clone()
    })
}

/// Writes ConfigMaps from a host, and keeps which were acknowledged.
pub(super) struct Writer {
    child: Child,
    lines: std::thread::JoinHandle<Writes>,
}

#[derive(Default)]
pub(super) struct Writes {
    pub(super) acknowledged: Vec<String>,
    refused: usize,
}

impl Writes {
    /// None that was acknowledged is lost.
    pub(super) fn are_all_there(&self, product: &Product) -> Result<()> {
        let there = product.kubectl(&["get", "configmap", "-n", "default", "-o", "name"])?;
        let there: BTreeSet<&str> = there
            .lines()
            .filter_map(|line| line.strip_prefix("configmap/"))
            .collect();
        let lost: Vec<&String> = self
            .acknowledged
            .iter()
            .filter(|name| !there.contains(name.as_str()))
            .collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(())
    }
}

impl Writer {
    pub(super) fn start(lab: &Lab, host: &str) -> Result<Self> {
        let follow = format!(
            "number=0; while [ -e /run/kubectl ]; do number=$((number + 1)); \
             if {KUBECTL} create configmap -n default written-$number >/dev/null 2>&1; \
             then echo written-$number; else echo refused; fi; done"
        );
        let (child, stdout) = lab.ssh_follow(host, &follow)?;
        let (sender, first) = std::sync::mpsc::channel();
        let lines = std::thread::spawn(move || {
            let mut writes = Writes::default();
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match line.as_str() {
                    "refused" => writes.refused += 1,
                    _ => writes.acknowledged.push(line),
                }
                let _ = sender.send(());
            }
            writes
        });
        let begun = first.recv_timeout(WRITES_LIMIT);
        begun.context("no write came to its end")?;
        Ok(Self { child, lines })
    }

    pub(super) fn end(mut self) -> Result<Writes> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lines
            .join()
            .map_err(|_| anyhow::anyhow!("reading the writer failed"))
    }
}
