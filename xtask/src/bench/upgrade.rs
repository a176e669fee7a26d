//! An upgrade to the next minor in one go, under load; and what etcd costs
//! clients by itself.

use super::{Figure, figure, kubeadm};
use crate::lab::{Host, Kind, Lab};
use crate::load::{Counts, Load, Outcome, Rates};
use crate::product::{Product, run_quietly};
use crate::scenarios::zones;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) const NEXT: &str = "1.37";
/// Together 200 requests a second on the API by five clients, and 100 on a
/// Service by five nodes.
const RATES: Rates = Rates {
    api: 20,
    service: 20,
};
/// How often etcd's leadership is moved by itself.
const MOVES: u32 = 20;
/// Between two moves: every write in hand has come to its end.
const PAUSE: Duration = Duration::from_secs(3);

/// The same as a peer does it: nobody asks anything meanwhile. Its bundle comes
/// over the link meanwhile too, which the peer has on its hosts before.
pub(super) fn without_load(
    product: &Product,
    peer: Option<&kubeadm::Measured>,
) -> Result<Vec<Figure>> {
    product.install()?;
    let next = Product::for_lab(NEXT)?;
    let begun = Instant::now();
    run_quietly(&mut next.verb("upgrade", &["--no-soak", "--yes"]))?;
    let seconds = begun.elapsed().as_secs_f64();
    zones::all_well(&next)?;
    Ok(vec![figure(
        "upgrade of a minor in one go",
        (seconds, "s"),
        peer.and_then(|peer| Some((KUBEADM, peer.upgrade?))),
        "0.35",
    )])
}

const KUBEADM: &str = "kubeadm upgrade, all on the hosts before";

/// What etcd costs clients by itself, where it has more than one member.
fn moves(product: &Product, lab: &Lab) -> Result<Option<Outcome>> {
    let masters = lab.hosts().iter().filter(|host| host.kind == Kind::Master);
    if masters.count() == 1 {
        return Ok(None);
    }
    let load = Load::start(product, lab, RATES)?;
    for _ in 0..MOVES {
        std::thread::sleep(PAUSE);
        move_leader(lab)?;
    }
    let moved = load.end()?;
    moved.tell();
    Ok(Some(moved))
}

pub(super) fn figures(
    product: &Product,
    lab: &Lab,
    peer: Option<&kubeadm::Measured>,
) -> Result<Vec<Figure>> {
    let moved = moves(product, lab)?;
    let next = Product::for_lab(NEXT)?;
    let masters = lab.hosts().iter().filter(|host| host.kind == Kind::Master);
    let zones: BTreeSet<&str> = masters.map(|master| master.zone.as_str()).collect();
    let floor = missing_bytes(product, &next)? * zones.len() as f64;
    let first = first_master(lab)?;
    let load = Load::start(product, lab, RATES)?.with_one_bound_to(first)?;
    let begun = Instant::now();
    let events = run_quietly(&mut next.verb("upgrade", &["--no-soak", "--yes", "--json"]));
    let seconds = begun.elapsed().as_secs_f64();
    let loaded = load.end()?;
    loaded.tell();
    let told = Told::read(&events?)?;
    loaded.nothing_is_lost(lab)?;
    zones::all_well(&next)?;

    let (api, service) = loaded.failed();
    let per_move = moved.as_ref().map(|moved| {
        let each = moved.failed().0 as f64 / f64::from(MOVES);
        ("each `etcdctl move-leader` alone", each)
    });
    let bound = loaded.bound.as_ref().map(|(_, counts)| counts);
    let of_one = bound.map_or(0.0, |counts| counts.failed as f64);
    let requests = |outcome: &Outcome| -> f64 {
        let counts = outcome.api.iter().map(|(_, counts)| counts);
        counts
            .map(|counts| counts.reads + counts.writes)
            .sum::<u64>() as f64
    };
    let stall = moved.as_ref().map(longest_write);
    let stall = stall.map(|stall| ("`etcdctl move-leader` alone", stall));
    Ok(vec![
        figure(
            "the same under 300 requests a second",
            (seconds, "s"),
            peer.and_then(|peer| Some((KUBEADM, peer.upgrade?))),
            "",
        ),
        figure(
            "  of that, nothing but waiting for gates",
            (told.waiting, "s"),
            Some(("all of it", seconds)),
            "",
        ),
        figure("  requests of the API", (requests(&loaded), ""), None, ""),
        figure("  of those failed", (api as f64, ""), per_move, "0"),
        figure(
            "  failed of a client bound to one API server",
            (of_one, ""),
            None,
            "",
        ),
        figure("  longest write", (longest_write(&loaded), "s"), stall, ""),
        figure(
            "  requests of a Service that failed",
            (service as f64, ""),
            None,
            "0",
        ),
        figure(
            "  sent over the jump host's link",
            (told.sent_bytes / 1e6, "MB"),
            Some(("what the old bundle lacks x registries", floor / 1e6)),
            "1.05",
        ),
    ])
}

fn longest_write(outcome: &Outcome) -> f64 {
    let counts = outcome
        .api
        .iter()
        .map(|(_, counts): &(String, Counts)| counts);
    counts
        .map(|counts| counts.longest_write)
        .fold(0.0, f64::max)
}

fn first_master(lab: &Lab) -> Result<&Host> {
    let mut hosts = lab.hosts().iter();
    hosts
        .find(|host| host.kind == Kind::Master)
        .context("no master")
}

const ETCDCTL: &str = "ETCDCTL_CACERT=/etc/etcd/pki/ca.crt ETCDCTL_CERT=/etc/etcd/pki/client.crt \
     ETCDCTL_KEY=/etc/etcd/pki/client.key /opt/cofferdam/bin/etcdctl";

/// Has the member after the leader lead, as an operator would.
fn move_leader(lab: &Lab) -> Result<()> {
    let masters = lab.hosts().iter().filter(|host| host.kind == Kind::Master);
    let masters: Vec<&Host> = masters.collect();
    let urls = masters
        .iter()
        .map(|host| format!("https://{}:2379", host.address));
    let urls: Vec<String> = urls.collect();
    let first = masters.first().context("no master")?;
    let ask = format!(
        "{ETCDCTL} --endpoints={} endpoint status -w json",
        urls.join(",")
    );
    let told: Vec<serde_json::Value> = serde_json::from_str(&lab.ssh_output(&first.name, &ask)?)?;
    let id = |status: &serde_json::Value| status["Status"]["header"]["member_id"].as_u64();
    let leader = told[0]["Status"]["leader"].as_u64();
    let place = told.iter().position(|status| id(status) == leader);
    let place = place.context("no leader")?;
    let next = id(&told[(place + 1) % told.len()]).context("no id")?;
    let line = format!("{ETCDCTL} --endpoints={} move-leader {next:x}", urls[place]);
    lab.ssh_output(&masters[place].name, &line)?;
    Ok(())
}

/// Bytes of files and images that only the next bundle has, compressed.
fn missing_bytes(product: &Product, next: &Product) -> Result<f64> {
    let entries = |product: &Product| -> Result<Vec<(String, f64)>> {
        let mut command =
            product.command(&["bundle", "inspect", "--json", product.bundle.as_str()]);
        let told: serde_json::Value = serde_json::from_str(&run_quietly(&mut command)?)?;
        let all = ["files", "images"].into_iter();
        let all = all.flat_map(|kind| told[kind].as_array().into_iter().flatten());
        let each = all.filter_map(|entry| {
            let size = entry["compressed_size"].as_f64().or(entry["size"].as_f64());
            Some((entry["digest"].as_str()?.to_owned(), size?))
        });
        Ok(each.collect())
    };
    let known: BTreeSet<String> = entries(product)?
        .into_iter()
        .map(|(digest, _)| digest)
        .collect();
    let new = entries(next)?;
    let missing = new.iter().filter(|(digest, _)| !known.contains(digest));
    Ok(missing.map(|(_, size)| size).sum())
}

/// What an upgrade says of itself.
#[derive(Default)]
struct Told {
    sent_bytes: f64,
    /// Seconds in which no step was in hand but waits.
    waiting: f64,
}

impl Told {
    fn read(events: &str) -> Result<Self> {
        let mut told = Self::default();
        let (mut waits, mut others) = (Vec::new(), Vec::new());
        for line in events.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            let number = |key: &str| event[key].as_f64().unwrap_or_default();
            match event["event"].as_str() {
                Some("step-done") => {
                    let step = (number("at") - number("seconds"), number("at"));
                    let title = event["title"].as_str().unwrap_or_default();
                    match title.starts_with("wait until") {
                        true => waits.push(step),
                        false => others.push(step),
                    }
                }
                Some("run-done") => told.sent_bytes = number("sent_bytes"),
                _ => {}
            }
        }
        let all: Vec<(f64, f64)> = waits.iter().chain(&others).copied().collect();
        told.waiting = covered(all) - covered(others);
        Ok(told)
    }
}

/// How much time intervals cover together.
fn covered(mut intervals: Vec<(f64, f64)>) -> f64 {
    intervals.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut sum, mut until) = (0.0, f64::MIN);
    for (begin, end) in intervals {
        sum += (end - begin.max(until)).max(0.0);
        until = until.max(end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_what_nothing_else_covers() {
        let line = |title: &str, at: f64, seconds: f64| {
            serde_json::json!({"event": "step-done", "title": title, "at": at, "seconds": seconds})
                .to_string()
        };
        let events = [
            line("put kubelet in place", 10.0, 10.0),
            line("wait until node m1 is ready", 12.0, 4.0),
            line("wait until node m2 is ready", 13.0, 2.0),
            line("drain m2", 20.0, 2.0),
            serde_json::json!({"event": "run-done", "sent_bytes": 7}).to_string(),
        ];
        let told = Told::read(&events.join("\n")).unwrap();
        assert!((told.waiting - 3.0).abs() < 1e-9, "{}", told.waiting);
        assert!((told.sent_bytes - 7.0).abs() < 1e-9);
    }
}
