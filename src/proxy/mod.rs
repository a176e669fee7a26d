//! The node-local API proxy: carries TCP connections from loopback to the
//! cluster's API servers, those of the own zone first.
//!
//! - New connections avoid a server whose `/readyz` isn't true; established
//!   ones are left alone. When no server is ready, new connections are held for
//!   some seconds, since one may just be starting; then all servers are tried
//!   anyway: the proxy must never be the reason for an outage.
//! - When a server's *host* is silent for 3 s, its connections are reset, since
//!   a power cut sends no FIN.
//! - A new program, configuration or environment is taken up by
//!   `systemctl reload`, which cuts and refuses no connection; see
//!   [`hand_over`].
//!
//! The units are `templates/systemd/cofferdam-api-proxy.{service,socket}`.

pub mod authority;
pub mod choice;
pub mod configuration;
pub mod connection;
pub mod hand_over;
pub mod health;
pub mod http;
pub mod listener;
pub mod log;
pub mod notify;
pub mod pool;
pub mod probe;
pub mod relay;
pub mod server;
pub mod timings;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use authority::Authority;
use hand_over::{ReloadProcess, Role};
use log::Log;
use notify::ServiceManager;
use pool::Pool;
use server::{Server, Signals};
use timings::Timings;

/// `cofferdam api-proxy --config FILE [--take-over PID]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyCommand {
    /// The configuration file, see [`configuration::ProxyConfiguration`].
    pub config: Utf8PathBuf,
    /// The process to replace, in the unit's `ExecReload=`.
    pub take_over: Option<u32>,
}

/// Runs the command on a runtime of one thread, which is enough for what a node
/// asks and takes the least memory. To be called outside of any runtime.
pub fn run(command: &ProxyCommand) -> Result<()> {
    if let Some(main_process) = command.take_over {
        return hand_over::take_over(&command.config, main_process);
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve(&command.config))
}

/// Serves until SIGTERM, or until a successor has taken over and the last
/// connection has ended. Must run in a tokio runtime with I/O and time.
pub async fn serve(config_path: &Utf8Path) -> Result<()> {
    match Role::from_environment()? {
        Role::First => {
            let server = prepare(config_path).await?;
            if let Some(manager) = &server.manager {
                manager.notify("READY=1")?;
            }
            server.run().await
        }
        Role::Launcher => hand_over::launch(),
        Role::Successor => {
            let mut reload_process = ReloadProcess::connect()?;
            let server = match prepare(config_path).await {
                Ok(server) => server,
                Err(error) => {
                    reload_process.report_failure(&error).await;
                    return Err(error);
                }
            };
            reload_process.wait_for_go().await?;
            drop(reload_process);
            server.run().await
        }
    }
}

/// Everything up to the first accepted connection.
async fn prepare(config_path: &Utf8Path) -> Result<Server> {
    let signals = Signals::catch()?;
    let log = Log::from_environment();
    let configuration = configuration::load(config_path)?;
    let authority = Authority::load(&configuration.certificate_authority).with_context(|| {
        format!("reading key `certificate_authority` of the proxy's configuration {config_path}")
    })?;
    let listener = listener::inherited_or_bound(configuration.listen)?;
    let pool = Pool::new(&configuration, Timings::default(), log);
    pool.start_probes(&authority);
    let rereading = Arc::clone(&authority);
    tokio::spawn(async move { rereading.keep_rereading(log).await });
    pool.first_probes().await;
    log.info(&format!(
        "carrying connections from {} to {} API servers",
        configuration.listen,
        configuration.backends.len()
    ));
    let manager = ServiceManager::from_environment()?;
    Ok(Server {
        listener,
        pool,
        signals,
        manager,
        log,
    })
}
