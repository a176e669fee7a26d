//! `cargo xtask demo`: from nothing to a Service that answers across zones.

use crate::lab::{self, Lab};
use crate::product::Product;
use crate::scenarios::pods;
use crate::{paths, shell, upstream};
use anyhow::Result;
use std::time::Instant;

/// Kubernetes' minor that the demo installs.
const MINOR: &str = "1.36";

#[derive(clap::Args)]
pub struct Args {
    /// Masters, one per zone in turn.
    #[arg(long, default_value_t = 3)]
    masters: u8,
    /// Workers, one per zone in turn.
    #[arg(long, default_value_t = 2)]
    workers: u8,
}

pub fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let mut times: Vec<(&str, f64)> = Vec::new();
    let mut timed = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| {
        shell::say(&format!("\n== {name}"));
        let started = Instant::now();
        work()?;
        times.push((name, started.elapsed().as_secs_f64()));
        Ok::<(), anyhow::Error>(())
    };
    timed("upstream components", &mut || {
        upstream::ensure(MINOR).map(drop)
    })?;
    let mut product = None;
    timed("cofferdam and its bundle", &mut || {
        product = Some(Product::for_lab(MINOR)?);
        Ok(())
    })?;
    let Some(product) = product else {
        return Ok(());
    };
    timed("hosts", &mut || {
        if Lab::open().is_ok() {
            shell::say("a lab is up already; taking it down");
            Lab::open()?.down()?;
        }
        clear_site()?;
        lab::up(&lab_options(&product, args)).map(drop)
    })?;
    timed("trust in the hosts' keys", &mut || product.trust_hosts())?;
    timed("install", &mut || product.install())?;
    timed("a Service across zones", &mut || {
        pods::service_across_zones(&product)
    })?;
    shell::say("");
    for (name, seconds) in &times {
        shell::say(&format!("{name:<28} {seconds:>7.1} s"));
    }
    shell::say(&format!(
        "{:<28} {:>7.1} s",
        "altogether",
        begun.elapsed().as_secs_f64()
    ));
    let (binary, inventory) = (&product.binary, &product.inventory);
    shell::say(&format!(
        "\nThe cluster stays up. Look around:\n  {binary} kubectl -i {inventory} -- get pods -A -o wide\n  cargo xtask lab ssh m1 systemctl status kube-apiserver\nTake it down:\n  cargo xtask lab down"
    ));
    Ok(())
}

fn lab_options(product: &Product, args: &Args) -> lab::Options {
    lab::Options {
        wanted: lab::Wanted {
            masters: args.masters,
            workers: args.workers,
            ..lab::Wanted::default()
        },
        default_route: lab::DefaultRoute::Absent,
        bandwidth: None,
        rules: lab::Rules::Binary(product.binary.clone()),
    }
}

/// Forgets the site of an earlier lab: its hosts are gone.
pub fn clear_site() -> Result<()> {
    let site = paths::lab()?.join("site");
    if site.exists() {
        fs_err::remove_dir_all(&site)?;
    }
    Ok(())
}
