//! Runs that are stopped, and repeated until they are done.

use super::worlds::{ALONE, SMALL, THREE_ZONES, installed, world};
use cofferdam::plan::text;
use cofferdam::sim::{EndState, Fault, FaultKind, Simulation};

/// More than a run that goes on from where the last one stopped can need.
const MOST_RUNS: usize = 3;

/// Stops the first run at every `step`th moment in each way (the ways take
/// turns, so that with a step of four each moment is tried in one way),
/// repeats it, and compares what it comes to.
async fn stop_and_repeat(step: usize, make: impl AsyncFn(u64) -> Simulation) {
    let (expected, operations) = measure(&make).await;
    for (turn, kind) in FaultKind::ALL.into_iter().enumerate() {
        let first = turn * step / FaultKind::ALL.len();
        for operation in (first..operations).step_by(step) {
            let world = make(operation as u64).await;
            let fault = Fault { operation, kind };
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

async fn finish(world: &Simulation, fault: Fault) {
    let mut fault_left = Some(fault);
    let mut last = String::new();
    for _ in 0..MOST_RUNS {
        let ran = world.install(fault_left.take()).await.unwrap();
        match ran.result {
            Ok(_) => return,
            Err(stopped) => last = format!("{stopped}\n{}", text(&ran.planned.plan)),
        }
    }
    panic!("{fault:?}: not done after {MOST_RUNS} runs: {last}");
}

/// What an undisturbed run comes to, and how many operations it takes.
async fn measure(make: impl AsyncFn(u64) -> Simulation) -> (EndState, usize) {
    let world = make(0).await;
    let before = world.operations();
    world.install(None).await.unwrap().result.unwrap();
    (world.end_state(), world.operations() - before)
}

async fn with_new_bundle(inventory: &str, seed: u64) -> Simulation {
    let mut world = installed(inventory, seed).await;
    world.take_bundle("+1");
    world
}

#[tokio::test]
async fn a_first_install_alone_is_finished_from_any_moment() {
    stop_and_repeat(4, async |seed| world(ALONE, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_three_hosts_is_finished_from_any_moment() {
    stop_and_repeat(12, async |seed| world(SMALL, seed)).await;
}

#[tokio::test]
async fn a_first_install_of_three_zones_is_finished_from_any_moment() {
    stop_and_repeat(60, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_hosts_is_finished_from_any_moment() {
    stop_and_repeat(32, async |seed| with_new_bundle(SMALL, seed).await).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_zones_is_finished_from_any_moment() {
    stop_and_repeat(80, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}
