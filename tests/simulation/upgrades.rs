//! Upgrades: soaking, the way back, pace, and nodes that are off.

use super::worlds::{ALL, THREE_ZONES, installed, spread};
use cofferdam::desired::{Condition, Part, Stage, Until};
use cofferdam::digest::Digest;
use cofferdam::event::HostsByZone;
use cofferdam::execute::Pauses;
use cofferdam::plan::{Action, StagePlan, text};
use cofferdam::sim::{Fault, FaultKind, NEXT_MINOR, Ran, Simulation};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// A dead node holds nobody up that goes on without it, and is taken along once it
/// is back.
#[tokio::test]
async fn an_upgrade_goes_on_without_a_node_that_is_off() {
    let mut world = installed(&spread(3, 6), 4).await;
    let mut nodes = world.inventory.hosts.iter();
    let node = nodes.rfind(|host| host.zone == "b");
    let node = node.unwrap().name.clone();
    world.switch_off(&node);
    world.left_out.insert(node.clone());
    world.take_bundle(NEXT_MINOR);
    let ran = world.install(None).await.unwrap();
    if let Err(stopped) = &ran.result {
        panic!("{stopped}\n{}", text(&ran.planned.plan));
    }
    // Nobody would tell service proxies of pods that end without a leader.
    let drained = |(_, action): &(String, Action)| matches!(action, Action::Drain { .. });
    let waited = |(_, action): &(String, Action)| {
        let Action::Wait { condition, .. } = action else {
            return false;
        };
        *condition == Condition::ControllerManagerLeads
    };
    let first = |is: &dyn Fn(&(String, Action)) -> bool| ran.log.iter().position(is);
    assert!(first(&waited).unwrap() < first(&drained).unwrap());
    assert!(world.plan().await.unwrap().plan.is_empty());

    world.switch_on(&node);
    world.left_out.clear();
    world.install(None).await.unwrap().result.unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
    assert_eq!(world.stale_units(), Vec::<String>::new());
    assert!(world.plan().await.unwrap().plan.is_empty());
}

/// The control plane first, as the old minor; then etcd, nodes and the new
/// behaviour. What is between the two is stable.
#[tokio::test]
async fn a_minor_soaks_before_it_is_finished() {
    for inventory in ALL {
        let mut world = installed(inventory, 1).await;
        world.soak(NEXT_MINOR);
        let ran = world.install(None).await.unwrap();
        let plan = text(&ran.planned.plan);
        if let Err(stopped) = &ran.result {
            panic!("{stopped}\n{plan}");
        }
        assert!(
            !plan.contains("drain") && !plan.contains("etcd in place"),
            "{plan}"
        );
        assert_eq!(world.violations(), Vec::<String>::new());
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{}", text(&again.plan));

        world.take_bundle(NEXT_MINOR);
        let ran = world.install(None).await.unwrap();
        if let Err(stopped) = &ran.result {
            panic!("{stopped}\n{}", text(&ran.planned.plan));
        }
        assert_eq!(world.violations(), Vec::<String>::new());
        assert_eq!(world.stale_units(), Vec::<String>::new());
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{}", text(&again.plan));
    }
}

/// From soak all the way back, up again, and finished; one host after the other
/// as well.
#[tokio::test]
async fn what_soaks_can_go_back() {
    for inventory in ALL {
        let mut world = installed(inventory, 2).await;
        world.soak(NEXT_MINOR);
        let hosts = world.inventory.hosts.iter().map(|host| host.name.clone());
        let hosts: Vec<String> = hosts.collect();
        let mut backs = vec![hosts.clone(), Vec::new()];
        backs.extend((1..=hosts.len()).map(|count| hosts[..count].to_vec()));
        backs.push(Vec::new());
        world.install(None).await.unwrap().result.unwrap();
        for back in backs {
            world.software.as_before = back.into_iter().collect();
            let told = format!("{:?} as before", world.software.as_before);
            let ran = world.install(None).await.unwrap();
            if let Err(stopped) = &ran.result {
                panic!("{told}: {stopped}\n{}", text(&ran.planned.plan));
            }
            assert_eq!(world.violations(), Vec::<String>::new(), "{told}");
            assert_eq!(world.stale_units(), Vec::<String>::new(), "{told}");
            let again = world.plan().await.unwrap();
            assert!(again.plan.is_empty(), "{told}: {}", text(&again.plan));
        }
        world.take_bundle(NEXT_MINOR);
        world.install(None).await.unwrap().result.unwrap();
        assert_eq!(world.violations(), Vec::<String>::new());
    }
}

/// After a finish nodes can go back, one after the other and all of them: what has
/// stored new things stays. What went back stays so until it is taken along.
#[tokio::test]
async fn hosts_go_back_to_generations_of_their_own() {
    for inventory in ALL {
        let mut world = installed(inventory, 3).await;
        let names: Vec<String> = world
            .inventory
            .hosts
            .iter()
            .map(|host| host.name.clone())
            .collect();
        world.take_bundle(NEXT_MINOR);
        world.install(None).await.unwrap().result.unwrap();
        let nodes = names.iter().filter(|name| !name.starts_with('e'));
        let nodes: Vec<&str> = nodes.map(String::as_str).collect();
        let mut backs: Vec<Vec<&str>> = nodes.iter().map(|name| vec![*name]).collect();
        backs.push(nodes);
        for back in backs {
            let told = world.roll_back(&back).await.unwrap();
            assert!(
                told.values().all(|parts| *parts == [Part::Node].into()),
                "{told:?}"
            );
            let ran = world.install(None).await.unwrap();
            if let Err(stopped) = &ran.result {
                panic!("{back:?}: {stopped}\n{}", text(&ran.planned.plan));
            }
            let plan = text(&ran.planned.plan);
            assert!(!plan.contains("etcd in place"), "{plan}");
            // As `install` sees it.
            world.only = None;
            let again = world.plan().await.unwrap();
            assert!(again.plan.is_empty(), "{back:?}: {}", text(&again.plan));
            for name in &back {
                let generation = world.disk(name).generation.unwrap();
                assert_eq!(generation.versions["kubelet"], "1.36.0", "{name}");
                assert_eq!(generation.versions["containerd"], "2.3.7", "{name}");
            }
        }
        world.take_along();
        let ran = world.install(None).await.unwrap();
        if let Err(stopped) = &ran.result {
            panic!("{stopped}\n{}", text(&ran.planned.plan));
        }
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{}", text(&again.plan));
        assert_eq!(world.violations(), Vec::<String>::new());
        assert_eq!(world.stale_units(), Vec::<String>::new());
    }
}

/// Blobs of each host's registry.
fn blobs(world: &Simulation) -> BTreeMap<String, BTreeSet<Digest>> {
    let hosts = world.inventory.hosts.iter().map(|host| {
        let registry = world.disk(&host.name).registry;
        (host.name.clone(), registry.blobs.into_keys().collect())
    });
    hosts.collect()
}

/// Whether each registry still has all of these.
fn holds(world: &Simulation, first: &BTreeMap<String, BTreeSet<Digest>>) -> bool {
    let then = blobs(world);
    let mut first = first.iter();
    first.all(|(name, first)| then[name].is_superset(first))
}

/// Changes that each host keeps a generation for.
async fn change_settings(world: &mut Simulation, inventory: &str) {
    for number in [101, 102] {
        let changed = format!("{inventory}\n[overrides.kubelet.config]\nmaxPods = {number}\n");
        world.take_inventory(&changed).unwrap();
        let ran = world.install(None).await.unwrap();
        if let Err(stopped) = &ran.result {
            panic!("{stopped}\n{}", text(&ran.planned.plan));
        }
        assert!(!ran.planned.plan.is_empty());
    }
}

/// Registries keep what the bundle before needs, and nothing that is older.
#[tokio::test]
async fn registries_keep_the_content_of_two_bundles() {
    for inventory in ALL {
        let mut world = installed(inventory, 5).await;
        let first = blobs(&world);
        assert!(first.values().any(|blobs| !blobs.is_empty()));
        world.take_bundle("+1");
        world.install(None).await.unwrap().result.unwrap();
        let both = blobs(&world);
        world.take_bundle("+2");
        world.install(None).await.unwrap().result.unwrap();
        let last = blobs(&world);
        for (name, first) in &first {
            assert!(both[name].is_superset(first), "{name}");
            let second: BTreeSet<_> = both[name].difference(first).copied().collect();
            assert!(last[name].is_superset(&second), "{name}");
            assert!(last[name].is_disjoint(first), "{name}");
        }
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{}", text(&again.plan));
    }
}

/// While a minor soaks, nodes are of the old one, whatever else is changed; a new node
/// gets its software from a registry.
#[tokio::test]
async fn registries_keep_what_nodes_are_of_while_a_minor_soaks() {
    let mut world = installed(THREE_ZONES, 6).await;
    let first = blobs(&world);
    world.soak(NEXT_MINOR);
    world.install(None).await.unwrap().result.unwrap();
    change_settings(&mut world, THREE_ZONES).await;
    assert!(holds(&world, &first));
    world.replace("w1");
    let ran = world.install(None).await.unwrap();
    if let Err(stopped) = &ran.result {
        panic!("{stopped}\n{}", text(&ran.planned.plan));
    }
    let generation = world.disk("w1").generation.unwrap();
    assert_eq!(generation.versions["kubelet"], "1.36.0");
}

/// A host that went back may be of a bundle that no registry's own host is of any more.
#[tokio::test]
async fn registries_keep_all_while_a_host_is_held() {
    let mut world = installed(THREE_ZONES, 7).await;
    let first = blobs(&world);
    world.take_bundle("+1");
    world.install(None).await.unwrap().result.unwrap();
    world.roll_back(&["w1"]).await.unwrap();
    world.install(None).await.unwrap().result.unwrap();
    world.only = None;
    change_settings(&mut world, THREE_ZONES).await;
    assert!(holds(&world, &first));
    // Taken along again, and changed once more, nobody is of it.
    world.take_along();
    world.install(None).await.unwrap().result.unwrap();
    change_settings(&mut world, THREE_ZONES).await;
    let then = blobs(&world);
    assert!(
        first
            .iter()
            .all(|(name, first)| then[name].is_disjoint(first))
    );
}

/// Going back moves tags that both bundles have, though none is at hand.
#[tokio::test]
async fn tags_go_back_without_a_bundle() {
    let mut world = installed(THREE_ZONES, 8).await;
    let tags = |world: &Simulation| world.disk("m1").registry.tags;
    let first = tags(&world);
    world.take_bundle("+1");
    world.install(None).await.unwrap().result.unwrap();
    assert!(first.keys().eq(tags(&world).keys()) && first != tags(&world));
    world.take_bundle("");
    world.lose_bundles();
    let ran = world.install(None).await.unwrap();
    if let Err(stopped) = &ran.result {
        panic!("{stopped}\n{}", text(&ran.planned.plan));
    }
    assert_eq!(tags(&world), first);
}

/// A change that broke off is undone where it was begun, with all that it had
/// changed; the others are left as they are.
#[tokio::test]
async fn a_change_that_broke_off_is_undone() {
    let mut world = installed(THREE_ZONES, 4).await;
    world.take_bundle("+1");
    let hosts: Vec<String> = world
        .inventory
        .hosts
        .iter()
        .map(|host| host.name.clone())
        .collect();
    let all: Vec<&str> = hosts.iter().map(String::as_str).collect();
    // Killed ever later, until it has changed some hosts, and others not.
    let mut told = BTreeMap::new();
    let mut operation = 0;
    while told.is_empty() {
        operation += 5;
        let kind = FaultKind::RunKilled;
        let ran = world
            .install(Some(Fault { operation, kind }))
            .await
            .unwrap();
        assert!(ran.result.is_err(), "it came to its end");
        // While nothing was changed, there is nothing to go back to.
        told = world.roll_back(&all).await.unwrap_or_default();
    }
    assert!(told.len() < all.len(), "{told:?}");
    let ran = world.install(None).await.unwrap();
    if let Err(stopped) = &ran.result {
        panic!("{stopped}\n{}", text(&ran.planned.plan));
    }
    let again = world.plan().await.unwrap();
    assert!(again.plan.is_empty(), "{}", text(&again.plan));
    // With the bundle of before, nothing else is left of it either.
    world.take_along();
    world.take_bundle("");
    world.install(None).await.unwrap().result.unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
    assert_eq!(world.stale_units(), Vec::<String>::new());
}

/// Hosts that a run interrupts, in the order in which it does.
fn interrupted(ran: &Ran) -> Vec<String> {
    let parts = ran.planned.plan.stages.iter();
    let lanes = parts.filter(|part| part.interrupts() && part.stage != Stage::Registry);
    let lanes = lanes.flat_map(|part| &part.lanes);
    lanes.map(|lane| lane.host.clone()).collect()
}

/// Until the end of one zone after the other, each a run of its own, all comes to
/// the same as in one.
#[tokio::test]
async fn an_upgrade_goes_as_far_as_it_is_asked() {
    // Whoever leads etcd: seeds differ in that.
    for seed in 0..6 {
        goes_zone_by_zone(seed).await;
    }
}

async fn goes_zone_by_zone(seed: u64) {
    let mut at_once = installed(THREE_ZONES, seed).await;
    at_once.take_bundle(NEXT_MINOR);
    at_once.install(None).await.unwrap().result.unwrap();

    let mut world = installed(THREE_ZONES, seed).await;
    world.take_bundle(NEXT_MINOR);
    let zones: Vec<String> = world
        .inventory
        .zones
        .iter()
        .map(|zone| zone.name.clone())
        .collect();
    for zone in &zones {
        world.until = Some(Until {
            zone: zone.clone(),
            host: None,
        });
        let ran = world.install(None).await.unwrap();
        if let Err(stopped) = &ran.result {
            panic!("{zone}: {stopped}\n{}", text(&ran.planned.plan));
        }
        let zone_of = |host: &String| world.inventory.host(host).unwrap().zone.clone();
        let touched = interrupted(&ran);
        assert!(!touched.is_empty(), "{zone}");
        assert!(
            touched.iter().all(|host| zone_of(host) <= *zone),
            "{touched:?}"
        );
        let parts = ran.planned.plan.stages.iter();
        let masters = parts.filter(|part| part.stage == Stage::ControlPlane && part.interrupts());
        let masters: Vec<&str> = masters.map(|part| part.lanes[0].host.as_str()).collect();
        assert!(masters.is_sorted(), "{masters:?}");
        // No further, however often it is asked.
        let again = world.plan().await.unwrap().plan;
        assert!(again.is_empty(), "{}", text(&again));
        assert_eq!(again.stops_before.is_empty(), zone == zones.last().unwrap());
    }
    assert_eq!(world.violations(), Vec::<String>::new());
    let differences = at_once.end_state().differences(&world.end_state());
    assert_eq!(differences, Vec::<String>::new());
}

/// Says no to the first question, and keeps it.
struct No(Arc<Mutex<Vec<String>>>);

impl Pauses for No {
    fn may_go_on<'a>(
        &'a self,
        after: &'a HostsByZone,
        before: &'a HostsByZone,
    ) -> BoxFuture<'a, bool> {
        let told = format!("{after:?} {before:?}");
        self.0.lock().unwrap().push(told);
        Box::pin(std::future::ready(false))
    }
}

#[tokio::test]
async fn nothing_is_interrupted_after_a_no() {
    let mut world = installed(THREE_ZONES, 6).await;
    world.take_bundle("+1");
    let asked = Arc::new(Mutex::new(Vec::new()));
    world.pauses = Some(Box::new(No(asked.clone())));
    let ran = world.install(None).await.unwrap();
    let parts = ran.planned.plan.stages.iter();
    let lanes = parts.filter(|part| part.interrupts());
    let order: Vec<String> = lanes.map(|part| part.lanes[0].host.clone()).collect();
    let stopped = ran.result.unwrap_err();
    assert!(stopped.is_interrupted(), "{stopped}");
    let asked = asked.lock().unwrap().clone();
    let [only] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert!(
        only.contains(&order[0]) && only.contains(&order[1]),
        "{only}"
    );
    let done: BTreeSet<&String> = ran.log.iter().map(|(host, _)| host).collect();
    assert!(done.contains(&order[0]), "{done:?}");
    world.pauses = None;
    world.install(None).await.unwrap().result.unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
}

/// Two nodes of a zone at once where the inventory lets them, and the same in the
/// end.
#[tokio::test]
async fn nodes_of_a_zone_go_side_by_side_where_they_may() {
    let inventory = spread(3, 6).replace("[zones.a]\n", "[zones.a]\nmax_unavailable = 2\n");
    let mut world = installed(&inventory, 7).await;
    world.take_bundle(NEXT_MINOR);
    let ran = world.install(None).await.unwrap();
    if let Err(stopped) = &ran.result {
        panic!("{stopped}\n{}", text(&ran.planned.plan));
    }
    let drained = |part: &StagePlan| {
        let steps = part.lanes.iter().flat_map(|lane| &lane.steps);
        let drains = steps.filter(|step| matches!(step.action, Action::Drain { .. }));
        drains.count()
    };
    let sizes: BTreeSet<usize> = ran.planned.plan.stages.iter().map(drained).collect();
    assert_eq!(sizes.last(), Some(&2));
    // Where two are all that take any pod, one goes after the other.
    let few = spread(3, 1).replace("[zones.a]\n", "[zones.a]\nmax_unavailable = 4\n");
    let mut few = installed(&few, 8).await;
    few.take_bundle(NEXT_MINOR);
    let ran = few.install(None).await.unwrap();
    let groups = ran.planned.plan.stages.iter().map(drained);
    assert!(groups.max() <= Some(2), "{}", text(&ran.planned.plan));
    // One that is off and left out is away already.
    let more = spread(3, 9).replace("[zones.a]\n", "[zones.a]\nmax_unavailable = 2\n");
    let mut off = installed(&more, 9).await;
    let mut workers = off.inventory.hosts.iter();
    let one = workers.rfind(|host| host.zone == "a").unwrap();
    let one = one.name.clone();
    off.switch_off(&one);
    off.left_out.insert(one);
    off.take_bundle(NEXT_MINOR);
    let ran = off.install(None).await.unwrap();
    if let Err(stopped) = &ran.result {
        panic!("{stopped}\n{}", text(&ran.planned.plan));
    }
    let groups = ran.planned.plan.stages.iter().map(drained);
    assert_eq!(groups.max(), Some(1), "{}", text(&ran.planned.plan));
    assert_eq!(world.violations(), Vec::<String>::new());
    assert!(world.plan().await.unwrap().plan.is_empty());
}
