//! How far a run goes, and between what it pauses.

use super::order::is_disruptive;
use super::{Action, Plan, StagePlan, Step};
use crate::desired::{Desired, Stage, Until};

impl Plan {
    /// Ends the plan after a zone or host: masters are changed before nodes, and it
    /// ends in the first of the two in which the zone or host has a part, before
    /// whoever comes later by name. Registries, which hold up nobody, go all.
    pub(super) fn stop_after(&mut self, until: &Until, desired: &Desired) {
        let is_of_masters = |stage: Stage| matches!(stage, Stage::Etcd | Stage::ControlPlane);
        let stops_masters = desired.hosts.iter().any(|(name, host)| {
            let is_master = host.units.iter().any(|unit| is_of_masters(unit.stage));
            is_master && until.names(&host.zone, name)
        });
        let mut before = Vec::new();
        let mut place = 0;
        for part in &mut self.stages {
            place += 1;
            let is_bound = match part.stage {
                Stage::Registry => false,
                stage => stops_masters || !is_of_masters(stage),
            };
            part.lanes.retain(|lane| {
                let host = desired.hosts.get(&lane.host);
                let is_later = host.is_some_and(|host| until.is_before(&host.zone, &lane.host));
                let is_left = is_bound && is_later && is_disruptive(lane);
                if is_left {
                    before.push(lane.host.clone());
                }
                !is_left
            });
            if !before.is_empty() {
                break;
            }
        }
        if before.is_empty() {
            return;
        }
        self.stages.truncate(place);
        let changes_masters = |part: &StagePlan| {
            let steps = part.lanes.iter().flat_map(|lane| &lane.steps);
            let mut steps = steps.filter(|step| is_of_masters(step.stage));
            steps.any(|step| !is_snapshot(step) && !matches!(step.action, Action::Wait { .. }))
        };
        if !self.stages.iter().any(changes_masters) {
            self.leave_snapshots_out();
        }
        self.stages.retain(|part| !part.lanes.is_empty());
        self.stops_before = before;
    }

    /// They are for masters that are changed after them.
    fn leave_snapshots_out(&mut self) {
        let lanes = self.stages.iter_mut().flat_map(|part| &mut part.lanes);
        for lane in lanes {
            lane.steps.retain(|step| !is_snapshot(step));
        }
        for part in &mut self.stages {
            part.lanes.retain(|lane| !lane.steps.is_empty());
        }
    }
}

fn is_snapshot(step: &Step) -> bool {
    matches!(step.action, Action::SnapshotEtcd { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Change, DesiredHost, Needs, Unit};
    use crate::plan::{Disruption, Lane};

    /// Parts as `harmless: m1 m2; masters: m1; w1` has them: of nodes, but for
    /// those that are told otherwise, and all but `harmless` ones interrupting
    /// something.
    fn plan(text: &str) -> Plan {
        let stages = text.split("; ").map(|part| {
            let (kind, names) = part.split_once(": ").unwrap_or(("nodes", part));
            let stage = match kind {
                "masters" => Stage::ControlPlane,
                "registries" => Stage::Registry,
                _ => Stage::Nodes,
            };
            let lanes = names.split(' ').map(|host| {
                let step = Step {
                    stage,
                    host: host.to_owned(),
                    title: String::new(),
                    disrupts: match kind {
                        "harmless" => [].into(),
                        _ => [Disruption::Node].into(),
                    },
                    action: Action::SwapOff,
                };
                Lane {
                    host: host.to_owned(),
                    steps: vec![step],
                }
            });
            StagePlan {
                stage,
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
            let unit = Unit {
                name: "kube-apiserver.service".to_owned(),
                stage: Stage::ControlPlane,
                inputs: None,
                pending: false,
                needs: Needs::default(),
                change: Change::Restart,
                ready: None,
            };
            let host = DesiredHost {
                zone: zone.to_owned(),
                units: name.starts_with('m').then_some(unit).into_iter().collect(),
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
        let text = "harmless: m1 m2 m3; masters: m1; masters: m2; masters: m3; m1; w1";
        assert_eq!(stopped(text, "a", None), "m1 m2 m3; m1 | m2");
        assert_eq!(stopped(text, "b", None), "m1 m2 m3; m1; m2 | m3");
        assert_eq!(stopped(text, "c", None), "m1 m2 m3; m1; m2; m3; m1; w1 | ");
        // Of a run that was stopped so before, nothing is left but to go on.
        assert_eq!(stopped("masters: m3; m1; w1", "b", None), " | m3");
    }

    #[test]
    fn a_plan_ends_before_what_comes_after_a_host() {
        let text = "masters: m1; masters: m2; m1; w1; m2";
        assert_eq!(stopped(text, "a", Some("m1")), "m1 | m2");
        // Which is no master, so that these go all.
        assert_eq!(stopped(text, "a", Some("w1")), "m1; m2; m1; w1 | m2");
        // Hosts that take their turn together are told apart.
        assert_eq!(stopped("m1; m2 w2; m3", "b", Some("m2")), "m1; m2 | w2");
    }

    #[test]
    fn registries_go_all() {
        let text = "registries: m1; registries: m2; masters: m1; masters: m2";
        assert_eq!(stopped(text, "a", None), "m1; m2; m1 | m2");
    }
}
