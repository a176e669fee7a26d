//! Runs that nothing disturbs.

use super::worlds::{ALL, ALONE, SMALL, THREE_ZONES, WITNESS, growing, installed, spread, world};
use cofferdam::desired::Stage;
use cofferdam::event::Event;
use cofferdam::plan::{Action, Disruption, Plan, text};
use cofferdam::sim::{NEXT_MINOR, Ran};
use std::collections::{BTreeMap, BTreeSet};

/// What each host was to do and did, but for transfers, which are many
/// requests each.
fn planned_and_done(ran: &Ran) -> [BTreeMap<String, Vec<Action>>; 2] {
    let is_one_request = |action: &Action| {
        !matches!(
            action,
            Action::Mint { .. } | Action::PutBlobs { .. } | Action::Seed { .. }
        )
    };
    let mut planned: BTreeMap<String, Vec<Action>> = BTreeMap::new();
    for step in ran
        .planned
        .plan
        .steps()
        .filter(|step| is_one_request(&step.action))
    {
        planned
            .entry(step.host.clone())
            .or_default()
            .push(step.action.clone());
    }
    let mut done: BTreeMap<String, Vec<Action>> = BTreeMap::new();
    for (host, action) in &ran.log {
        done.entry(host.clone()).or_default().push(action.clone());
    }
    [planned, done]
}

fn titles_done(ran: &Ran) -> Vec<(Stage, String, String)> {
    let events = ran.events.iter();
    let mut titles: Vec<_> = events
        .filter_map(|event| match event {
            Event::StepDone {
                stage, host, title, ..
            } => Some((*stage, host.clone(), title.clone())),
            _ => None,
        })
        .collect();
    titles.sort();
    titles
}

fn titles_planned(plan: &Plan) -> Vec<(Stage, String, String)> {
    let mut titles: Vec<_> = plan
        .steps()
        .map(|step| (step.stage, step.host.clone(), step.title.clone()))
        .collect();
    titles.sort();
    titles
}

#[tokio::test]
async fn a_run_does_what_its_plan_says_and_the_next_one_nothing() {
    for inventory in ALL {
        for seed in 0..8 {
            let world = world(inventory, seed);
            let ran = world.install(None).await.unwrap();
            if let Err(stopped) = &ran.result {
                panic!("{stopped}\n{}", text(&ran.planned.plan));
            }
            assert_eq!(titles_done(&ran), titles_planned(&ran.planned.plan));
            let [planned, mut done] = planned_and_done(&ran);
            // Waits on masters belong to several lanes, so that only each
            // host's own order is promised; and lanes with waits elsewhere
            // interleave by time.
            let only_waits = |actions: &mut Vec<Action>| {
                actions.retain(|action| !matches!(action, Action::Wait { .. }));
            };
            let mut planned = planned;
            planned.values_mut().for_each(only_waits);
            done.values_mut().for_each(only_waits);
            assert_eq!(planned, done);
            assert_eq!(world.violations(), Vec::<String>::new());
            assert_eq!(world.stale_units(), Vec::<String>::new());

            let again = world.plan().await.unwrap();
            assert!(again.plan.is_empty(), "{}", text(&again.plan));
        }
    }
}

#[tokio::test]
async fn all_seeds_end_in_the_same_state() {
    for inventory in ALL {
        let expected = installed(inventory, 0).await.end_state();
        for seed in 1..8 {
            let found = installed(inventory, seed).await.end_state();
            assert_eq!(expected.differences(&found), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn a_new_bundle_is_rolled_out_one_member_at_a_time() {
    for inventory in ALL {
        for seed in 0..4 {
            let mut world = installed(inventory, seed).await;
            world.take_bundle(["+1", NEXT_MINOR][seed as usize % 2]);
            let ran = world.install(None).await.unwrap();
            if let Err(stopped) = &ran.result {
                panic!("{stopped}\n{}", text(&ran.planned.plan));
            }
            assert_eq!(world.violations(), Vec::<String>::new());
            assert_eq!(world.stale_units(), Vec::<String>::new());
            for part in &ran.planned.plan.stages {
                let disruptive = part
                    .lanes
                    .iter()
                    .filter(|lane| lane.steps.iter().any(|step| !step.disrupts.is_empty()));
                assert!(
                    disruptive.count() <= 1 && part.lanes.len() <= 1
                        || !part
                            .lanes
                            .iter()
                            .any(|lane| lane.steps.iter().any(|step| !step.disrupts.is_empty()))
                );
            }
            let again = world.plan().await.unwrap();
            assert!(again.plan.is_empty(), "{}", text(&again.plan));
        }
    }
}

#[tokio::test]
async fn the_only_member_is_announced_and_one_of_three_is_not() {
    for (inventory, is_announced) in [(ALONE, true), (SMALL, true), (THREE_ZONES, false)] {
        let mut world = installed(inventory, 0).await;
        world.take_bundle("+1");
        let planned = world.plan().await.unwrap();
        let mut restarts = planned
            .plan
            .steps()
            .filter(|step| step.disrupts.contains(&Disruption::EtcdMember));
        let restart = restarts.next().unwrap();
        assert_eq!(
            restart
                .title
                .contains("no other etcd member or API server can take over"),
            is_announced,
            "{}",
            restart.title
        );
    }
}

#[tokio::test]
async fn all_hosts_come_back_together_and_nothing_is_to_be_done() {
    for inventory in ALL {
        let world = installed(inventory, 1).await;
        let before = world.end_state();
        world.power_cycle(world.inventory.hosts.iter().map(|host| host.name.as_str()));
        let after = world.end_state();
        assert_eq!(before.differences(&after), Vec::<String>::new());
        let again = world.plan().await.unwrap();
        assert!(again.plan.is_empty(), "{}", text(&again.plan));
    }
}

#[tokio::test]
async fn a_damaged_blob_stops_the_run_and_is_stored_nowhere() {
    let mut world = world(SMALL, 0);
    let registry = world.software.whole.files["linux/amd64"]["registry"].clone();
    world.blobs.damage(&registry.blob);
    let ran = world.install(None).await.unwrap();
    let stopped = ran.result.unwrap_err();
    assert!(
        stopped
            .to_string()
            .contains("m1: the bytes that came are not sha256:"),
        "{stopped}"
    );
    for host in ["m1", "w1", "w2"] {
        let disk = world.disk(host);
        assert!(!disk.staging.contains_key(&registry.blob));
        assert!(!disk.store.contains_key(&registry.digest));
        assert!(!disk.registry.blobs.contains_key(&registry.blob));
    }
}

#[tokio::test]
async fn a_member_that_went_down_after_the_plan_was_made_keeps_the_others_up() {
    let mut world = installed(THREE_ZONES, 0).await;
    world.take_bundle("+1");
    let planned = world.plan().await.unwrap();
    assert_eq!(planned.plan.refusals, []);
    let etcd = "etcd.service";
    let stop = |machine: &mut cofferdam::sim::Machine| {
        machine.memory.processes.remove(etcd);
    };
    world.tamper("m3", stop).unwrap();
    let stopped = world.run(planned, None).await.result.unwrap_err();
    let text = stopped.to_string();
    assert!(
        text.contains("m2: its etcd member can't be interrupted now")
            && text.contains("m3: etcd.service is inactive"),
        "{text}"
    );
    assert_eq!(world.violations(), Vec::<String>::new());
    // The next run starts it first.
    world.install(None).await.unwrap().result.unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn no_host_is_special_a_cluster_grows_without_any_one_of_its_hosts() {
    let (from, to) = (spread(3, 2), spread(3, 3));
    let undisturbed = growing(&from, &to, 0).await;
    undisturbed.install(None).await.unwrap().result.unwrap();
    let expected = undisturbed.end_state();
    for off in ["m1", "m2", "m3", "w1"] {
        let mut world = growing(&from, &from, 0).await;
        world.switch_off(off);
        world.left_out.insert(off.to_owned());
        let planned = world.plan().await.unwrap().plan;
        assert!(
            planned.is_empty() && planned.refusals.is_empty(),
            "{off}: {}",
            text(&planned)
        );

        let mut world = growing(&from, &to, 0).await;
        world.switch_off(off);
        world.left_out.insert(off.to_owned());
        let ran = world.install(None).await.unwrap();
        let is_without = |(host, _): &(String, _)| host != off;
        assert!(ran.log.iter().all(is_without), "{off}");
        ran.result.unwrap();
        let again = world.plan().await.unwrap().plan;
        assert!(again.is_empty(), "{off}: {}", text(&again));

        world.switch_on(off);
        world.left_out.clear();
        world.install(None).await.unwrap().result.unwrap();
        let differences = expected.differences(&world.end_state());
        let differences: Vec<String> = differences
            .into_iter()
            .filter(|line| !line.contains("generation") && !line.contains("addresses"))
            .collect();
        assert_eq!(differences, Vec::<String>::new(), "{off}");
        assert_eq!(world.violations(), Vec::<String>::new(), "{off}");
    }
}

#[tokio::test]
async fn what_another_zone_must_stand_in_for_is_not_interrupted_while_a_zone_is_gone() {
    let mut world = installed(THREE_ZONES, 0).await;
    world.switch_off("m2");
    world.left_out.insert("m2".to_owned());
    world.take_bundle("+1");
    let planned = world.plan().await.unwrap();
    let refusals: Vec<String> = planned
        .plan
        .refusals
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        refusals.iter().any(
            |line| line.contains("m1: its etcd member can't be interrupted now")
                && line.contains("m2: it was left out")
        ),
        "{refusals:#?}"
    );
    assert!(world.run(planned, None).await.result.is_err());
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn any_zone_may_be_lost_and_the_others_go_on() {
    for inventory in [THREE_ZONES, WITNESS, &spread(5, 3)] {
        let mut world = installed(inventory, 0).await;
        let whole = world.end_state();
        let (servers, nodes) = (world.ready_api_servers(), world.ready_nodes());
        for zone in ["a", "b", "c"] {
            let hosts = world.inventory.hosts.iter();
            let lost = hosts.filter(|host| host.zone == zone);
            let lost: BTreeSet<String> = lost.map(|host| host.name.clone()).collect();
            let told = format!("{zone} of {}", world.inventory.cluster.name);

            world.cut_zone(zone);
            let left = world.ready_api_servers();
            assert!(!left.is_empty(), "{told}");
            assert_eq!(left, &servers - &lost, "{told}");
            assert_eq!(world.ready_nodes(), &nodes - &lost, "{told}");
            world.left_out.clone_from(&lost);
            let planned = world.plan().await.unwrap().plan;
            assert!(planned.is_empty(), "{told}: {}", text(&planned));
            assert_eq!(planned.refusals, [], "{told}");
            // What is written now is there when the zone comes back.
            world.tamper_with_manifests("rbac", "changed");
            world.install(None).await.unwrap().result.unwrap();

            world.heal_zone(zone);
            world.left_out.clear();
            let planned = world.plan().await.unwrap().plan;
            assert!(planned.is_empty(), "{told}: {}", text(&planned));
            let differences = whole.differences(&world.end_state());
            assert_eq!(differences, Vec::<String>::new(), "{told}");
            assert_eq!(world.violations(), Vec::<String>::new(), "{told}");
        }
    }
}

#[tokio::test]
async fn what_came_up_after_the_plan_was_made_is_restarted_one_after_the_other() {
    for unit in ["etcd.service", "kube-apiserver.service", "registry.service"] {
        let mut world = installed(THREE_ZONES, 0).await;
        world.take_bundle("+1");
        let set = |is_active: bool| {
            for host in ["m1", "m2", "m3"] {
                let change = |machine: &mut cofferdam::sim::Machine| {
                    let process = machine.memory.processes.get_mut(unit).unwrap();
                    process.is_active = is_active;
                    process.ready_at = if is_active { 0 } else { u64::MAX };
                };
                world.tamper(host, change).unwrap();
            }
        };
        set(false);
        let planned = world.plan().await.unwrap();
        set(true);
        world.let_time_pass();
        let ran = world.run(planned, None).await;
        if let Err(stopped) = &ran.result {
            panic!("{unit}: {stopped}\n{}", text(&ran.planned.plan));
        }
        assert_eq!(world.violations(), Vec::<String>::new(), "{unit}");
        assert_eq!(world.stale_units(), Vec::<String>::new(), "{unit}");
    }
}
