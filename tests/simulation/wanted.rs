//! Runs that are stopped, after which something else is wanted.

use super::faults::{fault, measure};
use super::worlds::{installed, world};
use cofferdam::plan::text;
use cofferdam::sim::{EndState, FaultKind, Simulation};

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
    // Of the same versions: to go back from others is not what install does.
    let make = async |seed| {
        let mut world = installed(REGISTRY_BESIDE, seed).await;
        world.take_bundle("+1");
        world
    };
    let change = |world: &mut Simulation| world.take_bundle("");
    stop_and_want_another(23, &expected, make, change).await;
}
