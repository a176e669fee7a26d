//! What a cluster stands, and what a second look finds.

use super::random::Random;
use super::{Context, pods};
use crate::lab::{Host, Kind, Lab};
use crate::product::{outcome, wait_until};
use crate::{paths, shell};
use anyhow::{Context as _, Result, ensure};
use std::process::Command;
use std::time::Duration;

/// Nodes are Ready again within this after a boot, on two shared cores.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// A host itself reaches a ClusterIP, though it has no default route.
pub fn cluster_ip_from_hosts(context: &Context) -> Result<()> {
    pods::deploy_on(&context.product, &["w1", "w2"])?;
    let service = pods::cluster_ip(&context.product, "web-w2")?;
    let lab = context.lab()?;
    for host in lab.hosts() {
        let host = &host.name;
        // No curl on these hosts: bash speaks HTTP well enough.
        let script = format!(
            "bash -c 'exec 3<>/dev/tcp/{service}/8080; printf \"GET /name HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'"
        );
        let answer = wait_until("the ClusterIP", Duration::from_secs(30), || {
            lab.ssh_output(host, &script)
        })
        .with_context(|| format!("a ClusterIP from {host} itself"))?;
        ensure!(answer.lines().last() == Some("w2"), "{host}: {answer}");
    }
    Ok(())
}

/// The registry's log names every node as a reader of binaries and images.
pub fn registry_was_used(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for worker in lab.hosts().iter().filter(|host| host.kind == Kind::Worker) {
        let master = registry_of(&lab, worker)?;
        let log = lab.ssh_output(master, "journalctl -u registry --no-pager -o cat")?;
        let address = worker.address.to_string();
        for what in ["cofferdam/file/kubelet/blobs", "registry.k8s.io/pause"] {
            let seen = log
                .lines()
                .any(|line| line.contains(&address) && line.contains(what));
            ensure!(seen, "no read of {what} by {address} in the registry's log");
        }
    }
    Ok(())
}

/// The host whose registry another one uses first: the master of its zone, or
/// the first one where the zone has none.
pub fn registry_of<'a>(lab: &'a Lab, host: &Host) -> Result<&'a str> {
    let masters = || lab.hosts().iter().filter(|host| host.kind == Kind::Master);
    let own = masters().find(|master| master.zone == host.zone);
    let master = own.or_else(|| masters().next()).context("no master")?;
    Ok(&master.name)
}

/// Nothing to do, said so, and no host touched.
pub fn second_install(context: &Context) -> Result<()> {
    let outcome = outcome(&mut context.product.verb("install", &["--yes"]))?;
    ensure!(
        outcome.status == 0,
        "exit {}\n{}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.stderr.contains("nothing to do"),
        "it said:\n{}",
        outcome.stderr
    );
    Ok(())
}

/// Host and title of each step of a plan.
pub(super) fn titles(steps: &[serde_json::Value]) -> Vec<String> {
    let text = |step: &serde_json::Value, key: &str| step[key].as_str().unwrap_or("?").to_owned();
    let each = steps.iter();
    each.map(|step| format!("{} {}", text(step, "host"), text(step, "title")))
        .collect()
}

/// The router's counters: nobody sent anything to an address that is not the
/// lab's, and nothing within it was refused.
pub fn nothing_left(context: &Context) -> Result<()> {
    let counters = context.lab()?.router_counters()?;
    ensure!(
        counters.left.packets == 0,
        "packets left: {:?}",
        counters.leaving_flows
    );
    ensure!(
        counters.blocked_flows.is_empty(),
        "blocked: {:?}",
        counters.blocked_flows
    );
    Ok(())
}

/// A crash between writing a file and restarting its unit.
pub fn lost_restart(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    // As a run leaves it that died between writing the inputs and the restart.
    let forge = "sed -i 's/sha256:..../sha256:0000/' /var/lib/cofferdam/inputs/kube-scheduler.env && systemctl restart kube-scheduler";
    lab.ssh_output("m1", forge)?;
    let steps = context.product.plan()?;
    let restarts = steps
        .iter()
        .any(|step| step.to_string().contains("kube-scheduler"));
    ensure!(
        restarts,
        "the plan does not restart kube-scheduler: {steps:#?}"
    );
    context.product.install()?;
    ensure!(context.product.plan()?.is_empty(), "steps are left");
    Ok(())
}

/// Changed and removed files and a stopped unit are found by name.
pub fn drift(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    lab.ssh_output("w1", "echo '# mine' >> /etc/kubernetes/resolv.conf")?;
    // kube-proxy watches this one, and ends when it changes.
    lab.ssh_output("w1", "echo '# mine' >> /etc/kubernetes/kube-proxy.yaml")?;
    lab.ssh_output(
        "w2",
        "rm /etc/containerd/certs.d/docker.io/hosts.toml; systemctl disable --now kube-proxy",
    )?;
    lab.ssh_output("m1", "chmod 0644 /etc/kubernetes/scheduler.kubeconfig")?;
    let plan = serde_json::to_string(&context.product.plan()?)?;
    for expected in [
        "/etc/kubernetes/resolv.conf",
        "/etc/kubernetes/kube-proxy.yaml",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
        "/etc/kubernetes/scheduler.kubeconfig",
        "kube-proxy.service",
    ] {
        ensure!(
            plan.contains(expected),
            "the plan does not name {expected}: {plan}"
        );
    }
    context.product.install()?;
    ensure!(context.product.plan()?.is_empty(), "steps are left");
    // A kube-proxy that was started anew serves what its predecessor did.
    cluster_ip_from_hosts(context)
}

/// The whole run as an ordinary user of the jump host, on hosts that let in
/// only an ordinary user with sudo.
pub fn ordinary_user(context: &Context) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let lab = paths::lab()?;
    let inventory = fs_err::read_to_string(lab.join("inventory.toml"))?;
    let inventory = inventory.replace("user = \"root\"", "user = \"operator\"");
    ensure!(
        inventory.contains("operator"),
        "the lab's inventory names no user"
    );
    fs_err::write(path("inventory.toml"), inventory)?;
    fs_err::copy(lab.join("id_ed25519"), path("id_ed25519"))?;
    fs_err::copy(&context.product.binary, path("cofferdam"))?;
    fs_err::copy(&context.product.public_key, path("bundle.pub"))?;
    shell::run(
        Command::new("cp")
            .arg("-r")
            .arg(lab.join("site"))
            .arg(path("site")),
    )?;
    shell::run(
        Command::new("chown")
            .args(["-R", "nobody:nogroup"])
            .arg(directory.path()),
    )?;
    let media = ReadOnlyMedia::with(&context.product.bundle)?;
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "nobody",
        "--regid",
        "nogroup",
        "--clear-groups",
        "--",
    ]);
    command
        .arg(path("cofferdam"))
        .args(["install", "--yes", "-i"])
        .arg(path("inventory.toml"));
    command
        .arg("--bundle")
        .arg(&media.bundle)
        .arg("--trusted-key")
        .arg(path("bundle.pub"));
    command.env("HOME", directory.path());
    let output = command.output().context("starting setpriv")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "exit {:?}\n{said}",
        output.status.code()
    );
    ensure!(said.contains("nothing to do"), "{said}");
    Ok(())
}

/// Without its master, what runs on the workers goes on serving.
pub fn master_off(context: &Context) -> Result<()> {
    pods::deploy_on(&context.product, &["w1", "w2"])?;
    let service = pods::cluster_ip(&context.product, "web")?;
    let lab = context.lab()?;
    let once = format!("{}; for i in 1 2 3 4; do ask; done", ask(&service));
    wait_until("the Service with its master", READY_LIMIT, || {
        let answers = lab.ssh_output("w1", &once)?;
        ensure!(!answers.contains("failed"), "from w1: {answers}");
        Ok(())
    })?;
    lab.kill("m1")?;
    let result = lab.ssh_output("w1", &asked(&service, 50));
    lab.boot("m1")?;
    let counted = result?;
    ensure!(
        !counted.contains("failed"),
        "requests failed without the master:\n{counted}"
    );
    ensure!(
        counted.contains("w1") && counted.contains("w2"),
        "{counted}"
    );
    all_ready(context)?;
    wait_until("a plan without steps", READY_LIMIT, || {
        let steps = context.product.plan()?;
        ensure!(steps.is_empty(), "steps: {}", titles(&steps).join(", "));
        Ok(())
    })
}

/// A shell line that asks a Service so often and counts the answers.
pub fn asked(service: &str, times: u32) -> String {
    format!(
        "{}; for i in $(seq {times}); do ask; done | sort | uniq -c",
        ask(service)
    )
}

/// A shell function that asks a Service for its answer, without curl.
fn ask(service: &str) -> String {
    format!(
        "ask() {{ bash -c 'exec 3<>/dev/tcp/{service}/8080 && printf \"GET /name HTTP/1.0\\r\\n\\r\\n\" >&3 && tail -n1 <&3' 2>&1 || echo failed; }}"
    )
}

/// A power failure of the whole site; hosts boot in a random order, some long
/// after others. `COFFERDAM_SEED` repeats it.
pub fn all_off_and_on(context: &Context) -> Result<()> {
    const LATEST_MILLISECONDS: u64 = 10_000;
    let lab = context.lab()?;
    let mut random = Random::seeded()?;
    let delays: Vec<(&str, u64)> = lab
        .hosts()
        .iter()
        .map(|host| (host.name.as_str(), random.below(LATEST_MILLISECONDS)))
        .collect();
    lab.kill("all")?;
    lab.boot_after(&delays)?;
    let mut order = delays;
    order.sort_by_key(|(_, delay)| *delay);
    let order = order
        .iter()
        .map(|(name, delay)| format!("{name} {delay} ms"));
    shell::say(&format!(
        "        booted after: {}",
        order.collect::<Vec<_>>().join(", ")
    ));
    all_ready(context)?;
    pods::network(&context.product)?;
    wait_until("a plan without steps", READY_LIMIT, || {
        let steps = context.product.plan()?;
        ensure!(steps.is_empty(), "steps: {}", titles(&steps).join(", "));
        Ok(())
    })
}

fn all_ready(context: &Context) -> Result<()> {
    wait_until("all nodes Ready", READY_LIMIT, || {
        pods::nodes_ready(&context.product)
    })
}

/// A bundle's directory as a read-only, noexec mount, as a DVD would be.
struct ReadOnlyMedia {
    mount: tempfile::TempDir,
    bundle: std::path::PathBuf,
}

impl ReadOnlyMedia {
    fn with(bundle: &camino::Utf8Path) -> Result<Self> {
        let mount = tempfile::tempdir()?;
        let (directory, name) = (
            bundle.parent().context("no directory")?,
            bundle.file_name().context("no name")?,
        );
        shell::run(
            Command::new("mount")
                .args(["--bind", directory.as_str()])
                .arg(mount.path()),
        )?;
        let media = Self {
            bundle: mount.path().join(name),
            mount,
        };
        let options = "remount,bind,ro,noexec";
        shell::run(
            Command::new("mount")
                .args(["-o", options])
                .arg(media.mount.path()),
        )?;
        Ok(media)
    }
}

impl Drop for ReadOnlyMedia {
    fn drop(&mut self) {
        // Before the directory itself is removed, with what would be in it.
        let _ = shell::run(Command::new("umount").arg(self.mount.path()));
    }
}
