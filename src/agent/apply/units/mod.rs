//! Starts, restarts, reloads and stops units. A unit's inputs file is written
//! right before, so that a restart that a crash swallowed is seen later.

mod limits;

use super::files::reload;
use crate::agent::atomic::{self, Ownership};
use crate::agent::channel::NoticeSender;
use crate::agent::command::Program;
use crate::agent::journal;
use crate::agent::observe::{Shown, inputs_of, show_units};
use crate::agent::root::Root;
use crate::agent::taken_up;
use crate::digest::Digest;
use crate::host::{Failure, Notice};
use crate::layout;
use crate::plan::{UnitChange, UnitVerb};
use anyhow::{Context, Result, anyhow};
use limits::{LONGEST_STOP, RELOAD_LIMIT, START_LIMIT, stop_limit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A process shows its inputs as soon as it executes its program. One that
/// does not by then was started by somebody else with the inputs before, such
/// as by its socket, and is restarted.
const TAKE_UP_LIMIT: Duration = Duration::from_secs(3);
/// systemd's state changes within milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Whether each unit is to be active before the next one is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    EachActive,
    /// All jobs are queued: members of etcd become active only together.
    Queued,
}

pub(super) async fn start(
    root: &Root,
    changes: &[UnitChange],
    inputs: &BTreeMap<String, Digest>,
    waiting: Waiting,
    notices: &NoticeSender,
) -> Result<()> {
    let interrupted = stop_sockets(root, changes).await?;
    reload(root).await?;
    let names: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
    let shown = show_units(root, &names).await?;
    for name in &names {
        check_loaded(name, shown.get(*name))?;
    }
    if enable(root, &shown).await? == Enabled::Some {
        // A unit that was enabled counts as changed until it is read again.
        reload(root).await?;
    }
    for change in changes {
        let job = Job {
            root,
            unit: &change.name,
            inputs: inputs.get(&change.name).copied(),
            notices,
        };
        match change.verb {
            UnitVerb::Enable => {}
            verb => job.change(verb, waiting).await?,
        }
    }
    for service in interrupted {
        if !names.contains(&service.as_str()) {
            run_verb(root, &service, "start").await?;
        }
    }
    Ok(())
}

/// Stops sockets that are to be started anew, with the services that run on
/// them: systemd starts no socket whose service runs. The only trace of a
/// changed socket is that systemd has not read it yet, so this comes before
/// it does: from here on the trace is that the socket is not active. Returns
/// the services that ran.
async fn stop_sockets(root: &Root, changes: &[UnitChange]) -> Result<Vec<String>> {
    let sockets = changes
        .iter()
        .filter(|change| change.verb != UnitVerb::Enable)
        .filter_map(|change| Some((change.name.as_str(), change.name.strip_suffix(".socket")?)));
    let mut interrupted = Vec::new();
    for (socket, name) in sockets {
        let service = format!("{name}.service");
        let shown = show_units(root, &[socket, &service]).await?;
        let is_active = |unit: &str| shown.get(unit).is_some_and(Shown::is_active);
        if is_active(&service) {
            interrupted.push(service.clone());
            run_verb(root, &service, "stop").await?;
        }
        if is_active(socket) {
            run_verb(root, socket, "stop").await?;
        }
    }
    Ok(interrupted)
}

/// Stops units that are to be started again soon.
pub(super) async fn halt(root: &Root, units: &[String], notices: &NoticeSender) -> Result<()> {
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let shown = show_units(root, &names).await?;
    for unit in units {
        let Some(unit_shown) = shown.get(unit) else {
            continue;
        };
        if unit_shown.get("LoadState") == "not-found" {
            continue;
        }
        notices.send_lossy(Notice::Waiting {
            reason: format!("{unit}: stopping"),
        });
        let program = systemctl(root, &["stop", unit])?.limit(stop_limit(unit_shown));
        run(root, unit, &program, "stopping").await?;
    }
    Ok(())
}

/// Stops units without waiting for what they have in hand, which can be forever
/// where what they need is gone.
pub(super) async fn halt_at_once(
    root: &Root,
    units: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let shown = show_units(root, &names).await?;
    for (unit, _) in shown.iter().filter(|(_, shown)| shown.main_pid() != 0) {
        // On its way to its end first, or systemd would start it again.
        let queue = systemctl(root, &["stop", "--no-block", unit])?.limit(LIMIT);
        run(root, unit, &queue, "stopping").await?;
        // It may have ended by itself meanwhile.
        let kill = systemctl(root, &["kill", "--signal=SIGKILL", unit])?;
        let _ = kill.limit(LIMIT).succeed().await;
    }
    halt(root, units, notices).await
}

pub(super) async fn stop(root: &Root, units: &[String], notices: &NoticeSender) -> Result<()> {
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let shown = show_units(root, &names).await?;
    for unit in units {
        let Some(unit_shown) = shown.get(unit) else {
            continue;
        };
        if unit_shown.get("ActiveState") != "inactive" {
            notices.send_lossy(Notice::Waiting {
                reason: format!("{unit}: stopping"),
            });
            let program = systemctl(root, &["stop", unit])?.limit(stop_limit(unit_shown));
            run(root, unit, &program, "stopping").await?;
        }
        if unit_shown.get("LoadState") == "loaded" {
            systemctl(root, &["disable", "--quiet", "--no-reload", unit])?
                .succeed()
                .await
                .with_context(|| format!("disabling {unit}"))?;
        }
        atomic::remove_if_there(&root.path(layout::inputs_file(unit)))?;
    }
    Ok(())
}

/// One unit that is started, restarted or reloaded.
struct Job<'a> {
    root: &'a Root,
    unit: &'a str,
    inputs: Option<Digest>,
    notices: &'a NoticeSender,
}

impl Job<'_> {
    async fn change(&self, verb: UnitVerb, waiting: Waiting) -> Result<()> {
        let shown = self.show().await?;
        if layout::SYSTEM_UNITS.contains(&self.unit) && !shown.is_active() {
            // It ended since it was looked at, and is not ours to start.
            return Ok(());
        }
        if self.unit == layout::NETWORK_MANAGER {
            return self.take_up().await;
        }
        let is_current = self.inputs.is_none() || self.running_inputs(&shown) == self.inputs;
        let verb = match verb {
            UnitVerb::Start if shown.is_active() && is_current => return Ok(()),
            // What is on its way up (by its socket, or again and again) may
            // have read the inputs that were there before.
            _ if shown.has_process() && !shown.is_active() => UnitVerb::Restart,
            UnitVerb::Start if shown.is_active() => UnitVerb::Restart,
            UnitVerb::Reload if !shown.is_active() => UnitVerb::Start,
            other => other,
        };
        // The inputs of a unit whose process has ended are read from its
        // file: it must not say something new while the unit is up.
        if shown.is_oneshot() && shown.is_active() {
            let program = self.systemctl(&["stop", self.unit])?;
            self.run(&program.limit(stop_limit(&shown)), "stopping")
                .await?;
        }
        if let Some(inputs) = self.inputs {
            write_inputs(self.root, self.unit, inputs)?;
        }
        self.reset_failed().await?;
        let limit = match verb {
            UnitVerb::Restart => START_LIMIT + stop_limit(&shown),
            _ => START_LIMIT,
        };
        match verb {
            UnitVerb::Reload => {
                let program = self.systemctl(&["reload", self.unit])?;
                self.run(&program.limit(RELOAD_LIMIT), "reloading").await?;
            }
            UnitVerb::Restart => self.queue("restart").await?,
            UnitVerb::Start | UnitVerb::Enable => self.queue("start").await?,
        }
        match waiting {
            Waiting::Queued => Ok(()),
            Waiting::EachActive => self.wait(verb, limit).await,
        }
    }

    /// Has NetworkManager read its files again, and records which.
    async fn take_up(&self) -> Result<()> {
        let version = taken_up::version(self.root);
        let program = self.systemctl(&["reload", self.unit])?;
        self.run(&program.limit(RELOAD_LIMIT), "reloading").await?;
        match (self.inputs, version) {
            (Some(inputs), Some(version)) => taken_up::record(self.root, inputs, &version),
            _ => Ok(()),
        }
    }

    /// Waits until the unit is active and, where it has inputs, its process
    /// carries them.
    async fn wait(&self, verb: UnitVerb, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut is_repeated = verb == UnitVerb::Reload;
        let mut told = BTreeSet::new();
        loop {
            let shown = self.show().await?;
            let is_current = self.inputs.is_none() || self.running_inputs(&shown) == self.inputs;
            let is_up = shown.is_active() && !shown.has_job();
            if is_up && is_current {
                return Ok(());
            }
            if is_up && !is_repeated && begin.elapsed() >= TAKE_UP_LIMIT {
                is_repeated = true;
                self.queue("restart").await?;
            }
            let reason = if is_up {
                "its process does not run with its new configuration yet".to_owned()
            } else {
                shown.summary()
            };
            let has_failed = shown.get("ActiveState") == "failed" && !shown.has_job();
            if has_failed || begin.elapsed() >= limit {
                let within = if has_failed {
                    String::new()
                } else {
                    format!("not up within {} s; last: ", limit.as_secs())
                };
                let message = format!("{} {}: {within}{reason}", gerund(verb), self.unit);
                return Err(journal::failure(self.root, self.unit, message).await.into());
            }
            // A unit that fails over and over goes back and forth.
            if told.insert(reason.clone()) {
                self.notices.send_lossy(Notice::Waiting {
                    reason: format!("{}: {reason}", self.unit),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn show(&self) -> Result<Shown> {
        let mut shown = show_units(self.root, &[self.unit]).await?;
        shown
            .remove(self.unit)
            .ok_or_else(|| anyhow!("asking systemd about {}: it says nothing", self.unit))
    }

    fn running_inputs(&self, shown: &Shown) -> Option<Digest> {
        inputs_of(self.root, self.unit, shown)
    }

    /// Clears an earlier failure and its count of starts.
    async fn reset_failed(&self) -> Result<()> {
        // A unit that never failed is an error of no interest.
        self.systemctl(&["reset-failed", self.unit])?
            .finish()
            .await?;
        Ok(())
    }

    async fn queue(&self, verb: &str) -> Result<()> {
        let program = self.systemctl(&[verb, "--no-block", self.unit])?;
        self.run(&program, "starting").await
    }

    async fn run(&self, program: &Program, doing: &str) -> Result<()> {
        run(self.root, self.unit, program, doing).await
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<Program> {
        systemctl(self.root, arguments)
    }
}

/// `systemctl VERB UNIT`, waited for.
pub(super) async fn run_verb(root: &Root, unit: &str, verb: &str) -> Result<()> {
    let program = systemctl(root, &[verb, unit])?.limit(LONGEST_STOP);
    run(root, unit, &program, verb).await
}

/// Has a unit started, without waiting for it.
pub(super) async fn queue_start(root: &Root, unit: &str, limit: Duration) -> Result<()> {
    let program = systemctl(root, &["start", "--no-block", unit])?.limit(limit);
    run(root, unit, &program, "starting").await
}

/// Runs a command about a unit; its failure carries the unit's last lines.
async fn run(root: &Root, unit: &str, program: &Program, doing: &str) -> Result<()> {
    let finished = program.finish().await?;
    if finished.status.success() {
        return Ok(());
    }
    let reason = program.failure(&finished).message;
    let message = format!("{doing} {unit}: {reason}");
    Err(journal::failure(root, unit, message).await.into())
}

/// Whether anything had to be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enabled {
    None,
    Some,
}

async fn enable(root: &Root, shown: &BTreeMap<String, Shown>) -> Result<Enabled> {
    let names: Vec<&str> = shown
        .iter()
        .filter(|(_, shown)| !shown.starts_at_boot())
        .map(|(name, _)| name.as_str())
        .filter(|name| !layout::SYSTEM_UNITS.contains(name))
        .collect();
    if names.is_empty() {
        return Ok(Enabled::None);
    }
    systemctl(root, &["enable", "--quiet", "--no-reload"])?
        .arguments(names.iter().copied())
        .succeed()
        .await
        .with_context(|| format!("enabling {}", names.join(", ")))?;
    Ok(Enabled::Some)
}

fn check_loaded(name: &str, shown: Option<&Shown>) -> Result<()> {
    let state = shown.map_or("unknown", |shown| shown.get("LoadState"));
    let failure = |message: String, hint: String| Failure {
        message,
        lines: Vec::new(),
        hint: Some(hint),
    };
    match state {
        "loaded" => Ok(()),
        "masked" => Err(failure(
            format!("starting {name}: the unit is masked"),
            format!("find out who masked it, then `systemctl unmask {name}` on the host"),
        )
        .into()),
        other => {
            let detail = shown.map_or("", |shown| shown.get("LoadError"));
            Err(failure(
                format!("starting {name}: systemd calls the unit {other} {detail}")
                    .trim_end()
                    .to_owned(),
                format!("look at it on the host: `systemctl status {name}`"),
            )
            .into())
        }
    }
}

fn write_inputs(root: &Root, unit: &str, inputs: Digest) -> Result<()> {
    let text = format!("{}={inputs}\n", layout::INPUTS_VARIABLE);
    let place = root.path(layout::inputs_file(unit));
    atomic::write_and_sync(&place, text.as_bytes(), Ownership::own(0o644))
}

fn systemctl(root: &Root, arguments: &[&str]) -> Result<Program> {
    Ok(Program::new(root.program("systemctl")?).arguments(arguments.iter().copied()))
}

fn gerund(verb: UnitVerb) -> &'static str {
    match verb {
        UnitVerb::Start | UnitVerb::Enable => "starting",
        UnitVerb::Restart => "restarting",
        UnitVerb::Reload => "reloading",
    }
}

#[cfg(test)]
mod tests;
