//! Commands that programs call, not people.

use super::fault::{Exit, Fault};
use crate::agent::{self, Root, Worker};
use crate::cli::Cli;
use crate::digest::Digest;
use crate::output::{Output, Style};
use crate::proxy::notify::ServiceManager;
use crate::proxy::{self, ProxyCommand};
use camino::Utf8PathBuf;
use clap::CommandFactory;
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

pub(super) fn completions(shell: clap_complete::Shell, style: Style) -> Result<ExitCode, Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cofferdam", &mut script);
    let script = String::from_utf8(script).map_err(anyhow::Error::from)?;
    Output::new(style)
        .data(&script)
        .map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn agent() -> Result<ExitCode, Fault> {
    super::block_on(async {
        let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
        let worker = Worker::new();
        let hello = agent::serve::hello(worker.root())?;
        agent::serve::serve(worker, hello, input, output).await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn agent_install(digest: &Digest) -> Result<ExitCode, Fault> {
    super::block_on(async {
        let root = Root::host();
        // The shell that wrote the file has become this process.
        let own = agent::install::new_agent(&root, std::process::id());
        agent::install::install_self(&root, &own, digest).await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn agent_replace(digest: &Digest) -> Result<ExitCode, Fault> {
    super::block_on(async {
        let mut input = agent::Moving::new(std::io::stdin());
        agent::install::replace(&Root::host(), digest, &mut input).await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn api_proxy(config: Utf8PathBuf, take_over: Option<u32>) -> Result<ExitCode, Fault> {
    proxy::run(&ProxyCommand { config, take_over })
        .map_err(|error| Fault::of(Exit::Failed, &error))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn route(
    destination: Ipv4Net,
    interface: &str,
    source: Ipv4Addr,
) -> Result<ExitCode, Fault> {
    // None when it is run by hand.
    let manager = ServiceManager::from_environment()?;
    let tell = |standing: &Result<(), String>| {
        let Some(manager) = &manager else { return };
        let status = match standing {
            Ok(()) => format!("READY=1\nSTATUS=The route to {destination} is there"),
            Err(error) => format!("STATUS={}", error.replace('\n', " ")),
        };
        // The manager is in trouble then; the route matters more.
        let _ = manager.notify(&status);
    };
    agent::route::keep(destination.into(), interface, IpAddr::V4(source), tell)?;
    Ok(ExitCode::SUCCESS)
}
