//! The serving process: accepts until it is told to end or to let a successor
//! do it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::connection;
use super::listener;
use super::log::Log;
use super::notify::ServiceManager;
use super::pool::Pool;

/// Kubernetes' clients renew their watches within minutes to an hour; who still
/// holds a connection after a day is cut off, so that old processes don't pile
/// up.
const DRAIN_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// When descriptors or memory are short, some connection has to end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pauses in accepting between two lines in the log.
const ACCEPT_PAUSES_PER_LINE: u64 = 100;

/// What the process is told from outside.
pub struct Signals {
    drain: Signal,
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals. To be called before anybody could send one, since
    /// their default is to kill.
    pub fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("catching signals");
        Ok(Self {
            drain: catch(SignalKind::user_defined1())?,
            reload: catch(SignalKind::hangup())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::End,
            _ = self.interrupt.recv() => Order::End,
            _ = self.drain.recv() => Order::Drain,
            _ = self.reload.recv() => Order::Reload,
        }
    }
}

/// What a signal asks for.
enum Order {
    End,
    Drain,
    Reload,
}

/// Everything that serving needs.
pub struct Server {
    /// The listening socket.
    pub listener: TcpListener,
    /// The API servers, probed already.
    pub pool: Arc<Pool>,
    /// See [`Signals::catch`].
    pub signals: Signals,
    /// Gets a status line when something changes.
    pub manager: Option<ServiceManager>,
    /// For the journal.
    pub log: Log,
}

impl Server {
    /// Serves until SIGTERM or SIGINT, which end it at once, or SIGUSR1, after
    /// which it accepts no more and ends when its last connection has.
    pub async fn run(mut self) -> Result<()> {
        // Each connection holds a sender; nothing is ever sent.
        let (alive, all_ended) = mpsc::channel::<Infallible>(1);
        let mut changes = self.pool.changes();
        changes.mark_changed();
        let mut pauses = 0;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((client, _)) => {
                        // A failure leaves short pauses, which is no reason to
                        // end.
                        let _ = listener::never_block(&self.listener);
                        connection::prepare_client(&client);
                        let (pool, alive) = (Arc::clone(&self.pool), alive.clone());
                        tokio::spawn(async move {
                            connection::serve(client, pool).await;
                            drop(alive);
                        });
                    }
                    Err(error) if is_of_one_client(&error) => {}
                    Err(error) => {
                        if pauses % ACCEPT_PAUSES_PER_LINE == 0 {
                            self.log.warning(&format!("accepting connections: {error}"));
                        }
                        pauses += 1;
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = changes.changed() => {
                    if let Some(manager) = &self.manager {
                        manager.show_status(&self.pool.status());
                    }
                }
                order = self.signals.next() => match order {
                    Order::End => return Ok(()),
                    Order::Drain => break,
                    Order::Reload => {
                        self.log.info("SIGHUP changes nothing; use `systemctl reload`");
                    }
                },
            }
        }
        drop(alive);
        self.drain(all_ended).await;
        Ok(())
    }

    /// Waits for the last connection. Probes go on meanwhile, and with them the
    /// resets of connections to dead hosts.
    async fn drain(self, mut all_ended: mpsc::Receiver<Infallible>) {
        let Self {
            listener,
            pool,
            mut signals,
            log,
            ..
        } = self;
        drop(listener);
        let connections: usize = pool
            .backends
            .iter()
            .map(|backend| backend.connections())
            .sum();
        log.info(&format!(
            "a successor accepts now; {connections} connections are left here"
        ));
        let deadline = tokio::time::Instant::now() + DRAIN_LIMIT;
        loop {
            tokio::select! {
                _ = all_ended.recv() => {
                    log.info("the last connection has ended");
                    return;
                }
                () = sleep_until(deadline) => {
                    log.warning(&format!("ending with connections open after {DRAIN_LIMIT:?}"));
                    return;
                }
                order = signals.next() => match order {
                    Order::End => return,
                    // Told already, or nothing to do.
                    Order::Drain | Order::Reload => {}
                },
            }
        }
    }
}

/// Whether accepting failed for a reason that concerns one client alone.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
