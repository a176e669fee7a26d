//! Runs that are stopped, and repeated until they are done.

use super::worlds::{ALONE, SMALL, THREE_ZONES, WITNESS, growing, installed, shape, spread, world};
use cofferdam::layout;
use cofferdam::plan::{Action, text};
use cofferdam::sim::machine::{DiskContent, DiskFile};
use cofferdam::sim::{EndState, Fault, FaultKind, Machine, NEXT_MINOR, Simulation};
use std::fmt::Debug;

/// More runs that meet no fault than it takes to go on from where the last one
/// stopped.
const MOST_RUNS_WITHOUT: usize = 2;

/// Stops the first run at every `step`th moment in each way (the ways take
/// turns, so that with a step of seven each moment is tried in one way),
/// repeats it, and compares what it comes to.
pub async fn stop_and_repeat(step: usize, make: impl AsyncFn(u64) -> Simulation) {
    let (expected, operations) = measure(&make).await;
    for (turn, kind) in FaultKind::ALL.into_iter().enumerate() {
        let first = turn * step / FaultKind::ALL.len();
        for operation in (first..operations).step_by(step) {
            let world = make(operation as u64).await;
            let fault = fault(operation, kind);
            finish(&world, &[fault]).await;
            compare(&world, &expected, &fault).await;
        }
    }
}

/// Stops the first run at every `step`th moment in each way, and the second
/// one on its way too, repeats it, and compares what it comes to.
pub async fn stop_twice_and_repeat(step: usize, make: impl AsyncFn(u64) -> Simulation) {
    const SECOND: [FaultKind; 2] = [FaultKind::RunKilled, FaultKind::PowerCut];
    let (expected, operations) = measure(&make).await;
    let pairs = FaultKind::ALL
        .into_iter()
        .flat_map(|first| SECOND.map(|second| (first, second)));
    let (mut tried, mut stopped_twice) = (0, 0);
    for (turn, kinds) in pairs.enumerate() {
        let first = turn * step / (FaultKind::ALL.len() * SECOND.len());
        for operation in (first..operations).step_by(step) {
            let world = make(operation as u64).await;
            // Anywhere in what is left to do, a little sooner.
            let left = operations - operation;
            let second = operation * 31 % left * 9 / 10;
            let faults = [fault(operation, kinds.0), fault(second, kinds.1)];
            let stopped = finish(&world, &faults).await;
            compare(&world, &expected, &faults).await;
            tried += 1;
            stopped_twice += usize::from(stopped > 1);
        }
    }
    // A second run may have nothing left to do, but not many may.
    assert!(
        2 * stopped_twice > tried,
        "only {stopped_twice} of {tried} were stopped twice"
    );
}

/// A fault at a moment. A zone that heals within the run does so after few
/// moments or many, before and after its connections are given up.
pub fn fault(operation: usize, kind: FaultKind) -> Fault {
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

/// Repeats the run until it is done; the first ones meet a fault each. How
/// many were stopped.
pub async fn finish(world: &Simulation, faults: &[Fault]) -> usize {
    let mut last = String::new();
    let most_runs = faults.len() + MOST_RUNS_WITHOUT;
    for stopped_before in 0..most_runs {
        let fault = faults.get(stopped_before).copied();
        let ran = world.install(fault).await.unwrap();
        match ran.result {
            Ok(_) => return stopped_before,
            Err(stopped) if fault.is_some_and(|fault| fault.kind == FaultKind::Interrupted) => {
                assert!(stopped.is_interrupted(), "{stopped}");
                assert_eq!(emptied_for_nothing(world, &ran.log), Vec::<String>::new());
            }
            Err(stopped) => last = format!("{stopped}\n{}", text(&ran.planned.plan)),
        }
    }
    panic!("{faults:?}: not done after {most_runs} runs: {last}");
}

/// Nodes that the run drained, did not change, and left without pods.
fn emptied_for_nothing(world: &Simulation, log: &[(String, Action)]) -> Vec<String> {
    let is_left_untouched = |node: &String| {
        let is_its_drain = |(_, action): &(String, Action)| matches!(action, Action::Drain { node: drained, .. } if drained == node);
        let drain = log.iter().rposition(is_its_drain);
        drain.is_some_and(|drain| {
            let mut changes = log[drain..].iter();
            // The host that asks the cluster does so for all of them.
            !changes.any(|(host, action)| {
                host == node
                    && !matches!(
                        action,
                        Action::Wait { .. } | Action::Drain { .. } | Action::Uncordon { .. }
                    )
            })
        })
    };
    let cordoned = world.cordoned_nodes().into_iter();
    cordoned.filter(is_left_untouched).collect()
}

/// Whether all is as it would be without what was done, which is told if not.
pub async fn compare(world: &Simulation, expected: &EndState, told: &impl Debug) {
    let differences = expected.differences(&world.end_state());
    assert_eq!(differences, Vec::<String>::new(), "{told:?}");
    assert_eq!(world.violations(), Vec::<String>::new(), "{told:?}");
    let again = world.plan().await.unwrap();
    assert!(again.plan.is_empty(), "{told:?}\n{}", text(&again.plan));
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
    world.take_bundle(NEXT_MINOR);
    world
}

#[tokio::test]
async fn a_first_install_alone_is_finished_from_any_moment() {
    stop_and_repeat(7, async |seed| world(ALONE, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_three_hosts_is_finished_from_any_moment() {
    stop_and_repeat(43, async |seed| world(SMALL, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_three_zones_is_finished_from_any_moment() {
    stop_and_repeat(223, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
async fn a_first_install_with_a_witness_is_finished_from_any_moment() {
    stop_and_repeat(227, async |seed| world(WITNESS, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_five_masters_is_finished_from_any_moment() {
    let inventory = spread(5, 1);
    stop_and_repeat(617, async |seed| world(&inventory, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_fifty_hosts_is_finished_from_any_moment() {
    let inventory = spread(5, 45);
    stop_and_repeat(70_000, async |seed| world(&inventory, seed)).await;
}

#[tokio::test]
async fn masters_that_join_are_finished_from_any_moment() {
    let (from, to) = (spread(1, 3), spread(3, 3));
    stop_and_repeat(211, async |seed| growing(&from, &to, seed).await).await;
}

/// All its moments are tried by `--test exhaustive`.
#[tokio::test]
async fn a_new_bundle_on_fifty_hosts_is_gone_on_with() {
    let world = with_new_bundle(&spread(5, 45), 3).await;
    let fault = fault(2_000, FaultKind::RunKilled);
    assert_eq!(finish(&world, &[fault]).await, 1);
    assert_eq!(world.violations(), Vec::<String>::new());
    assert_eq!(world.stale_units(), Vec::<String>::new());
}

/// However soon after a drain people interrupt, the node gets its pods back.
#[tokio::test]
async fn an_interrupt_leaves_no_node_empty_for_nothing() {
    let (_, operations) = measure(async |seed| with_new_bundle(SMALL, seed).await).await;
    let mut given_back = 0;
    for operation in 0..operations {
        let world = with_new_bundle(SMALL, 0).await;
        let fault = fault(operation, FaultKind::Interrupted);
        let ran = world.install(Some(fault)).await.unwrap();
        let is_drain = |(_, action): &(String, Action)| matches!(action, Action::Drain { .. });
        let is_back = |(_, action): &(String, Action)| matches!(action, Action::Uncordon { .. });
        let drain = ran.log.iter().rposition(is_drain);
        let left = emptied_for_nothing(&world, &ran.log);
        assert_eq!(left, Vec::<String>::new(), "{fault:?}");
        let after = drain.map_or(&[][..], |drain| &ran.log[drain..]);
        given_back += usize::from(after.len() == 2 && is_back(&after[1]));
    }
    assert!(given_back > 0, "no drain was interrupted");
}

#[tokio::test]
async fn a_new_bundle_on_three_hosts_is_finished_from_any_moment() {
    stop_and_repeat(109, async |seed| with_new_bundle(SMALL, seed).await).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_zones_is_finished_from_any_moment() {
    stop_and_repeat(293, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}

#[tokio::test]
async fn a_new_bundle_with_a_witness_is_finished_from_any_moment() {
    stop_and_repeat(907, async |seed| with_new_bundle(WITNESS, seed).await).await;
}

#[tokio::test]
async fn a_new_bundle_on_five_masters_is_finished_from_any_moment() {
    let inventory = spread(5, 1);
    stop_and_repeat(2203, async |seed| with_new_bundle(&inventory, seed).await).await;
}

#[tokio::test]
async fn a_first_install_of_three_zones_is_finished_though_stopped_twice() {
    stop_twice_and_repeat(1100, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_zones_is_finished_though_stopped_twice() {
    stop_twice_and_repeat(1100, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
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
            finish(&world, &[fault]).await;
            compare(&world, &expected, &(told, fault)).await;
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
        finish(&world, &[fault]).await;
        compare(&world, &expected, &(fault, &inventory)).await;

        let mut world = world;
        world.take_bundle("+1");
        world.install(None).await.unwrap().result.unwrap();
        assert_eq!(world.violations(), Vec::<String>::new(), "{inventory}");
        assert_eq!(world.stale_units(), Vec::<String>::new(), "{inventory}");
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{inventory}\n{}", text(&again.plan));
    }
}

#[tokio::test]
async fn a_soak_and_its_finish_are_finished_from_any_moment() {
    let soaking = async |seed| {
        let mut world = installed(THREE_ZONES, seed).await;
        world.soak(NEXT_MINOR);
        world
    };
    stop_and_repeat(701, soaking).await;
    let finishing = async |seed| {
        let mut world = soaking(seed).await;
        world.install(None).await.unwrap().result.unwrap();
        world.take_bundle(NEXT_MINOR);
        world
    };
    stop_and_repeat(907, finishing).await;
}

#[tokio::test]
async fn a_rollback_is_finished_from_any_moment() {
    stop_and_repeat(151, async |seed| {
        let mut world = installed(THREE_ZONES, seed).await;
        world.take_bundle(NEXT_MINOR);
        world.install(None).await.unwrap().result.unwrap();
        world.roll_back(&["m2", "w1"]).await.unwrap();
        world
    })
    .await;
}

/// A cluster whose masters but the first were destroyed, and new machines put in
/// their places.
async fn with_destroyed_masters(inventory: &str, seed: u64, destroyed: &[&str]) -> Simulation {
    let mut world = installed(inventory, seed).await;
    for host in destroyed {
        world.replace(host);
    }
    world.begin_restore("a snapshot");
    world
}

#[tokio::test]
async fn a_restore_of_etcd_is_finished_from_any_moment() {
    for (step, inventory, destroyed) in [
        (17, ALONE, &["m1"][..]),
        // Nothing was destroyed: what is written is to go back.
        (101, THREE_ZONES, &[]),
        (301, THREE_ZONES, &["m2", "m3"]),
        (301, WITNESS, &["m1", "e1"]),
    ] {
        stop_and_repeat(step, async |seed| {
            with_destroyed_masters(inventory, seed, destroyed).await
        })
        .await;
    }
}
