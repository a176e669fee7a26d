//! A load on the lab's cluster while something is done to it: the API by
//! unmodified client-go, through the proxies of nodes in every zone and from pods
//! through the `kubernetes` Service; and a Service of two replicas, from every
//! node.

use crate::lab::{Host, Kind, Lab};
use crate::product::{Product, wait_until};
use crate::scenarios::zones::bring_kubectl;
use crate::{shell, upstream};
use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde::Deserialize;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout};
use std::time::Duration;

const MANIFEST: &str = include_str!("scenarios/load.yaml");
const DIRECTORY: &str = "/run/load";
/// The client, built by upstream's name for it.
const CLIENT: &str = "client";
/// The load goes on while this is there.
const LOADING: &str = "/run/load/loading";
/// How long clients may take to come to their end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Requests a second.
#[derive(Clone, Copy)]
pub struct Rates {
    /// Reads of each client of the API, and as many writes.
    pub api: u32,
    /// Of the Service, on each node.
    pub service: u32,
}

/// What a client prints at its end.
#[derive(Debug, Default, Deserialize)]
pub struct Counts {
    pub reads: u64,
    pub writes: u64,
    pub failed: u64,
    /// The first of them.
    pub failures: Option<Vec<Failure>>,
    pub longest_read: f64,
    pub longest_write: f64,
    pub watch_ends: u64,
    /// Times that a watch's revision was too old, and a list took its place.
    pub lists: u64,
    pub unseen: u64,
    pub lost: u64,
}

#[derive(Debug, Deserialize)]
pub struct Failure {
    /// Seconds since the load began.
    pub at: f64,
    pub what: String,
    pub seconds: f64,
    pub error: String,
}

/// Clients at work.
pub struct Load<'a> {
    product: &'a Product,
    lab: &'a Lab,
    clients: Vec<Client>,
}

struct Client {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What each of the clients came to, by name.
pub struct Outcome {
    pub api: Vec<(String, Counts)>,
    pub service: Vec<(String, Counts)>,
    /// The one that asks no other API server than its own.
    pub bound: Option<(String, Counts)>,
}

impl<'a> Load<'a> {
    /// Starts all clients, and waits until they are at work.
    pub fn start(product: &'a Product, lab: &'a Lab, rates: Rates) -> Result<Self> {
        let binary = fs::read(upstream::ensure("1.36")?.binary(CLIENT)?)?;
        let nodes: Vec<&Host> = lab.hosts().iter().filter(|host| is_node(host)).collect();
        let names: Vec<&str> = nodes.iter().map(|host| host.name.as_str()).collect();
        bring_kubectl(lab, &names)?;
        for name in &names {
            lab.ssh_output(name, &format!("mkdir -p {DIRECTORY} && touch {LOADING}"))?;
            lab.put(name, &format!("{DIRECTORY}/load"), &binary)?;
            lab.ssh_output(name, &format!("chmod 0755 {DIRECTORY}/load"))?;
        }
        product.apply(&MANIFEST.replace("RATE", &rates.api.to_string()))?;
        for what in ["deployment/pair", "daemonset/load"] {
            let arguments = ["rollout", "status", "-n", "load", what, "--timeout=120s"];
            product.kubectl(&arguments)?;
        }
        let service = [
            "get",
            "service",
            "-n",
            "load",
            "pair",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ];
        let service = product.kubectl(&service)?;
        let mut clients = Vec::new();
        for host in one_in_each_zone(&nodes) {
            let options = format!(
                "--kubeconfig /run/admin.kubeconfig --namespace load --name from-{} --reads {1} --writes {1}",
                host.name, rates.api
            );
            clients.push(Client::start(lab, &host.name, "api", &options)?);
        }
        for host in &nodes {
            let options = format!("--get http://{service}:8080/name --reads {}", rates.service);
            clients.push(Client::start(lab, &host.name, "service", &options)?);
        }
        for client in &mut clients {
            client.begin()?;
        }
        Ok(Self {
            product,
            lab,
            clients,
        })
    }

    /// With one more client of the API, on that master, which asks no other API
    /// server than the one there.
    pub fn with_one_bound_to(mut self, master: &Host) -> Result<Self> {
        let options = "--kubeconfig /etc/kubernetes/admin.kubeconfig --namespace load --name bound --reads 20 --writes 20";
        let mut client = Client::start(self.lab, &master.name, "bound", options)?;
        client.begin()?;
        self.clients.push(client);
        Ok(self)
    }

    /// Ends all clients and says what they came to.
    pub fn end(self) -> Result<Outcome> {
        for host in self.lab.hosts().iter().filter(|host| is_node(host)) {
            self.lab
                .ssh_output(&host.name, &format!("rm -f {LOADING}"))?;
        }
        let mut outcome = Outcome {
            api: Vec::new(),
            service: Vec::new(),
            bound: None,
        };
        for client in self.clients {
            let (name, counts) = client.end()?;
            match name.rsplit(' ').next() {
                Some("api") => outcome.api.push((name, counts)),
                Some("bound") => outcome.bound = Some((name, counts)),
                _ => outcome.service.push((name, counts)),
            }
        }
        let pods = ["get", "pods", "-n", "load", "-l", "app=load", "-o", "name"];
        for pod in self.product.kubectl(&pods)?.lines() {
            let counts = wait_until("a pod's counts", END_LIMIT, || {
                let log = self.product.kubectl(&["logs", "-n", "load", pod])?;
                let last = log.lines().last().unwrap_or_default();
                serde_json::from_str(last).with_context(|| format!("{pod} says: {last}"))
            })?;
            outcome.api.push((pod.to_owned(), counts));
        }
        self.product.kubectl(&["delete", "namespace", "load"])?;
        Ok(outcome)
    }
}

impl Client {
    fn start(lab: &Lab, host: &str, kind: &str, options: &str) -> Result<Self> {
        let script = format!("{DIRECTORY}/load {options} --while {LOADING} 2>&1");
        let (child, stdout) = lab.ssh_follow(host, &script)?;
        Ok(Self {
            name: format!("{host} {kind}"),
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    fn begin(&mut self) -> Result<()> {
        match self.lines.next() {
            Some(Ok(line)) if line == "ready" => Ok(()),
            other => bail!("the client {} did not begin: {other:?}", self.name),
        }
    }

    fn end(mut self) -> Result<(String, Counts)> {
        let last = self.lines.by_ref().map_while(Result::ok).last();
        let _ = self.child.wait();
        let last = last.with_context(|| format!("the client {} said nothing", self.name))?;
        let counts = serde_json::from_str(&last);
        let counts = counts.with_context(|| format!("the client {} says: {last}", self.name))?;
        Ok((self.name, counts))
    }
}

impl Outcome {
    /// Prints the sums, and every failure that was told.
    pub fn tell(&self) {
        for (what, clients) in [("API", &self.api), ("Service", &self.service)] {
            let sum = |of: fn(&Counts) -> u64| -> u64 {
                clients.iter().map(|(_, counts)| of(counts)).sum()
            };
            let longest = |of: fn(&Counts) -> f64| -> f64 {
                let all = clients.iter().map(|(_, counts)| of(counts));
                all.fold(0.0, f64::max)
            };
            let requests = sum(|counts| counts.reads + counts.writes);
            shell::say(&format!(
                "        {what}: {requests} requests by {} clients, {} failed; longest read {:.2} s, write {:.2} s; {} writes lost, {} not seen by watches, which ended {} times, {} of them for a list",
                clients.len(),
                sum(|counts| counts.failed),
                longest(|counts| counts.longest_read),
                longest(|counts| counts.longest_write),
                sum(|counts| counts.lost),
                sum(|counts| counts.unseen),
                sum(|counts| counts.watch_ends),
                sum(|counts| counts.lists),
            ));
            for (name, counts) in clients {
                for failure in counts.failures.iter().flatten() {
                    shell::say(&format!(
                        "          {name} at {:.1} s: {}, after {:.2} s: {}",
                        failure.at, failure.what, failure.seconds, failure.error
                    ));
                }
            }
        }
    }

    /// Nothing that was acknowledged is gone, and no watch missed a write. A
    /// list may stand in for a watch where the only API server began anew.
    pub fn nothing_is_lost(&self, lab: &Lab) -> Result<()> {
        let masters = lab.hosts().iter().filter(|host| host.kind == Kind::Master);
        let alone = masters.count() == 1;
        for (name, counts) in &self.api {
            ensure!(
                alone || counts.lists == 0,
                "{name}: {} watches could not go on from their last revision",
                counts.lists
            );
            ensure!(
                counts.lost == 0 && counts.unseen == 0,
                "{name}: {} writes lost, {} not seen",
                counts.lost,
                counts.unseen
            );
        }
        Ok(())
    }

    /// Requests that failed, of the API and of the Service.
    pub fn failed(&self) -> (u64, u64) {
        let sum =
            |clients: &[(String, Counts)]| clients.iter().map(|(_, counts)| counts.failed).sum();
        (sum(&self.api), sum(&self.service))
    }
}

fn is_node(host: &Host) -> bool {
    host.kind != Kind::Witness
}

/// A worker of each zone, or a master where it has none.
fn one_in_each_zone<'h>(nodes: &[&'h Host]) -> Vec<&'h Host> {
    let mut chosen: Vec<&Host> = Vec::new();
    for worker in [true, false] {
        for host in nodes {
            let is_worker = host.kind == Kind::Worker;
            if is_worker == worker && !chosen.iter().any(|known| known.zone == host.zone) {
                chosen.push(host);
            }
        }
    }
    chosen
}
