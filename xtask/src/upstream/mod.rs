//! `cargo xtask upstream`: builds the real components of a Kubernetes minor
//! and lays out a local mirror of the places where upstream publishes them.
//!
//! What is built is data, `upstream/<minor>/`; another minor is another
//! directory there.

mod build;
mod cache;
mod components;
pub mod cross;
mod http;
mod image;
pub mod image_archive;
pub mod mirror;
mod progress;
mod registry;
mod server;
pub mod tarball;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use camino::Utf8Path;
use std::io::Write;
use std::time::{Duration, Instant};

pub use components::Platform;
pub use mirror::{Mirror, Served};
pub use registry::Private;

use self::build::{Source, Toolchain, build};
use self::cache::Cache;
use self::components::Components;
use self::progress::{Progress, seconds};
use crate::paths;
use crate::shell::{self, say};

/// How often `serve` looks whether its servers are still there.
const SERVE_INTERVAL: Duration = Duration::from_secs(1);

/// The tasks' own needs: `busybox httpd` serves the files, and `setpriv` ties
/// the servers to this process.
const DEBIAN_PACKAGES: [&str; 2] = ["busybox-static", "util-linux"];

#[derive(clap::Args)]
pub struct Args {
    /// Minor version of Kubernetes, a directory of `upstream/`.
    #[arg(long, default_value = "1.36", global = true)]
    minor: String,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Serve the mirror on loopback until interrupted, and print the options
    /// that make `cofferdam bundle` use it.
    Serve,
}

pub fn run(args: &Args) -> Result<()> {
    let mirror = ensure(&args.minor)?;
    match args.action {
        None => Ok(()),
        Some(Action::Serve) => serve(&mirror),
    }
}

/// Builds what is not in the cache yet, and returns the mirror. With
/// everything there it takes seconds.
pub fn ensure(minor: &str) -> Result<Mirror> {
    ensure_for(minor, &[])
}

/// The same with components of several platforms.
pub fn ensure_for(minor: &str, platforms: &[Platform]) -> Result<Mirror> {
    let started = Instant::now();
    let folder = paths::repository()?.join("upstream").join(minor);
    if !folder.is_dir() {
        bail!("there is no {folder}: give `--minor` one of the directories of upstream/");
    }
    let mut components = components::load(&folder)?;
    if !platforms.is_empty() {
        components = components.for_platforms(platforms);
    }
    install_packages(&components)?;
    for platform in platforms {
        cross::install(platform, &components)?;
    }
    let sources: Vec<Source<'_>> = components
        .modules
        .iter()
        .map(|module| Source {
            module,
            folder: module.source(&folder),
        })
        .collect();
    let toolchain = Toolchain::find(&sources)?;
    let cache = Cache::open(paths::cache()?.join("upstream"))?;

    let mut progress = Progress::new(sources.len() + 1);
    let mut builds = Vec::new();
    for source in &sources {
        let item = progress.next(&format!("{} {}", source.module.name, source.module.version));
        builds.push(build(source, &toolchain, &cache, &item)?);
    }
    let item = progress.next("mirror");
    let mirror = mirror::lay_out(&components, &builds, &cache, &item)?;
    say(&format!(
        "upstream {minor}: all is there after {}: {}",
        seconds(started.elapsed()),
        mirror.files.parent().unwrap_or(Utf8Path::new(""))
    ));
    Ok(mirror)
}

fn serve(mirror: &Mirror) -> Result<()> {
    let mut served = mirror.serve()?;
    writeln!(std::io::stdout(), "{}", served.mirror_arguments().join(" "))?;
    say("serving until interrupted (Ctrl-C)");
    loop {
        served.check()?;
        std::thread::sleep(SERVE_INTERVAL);
    }
}

fn install_packages(components: &Components) -> Result<()> {
    let mut names: Vec<&str> = DEBIAN_PACKAGES.to_vec();
    for module in &components.modules {
        names.extend(module.debian_packages.iter().map(String::as_str));
    }
    for busybox in components
        .images
        .iter()
        .filter_map(|image| image.busybox.as_ref())
    {
        names.push(&busybox.debian_package);
    }
    names.sort_unstable();
    names.dedup();
    shell::debian_packages(&names)
}
