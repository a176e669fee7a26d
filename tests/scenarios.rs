//! Scenarios as text files: hosts, what is true of them, and the plan that
//! must come out. Each is then run, and must leave nothing to do.
//!
//! `UPDATE_SCENARIOS=1 cargo test --test scenarios` writes the plans anew;
//! read the difference before it is committed.

#![expect(clippy::unwrap_used, reason = "a test helper may stop the test")]

use cofferdam::desired::Condition;
use cofferdam::inventory::Inventory;
use cofferdam::plan::text;
use cofferdam::sim::machine::{DiskContent, DiskFile};
use cofferdam::sim::{Machine, NEXT_MINOR, Simulation};
use std::fmt::Write as _;

/// A scenario file, section by section.
struct Scenario {
    /// From its beginning to the line `plan:`.
    head: String,
    /// `name zone role…`, before what is given.
    hosts: Vec<String>,
    given: Vec<String>,
    /// Hosts that the inventory names by then, if others.
    now: Vec<String>,
    plan: String,
}

fn parse(content: &str) -> Scenario {
    let (head, plan) = content.split_once("\nplan:\n").unwrap();
    let mut scenario = Scenario {
        head: head.to_owned(),
        hosts: Vec::new(),
        given: Vec::new(),
        now: Vec::new(),
        plan: plan.to_owned(),
    };
    let mut section = "";
    for line in head.lines() {
        let is_comment = line.starts_with('#') || line.trim().is_empty();
        match line.strip_suffix(':') {
            _ if is_comment => {}
            Some(name) if !line.starts_with(' ') => section = name,
            _ => {
                let lines = match section {
                    "hosts" => &mut scenario.hosts,
                    "given" => &mut scenario.given,
                    "hosts now" => &mut scenario.now,
                    other => panic!("there is no section `{other}`"),
                };
                lines.push(line.trim().to_owned());
            }
        }
    }
    scenario
}

/// The inventory of hosts given as `name zone role…`.
fn inventory(hosts: &[String]) -> String {
    let mut zones: Vec<&str> = Vec::new();
    let mut tables = String::new();
    for (index, host) in hosts.iter().enumerate() {
        let [name, zone, roles @ ..] = &host.split(' ').collect::<Vec<_>>()[..] else {
            panic!("`{host}` is not `name zone role…`");
        };
        if !zones.contains(zone) {
            zones.push(zone);
        }
        let network = zone.as_bytes()[0] - b'a' + 1;
        writeln!(
            tables,
            "[[hosts]]\nname = \"{name}\"\naddress = \"10.77.{network}.{}\"\nzone = \"{zone}\"\nroles = {roles:?}",
            11 + index
        )
        .unwrap();
    }
    let zones: String = zones
        .iter()
        .map(|zone| format!("[zones.{zone}]\n"))
        .collect();
    format!("[cluster]\nname = \"lab\"\nsurvive = \"nothing\"\n{zones}{tables}")
}

fn parse_inventory(hosts: &[String]) -> Inventory {
    let file = camino::Utf8Path::new("inventory.toml");
    cofferdam::inventory::parse(&inventory(hosts), file).unwrap()
}

/// Makes one line of `given` true. `hosts` are those that the inventory has by
/// then.
async fn make_true(world: &mut Simulation, hosts: &mut Vec<String>, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let tamper = |host: &str, change: &dyn Fn(&mut Machine)| world.tamper(host, change).unwrap();
    match words[..] {
        ["nothing", "is", "installed"] => {}
        ["everything", "is", "installed"] => {
            world.install(None).await.unwrap().result.unwrap();
        }
        ["the", "bundle", "is", "a", "newer", "one"] => world.take_bundle("+1"),
        ["the", "bundle", "is", "of", "the", "next", "minor"] => world.take_bundle(NEXT_MINOR),
        ["the", "site", "lost", material] => world.site.lose(material),
        ["manifests", set, "were", "changed"] => world.tamper_with_manifests(set, "changed"),
        ["deployment", name, "takes", "its", "time"] => {
            let name = name.to_owned();
            world.delay(Condition::DeploymentAvailable { name }, 3);
        }
        [_, zone, ref roles @ .., "joins"] if zone.len() == 1 && !roles.is_empty() => {
            let host = line.trim_end_matches(" joins").to_owned();
            hosts.push(host);
            world.inventory = parse_inventory(hosts);
            world.install(None).await.unwrap().result.unwrap();
        }
        [host, "lost", "power"] => world.power_cycle([host]),
        [host, "has", "swap", "on"] => tamper(host, &|machine| machine.memory.swap_is_on = true),
        [host, "has", "no", "swap"] => tamper(host, &|machine| {
            machine.options.has_swap = false;
            machine.memory.swap_is_on = false;
        }),
        [host, "has", "NetworkManager"] => tamper(host, &Machine::add_network_manager),
        [host, "lost", "the", "reload", "of", "NetworkManager"] => tamper(host, &|machine| {
            machine.memory.network_manager = None;
            machine.disk.taken_up = None;
        }),
        [host, "has", "a", "default", "route"] => {
            tamper(host, &|machine| machine.options.has_default_route = true);
        }
        [host, "lost", "file", path] => tamper(host, &|machine| {
            machine.disk.files.remove(path).unwrap();
        }),
        [host, "has", "other", "bytes", "in", path] => tamper(host, &|machine| {
            let file = machine.disk.files.get_mut(path).unwrap();
            file.content = DiskContent::Bytes(b"tampered with".as_slice().into());
        }),
        [host, "has", "mode", mode, "on", path] => tamper(host, &|machine| {
            let file: &mut DiskFile = machine.disk.files.get_mut(path).unwrap();
            file.mode = u32::from_str_radix(mode, 8).unwrap();
        }),
        [host, "stopped", unit] => tamper(host, &|machine| {
            machine.memory.processes.remove(unit).unwrap();
        }),
        [host, "disabled", unit] => tamper(host, &|machine| {
            assert!(machine.disk.enabled.remove(unit));
        }),
        [host, "lost", "the", "restart", "of", unit] => tamper(host, &|machine| {
            machine.memory.processes.get_mut(unit).unwrap().inputs = None;
        }),
        [host, "lost", "image", reference] => tamper(host, &|machine| {
            machine.disk.images.remove(reference).unwrap();
        }),
        [host, "unpinned", reference] => tamper(host, &|machine| {
            machine.disk.images.get_mut(reference).unwrap().pinned = false;
        }),
        [host, "has", "other", "bytes", "in", "the", "binary", name] => {
            let digest = world.software.whole.files["linux/amd64"][name].digest;
            tamper(host, &|machine| {
                assert!(machine.disk.store.contains_key(&digest));
                machine.disk.damaged_binaries.insert(digest);
            });
        }
        [
            host,
            "has",
            "other",
            "bytes",
            "in",
            "the",
            "layer",
            "of",
            reference,
        ] => {
            let mut images = world.software.whole.images.iter();
            let image = images.find(|image| image.reference == reference).unwrap();
            let digest = image.artifact.blobs.last().unwrap().digest;
            tamper(host, &|machine| {
                assert!(machine.disk.registry.blobs.contains_key(&digest));
                machine.disk.damaged_blobs.insert(digest);
            });
        }
        [host, "lost", "the", "route", "for", "Services"] => tamper(host, &|machine| {
            assert!(machine.memory.has_service_route);
            machine.memory.has_service_route = false;
        }),
        [host, "lost", "tag", tag] => tamper(host, &|machine| {
            machine.disk.registry.tags.remove(tag).unwrap();
        }),
        [host, "set", sysctl, "to", value] => tamper(host, &|machine| {
            let sysctls = &mut machine.memory.sysctls;
            sysctls.insert(sysctl.to_owned(), value.to_owned()).unwrap();
        }),
        [host, "has", "pod", "addresses", "of", "another", "node"] => tamper(host, &|machine| {
            let (digest, _) = machine.disk.cni.unwrap();
            machine.disk.cni = Some((digest, "10.244.99.0/24".parse().unwrap()));
        }),
        _ => panic!("the scenarios know no `{line}`"),
    }
}

#[tokio::test]
async fn scenarios() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let is_update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut paths: Vec<_> = fs_err::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let scenario = parse(&fs_err::read_to_string(&path).unwrap());
        let all = [&scenario.hosts[..], &scenario.now[..]]
            .into_iter()
            .max_by_key(|hosts| hosts.len())
            .unwrap();
        let mut world = Simulation::new(&inventory(all), 0).unwrap();
        world.inventory = parse_inventory(&scenario.hosts);
        let mut hosts = scenario.hosts.clone();
        for line in &scenario.given {
            make_true(&mut world, &mut hosts, line).await;
        }
        if !scenario.now.is_empty() {
            world.inventory = parse_inventory(&scenario.now);
        }
        let planned = world.plan().await.unwrap();
        let found = text(&planned.plan);
        if is_update {
            fs_err::write(&path, format!("{}\nplan:\n{found}", scenario.head)).unwrap();
        } else if found != scenario.plan {
            wrong.push(format!(
                "{name}: expected\n{}\nfound\n{found}",
                scenario.plan
            ));
        }
        let ran = world.run(planned, None).await;
        if let Err(stopped) = ran.result {
            wrong.push(format!("{name}: {stopped}"));
            continue;
        }
        wrong.extend(
            world
                .violations()
                .iter()
                .map(|line| format!("{name}: {line}")),
        );
        let again = world.plan().await.unwrap();
        if !again.plan.is_empty() {
            wrong.push(format!("{name}: not done:\n{}", text(&again.plan)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
