//! How long clients on other hosts are without an answer when a zone is cut
//! off, or a master loses its power.

use super::{Figure, figure};
use crate::lab::{Host, Kind, Lab};
use crate::probe::{Connections, Credentials, Probes};
use crate::product::Product;
use crate::scenarios::zones;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients are at work for that long after it happened.
const AFTER: Duration = Duration::from_secs(30);

/// Each zone cut off in turn, then each master switched off, in a cluster that
/// is well, and is so again after each.
pub(super) fn figures(product: &Product, lab: &Lab) -> Result<Vec<Figure>> {
    let credentials = Arc::new(Credentials::read(lab)?);
    let mut figures = Vec::new();
    for zone in &lab.layout().zones {
        let rest: Vec<&Host> = others(lab, |host| host.zone != zone.name);
        let found = silence(&credentials, &rest, Connections::New, || {
            lab.cut(&zone.name)
        });
        lab.heal(&zone.name)?;
        let found = found.with_context(|| format!("zone {} cut off", zone.name))?;
        for other in lab.layout().zones.iter().filter(|other| *other != zone) {
            let in_zone = found.iter().filter(|(host, _)| host.zone == other.name);
            let seconds = in_zone.map(|(_, seconds)| *seconds).fold(0.0, f64::max);
            let name = format!(
                "zone {} cut off: no write answered in zone {}",
                zone.name, other.name
            );
            figures.push(figure(name, (seconds, "s"), None, ""));
        }
        let name = format!("zone {} healed: nothing is wrong any more", zone.name);
        figures.push(figure(name, (zones::all_well(product)?, "s"), None, ""));
    }
    for (connections, what, target) in [
        (Connections::New, "new connections", "5 s"),
        (Connections::Kept, "established connections", "10 s"),
    ] {
        for master in lab.hosts().iter().filter(|host| host.kind == Kind::Master) {
            let rest = others(lab, |host| host != master);
            let found = silence(&credentials, &rest, connections, || lab.kill(&master.name));
            lab.boot(&master.name)?;
            let found = found.with_context(|| format!("{} off", master.name))?;
            let worst = found
                .iter()
                .map(|(_, seconds)| *seconds)
                .fold(0.0, f64::max);
            let name = format!("{} off: no answer on {what}", master.name);
            figures.push(figure(name, (worst, "s"), None, target));
            zones::all_well(product)?;
        }
    }
    Ok(figures)
}

fn others(lab: &Lab, is_one: impl Fn(&Host) -> bool) -> Vec<&Host> {
    lab.hosts().iter().filter(|host| is_one(host)).collect()
}

/// The longest time without an answer on each host once it has happened, in
/// seconds.
fn silence<'a>(
    credentials: &Arc<Credentials>,
    hosts: &[&'a Host],
    connections: Connections,
    happen: impl FnOnce() -> Result<()>,
) -> Result<Vec<(&'a Host, f64)>> {
    let probes = Probes::start(credentials, hosts, connections)?;
    let since = Instant::now();
    happen()?;
    std::thread::sleep(AFTER);
    probes.longest_silences(since)
}
