//! Zones that are cut off from the others.

use super::faults::{measure, with_new_bundle};
use super::worlds::{THREE_ZONES, WITNESS};
use cofferdam::plan::text;
use cofferdam::sim::{Fault, FaultKind};

/// Shorter than a silent connection is kept.
const SHORT: u64 = 15;

/// A run needs no second one for a cut that is over before anybody gives up.
#[tokio::test]
async fn a_run_goes_on_when_a_zone_heals_soon() {
    const STEP: usize = 180;
    for inventory in [THREE_ZONES, WITNESS] {
        let make = async |seed| with_new_bundle(inventory, seed).await;
        let (expected, operations) = measure(make).await;
        for operation in (0..operations).step_by(STEP) {
            let world = make(operation as u64).await;
            let kind = FaultKind::ZoneLost {
                heals_after: Some(SHORT),
            };
            let fault = Fault { operation, kind };
            let ran = world.install(Some(fault)).await.unwrap();
            if let Err(stopped) = ran.result {
                panic!("{fault:?}: {stopped}\n{}", text(&ran.planned.plan));
            }
            let differences = expected.differences(&world.end_state());
            assert_eq!(differences, Vec::<String>::new(), "{fault:?}");
            assert_eq!(world.violations(), Vec::<String>::new(), "{fault:?}");
        }
    }
}
