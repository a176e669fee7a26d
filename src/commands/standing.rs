//! How far a run that stopped has come, zone by zone, and how it goes on.

use crate::desired::Stage;
use crate::event::{Event, EventSink, Standing};
use crate::inventory::Inventory;
use crate::output::Output;
use crate::plan::{Action, Plan, World};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// A step as events name it.
type Name = (Stage, String, String);

/// Passes events on, and keeps which steps are done.
pub(super) struct Tally<'a> {
    output: &'a Output,
    done: Mutex<BTreeSet<Name>>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        Self {
            output,
            done: Mutex::default(),
        }
    }

    /// How far the plan has come, with the words that go on with it.
    pub(super) fn stopped(&self, plan: &Plan, world: &World, inventory: &Inventory) -> Event {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        Event::RunStopped {
            zones: zones(plan, world, inventory, &done),
            again: command_line(std::env::args()),
        }
    }
}

impl EventSink for Tally<'_> {
    fn emit(&self, event: Event) {
        if let Event::StepDone {
            stage, host, title, ..
        } = &event
        {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert((*stage, host.clone(), title.clone()));
        }
        self.output.emit(event);
    }
}

/// What changes something on each host, and how much of that is done. A step
/// may be done elsewhere: the host of its lane is the one that it is for.
fn zones(
    plan: &Plan,
    world: &World,
    inventory: &Inventory,
    done: &BTreeSet<Name>,
) -> BTreeMap<String, BTreeMap<String, Standing>> {
    let mut zones: BTreeMap<String, BTreeMap<String, Standing>> = BTreeMap::new();
    let seen = inventory.hosts.iter();
    for host in seen.filter(|host| world.hosts.contains_key(&host.name)) {
        let zone = zones.entry(host.zone.clone()).or_default();
        zone.insert(host.name.clone(), Standing::default());
    }
    for lane in plan.stages.iter().flat_map(|stage| &stage.lanes) {
        let mut hosts = zones.values_mut();
        let Some(standing) = hosts.find_map(|zone| zone.get_mut(&lane.host)) else {
            continue;
        };
        for step in &lane.steps {
            if matches!(step.action, Action::Wait { .. }) {
                continue;
            }
            let name = (step.stage, step.host.clone(), step.title.clone());
            standing.steps += 1;
            standing.done += usize::from(done.contains(&name));
        }
    }
    zones
}

/// The words as a shell takes them.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let words = words.skip(1).map(|word| quoted(&word));
    let words: Vec<String> = std::iter::once("cofferdam".to_owned())
        .chain(words)
        .collect();
    words.join(" ")
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,@%+".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Condition;
    use crate::facts::HostFacts;
    use crate::plan::{Lane, StagePlan, Step};

    fn step(host: &str, title: &str, action: Action) -> Step {
        Step {
            stage: Stage::Nodes,
            host: host.to_owned(),
            title: title.to_owned(),
            disrupts: BTreeSet::new(),
            action,
        }
    }

    #[test]
    fn steps_count_for_the_host_that_they_are_for() {
        let text = "[cluster]\nname = \"lab\"\n[zones.a]\n[zones.b]\n\
             [[hosts]]\nname = \"m1\"\naddress = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n\
             [[hosts]]\nname = \"w1\"\naddress = \"10.77.2.21\"\nzone = \"b\"\nroles = [\"worker\"]\n";
        let inventory = crate::inventory::parse(text, "inventory.toml".into()).unwrap();
        let uncordon = Action::Uncordon {
            node: "w1".to_owned(),
        };
        let wait = Action::Wait {
            condition: Condition::OverlayUp,
            limit_seconds: 1,
        };
        let lane = Lane {
            host: "w1".to_owned(),
            steps: vec![
                step("m1", "drain w1", Action::SwapOff),
                step("w1", "restart kubelet", Action::SwapOff),
                step("w1", "wait until it is up", wait),
                step("m1", "uncordon w1", uncordon),
            ],
        };
        let plan = Plan {
            stages: vec![StagePlan {
                stage: Stage::Nodes,
                lanes: vec![lane],
            }],
            refusals: Vec::new(),
            stops_before: Vec::new(),
        };
        let done = [(Stage::Nodes, "m1".to_owned(), "drain w1".to_owned())];
        let mut world = World::default();
        for host in ["m1", "w1"] {
            world.hosts.insert(host.to_owned(), HostFacts::default());
        }
        let done = BTreeSet::from(done);
        let zones = |world: &World| zones(&plan, world, &inventory, &done);
        assert!(zones(&World::default()).is_empty());
        let zones = zones(&world);
        assert_eq!(zones["a"]["m1"], Standing::default());
        assert_eq!(zones["b"]["w1"], Standing { done: 1, steps: 3 });
    }

    #[test]
    fn the_command_can_be_pasted() {
        let words = [
            "/opt/x/cofferdam",
            "upgrade",
            "--bundle",
            "my k8s.tar",
            "--finish",
            "",
        ];
        let line = command_line(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(line, "cofferdam upgrade --bundle 'my k8s.tar' --finish ''");
    }
}
