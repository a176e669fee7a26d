//! Installs that are cut short at chosen moments, and the same command again.

use super::images;
use super::lists::{ONE_MASTER, THREE_MASTERS};
use super::random::Random;
use super::{Context, bare_hosts, same_state, state, undisturbed};
use crate::product::{Product, wait_until};
use crate::shell;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// An install that is cut short has ended by itself within this: a lost host
/// is noticed after thirty seconds.
const END_LIMIT: Duration = Duration::from_secs(120);

/// What is taken away.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Cli,
    Agent(&'static str),
    Power(&'static str),
    /// The instance that takes in a host's share of the bundle.
    Registry(&'static str),
}

/// When: so long after the stage began.
#[derive(Clone, Copy, Debug)]
struct Moment {
    stage: &'static str,
    after: Duration,
}

const fn moment(stage: &'static str, milliseconds: u64) -> Moment {
    Moment {
        stage,
        after: Duration::from_millis(milliseconds),
    }
}

/// One install in which the CLI, agents and a registry that is being filled get
/// `kill -9`, and hosts lose their power and come back.
pub fn ten_blows(context: &Context) -> Result<()> {
    interrupted(
        context,
        &[
            (moment("prepare", 200), Blow::Cli),
            (moment("registry", 0), Blow::Registry("m1")),
            (moment("registry", 500), Blow::Agent("m1")),
            (moment("registry", 300), Blow::Power("m1")),
            (moment("stage", 1500), Blow::Cli),
            (moment("stage", 1000), Blow::Agent("w2")),
            (moment("stage", 1500), Blow::Power("w1")),
            (moment("etcd", 300), Blow::Cli),
            (moment("control-plane", 1000), Blow::Power("m1")),
            (moment("nodes", 500), Blow::Agent("m1")),
        ],
    )
}

fn interrupted(context: &Context, blows: &[(Moment, Blow)]) -> Result<()> {
    bare_hosts(context, ONE_MASTER)?;
    for (moment, blow) in blows {
        shell::say(&format!(
            "        {blow:?} at {} + {:?}",
            moment.stage, moment.after
        ));
        one_blow(context, *moment, *blow)
            .with_context(|| format!("{blow:?} at {}", moment.stage))?;
    }
    finish(context)
}

/// The same command again, to its end, which is that of an undisturbed run.
fn finish(context: &Context) -> Result<()> {
    context
        .product
        .install()
        .context("the same command at the end")?;
    let steps = context.product.plan()?;
    ensure!(
        steps.is_empty(),
        "{} steps are left after the install",
        steps.len()
    );
    same_state(&undisturbed()?, &state::of(&context.lab()?)?)
}

/// An install over three zones that is killed once, at the first moment of
/// seed 1, and repeated.
pub fn killed_once(context: &Context) -> Result<()> {
    kill_at(context, random_moment(&mut Random::of(1)))?;
    context
        .product
        .install()
        .context("the same command again")?;
    images::asked_for_by_digest_and_tag(&context.lab()?)
}

/// `kill -9` of the CLI at ten random moments of an install over three zones,
/// each on bare hosts. `COFFERDAM_SEED` repeats a run.
pub fn ten_random_kills(context: &Context) -> Result<()> {
    let mut random = Random::seeded()?;
    for _ in 0..10 {
        let moment = random_moment(&mut random);
        bare_hosts(context, THREE_MASTERS)?;
        kill_at(context, moment)?;
        finish(context).with_context(|| format!("killed after {moment:?}"))?;
    }
    Ok(())
}

fn kill_at(context: &Context, moment: Duration) -> Result<()> {
    shell::say(&format!(
        "        kill -9 after {:.1} s",
        moment.as_secs_f64()
    ));
    let mut child = start(&context.product)?;
    let stdout = child.stdout.take().context("no standard output")?;
    // Somebody must go on reading, or the run stops for a full pipe.
    std::thread::spawn(move || BufReader::new(stdout).lines().for_each(drop));
    std::thread::sleep(moment);
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// A random moment within the time that an install takes.
fn random_moment(random: &mut Random) -> Duration {
    const WITHIN_MILLISECONDS: u64 = 70_000;
    Duration::from_millis(random.below(WITHIN_MILLISECONDS))
}

/// Starts an install, strikes at the moment, and sees it end. If the stage has
/// nothing left to do, it isn't reached, and the install just succeeds.
fn one_blow(context: &Context, moment: Moment, blow: Blow) -> Result<()> {
    let mut child = start(&context.product)?;
    let Some(rest) = wait_for_stage(&mut child, moment.stage)? else {
        bail!("the install ended before stage {}", moment.stage);
    };
    std::thread::sleep(moment.after);
    let lab = context.lab()?;
    match blow {
        Blow::Cli => child.kill()?,
        Blow::Agent(host) => {
            lab.ssh_output(host, "pkill -9 -f '^/opt/cofferdam/agent agent' || true")?;
        }
        Blow::Power(host) => lab.kill(host)?,
        Blow::Registry(host) => {
            // As soon as it runs: it is filled within seconds.
            let kill = "for n in $(seq 600); do \
                pkill -9 -f '[s]erve /run/cofferdam/seed/' && exit; sleep 0.05; done; exit 1";
            lab.ssh_output(host, kill)?;
        }
    }
    let status = wait_until("the install's end", END_LIMIT, || {
        child.try_wait()?.context("it still runs")
    })?;
    let told = rest
        .join()
        .map_err(|_| anyhow!("reading the install's events"))?;
    if let Blow::Registry(host) = blow {
        let failed = told.iter().rev().find(|line| line.contains("run-failed"));
        let failed = failed.context("no failure was told")?;
        ensure!(
            failed.contains(host) && failed.contains("registry"),
            "it was told so: {failed}"
        );
    }
    if !matches!(blow, Blow::Cli) {
        ensure!(
            !status.success(),
            "the install claims success without {blow:?}"
        );
    }
    if let Blow::Power(host) = blow {
        lab.boot(host)?;
    }
    Ok(())
}

fn start(product: &Product) -> Result<Child> {
    product
        .verb("install", &["--yes", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the install")
}

/// Reads events until the stage begins, and then on beside us; none if the run ends
/// before.
fn wait_for_stage(child: &mut Child, stage: &str) -> Result<Option<JoinHandle<Vec<String>>>> {
    let stdout = child
        .stdout
        .take()
        .context("the child has a standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    for line in lines.by_ref() {
        let line = line?;
        let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else {
            continue;
        };
        if event["event"] == "stage-started" && event["stage"] == stage {
            // Somebody must go on reading, or the run stops for a full pipe.
            let read = move || lines.map_while(std::result::Result::ok).collect();
            return Ok(Some(std::thread::spawn(read)));
        }
    }
    child.wait()?;
    Ok(None)
}
