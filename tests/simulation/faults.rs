//! Runs that are stopped, and repeated until they are done.

use super::worlds::{ALONE, SMALL, THREE_ZONES, WITNESS, growing, installed, shape, spread, world};
use cofferdam::layout;
use cofferdam::plan::text;
use cofferdam::sim::machine::{DiskContent, DiskFile};
use cofferdam::sim::{EndState, Fault, FaultKind, Machine, Simulation};

/// More than a run that goes on from where the last one stopped can need.
const MOST_RUNS: usize = 3;

/// Stops the first run at every `step`th moment in each way (the ways take
/// turns, so that with a step of seven each moment is tried in one way),
/// repeats it, and compares what it comes to.
async fn stop_and_repeat(step: usize, make: impl AsyncFn(u64) -> Simulation) {
    let (expected, operations) = measure(&make).await;
    for (turn, kind) in FaultKind::ALL.into_iter().enumerate() {
        let first = turn * step / FaultKind::ALL.len();
        for operation in (first..operations).step_by(step) {
            let world = make(operation as u64).await;
            let fault = fault(operation, kind);
            finish(&world, fault).await;
            let found = world.end_state();
            let differences = expected.differences(&found);
            assert_eq!(differences, Vec::<String>::new(), "{fault:?}");
            assert_eq!(world.violations(), Vec::<String>::new(), "{fault:?}");
            let again = world.plan().await.unwrap();
            assert!(again.plan.is_empty(), "{fault:?}\n{}", text(&again.plan));
        }
    }
}

/// A fault at a moment. A zone that heals within the run does so after few
/// moments or many, before and after its connections are given up.
fn fault(operation: usize, kind: FaultKind) -> Fault {
    const LONGEST_CUT: u64 = 90;
    let kind = match kind {
        FaultKind::ZoneLost {
            heals_after: Some(_),
        } => FaultKind::ZoneLost {
            heals_after: Some(1 + operation as u64 * 7 % LONGEST_CUT),
        },
        other => other,
    };
    Fault { operation, kind }
}

async fn finish(world: &Simulation, fault: Fault) {
    let mut fault_left = Some(fault);
    let mut last = String::new();
    for _ in 0..MOST_RUNS {
        let ran = world.install(fault_left.take()).await.unwrap();
        match ran.result {
            Ok(_) => return,
            Err(stopped) if fault.kind == FaultKind::Interrupted => {
                assert!(stopped.is_interrupted(), "{stopped}");
            }
            Err(stopped) => last = format!("{stopped}\n{}", text(&ran.planned.plan)),
        }
    }
    panic!("{fault:?}: not done after {MOST_RUNS} runs: {last}");
}

/// What an undisturbed run comes to, and how many operations it takes.
pub async fn measure(make: impl AsyncFn(u64) -> Simulation) -> (EndState, usize) {
    let world = make(0).await;
    let before = world.operations();
    world.install(None).await.unwrap().result.unwrap();
    (world.end_state(), world.operations() - before)
}

pub async fn with_new_bundle(inventory: &str, seed: u64) -> Simulation {
    let mut world = installed(inventory, seed).await;
    world.take_bundle("+1");
    world
}

#[tokio::test]
async fn a_first_install_alone_is_finished_from_any_moment() {
    stop_and_repeat(7, async |seed| world(ALONE, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_three_hosts_is_finished_from_any_moment() {
    stop_and_repeat(29, async |seed| world(SMALL, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_three_zones_is_finished_from_any_moment() {
    stop_and_repeat(145, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
async fn a_first_install_with_a_witness_is_finished_from_any_moment() {
    stop_and_repeat(145, async |seed| world(WITNESS, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_five_masters_is_finished_from_any_moment() {
    let inventory = spread(5, 1);
    stop_and_repeat(410, async |seed| world(&inventory, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_fifty_hosts_is_finished_from_any_moment() {
    let inventory = spread(5, 45);
    stop_and_repeat(70_000, async |seed| world(&inventory, seed)).await;
}

#[tokio::test]
async fn masters_that_join_are_finished_from_any_moment() {
    let (from, to) = (spread(1, 3), spread(3, 3));
    stop_and_repeat(140, async |seed| growing(&from, &to, seed).await).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_hosts_is_finished_from_any_moment() {
    stop_and_repeat(75, async |seed| with_new_bundle(SMALL, seed).await).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_zones_is_finished_from_any_moment() {
    stop_and_repeat(190, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}

#[tokio::test]
async fn network_managers_reload_is_not_lost_at_any_moment() {
    stop_and_repeat(11, async |seed| {
        let world = world(ALONE, seed);
        world.tamper("m1", Machine::add_network_manager).unwrap();
        world
    })
    .await;
    // All moments of the few operations that a changed file takes.
    stop_and_repeat(1, async |seed| {
        let world = world(ALONE, seed);
        world.tamper("m1", Machine::add_network_manager).unwrap();
        world.install(None).await.unwrap().result.unwrap();
        let change = |machine: &mut Machine| {
            let file = machine.disk.files.get_mut(layout::NETWORK_MANAGER_FILE);
            file.unwrap().content = DiskContent::Bytes(b"another".as_slice().into());
        };
        world.tamper("m1", change).unwrap();
        world
    })
    .await;
}

/// What people and accidents do to hosts, by number.
fn tamper(world: &Simulation, host: &str, what: usize) {
    let change = |machine: &mut Machine| {
        let Machine { disk, memory, .. } = machine;
        let nth = |length: usize| what % length.max(1);
        let is_link = |file: &DiskFile| matches!(file.content, DiskContent::Link(_));
        match what % 13 {
            0 => {
                let path = disk.files.keys().nth(nth(disk.files.len())).cloned();
                path.and_then(|path| disk.files.remove(&path));
            }
            1 => {
                let index = nth(disk.files.len());
                // The mode of a link means nothing.
                let file = disk.files.values_mut().nth(index);
                if let Some(file) = file.filter(|file| !is_link(file)) {
                    file.mode ^= 0o007;
                }
            }
            2 => {
                let unit = memory.processes.keys().nth(nth(memory.processes.len()));
                let unit = unit.filter(|unit| !unit.contains("journald")).cloned();
                unit.and_then(|unit| memory.processes.remove(&unit));
            }
            3 => {
                let index = nth(memory.processes.len());
                let process = memory.processes.iter_mut().nth(index);
                if let Some((_, process)) = process.filter(|(unit, _)| unit.ends_with(".service")) {
                    process.inputs = None;
                }
            }
            4 => {
                let stored = disk.store.keys().nth(nth(disk.store.len())).copied();
                stored.and_then(|digest| disk.store.remove(&digest));
            }
            5 => {
                let image = disk.images.keys().nth(nth(disk.images.len())).cloned();
                image.and_then(|image| disk.images.remove(&image));
            }
            6 => {
                let link = disk
                    .registry
                    .links
                    .iter()
                    .nth(nth(disk.registry.links.len()));
                let link = link.cloned();
                link.map(|link| disk.registry.links.remove(&link));
            }
            7 => {
                disk.enabled.pop_first();
                memory.swap_is_on = true;
            }
            8 => {
                let stored = disk.store.keys().nth(nth(disk.store.len()));
                disk.damaged_binaries.extend(stored);
            }
            9 => {
                let blobs = &disk.registry.blobs;
                disk.damaged_blobs
                    .extend(blobs.keys().nth(nth(blobs.len())));
            }
            10 => {
                let mut links = disk.files.iter_mut().filter(|(_, file)| is_link(file));
                let link = links.nth(what % 5);
                if let Some((_, link)) = link {
                    link.content = DiskContent::Link("/tmp/binary".to_owned());
                }
            }
            11 => memory.has_service_route = false,
            _ => {
                memory.modules.pop_first();
                memory.sysctls.pop_last();
            }
        }
    };
    world.tamper(host, change).unwrap();
}

/// From whatever people did to the hosts, and stopped on the way, a run comes
/// back to what was installed.
#[tokio::test]
async fn whatever_was_done_to_hosts_is_put_right() {
    for (number, inventory) in [ALONE, SMALL, THREE_ZONES].into_iter().enumerate() {
        let expected = installed(inventory, 0).await.end_state();
        for seed in 0..20 {
            let world = installed(inventory, seed).await;
            let names: Vec<String> = world
                .inventory
                .hosts
                .iter()
                .map(|h| h.name.clone())
                .collect();
            let seed = seed as usize;
            let mut told = Vec::new();
            for index in 0..3 {
                let host = &names[(seed + index) % names.len()];
                let what = seed * 31 + index * 7 + number;
                told.push(format!("{host} {what}"));
                tamper(&world, host, what);
            }
            let kind = FaultKind::ALL[seed % FaultKind::ALL.len()];
            let fault = fault(seed * 3 % 40, kind);
            finish(&world, fault).await;
            let differences = expected.differences(&world.end_state());
            assert_eq!(differences, Vec::<String>::new(), "{told:?} {fault:?}");
            assert_eq!(
                world.violations(),
                Vec::<String>::new(),
                "{told:?} {fault:?}"
            );
            let again = world.plan().await.unwrap();
            assert!(
                again.plan.is_empty(),
                "{told:?} {fault:?}\n{}",
                text(&again.plan)
            );
        }
    }
}

/// Other shapes than those above: two masters, members of etcd of their own,
/// registries on workers.
#[tokio::test]
async fn any_shape_of_one_to_five_hosts_is_finished() {
    const WORLDS: usize = 15;
    // Steps that share no factor with the number of roles, so that all come.
    let shapes = (1_u64..).map(|index| index * 7_919).filter_map(shape);
    for (index, inventory) in shapes.take(WORLDS).enumerate() {
        let seed = index as u64;
        let expected = installed(&inventory, 0).await.end_state();
        let world = world(&inventory, seed);
        let kind = FaultKind::ALL[index % FaultKind::ALL.len()];
        let fault = fault(index * 37, kind);
        finish(&world, fault).await;
        let differences = expected.differences(&world.end_state());
        assert_eq!(differences, Vec::<String>::new(), "{fault:?}\n{inventory}");
        assert_eq!(
            world.violations(),
            Vec::<String>::new(),
            "{fault:?}\n{inventory}"
        );
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{inventory}\n{}", text(&again.plan));

        let mut world = world;
        world.take_bundle("+1");
        world.install(None).await.unwrap().result.unwrap();
        assert_eq!(world.violations(), Vec::<String>::new(), "{inventory}");
        assert_eq!(world.stale_units(), Vec::<String>::new(), "{inventory}");
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{inventory}\n{}", text(&again.plan));
    }
}

/// One master, and a worker that also has the zone's registry.
const REGISTRY_BESIDE: &str = r#"
[cluster]
name = "small"
[zones.a]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
[[hosts]]
name = "w1"
address = "10.77.1.21"
zone = "a"
roles = ["worker", "registry"]
"#;

/// What a run leaves though another one no longer wants it: users, since files
/// of theirs may be anywhere; what a registry and containerd hold; settings of
/// the kernel that its next start forgets.
fn is_left_alone(difference: &str) -> bool {
    let kinds = [
        "user ",
        "registry ",
        "/var/lib/cofferdam/registry ",
        "image ",
        "module ",
        "sysctl ",
        "pod network ",
        "route for Services",
    ];
    let Some((_, what)) = difference
        .strip_prefix("+ ")
        .and_then(|line| line.split_once(": "))
    else {
        return false;
    };
    kinds.iter().any(|kind| what.starts_with(kind))
}

fn generations(world: &Simulation) -> Vec<Option<u64>> {
    let hosts = world.inventory.hosts.iter();
    hosts
        .map(|host| Some(world.disk(&host.name).generation?.number))
        .collect()
}

/// Stops a run at every `step`th moment, changes what is wanted, and compares
/// what the next run comes to with what it would have come to by itself.
async fn stop_and_want_another(
    step: usize,
    expected: &EndState,
    make: impl AsyncFn(u64) -> Simulation,
    change: impl Fn(&mut Simulation),
) {
    let (_, operations) = measure(&make).await;
    for operation in (0..operations).step_by(step) {
        let mut world = make(operation as u64).await;
        let before = generations(&world);
        let kinds = FaultKind::ALL.len();
        let kind = FaultKind::ALL[operation / step % kinds];
        let fault = fault(operation, kind);
        world.install(Some(fault)).await.unwrap();
        // What was committed is gone back from by a generation of its own.
        if generations(&world) != before {
            continue;
        }
        change(&mut world);
        let ran = world.install(None).await.unwrap();
        if let Err(stopped) = ran.result {
            panic!("{fault:?}: {stopped}\n{}", text(&ran.planned.plan));
        }
        let mut differences = expected.differences(&world.end_state());
        differences.retain(|difference| !is_left_alone(difference));
        assert_eq!(differences, Vec::<String>::new(), "{fault:?}");
        assert_eq!(world.violations(), Vec::<String>::new(), "{fault:?}");
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{fault:?}\n{}", text(&again.plan));
    }
}

/// A role less: files, keys, units and binaries that no generation ever named
/// go all the same.
#[tokio::test]
async fn what_a_stopped_run_laid_down_goes_when_it_is_no_longer_wanted() {
    for (roles, step) in [
        // The registry moves to the master.
        (r#"["worker"]"#, 17),
        // No node any more.
        (r#"["registry"]"#, 19),
    ] {
        let then = REGISTRY_BESIDE.replace(r#"["worker", "registry"]"#, roles);
        let expected = installed(&then, 0).await.end_state();
        let make = async |seed| world(REGISTRY_BESIDE, seed);
        let change = |world: &mut Simulation| world.take_inventory(&then).unwrap();
        stop_and_want_another(step, &expected, make, change).await;
    }
}

/// A newer bundle that was given up: the generation that is there already is
/// what is wanted again, and still nothing of the newer one stays.
#[tokio::test]
async fn a_bundle_that_was_given_up_leaves_nothing() {
    let expected = installed(REGISTRY_BESIDE, 0).await.end_state();
    let make = async |seed| with_new_bundle(REGISTRY_BESIDE, seed).await;
    let change = |world: &mut Simulation| world.take_bundle("");
    stop_and_want_another(23, &expected, make, change).await;
}
