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

pub const ALL: [&str; 3] = [ALONE, SMALL, THREE_ZONES];

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
