//! A client of the API server on a host of the lab: it asks through the host's
//! own proxy, several times a second, and keeps when it was answered.

use crate::lab::{Host, Kind, Lab};
use crate::shell;
use anyhow::{Context, Result, ensure};
use fs_err as fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Every host's proxy.
const PROXY: &str = "https://127.0.0.1:6444";
const OBJECT: &str = "/api/v1/namespaces/default";
/// Between two questions on connections of their own.
const PAUSE: Duration = Duration::from_millis(100);
/// A client that gets no answer to a request on a new connection for that long
/// asks again, in seconds.
const PATIENCE: &str = "1";
/// One that keeps its connection waits for longer, in seconds.
const LONG_PATIENCE: &str = "30";
/// Questions a second on a connection that is kept.
const RATE: &str = "10/s";

/// Clients are at work for that long before anything happens.
const BEFORE: Duration = Duration::from_secs(3);

/// What a client does between its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// Each question, a write, has a connection of its own.
    New,
    /// All questions, reads that etcd is asked for, share one as long as it
    /// lives.
    Kept,
}

/// The administrator's certificate and key, as files for curl.
pub struct Credentials {
    directory: tempfile::TempDir,
}

/// A client at work.
struct Probe {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Instant>>>,
    /// The one curl of a connection that is kept.
    child: Option<Child>,
    thread: Option<JoinHandle<()>>,
}

/// Clients on several hosts.
pub struct Probes<'a>(Vec<(&'a Host, Probe)>);

impl<'a> Probes<'a> {
    /// Starts them all; each asks a few times before this returns.
    pub fn start(
        credentials: &Arc<Credentials>,
        hosts: &[&'a Host],
        connections: Connections,
    ) -> Result<Self> {
        let start = |host: &&'a Host| Ok((*host, Probe::start(credentials, host, connections)?));
        let probes = hosts.iter().map(start).collect::<Result<_>>()?;
        std::thread::sleep(BEFORE);
        Ok(Self(probes))
    }

    /// Ends them: the longest time without an answer after `since` on each
    /// host, in seconds.
    ///
    /// # Errors
    /// If one was never answered before, or not again after.
    pub fn longest_silences(self, since: Instant) -> Result<Vec<(&'a Host, f64)>> {
        let each = self.0.into_iter();
        each.map(|(host, probe)| {
            let seconds = probe.longest_silence(since);
            let seconds = seconds.with_context(|| format!("asking from {}", host.name))?;
            Ok((host, seconds))
        })
        .collect()
    }
}

impl Credentials {
    /// Reads them from the first master.
    pub fn read(lab: &Lab) -> Result<Self> {
        shell::debian_packages(&["curl", "iproute2"])?;
        let masters = lab.hosts().iter();
        let mut masters = masters.filter(|host| host.kind == Kind::Master);
        let master = masters.next().context("no master")?;
        let directory = tempfile::tempdir()?;
        for (field, file) in [
            ("certificate-authority-data", "ca.crt"),
            ("client-certificate-data", "client.crt"),
            ("client-key-data", "client.key"),
        ] {
            let line = format!(
                "sed -n 's/^ *\"\\?{field}\"\\?: *\"\\?\\([A-Za-z0-9+\\/=]*\\).*/\\1/p' /etc/kubernetes/admin.kubeconfig | base64 -d"
            );
            let content = lab.ssh_output(&master.name, &line)?;
            ensure!(!content.is_empty(), "the kubeconfig has no {field}");
            fs::write(directory.path().join(file), content)?;
        }
        Ok(Self { directory })
    }

    /// curl in a host's network, as the administrator.
    fn curl(&self, host: &Host, patience: &str) -> Command {
        let file = |name: &str| self.directory.path().join(name);
        let mut curl = shell::attached("ip");
        curl.args(["netns", "exec", &host.namespace(), "curl"]);
        curl.args(["--silent", "--output", "/dev/null", "--max-time", patience]);
        curl.arg("--cacert").arg(file("ca.crt"));
        curl.arg("--cert").arg(file("client.crt"));
        curl.arg("--key").arg(file("client.key"));
        curl.stdin(Stdio::null()).stdout(Stdio::null());
        curl
    }
}

impl Probe {
    /// Starts to ask from a host.
    fn start(
        credentials: &Arc<Credentials>,
        host: &Host,
        connections: Connections,
    ) -> Result<Self> {
        match connections {
            Connections::New => Ok(Self::on_new_connections(credentials.clone(), host.clone())),
            Connections::Kept => Self::on_one_connection(credentials, host),
        }
    }

    fn on_new_connections(credentials: Arc<Credentials>, host: Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (stopped, kept) = (stop.clone(), answers.clone());
        let thread = std::thread::spawn(move || {
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let body = format!(
                    "{{\"metadata\":{{\"annotations\":{{\"probe-{}\":\"{round}\"}}}}}}",
                    host.name
                );
                let mut curl = credentials.curl(&host, PATIENCE);
                curl.args(["--fail", "--request", "PATCH", "--data", &body]);
                curl.args(["--header", "Content-Type: application/merge-patch+json"]);
                curl.arg(format!("{PROXY}{OBJECT}")).stderr(Stdio::null());
                if curl.status().is_ok_and(|status| status.success()) {
                    keep(&kept, Instant::now());
                }
                std::thread::sleep(PAUSE);
            }
        });
        Self {
            stop,
            answers,
            child: None,
            thread: Some(thread),
        }
    }

    fn on_one_connection(credentials: &Credentials, host: &Host) -> Result<Self> {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let mut curl = credentials.curl(host, LONG_PATIENCE);
        curl.args(["--rate", RATE, "--write-out", "%{stderr}%{http_code}\\n"]);
        curl.arg(format!("{PROXY}{OBJECT}?question=[1-1000000]"));
        let mut child = curl
            .stderr(Stdio::piped())
            .spawn()
            .context("starting curl")?;
        let lines = child.stderr.take().context("no standard error")?;
        let kept = answers.clone();
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                if line == "200" {
                    keep(&kept, Instant::now());
                }
            }
        });
        Ok(Self {
            stop: Arc::default(),
            answers,
            child: Some(child),
            thread: Some(thread),
        })
    }

    /// Ends it: the longest time without an answer after `since`, in seconds.
    ///
    /// # Errors
    /// If nothing was answered before, or nothing after.
    fn longest_silence(mut self, since: Instant) -> Result<f64> {
        let ended = Instant::now();
        self.end();
        let answers = self.answers.lock().map(|answers| answers.clone());
        silence(&answers.unwrap_or_default(), since, ended)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(thread) = self.thread.take() {
            // What it kept is there even if it panicked.
            let _ = thread.join();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep(answers: &Mutex<Vec<Instant>>, at: Instant) {
    if let Ok(mut answers) = answers.lock() {
        answers.push(at);
    }
}

/// The longest gap between two answers after `since`, the first gap beginning
/// there and the last one ending at `ended`.
fn silence(answers: &[Instant], since: Instant, ended: Instant) -> Result<f64> {
    let before = answers.iter().filter(|at| **at < since).count();
    ensure!(before > 0, "no answer before");
    let after: Vec<Instant> = answers[before..].to_vec();
    ensure!(!after.is_empty(), "no answer after");
    let ends = after.iter().copied().chain([ended]);
    let begins = [since].into_iter().chain(after.iter().copied());
    let gaps = begins
        .zip(ends)
        .map(|(begin, end)| (end - begin).as_secs_f64());
    Ok(gaps.fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silence_is_from_what_happened_or_between_two_answers() {
        let zero = Instant::now();
        let at = |seconds: &[u64]| -> Vec<Instant> {
            let each = seconds.iter();
            each.map(|seconds| zero + Duration::from_secs(*seconds))
                .collect()
        };
        let since = zero + Duration::from_secs(10);
        let ended = zero + Duration::from_secs(30);
        let table: &[(&[u64], f64)] = &[
            (&[9, 13, 20, 29], 9.0),
            (&[9, 22, 25, 29], 12.0),
            (&[1, 11, 15], 15.0),
        ];
        for (answers, expected) in table {
            let found = silence(&at(answers), since, ended).unwrap();
            assert!((found - expected).abs() < 1e-9, "{answers:?}: {found}");
        }
        for answers in [&[11, 12][..], &[1, 2]] {
            assert!(silence(&at(answers), since, ended).is_err());
        }
    }
}
