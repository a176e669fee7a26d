//! Simulated hosts once more, every moment in every way. It takes hours, so that
//! it runs only by its name: `cargo test --test exhaustive`.

#![expect(clippy::unwrap_used, reason = "a test helper may stop the test")]

#[expect(dead_code, reason = "its own tests run elsewhere")]
mod simulation {
    pub mod faults;
    pub mod worlds;
}

use simulation::faults::{stop_and_repeat, stop_twice_and_repeat, with_new_bundle};
use simulation::worlds::{THREE_ZONES, WITNESS, spread, world};

#[tokio::test]
async fn first_install_of_three_zones() {
    stop_and_repeat(1, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
async fn new_bundle_on_three_zones() {
    stop_and_repeat(1, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}

#[tokio::test]
async fn new_bundle_with_a_witness() {
    stop_and_repeat(1, async |seed| with_new_bundle(WITNESS, seed).await).await;
}

#[tokio::test]
async fn new_bundle_on_five_masters() {
    let inventory = spread(5, 1);
    stop_and_repeat(1, async |seed| with_new_bundle(&inventory, seed).await).await;
}

/// Every moment of the first run in every way; the second run is stopped once
/// for each.
#[tokio::test]
async fn first_install_of_three_zones_stopped_twice() {
    stop_twice_and_repeat(1, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
async fn new_bundle_on_three_zones_stopped_twice() {
    stop_twice_and_repeat(1, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}

/// Every thousandth moment: each run of fifty hosts takes minutes.
#[tokio::test]
async fn new_bundle_on_fifty_hosts() {
    let inventory = spread(5, 45);
    let made = async |seed| with_new_bundle(&inventory, seed).await;
    stop_and_repeat(1_000, made).await;
}
