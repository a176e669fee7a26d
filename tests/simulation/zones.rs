//! Zones that are cut off from the others.

use super::faults::{measure, with_new_bundle};
use super::worlds::{THREE_ZONES, WITNESS, installed};
use cofferdam::plan::text;
use cofferdam::sim::{Fault, FaultKind, Machine};
use std::collections::BTreeSet;

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

/// A host whose own zone has no registry left reads from another zone's, as
/// long as one is in reach.
#[tokio::test]
async fn images_come_from_registries_of_other_zones_in_reach() {
    for (cut, left_out, expected) in [
        (&[][..], &["m2"][..], Ok(())),
        (&["a"], &["m2", "m1", "w1"], Ok(())),
        (&["a", "c"], &["m2", "m1", "w1", "m3"], Err("none of")),
    ] {
        let mut world = installed(THREE_ZONES, 0).await;
        let images = world.disk("w2").images;
        let lose = |machine: &mut Machine| {
            machine.disk.images.pop_first();
        };
        world.tamper("w2", lose).unwrap();
        world.switch_off("m2");
        for zone in cut {
            world.cut_zone(zone);
        }
        let left_out = left_out.iter().map(|host| (*host).to_owned());
        world.left_out = left_out.collect::<BTreeSet<String>>();
        let ran = world.install(None).await.unwrap();
        let told = format!("{cut:?}: {:?}\n{}", ran.result, text(&ran.planned.plan));
        match expected {
            Ok(()) => assert_eq!(world.disk("w2").images, images, "{told}"),
            Err(reason) => {
                let stopped = ran.result.unwrap_err();
                assert!(stopped.to_string().contains(reason), "{told}");
            }
        }
    }
}
