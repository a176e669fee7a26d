//! To the next minor, under load.

use super::Context;
use super::growth::Writer;
use super::random::Random;
use super::zones::{all_well, bring_kubectl};
use crate::lab::Lab;
use crate::load::{Load, Rates};
use crate::product::{Product, killed_after, outcome, wait_until};
use crate::shell;
use anyhow::{Context as _, Result, ensure};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The minor after the one that scenarios install.
pub(super) const NEXT: &str = "1.37";
/// Together 50 requests a second on the API: two cores carry five hosts here.
const RATES: Rates = Rates { api: 5, service: 5 };

/// From the installed minor to the next one: nothing fails, nothing is lost. What is
/// carried there is only what the site lacks, in parts; in the end all is as the full
/// bundle says.
pub fn to_the_next_minor(context: &Context) -> Result<()> {
    let full = Product::for_lab(NEXT)?;
    let next = full.as_delta(NEXT)?;
    let refused = outcome(&mut next.verb("install", &["--yes"]))?;
    ensure!(
        refused.status == 3
            && refused
                .stderr
                .contains("`cofferdam upgrade` changes versions"),
        "install with another minor: exit {}\n{}",
        refused.status,
        refused.stderr
    );
    what_can_not_move_is_named(&next)?;
    an_unknown_flag_is_named(&next)?;
    under_load(context, || {
        let moment = random_moment(&mut Random::of(1));
        killed_after(&mut next.verb("upgrade", &["--yes"]), moment)?;
        zone_by_zone(&context.lab()?, &next)?;
        soak(context, &next)?;
        let paced = paced(&next)?;
        is_told_before(&paced)?;
        finish(&paced)?;
        a_node_back(&next)
    })?;
    up_again_through_a_power_cut(&context.lab()?, &next)?;
    is_finished(&context.product, &full)
}

/// Until the end of a zone, and no further, however often it is asked.
fn zone_by_zone(lab: &Lab, next: &Product) -> Result<()> {
    for expected in ["stopped before m2, as asked", "nothing to do before m2"] {
        let told = outcome(&mut next.verb("upgrade", &["--until", "zone:a", "--yes"]))?;
        ensure!(
            told.status == 0 && told.stderr.contains(expected),
            "exit {}\n{}",
            told.status,
            told.stderr
        );
    }
    is_of(lab, "m1", "37", "36")?;
    is_of(lab, "m2", "36", "36")
}

/// The same cluster with an inventory that lets two nodes of a zone go at once, and
/// pods of one kind with little grace.
fn paced(next: &Product) -> Result<Product> {
    let mut paced = next.clone();
    paced.inventory = next.inventory.with_file_name("paced.toml");
    let text = fs_err::read_to_string(&next.inventory)?;
    let zone = "[zones.a]\n";
    ensure!(text.contains(zone), "the lab's inventory has no {zone}");
    let text = text.replace(zone, "[zones.a]\nmax_unavailable = 2\n");
    let rule =
        "\n[[drain.pods]]\nselector = \"app=pair\"\ngrace_seconds = 30\ntimeout_seconds = 120\n";
    fs_err::write(&paced.inventory, text + rule)?;
    Ok(paced)
}

/// What a dry run of the finish tells beside its steps.
fn is_told_before(next: &Product) -> Result<()> {
    let told = outcome(&mut next.verb("upgrade", &["--finish", "--dry-run"]))?;
    let expected = [
        "m1 m2 m3 w1 w2  kubelet 1.36.0 -> 1.37.0",
        "kube-apiserver.service - --emulated-version=1.36",
        "deployment load/pair 1 of 2",
        "link      nothing to send",
        "earlier ",
    ];
    let missing: Vec<&&str> = expected
        .iter()
        .filter(|text| !told.stdout.contains(**text))
        .collect();
    ensure!(
        told.status == 0 && missing.is_empty(),
        "exit {}, {missing:?} is missing\n{}{}",
        told.status,
        told.stdout,
        told.stderr
    );
    Ok(())
}

/// One node back to the old kubelet and container runtime, which finds what the new
/// one has written.
fn a_node_back(next: &Product) -> Result<()> {
    let inventory = next.inventory.as_str();
    let back = ["rollback", "-i", inventory, "--on", "w1", "--yes"];
    shell::run(&mut next.command(&back))?;
    let node = next.kubectl(&[
        "get",
        "node",
        "w1",
        "-o",
        "jsonpath={.status.nodeInfo.kubeletVersion} {.status.nodeInfo.containerRuntimeVersion}",
    ])?;
    ensure!(
        node.starts_with("v1.36.") && node.contains("containerd://2.3."),
        "w1 runs {node}"
    );
    ensure!(next.plan()?.is_empty(), "an install would undo it");
    all_well(next).map(drop)
}

/// The same node up again; it loses its power meanwhile, and the same command goes
/// on.
fn up_again_through_a_power_cut(lab: &Lab, next: &Product) -> Result<()> {
    let at = Moment {
        arguments: &["--yes"],
        changed: "kubelet",
        not_on: &[],
    };
    let struck = strike_while_changed(lab, next, &at, Strike::PowerCut)?;
    ensure!(struck == "w1", "{struck} was changed");
    shell::run(&mut next.verb("upgrade", &["--yes"]))
}

/// `kill -9` of the CLI at random moments of both steps, each time the same
/// command again. `COFFERDAM_SEED` repeats a run.
pub fn killed_again_and_again(context: &Context) -> Result<()> {
    const MOST_FOR_EACH: usize = 20;
    const LEAST: usize = 20;
    let mut random = Random::seeded()?;
    let next = Product::for_lab(NEXT)?;
    under_load(context, || {
        let mut kills = 0;
        for arguments in [&["--yes"][..], &["--finish", "--yes"]] {
            for _ in 0..MOST_FOR_EACH {
                let moment = random_moment(&mut random);
                if !killed_after(&mut next.verb("upgrade", arguments), moment)? {
                    break;
                }
                kills += 1;
            }
            shell::run(&mut next.verb("upgrade", arguments))?;
        }
        ensure!(kills >= LEAST, "it was killed only {kills} times");
        Ok(())
    })?;
    is_finished(&context.product, &next)
}

/// What happens to a host that is being changed, or to its zone.
#[derive(Clone, Copy, Debug)]
enum Strike {
    PowerCut,
    ZoneCut,
}

/// In both steps hosts lose their power, and zones are cut off, while they are
/// being changed: the upgrade stops by itself, what was in hand comes back by
/// itself, and the same command goes on. Nothing that was written is lost.
pub fn struck(context: &Context) -> Result<()> {
    let (lab, next) = (context.lab()?, Product::for_lab(NEXT)?);
    bring_kubectl(&lab, &["w1"])?;
    let writer = Writer::start(&lab, "w1")?;
    let (soak, finish) = (&["--yes"][..], &["--finish", "--yes"][..]);
    let (power, zone) = (Strike::PowerCut, Strike::ZoneCut);
    let (masters, nodes) = ("kube-apiserver", "kubelet");
    for (arguments, changed, strikes) in [
        (soak, masters, &[power, zone][..]),
        (finish, masters, &[power, zone]),
        (finish, nodes, &[power, zone, power]),
    ] {
        // Each of another host: what is struck comes first in the next run.
        let mut struck = Vec::new();
        for strike in strikes {
            let at = Moment {
                arguments,
                changed,
                not_on: &struck,
            };
            let host = strike_while_changed(&lab, &next, &at, *strike)
                .with_context(|| format!("{strike:?} after those of {struck:?}"))?;
            struck.push(host);
        }
        if (arguments, changed) != (finish, masters) {
            shell::run(&mut next.verb("upgrade", arguments))?;
        }
    }
    let writes = writer.end()?;
    writes.are_all_there(&next)?;
    shell::say(&format!(
        "        {} writes were acknowledged, none is lost",
        writes.acknowledged.len()
    ));
    is_finished(&context.product, &next)
}

/// Whether all serves again; a node may still be cordoned.
fn comes_back(product: &Product) -> Result<()> {
    let inventory = product.inventory.as_str();
    let told = outcome(&mut product.command(&["status", "-i", inventory, "--json"]))?;
    let status: serde_json::Value = serde_json::from_str(&told.stdout)?;
    let problems = status["problems"].as_array().context("no problems")?;
    let is_cordon = |problem: &serde_json::Value| {
        let message = problem["message"].as_str();
        message.is_some_and(|message| message.contains("cordoned by an upgrade"))
    };
    ensure!(problems.iter().all(is_cordon), "{problems:?}");
    Ok(())
}

/// Where in an upgrade a host is struck.
struct Moment<'a> {
    arguments: &'a [&'a str],
    /// What is put in place there.
    changed: &'a str,
    not_on: &'a [String],
}

/// Strikes the first such host as soon as its software is put in place, and sees
/// the upgrade end by itself. Returns its name.
fn strike_while_changed(lab: &Lab, next: &Product, at: &Moment, strike: Strike) -> Result<String> {
    const END_LIMIT: Duration = Duration::from_secs(420);
    let mut child = next
        .verb("upgrade", &[at.arguments, &["--json"]].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting an upgrade")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let changed_host = |line: String| {
        let event: serde_json::Value = serde_json::from_str(&line).ok()?;
        let (title, host) = (event["title"].as_str()?, event["host"].as_str()?);
        let is_switch = title.starts_with("put ") && title.contains(at.changed);
        let is_meant = event["event"] == "step-started" && is_switch;
        let is_new = !at.not_on.iter().any(|known| known == host);
        (is_meant && is_new).then(|| host.to_owned())
    };
    let host = lines.find_map(changed_host);
    let host = host.context("the upgrade ended before")?;
    let zone = &lab.layout().host(&host)?.zone;
    std::thread::sleep(Duration::from_secs(1));
    match strike {
        Strike::PowerCut => lab.kill(&host)?,
        Strike::ZoneCut => lab.cut(zone)?,
    }
    let begun = Instant::now();
    let last = std::thread::spawn(move || lines.last());
    let status = wait_until("the upgrade's end", END_LIMIT, || {
        child.try_wait()?.context("it still runs")
    });
    match strike {
        Strike::PowerCut => lab.boot(&host)?,
        Strike::ZoneCut => lab.heal(zone)?,
    }
    let last = last.join().ok().flatten().unwrap_or_default();
    ensure!(!status?.success(), "the upgrade claims success");
    ensure!(
        last.contains(&host),
        "its last word names no {host}: {last}"
    );
    let seconds = begun.elapsed().as_secs_f64();
    shell::say(&format!(
        "        {strike:?} of {host}: the upgrade stopped by itself after {seconds:.0} s"
    ));
    wait_until("all hosts", Duration::from_secs(120), || comes_back(next))?;
    Ok(host)
}

/// Within what an upgrade takes until and between its steps.
fn random_moment(random: &mut Random) -> Duration {
    const LEAST_MILLISECONDS: u64 = 4_000;
    const WITHIN_MILLISECONDS: u64 = 18_000;
    Duration::from_millis(LEAST_MILLISECONDS + random.below(WITHIN_MILLISECONDS))
}

/// A pod that nothing would start again, and a budget that lets it nowhere.
const STUCK: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: default, labels: {app: alone}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: alone
    image: docker.io/library/busybox:1.36.1
    imagePullPolicy: IfNotPresent
    command: [sleep, "86400"]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: alone, namespace: default}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: alone}}
"#;

fn what_can_not_move_is_named(next: &Product) -> Result<()> {
    next.apply(STUCK)?;
    let refused = wait_until("a refusal", Duration::from_secs(60), || {
        let refused = outcome(&mut next.verb("upgrade", &["--no-soak", "--dry-run"]))?;
        let named = [
            "pod default/alone has no controller that would start it elsewhere",
            "PodDisruptionBudget default/alone allows no eviction: 1 of its 1 pods",
        ];
        let is_named = named.iter().all(|text| refused.stderr.contains(text));
        ensure!(
            refused.status == 3 && is_named,
            "exit {}\n{}",
            refused.status,
            refused.stderr
        );
        Ok(())
    });
    next.kubectl(&["delete", "pod/alone", "pdb/alone", "-n", "default"])?;
    refused
}

/// A flag in the inventory that only the old minor knows.
fn an_unknown_flag_is_named(next: &Product) -> Result<()> {
    let mut changed = next.clone();
    changed.inventory = next.inventory.with_file_name("flag.toml");
    let text = fs_err::read_to_string(&next.inventory)?;
    let flag = "\n[overrides.kube-controller-manager]\nflags = { concurrent-service-syncs = 2 }\n";
    fs_err::write(&changed.inventory, text + flag)?;
    let refused = outcome(&mut changed.verb("upgrade", &["--yes"]))?;
    let line = fs_err::read_to_string(&changed.inventory)?.lines().count();
    ensure!(
        refused.status == 2
            && refused.stderr.contains("concurrent-service-syncs")
            && refused.stderr.contains(&format!("flag.toml:{line}:")),
        "exit {}\n{}",
        refused.status,
        refused.stderr
    );
    Ok(())
}

/// Up, all the way back from soak, up again, and finished.
pub fn there_back_and_there_again(context: &Context) -> Result<()> {
    let (old, lab) = (&context.product, context.lab()?);
    let next = Product::for_lab(NEXT)?;
    under_load(context, || {
        soak(context, &next)?;
        let inventory = next.inventory.as_str();
        let back = ["rollback", "-i", inventory, "--yes", "--on"];
        // One alone, and an install that leaves it so, whichever bundle it has.
        shell::run(&mut next.command(&[&back[..], &["m2"]].concat()))?;
        is_of(&lab, "m1", "37", "36")?;
        is_of(&lab, "m2", "36", "36")?;
        for product in [old, &next] {
            ensure!(
                product.plan()?.is_empty(),
                "an install would undo the rollback"
            );
        }
        shell::run(&mut next.command(&[&back[..], &["all"]].concat()))?;
        for master in MASTERS {
            is_of(&lab, master, "36", "36")?;
        }
        ensure!(
            old.plan()?.is_empty(),
            "something is left to do after the rollback"
        );
        soak(context, &next)?;
        finish(&next)
    })?;
    is_finished(old, &next)
}

fn soak(context: &Context, next: &Product) -> Result<()> {
    shell::run(&mut next.verb("upgrade", &["--yes"]))?;
    soaks(context, next)
}

fn finish(next: &Product) -> Result<()> {
    shell::run(&mut next.verb("upgrade", &["--finish", "--yes"]))
}

/// Fails unless a master's API server is of a minor, and behaves as another.
fn is_of(lab: &Lab, master: &str, minor: &str, emulated: &str) -> Result<()> {
    let own = "/opt/cofferdam/bin/kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig";
    let text = lab.ssh_output(master, &format!("{own} get --raw /version"))?;
    let version: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(
        version["minor"] == minor && version["emulationMinor"] == emulated,
        "{master} is {text}"
    );
    Ok(())
}

fn is_finished(old: &Product, next: &Product) -> Result<()> {
    let versions = next.kubectl(&KUBELETS)?;
    ensure!(
        versions
            .split(' ')
            .all(|version| version.starts_with(&format!("v{NEXT}."))),
        "kubelets are of {versions}"
    );
    ensure!(next.plan()?.is_empty(), "something is left to do");
    back_is_refused(old)?;
    all_well(next).map(drop)
}

/// Does something that no request may fail for, and nothing be lost.
pub(super) fn under_load(context: &Context, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let lab = context.lab()?;
    let load = Load::start(&context.product, &lab, RATES)?;
    let done = work();
    let loaded = load.end();
    done?;
    let loaded = loaded?;
    loaded.tell();
    loaded.nothing_is_lost(&lab)?;
    let (api, service) = loaded.failed();
    ensure!(
        api == 0 && service == 0,
        "{api} requests of the API failed, {service} of the Service"
    );
    Ok(())
}

/// The control plane is new and behaves as before; nodes are as they were; and
/// an install keeps that.
fn soaks(context: &Context, next: &Product) -> Result<()> {
    let lab = context.lab()?;
    for master in MASTERS {
        is_of(&lab, master, "37", "36")?;
    }
    let kubelets = next.kubectl(&KUBELETS)?;
    ensure!(!kubelets.contains(NEXT), "kubelets are of {kubelets}");
    for product in [&context.product, next] {
        ensure!(
            product.plan()?.is_empty(),
            "something is left to do while it soaks"
        );
    }
    Ok(())
}

const MASTERS: [&str; 3] = ["m1", "m2", "m3"];
/// The versions of all kubelets.
pub(super) const KUBELETS: [&str; 4] = [
    "get",
    "nodes",
    "-o",
    "jsonpath={.items[*].status.nodeInfo.kubeletVersion}",
];

fn back_is_refused(old: &Product) -> Result<()> {
    let refused = outcome(&mut old.verb("upgrade", &["--yes"]))?;
    ensure!(
        refused.status == 3 && refused.stderr.contains("an upgrade never goes back"),
        "an upgrade to an older minor: exit {}\n{}",
        refused.status,
        refused.stderr
    );
    Ok(())
}
