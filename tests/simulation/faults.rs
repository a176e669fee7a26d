//! Runs that are stopped, and repeated until they are done.

use super::worlds::{ALONE, SMALL, THREE_ZONES, installed, world};
use cofferdam::plan::text;
use cofferdam::sim::{EndState, Fault, FaultKind, Simulation};

/// More than a run that goes on from where the last one stopped can need.
const MOST_RUNS: usize = 3;

/// Which moments of a run are tried: every one, or every so many.
struct Moments {
    first: usize,
    step: usize,
}

/// Stops the first run at each of the moments in each way, repeats it, and
/// compares what it comes to.
async fn try_moments(
    moments: &Moments,
    make: impl AsyncFn(u64) -> Simulation,
    expected: &EndState,
    operations: usize,
) {
    for kind in FaultKind::ALL {
        for operation in (moments.first..operations).step_by(moments.step) {
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

/// How many operations the run takes that `make`'s world would make now.
async fn measure(make: impl AsyncFn(u64) -> Simulation) -> (EndState, usize) {
    let world = make(0).await;
    let before = world.operations();
    world.install(None).await.unwrap().result.unwrap();
    (world.end_state(), world.operations() - before)
}

#[tokio::test]
async fn a_first_install_alone_is_finished_from_any_moment() {
    let make = async |seed| world(ALONE, seed);
    let (expected, operations) = measure(make).await;
    let every = Moments { first: 0, step: 1 };
    try_moments(&every, make, &expected, operations).await;
}

#[tokio::test]
async fn a_first_install_of_three_hosts_is_finished_from_any_moment() {
    let make = async |seed| world(SMALL, seed);
    let (expected, operations) = measure(make).await;
    let moments = Moments { first: 1, step: 5 };
    try_moments(&moments, make, &expected, operations).await;
}

#[tokio::test]
async fn a_first_install_of_three_zones_is_finished_from_any_moment() {
    let make = async |seed| world(THREE_ZONES, seed);
    let (expected, operations) = measure(make).await;
    let moments = Moments { first: 3, step: 23 };
    try_moments(&moments, make, &expected, operations).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_hosts_is_finished_from_any_moment() {
    let make = async |seed| {
        let mut world = installed(SMALL, seed).await;
        world.take_bundle("+1");
        world
    };
    let (expected, operations) = measure(make).await;
    let moments = Moments { first: 0, step: 11 };
    try_moments(&moments, make, &expected, operations).await;
}

#[tokio::test]
async fn a_new_bundle_on_three_zones_is_finished_from_any_moment() {
    let make = async |seed| {
        let mut world = installed(THREE_ZONES, seed).await;
        world.take_bundle("+1");
        world
    };
    let (expected, operations) = measure(make).await;
    let moments = Moments { first: 2, step: 29 };
    try_moments(&moments, make, &expected, operations).await;
}
