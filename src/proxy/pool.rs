//! The API servers as the running proxy sees them: health, connections, and
//! the tasks that probe them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::authority::Authority;
use super::choice::{Candidate, Readiness, order_of_dials};
use super::configuration::{BackendConfiguration, ProxyConfiguration};
use super::health::{Consequence, Health};
use super::log::Log;
use super::probe::Probe;
use super::timings::Timings;

/// One API server.
pub struct Backend {
    /// From the configuration.
    pub configuration: BackendConfiguration,
    same_zone: bool,
    connections: AtomicUsize,
    health: Mutex<Health>,
    /// Its number grows whenever all connections are to be reset.
    resets: watch::Sender<u64>,
    /// Wakes the probe early, to dial afresh.
    suspicion: Notify,
    /// Turns true with the end of the first probe.
    probed: watch::Sender<bool>,
}

/// All API servers.
pub struct Pool {
    /// In the configuration's order.
    pub backends: Vec<Arc<Backend>>,
    /// Limits of waits.
    pub timings: Timings,
    rotation: AtomicUsize,
    log: Log,
    /// Its number grows with each change of some readiness.
    changes: watch::Sender<u64>,
}

/// Counts a connection as its API server's for as long as it lives.
pub struct ConnectionCount {
    backend: Arc<Backend>,
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.backend.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backend {
    /// Counts one more connection until the returned value is dropped.
    pub fn count_connection(self: &Arc<Self>) -> ConnectionCount {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount {
            backend: Arc::clone(self),
        }
    }

    /// Changes when all connections to this server are to be reset.
    pub fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }

    /// Connections of this proxy now, dials included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// What is known of it.
    pub fn readiness(&self) -> Readiness {
        self.health().readiness()
    }

    /// The state is replaced as a whole under this lock, so that a panic of
    /// another holder can't have left it half-written.
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// All API servers of a configuration, not yet probed.
    pub fn new(configuration: &ProxyConfiguration, timings: Timings, log: Log) -> Arc<Self> {
        let backends = configuration.backends.iter().map(|backend| {
            Arc::new(Backend {
                configuration: backend.clone(),
                same_zone: backend.zone == configuration.zone,
                connections: AtomicUsize::new(0),
                health: Mutex::default(),
                resets: watch::Sender::new(0),
                suspicion: Notify::new(),
                probed: watch::Sender::new(false),
            })
        });
        Arc::new(Self {
            backends: backends.collect(),
            timings,
            rotation: AtomicUsize::new(0),
            log,
            changes: watch::Sender::new(0),
        })
    }

    /// All API servers in the order in which a new connection tries them.
    pub fn order(&self) -> Vec<Arc<Backend>> {
        let candidates: Vec<Candidate> = self
            .backends
            .iter()
            .map(|backend| Candidate {
                readiness: backend.readiness(),
                same_zone: backend.same_zone,
                connections: backend.connections(),
            })
            .collect();
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        order_of_dials(&candidates, rotation)
            .into_iter()
            .map(|index| Arc::clone(&self.backends[index]))
            .collect()
    }

    /// Whether a new client should rather wait than be given a server that
    /// isn't ready: none is ready or unprobed, and none has been unready for so
    /// long that waiting for it would help nobody.
    pub fn holds_clients(&self) -> bool {
        let now = Instant::now();
        self.backends.iter().all(|backend| {
            backend.readiness() > Readiness::Unknown
                && !backend
                    .health()
                    .answers_unready_for(self.timings.longest_start, now)
        })
    }

    /// A client's dial failed: others avoid this server until a probe, which
    /// is made at once, has reached it.
    pub fn report_failed_dial(&self, backend: &Backend, reason: String) {
        let consequence = backend.health().record_failed_dial(reason);
        self.follow(backend, consequence);
        backend.suspicion.notify_one();
    }

    /// Changes with each change of some readiness.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// One line for `systemctl status`.
    pub fn status(&self) -> String {
        let ready = self
            .backends
            .iter()
            .filter(|backend| backend.readiness() == Readiness::Ready)
            .count();
        let avoided: Vec<String> = self
            .backends
            .iter()
            .filter(|backend| backend.readiness() > Readiness::Unknown)
            .map(|backend| {
                format!(
                    "{} ({})",
                    backend.configuration.name,
                    backend.health().reason()
                )
            })
            .collect();
        let mut status = format!("{ready} of {} API servers ready", self.backends.len());
        if !avoided.is_empty() {
            status.push_str("; avoided: ");
            status.push_str(&avoided.join(", "));
        }
        status
    }

    /// Starts a probe for each API server; they run until the runtime ends.
    pub fn start_probes(self: &Arc<Self>, authority: &Arc<Authority>) {
        for backend in &self.backends {
            let (pool, backend) = (Arc::clone(self), Arc::clone(backend));
            let authority = Arc::clone(authority);
            tokio::spawn(async move { pool.keep_probing(&backend, &authority).await });
        }
    }

    /// Waits until each API server was probed once, within limits.
    pub async fn first_probes(&self) {
        let all = join_all(self.backends.iter().map(|backend| async {
            // An error means that the sender is gone, which ends the wait too.
            let _ = backend.probed.subscribe().wait_for(|probed| *probed).await;
        }));
        // A server that wasn't probed in time is simply an unknown one.
        let _ = timeout(self.timings.first_probes, all).await;
    }

    async fn keep_probing(&self, backend: &Backend, authority: &Authority) {
        let mut probe = Probe::new(backend.configuration.address, self.timings);
        let mut ticks: Interval = interval(self.timings.probe_interval);
        // After a probe that took long, the next follows at once and the ones
        // after it keep the distance.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = backend.suspicion.notified() => {
                    probe.forget_connection();
                    // Clients that fail to connect, thousands at once perhaps,
                    // are no reason to probe without a pause.
                    ticks.reset();
                }
            }
            let started = Instant::now();
            let result = probe.ask(&authority.connector()).await;
            let consequence = backend.health().record_probe(
                result,
                started,
                Instant::now(),
                self.timings.reset_after,
            );
            self.follow(backend, consequence);
            self.part_with_outdated(backend);
            backend.probed.send_replace(true);
        }
    }

    /// Does what a probe or dial led to.
    fn follow(&self, backend: &Backend, consequence: Consequence) {
        let BackendConfiguration { name, address, .. } = &backend.configuration;
        if consequence.changed {
            let (readiness, reason) = {
                let health = backend.health();
                (health.readiness(), health.reason().to_owned())
            };
            match readiness {
                Readiness::Ready => self.log.info(&format!("{name} ({address}) is ready")),
                _ => self.log.warning(&format!(
                    "avoiding {name} ({address}) for new connections: {reason}"
                )),
            }
            self.changes.send_modify(|number| *number += 1);
        }
        if consequence.reset_connections {
            let reason = format!(
                "its host has been silent for {:?}",
                self.timings.reset_after
            );
            self.reset(backend, &reason);
        }
    }

    /// Resets connections to a server that stays unready while another is
    /// ready: one that has lost its etcd answers for ever, and its watches say
    /// nothing new.
    fn part_with_outdated(&self, backend: &Backend) {
        let limit = self.timings.outdated_after;
        let is_outdated = backend.health().answers_unready_for(limit, Instant::now());
        let mut all = self.backends.iter();
        if is_outdated && all.any(|other| other.readiness() == Readiness::Ready) {
            let reason = format!("it has not been ready for {limit:?}, and another is");
            self.reset(backend, &reason);
        }
    }

    fn reset(&self, backend: &Backend, reason: &str) {
        let connections = backend.connections();
        if connections == 0 {
            return;
        }
        let BackendConfiguration { name, address, .. } = &backend.configuration;
        self.log.warning(&format!(
            "resetting {connections} connections to {name} ({address}): {reason}"
        ));
        backend.resets.send_modify(|number| *number += 1);
    }
}
