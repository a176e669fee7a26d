//! What a cluster over three zones stands: the loss of any master and of any
//! zone, and registries that stand in for each other.

use super::Context;
use super::failures::{asked, registry_of, titles};
use super::pods;
use crate::lab::{Host, Kind, Lab};
use crate::product::{Product, outcome, run_quietly, wait_until};
use crate::shell;
use anyhow::{Context as _, Result, ensure};
use fs_err as fs;
use std::time::{Duration, Instant};

/// Nodes are Ready again within this after a boot, on two shared cores.
const READY_LIMIT: Duration = Duration::from_secs(240);
/// New connections find another API server within five seconds; a request
/// takes its time on a machine that does everything at once.
pub(super) const API_LIMIT: Duration = Duration::from_secs(20);

/// Where a worker gets a kubectl for these tests, and a kubeconfig that goes
/// through its own proxy.
pub(super) const KUBECTL: &str =
    "/run/kubectl --kubeconfig /run/admin.kubeconfig --request-timeout=10s";

/// `cofferdam status` calls the cluster fine, and programs read the same.
pub fn status_is_fine(product: &Product) -> Result<()> {
    let inventory = product.inventory.as_str();
    let outcome = outcome(&mut product.command(&["status", "-i", inventory, "--json"]))?;
    ensure!(
        outcome.status == 0,
        "exit {}: {}",
        outcome.status,
        outcome.stdout
    );
    let status: serde_json::Value = serde_json::from_str(&outcome.stdout)?;
    ensure!(status["health"] == "fine", "{status:#}");
    let hosts = status["hosts"].as_array().context("no hosts")?;
    let leaders = hosts.iter().filter(|host| host["etcd"]["leader"] == true);
    ensure!(leaders.count() == 1, "not one leader: {status:#}");
    Ok(())
}

/// One zone is cut off for longer than its connections live.
pub fn zone_cut(context: &Context) -> Result<()> {
    zones_cut(context, &["b"], Duration::from_secs(35))
}

/// The first zone is cut off for so long that its nodes are given up.
pub fn first_zone_cut(context: &Context) -> Result<()> {
    zones_cut(context, &["a"], Duration::from_secs(80))
}

/// Each zone in turn is cut off for two minutes.
pub fn each_zone_cut(context: &Context) -> Result<()> {
    zones_cut(context, &["a", "b", "c"], Duration::from_secs(120))
}

/// Writes go on in the other zones, pods there keep their Services, and once
/// the zone is healed there is nothing to do.
pub fn zones_cut(context: &Context, zones: &[&str], duration: Duration) -> Result<()> {
    let lab = context.lab()?;
    bring_kubectl(&lab, &node_names(&lab))?;
    pods::deploy_on(&context.product, &["w1", "w2"])?;
    for zone in zones {
        let services = services_without(context, &lab, zone)?;
        lab.cut(zone)?;
        let result = without_zone(context, &lab, zone, duration, &services);
        lab.heal(zone)?;
        result.with_context(|| format!("zone {zone} cut off"))?;
        all_well(&context.product)?;
    }
    Ok(())
}

/// ClusterIPs of Services whose pods all stand in other zones.
fn services_without(context: &Context, lab: &Lab, zone: &str) -> Result<Vec<String>> {
    let workers = lab.hosts().iter().filter(|host| is_worker(host));
    let elsewhere = workers.filter(|host| host.zone != zone);
    elsewhere
        .map(|host| pods::cluster_ip(&context.product, &format!("web-{}", host.name)))
        .collect()
}

/// A Service of pods everywhere leaves the zone's out once their node is
/// NotReady, which it is after some 45 s.
const LEFT_OUT_AFTER: Duration = Duration::from_secs(75);

fn without_zone(
    context: &Context,
    lab: &Lab,
    zone: &str,
    duration: Duration,
    services: &[String],
) -> Result<()> {
    let rest: Vec<&Host> = lab
        .hosts()
        .iter()
        .filter(|host| host.zone != zone && is_node(host))
        .collect();
    let deadline = Instant::now() + duration;
    let mut round = 0;
    while Instant::now() < deadline {
        for host in &rest {
            write_through(lab, host, round)?;
            round += 1;
            for service in services {
                all_answer(lab, host, service)?;
            }
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    if duration > LEFT_OUT_AFTER {
        let common = pods::cluster_ip(&context.product, "web")?;
        for host in &rest {
            all_answer(lab, host, &common)?;
        }
        for worker in rest.iter().filter(|host| is_worker(host)) {
            let pod = pods::pod_on(&context.product, "client", &worker.name)?;
            let url = format!(
                "http://web-{}.check.svc.cluster.local:8080/name",
                worker.name
            );
            let answer = pods::fetch(&context.product, &pod, &url)?;
            ensure!(answer.trim() == worker.name, "by name: {answer:?}");
        }
    }
    let outcome = outcome(&mut context.product.command(&[
        "status",
        "-i",
        context.product.inventory.as_str(),
    ]))?;
    ensure!(
        outcome.status == 1 && outcome.stdout.contains("not reached"),
        "exit {}: {}",
        outcome.status,
        outcome.stdout
    );
    shell::say(&format!(
        "        {round} writes went on without zone {zone}, and {} Services answered each time",
        services.len()
    ));
    Ok(())
}

/// A node pulls from another zone's registry when its own is stopped, and what
/// kubelet pulled anew is as pinned as before.
pub fn registry_stopped(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let worker = lab.hosts().iter().find(|host| host.name == "w2");
    let own = registry_of(&lab, worker.context("no w2")?)?;
    pods::deploy_on(&context.product, &["w1", "w2"])?;
    lab.ssh_output(own, "systemctl stop registry")?;
    let pulled = pods::pull_anew(&context.product, "w2");
    lab.ssh_output(own, "systemctl start registry")?;
    pulled?;
    all_well(&context.product).map(drop)
}

/// A worker gets the registry of its zone's master too: the bundle does not
/// come over the jump host's link again. Then all is as before.
pub fn second_registry(context: &Context) -> Result<()> {
    let mut product = context.product.clone();
    let text = fs::read_to_string(&product.inventory)?
        .replace("[\"control-plane\"]", "[\"control-plane\", \"registry\"]")
        .replacen("[\"worker\"]", "[\"worker\", \"registry\"]", 1);
    product.inventory = product.inventory.with_file_name("registries.toml");
    fs::write(&product.inventory, text)?;
    let result = filled_from_the_first(context, &product);
    fs::remove_file(&product.inventory)?;
    result?;
    run_quietly(&mut context.product.verb("install", &["--yes"]))?;
    let left = context.lab()?.ssh("w1", "systemctl is-active registry")?;
    ensure!(!left.status.success(), "w1's registry still runs");
    all_well(&context.product).map(drop)
}

fn filled_from_the_first(context: &Context, product: &Product) -> Result<()> {
    let events = run_quietly(&mut product.verb("install", &["--yes", "--json"]))?;
    let mut done = events.lines().filter(|line| line.contains("\"run-done\""));
    let done: serde_json::Value = serde_json::from_str(done.next().context("no end")?)?;
    let sent = done["sent_bytes"].as_u64().context("no bytes")?;
    let zones = done["sent_bytes_by_zone"].as_object();
    let zones = zones.context("no bytes by zone")?.values();
    let hosts = zones.filter_map(|hosts| hosts.as_object());
    let each = hosts.flat_map(|hosts| hosts.values().filter_map(serde_json::Value::as_u64));
    ensure!(each.sum::<u64>() == sent, "bytes by zone: {done:#}");
    let bundle = fs::metadata(&product.bundle)?.len();
    ensure!(
        sent < bundle / 4,
        "{sent} bytes came over the link, for a bundle of {bundle}"
    );
    let store = "du -s --block-size=1 --apparent-size /var/lib/cofferdam/registry | cut -f1";
    let held: u64 = context.lab()?.ssh_output("w1", store)?.parse()?;
    ensure!(held > bundle / 2, "w1's registry holds {held} bytes");
    let steps = product.plan()?;
    ensure!(steps.is_empty(), "steps: {}", titles(&steps).join(", "));
    shell::say(&format!(
        "        {held} bytes in the second registry, {sent} over the jump host's link"
    ));
    Ok(())
}

pub(super) fn masters(lab: &Lab) -> impl Iterator<Item = &Host> {
    lab.hosts().iter().filter(|host| host.kind == Kind::Master)
}

pub(super) fn node_names(lab: &Lab) -> Vec<&str> {
    let nodes = lab.hosts().iter().filter(|host| is_node(host));
    nodes.map(|host| host.name.as_str()).collect()
}

/// A witness is none: it has no proxy and no kubelet.
pub(super) fn is_node(host: &Host) -> bool {
    host.kind != Kind::Witness
}

pub(super) fn is_worker(host: &Host) -> bool {
    host.kind == Kind::Worker
}

/// Workers have no kubectl of their own.
pub fn bring_kubectl(lab: &Lab, hosts: &[&str]) -> Result<()> {
    let first = masters(lab).next().context("no master")?;
    let from = |path: &str| -> Result<Vec<u8>> {
        let output = lab.ssh(&first.name, &format!("cat {path}"))?;
        ensure!(output.status.success(), "reading {path} on {}", first.name);
        Ok(output.stdout)
    };
    let kubectl = from("/opt/cofferdam/bin/kubectl")?;
    let kubeconfig = String::from_utf8(from("/etc/kubernetes/admin.kubeconfig")?)?;
    let own = format!("https://{}:6443", first.address);
    ensure!(
        kubeconfig.contains(&own),
        "the kubeconfig does not name {own}"
    );
    let kubeconfig = kubeconfig.replace(&own, "https://127.0.0.1:6444");
    for host in hosts {
        lab.put(host, "/run/kubectl", &kubectl)?;
        lab.put(host, "/run/admin.kubeconfig", kubeconfig.as_bytes())?;
        lab.ssh_output(host, "chmod 0755 /run/kubectl")?;
    }
    Ok(())
}

fn write_through(lab: &Lab, host: &Host, round: u32) -> Result<()> {
    let write =
        format!("{KUBECTL} -n default annotate --overwrite namespace default round={round}");
    wait_until("a write", API_LIMIT, || lab.ssh_output(&host.name, &write))
        .with_context(|| format!("through the proxy of {}", host.name))
        .map(drop)
}

/// A Service answers whoever asks, a few times.
pub(super) fn all_answer(lab: &Lab, host: &Host, service: &str) -> Result<()> {
    let answers = lab.ssh_output(&host.name, &asked(service, 5))?;
    ensure!(
        !answers.contains("failed"),
        "Service {service} from {}:\n{answers}",
        host.name
    );
    Ok(())
}

/// Everything Ready, in step, and as desired.
///
/// Returns the seconds until nothing was wrong any more.
pub fn all_well(product: &Product) -> Result<f64> {
    let begun = Instant::now();
    let after = || begun.elapsed().as_secs_f64();
    wait_until("all nodes Ready", READY_LIMIT, || {
        pods::nodes_ready(product)
    })?;
    let ready = after();
    wait_until("a status that is fine", READY_LIMIT, || {
        status_is_fine(product)
    })?;
    let fine = after();
    wait_until("a plan without steps", READY_LIMIT, || {
        let steps = product.plan()?;
        ensure!(steps.is_empty(), "steps: {}", titles(&steps).join(", "));
        Ok(())
    })?;
    shell::say(&format!(
        "        all nodes Ready after {ready:.1} s, status fine after {fine:.1} s, a plan without steps after {:.1} s",
        after()
    ));
    Ok(fine)
}
