//! Every moment in every way: for a night, and named on the command line.

use super::faults::{stop_and_repeat, stop_twice_and_repeat, with_new_bundle};
use super::worlds::{THREE_ZONES, WITNESS, spread, world};

#[tokio::test]
#[ignore = "exhaustive: hours"]
async fn exhaustive_first_install_of_three_zones() {
    stop_and_repeat(1, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
#[ignore = "exhaustive: hours"]
async fn exhaustive_new_bundle_on_three_zones() {
    stop_and_repeat(1, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}

#[tokio::test]
#[ignore = "exhaustive: hours"]
async fn exhaustive_new_bundle_with_a_witness() {
    stop_and_repeat(1, async |seed| with_new_bundle(WITNESS, seed).await).await;
}

#[tokio::test]
#[ignore = "exhaustive: hours"]
async fn exhaustive_new_bundle_on_five_masters() {
    let inventory = spread(5, 1);
    stop_and_repeat(1, async |seed| with_new_bundle(&inventory, seed).await).await;
}

/// Every moment of the first run in every way; the second run is stopped once
/// for each.
#[tokio::test]
#[ignore = "exhaustive: hours"]
async fn exhaustive_first_install_of_three_zones_stopped_twice() {
    stop_twice_and_repeat(1, async |seed| world(THREE_ZONES, seed)).await;
}

#[tokio::test]
#[ignore = "exhaustive: hours"]
async fn exhaustive_new_bundle_on_three_zones_stopped_twice() {
    stop_twice_and_repeat(1, async |seed| with_new_bundle(THREE_ZONES, seed).await).await;
}
