//! How far a run goes, and between what it pauses.

use super::order::is_disruptive;
use super::{Action, Plan, SITE, StagePlan, Step};
use crate::desired::{Desired, Until};

impl Plan {
    /// Ends the plan before the first step that interrupts something on a host
    /// that comes after the given one. Zones, and hosts within them, have the
    /// order of their names.
    pub(super) fn stop_after(&mut self, until: &Until, desired: &Desired) {
        let comes_after = |host: &str| {
            let zone = desired.hosts.get(host).map(|known| known.zone.as_str());
            let zone = zone.filter(|_| host != SITE);
            zone.is_some_and(|zone| match &until.host {
                Some(last) => (zone, host) > (until.zone.as_str(), last),
                None => zone > until.zone.as_str(),
            })
        };
        let mut before = Vec::new();
        let mut place = 0;
        for part in &mut self.stages {
            place += 1;
            part.lanes.retain(|lane| {
                let is_left = is_disruptive(lane) && comes_after(&lane.host);
                if is_left {
                    before.push(lane.host.clone());
                }
                !is_left
            });
            if !before.is_empty() {
                break;
            }
        }
        if !before.is_empty() {
            self.stages.truncate(place);
            if !self.stages.iter().any(StagePlan::interrupts) {
                self.leave_snapshots_out();
            }
            self.stages.retain(|part| !part.lanes.is_empty());
            self.stops_before = before;
        }
    }

    /// They are for what is interrupted after them.
    fn leave_snapshots_out(&mut self) {
        let lanes = self.stages.iter_mut().flat_map(|part| &mut part.lanes);
        for lane in lanes {
            let is_snapshot = |step: &Step| matches!(step.action, Action::SnapshotEtcd { .. });
            lane.steps.retain(|step| !is_snapshot(step));
        }
        for part in &mut self.stages {
            part.lanes.retain(|lane| !lane.steps.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{DesiredHost, Stage};
    use crate::plan::{Disruption, Lane};

    /// Parts as `harmless: m1 m2; m1; m2` has them, all but `harmless` ones
    /// interrupting something.
    fn plan(text: &str) -> Plan {
        let stages = text.split("; ").map(|part| {
            let names = part.trim_start_matches("harmless: ");
            let lanes = names.split(' ').map(|host| {
                let step = Step {
                    stage: Stage::Nodes,
                    host: host.to_owned(),
                    title: String::new(),
                    disrupts: match part == names {
                        true => [Disruption::Node].into(),
                        false => [].into(),
                    },
                    action: Action::SwapOff,
                };
                Lane {
                    host: host.to_owned(),
                    steps: vec![step],
                }
            });
            StagePlan {
                stage: Stage::Nodes,
                lanes: lanes.collect(),
            }
        });
        Plan {
            stages: stages.collect(),
            ..Plan::default()
        }
    }

    /// What is left of a plan, and before whom it stops.
    fn stopped(text: &str, zone: &str, host: Option<&str>) -> String {
        let mut desired = Desired::default();
        for (name, zone) in [
            ("m1", "a"),
            ("w1", "a"),
            ("m2", "b"),
            ("w2", "b"),
            ("m3", "c"),
        ] {
            let host = DesiredHost {
                zone: zone.to_owned(),
                ..DesiredHost::default()
            };
            desired.hosts.insert(name.to_owned(), host);
        }
        let mut plan = plan(text);
        let until = Until {
            zone: zone.to_owned(),
            host: host.map(str::to_owned),
        };
        plan.stop_after(&until, &desired);
        let parts = plan.stages.iter().map(|part| {
            let names: Vec<&str> = part.lanes.iter().map(|lane| lane.host.as_str()).collect();
            names.join(" ")
        });
        let parts: Vec<String> = parts.collect();
        format!("{} | {}", parts.join("; "), plan.stops_before.join(" "))
    }

    #[test]
    fn a_plan_ends_before_what_comes_after_a_zone() {
        let text = "harmless: m1 m2 m3; m1; m2; m3; m1; w1";
        assert_eq!(stopped(text, "a", None), "m1 m2 m3; m1 | m2");
        assert_eq!(stopped(text, "b", None), "m1 m2 m3; m1; m2 | m3");
        assert_eq!(stopped(text, "c", None), "m1 m2 m3; m1; m2; m3; m1; w1 | ");
        // Of a run that was stopped so before, nothing is left but to go on.
        assert_eq!(stopped("m3; m1; w1", "b", None), " | m3");
    }

    #[test]
    fn a_plan_ends_before_what_comes_after_a_host() {
        assert_eq!(stopped("m1; w1; m2", "a", Some("m1")), "m1 | w1");
        // Hosts that take their turn together are told apart.
        assert_eq!(stopped("m1; m2 w2; m3", "b", Some("m2")), "m1; m2 | w2");
    }
}
