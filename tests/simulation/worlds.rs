//! Inventories to run on.

use cofferdam::sim::Simulation;

/// One machine with all roles.
pub const ALONE: &str = r#"
[cluster]
name = "alone"
[zones.a]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
"#;

/// One master, a worker beside it and one in another zone.
pub const SMALL: &str = r#"
[cluster]
name = "small"
[zones.a]
[zones.b]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
[[hosts]]
name = "w1"
address = "10.77.1.21"
zone = "a"
roles = ["worker"]
[[hosts]]
name = "w2"
address = "10.77.2.21"
zone = "b"
roles = ["worker"]
"#;

/// A master in each of three zones, and two workers.
pub const THREE_ZONES: &str = r#"
[cluster]
name = "three-zones"
[zones.a]
[zones.b]
[zones.c]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
[[hosts]]
name = "m2"
address = "10.77.2.11"
zone = "b"
roles = ["control-plane"]
[[hosts]]
name = "m3"
address = "10.77.3.11"
zone = "c"
roles = ["control-plane"]
[[hosts]]
name = "w1"
address = "10.77.1.21"
zone = "a"
roles = ["worker"]
[[hosts]]
name = "w2"
address = "10.77.2.21"
zone = "b"
roles = ["worker"]
"#;

/// Two rooms with a master each, and a witness in a third.
pub const WITNESS: &str = r#"
[cluster]
name = "witness"
[zones.a]
[zones.b]
[zones.c]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane", "etcd"]
[[hosts]]
name = "m2"
address = "10.77.2.12"
zone = "b"
roles = ["control-plane", "etcd"]
[[hosts]]
name = "e1"
address = "10.77.3.13"
zone = "c"
roles = ["etcd"]
[[hosts]]
name = "w1"
address = "10.77.1.21"
zone = "a"
roles = ["worker"]
"#;

pub const ALL: [&str; 4] = [ALONE, SMALL, THREE_ZONES, WITNESS];

/// Masters over three zones in turn, and workers too.
pub fn spread(masters: usize, workers: usize) -> String {
    let mut text = String::from("[cluster]\nname = \"spread\"\n");
    for zone in ["a", "b", "c"].iter().take(masters.max(workers)) {
        text.push_str(&format!("[zones.{zone}]\n"));
    }
    let all =
        (1..=masters).map(|number| (format!("m{number}"), 10 + number, number, "control-plane"));
    let workers = (1..=workers).map(|number| (format!("w{number}"), 20 + number, number, "worker"));
    for (name, byte, number, role) in all.chain(workers) {
        let zone = (number - 1) % 3;
        text.push_str(&format!(
            "[[hosts]]\nname = \"{name}\"\naddress = \"10.77.{}.{byte}\"\nzone = \"{}\"\nroles = [\"{role}\"]\n",
            zone + 1,
            ["a", "b", "c"][zone]
        ));
    }
    text
}

/// A cluster that is to grow from a master or more to others, not yet run.
pub async fn growing(from: &str, to: &str, seed: u64) -> Simulation {
    let mut world = world(to, seed);
    world.take_inventory(from).unwrap();
    world.install(None).await.unwrap().result.unwrap();
    world.take_inventory(to).unwrap();
    world
}

pub fn world(inventory: &str, seed: u64) -> Simulation {
    Simulation::new(inventory, seed).unwrap()
}

/// A world after its first install.
pub async fn installed(inventory: &str, seed: u64) -> Simulation {
    let world = world(inventory, seed);
    let ran = world.install(None).await.unwrap();
    ran.result.unwrap();
    world
}

/// An inventory of one to five hosts in up to three zones, with whatever roles
/// the number leads to. None if such hosts make no cluster.
pub fn shape(number: u64) -> Option<String> {
    const ROLES: [&str; 6] = [
        r#"["control-plane"]"#,
        r#"["worker"]"#,
        r#"["worker", "registry"]"#,
        r#"["etcd"]"#,
        r#"["control-plane", "worker"]"#,
        r#"["control-plane", "etcd"]"#,
    ];
    let mut rest = number;
    let mut take = |bound: u64| {
        let taken = rest % bound;
        rest /= bound;
        taken
    };
    let (hosts, zones) = (1 + take(5), 1 + take(3));
    let mut text = String::from("[cluster]\nname = \"shape\"\nsurvive = \"nothing\"\n");
    for zone in ["a", "b", "c"]
        .iter()
        .take(usize::try_from(zones.min(hosts)).unwrap())
    {
        text.push_str(&format!("[zones.{zone}]\n"));
    }
    for host in 0..hosts {
        let zone = host % zones;
        let letter = ["a", "b", "c"][usize::try_from(zone).unwrap()];
        let roles = ROLES[usize::try_from(take(6)).unwrap()];
        text.push_str(&format!(
            "[[hosts]]\nname = \"h{host}\"\naddress = \"10.77.{}.{}\"\nzone = \"{letter}\"\nroles = {roles}\n",
            zone + 1,
            11 + host
        ));
    }
    let file = camino::Utf8Path::new("inventory.toml");
    cofferdam::inventory::parse(&text, file).ok().map(|_| text)
}
