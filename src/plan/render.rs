//! A plan for people, and as JSON for programs.

use super::{Plan, StagePlan, title};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The plan as lines: a heading for each stage, hosts that do the same side by
/// side, and a sum at the end. Ends with a line break.
pub fn text(plan: &Plan) -> String {
    if plan.is_empty() && plan.refusals.is_empty() && !plan.stops_before.is_empty() {
        return format!("nothing to do {}\n", before(plan));
    }
    if plan.is_empty() && plan.refusals.is_empty() {
        return "nothing to do: everything is as it should be\n".to_owned();
    }
    let parts: Vec<(String, Vec<Line>)> = plan
        .stages
        .iter()
        .enumerate()
        .map(|(index, part)| {
            let follows = index > 0 && plan.stages[index - 1].stage == part.stage;
            let heading = match follows {
                true => format!("{}, then", part.stage.title()),
                false => part.stage.title().to_owned(),
            };
            (heading, lines(part))
        })
        .collect();
    let width = parts
        .iter()
        .flat_map(|(_, lines)| lines)
        .map(|line| line.hosts.join(" ").len())
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (heading, lines) in &parts {
        text.push_str(&format!("{heading}\n"));
        for line in lines {
            let hosts = line.hosts.join(" ");
            text.push_str(&format!("  {hosts:width$}  {}\n", line.title));
        }
    }
    for refusal in &plan.refusals {
        text.push_str(&format!("can't be run now: {refusal}\n"));
    }
    let hosts: BTreeSet<&str> = plan.steps().map(|step| step.host.as_str()).collect();
    let hosts = hosts.iter().filter(|host| **host != super::SITE).count();
    let steps = title::count(plan.steps().count(), "step", "steps");
    let hosts = title::count(hosts, "host", "hosts");
    let before = match plan.stops_before.is_empty() {
        true => String::new(),
        false => format!(", then it stops {}", before(plan)),
    };
    text.push_str(&format!("{steps} on {hosts}{before}\n"));
    text
}

/// `before m3`
pub fn before(plan: &Plan) -> String {
    format!("before {}", plan.stops_before.join(" "))
}

/// The plan as an object: `version`, `steps` (each with `part`, the number of
/// the group of lanes that it runs in, `lane`, `stage`, `host`, `title`,
/// `action` and, where it interrupts something, `disrupts`), `refusals`, and
/// `stops_before`, the hosts whose turn would come next.
pub fn json(plan: &Plan) -> Value {
    #[derive(Serialize)]
    struct Row<'a> {
        part: usize,
        lane: &'a str,
        #[serde(flatten)]
        step: &'a super::Step,
    }
    let mut steps = Vec::new();
    for (part, stage) in plan.stages.iter().enumerate() {
        for lane in &stage.lanes {
            steps.extend(lane.steps.iter().map(|step| Row {
                part,
                lane: &lane.host,
                step,
            }));
        }
    }
    let refusals: Vec<Value> = plan
        .refusals
        .iter()
        .map(|refusal| json!({ "refusal": refusal, "message": refusal.to_string() }))
        .collect();
    json!({
        "version": 1,
        "steps": steps,
        "refusals": refusals,
        "stops_before": plan.stops_before,
    })
}

/// A title and the hosts whose lanes have it.
struct Line {
    hosts: Vec<String>,
    title: String,
}

/// The lanes merged line by line, each lane's own order kept.
fn lines(part: &StagePlan) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for lane in &part.lanes {
        let mut position = 0;
        for (index, step) in lane.steps.iter().enumerate() {
            let same = |line: &Line| line.title == step.title;
            match lines.iter().skip(position).position(same) {
                Some(offset) => {
                    position += offset;
                    let hosts = &mut lines[position].hosts;
                    if !hosts.contains(&step.host) {
                        hosts.push(step.host.clone());
                    }
                }
                None => {
                    // Behind what other hosts do alone, and before the next
                    // line that this one shares with them.
                    let rest = &lane.steps[index..];
                    let is_shared = |line: &Line| rest.iter().any(|step| step.title == line.title);
                    let shared = lines.iter().skip(position).position(is_shared);
                    position = shared.map_or(lines.len(), |offset| position + offset);
                    let line = Line {
                        hosts: vec![step.host.clone()],
                        title: step.title.clone(),
                    };
                    lines.insert(position, line);
                }
            }
            position += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Condition, Stage};
    use crate::plan::{Action, Disruption, Lane, Refusal, Step};
    use std::collections::BTreeMap;

    fn step(host: &str, title: &str) -> Step {
        Step {
            stage: Stage::Nodes,
            host: host.to_owned(),
            title: title.to_owned(),
            disrupts: [Disruption::Node].into(),
            action: Action::Wait {
                condition: Condition::OverlayUp,
                limit_seconds: 5,
            },
        }
    }

    fn part(lanes: &[(&str, &[(&str, &str)])]) -> StagePlan {
        let lanes = lanes.iter().map(|(host, steps)| Lane {
            host: (*host).to_owned(),
            steps: steps
                .iter()
                .map(|(host, title)| step(host, title))
                .collect(),
        });
        StagePlan {
            stage: Stage::Nodes,
            lanes: lanes.collect(),
        }
    }

    #[test]
    fn hosts_that_do_the_same_share_lines_in_their_order() {
        let plan = Plan {
            stages: vec![
                part(&[
                    ("m1", &[("m1", "one"), ("m1", "only here"), ("m1", "three")]),
                    ("w1", &[("w1", "one"), ("w1", "two"), ("w1", "three")]),
                    ("w2", &[("w2", "one"), ("w2", "two"), ("m1", "ask")]),
                ]),
                part(&[("w10", &[("w10", "one")])]),
            ],
            stops_before: vec!["m3".to_owned()],
            ..Plan::default()
        };
        let expected = "\
nodes
  m1 w1 w2  one
  m1        only here
  w1 w2     two
  m1 w1     three
  m1        ask
nodes, then
  w10       one
10 steps on 4 hosts, then it stops before m3
";
        assert_eq!(text(&plan), expected);
    }

    #[test]
    fn an_empty_plan_says_so() {
        assert_eq!(
            text(&Plan::default()),
            "nothing to do: everything is as it should be\n"
        );
    }

    #[test]
    fn the_object_has_steps_and_refusals() {
        let plan = Plan {
            stages: vec![part(&[("w1", &[("m1", "ask")])])],
            refusals: vec![Refusal::LastServing {
                host: "m1".to_owned(),
                what: Disruption::ApiServer,
                down: BTreeMap::from([("m2".to_owned(), "off".to_owned())]),
            }],
            stops_before: Vec::new(),
        };
        let expected = serde_json::json!({
            "version": 1,
            "steps": [{
                "part": 0,
                "lane": "w1",
                "stage": "nodes",
                "host": "m1",
                "title": "ask",
                "disrupts": ["node"],
                "action": {
                    "action": "wait",
                    "condition": {"condition": "overlay-up"},
                    "limit_seconds": 5,
                },
            }],
            "refusals": [{
                "refusal": {
                    "reason": "last-serving",
                    "host": "m1",
                    "what": "api-server",
                    "down": {"m2": "off"},
                },
                "message": "m1: its API server can't be interrupted now, since it is the last one that serves (m2: off); bring another back, then run the same command again",
            }],
            "stops_before": [],
        });
        assert_eq!(json(&plan), expected);
        let back: Plan = serde_json::from_value(serde_json::to_value(&plan).unwrap()).unwrap();
        assert_eq!(back, plan);
    }
}
