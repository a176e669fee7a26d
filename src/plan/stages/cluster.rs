//! The site before hosts, and the cluster on top of them.

use super::super::diff::Comparison;
use super::super::order::side_by_side;
use super::super::{Action, Disruption, Lane, Plan, SITE, StagePlan, Step, title};
use super::units::asked_host;
use super::{IsAnnounced, disruptive, step, wait};
use crate::desired::{Condition, Content, ManifestSet, Stage};
use crate::digest::Digest;
use crate::facts::{CniFacts, ManifestState};
use crate::layout;
use ipnet::IpNet;

/// Keys, certificates and decisions, into the site.
pub(in super::super) fn mint(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let materials = comparison.desired.to_mint.clone();
    let decisions = comparison.desired.to_decide.clone();
    let mut parts = Vec::new();
    if !materials.is_empty() {
        let one = "key or certificate";
        let keys = title::count(materials.len(), one, "keys and certificates");
        parts.push(format!("mint {keys}"));
    }
    if !decisions.is_empty() {
        let number = title::count(decisions.len(), "decision", "decisions");
        parts.push(format!("record {number}"));
    }
    if parts.is_empty() {
        return Vec::new();
    }
    let action = Action::Mint {
        materials,
        decisions,
    };
    let steps = vec![step(stage, SITE, parts.join(", "), action)];
    alone(stage, SITE, steps)
}

/// Manifest sets of a stage, in their order, from one master; all of them
/// before what they promise is waited for, since it takes its time side by
/// side.
pub(in super::super) fn apply_manifests(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    if comparison.desired.only.is_some() {
        return Vec::new();
    }
    let master = &comparison.world.cluster_host;
    let (mut steps, mut waits) = (Vec::new(), Vec::new());
    let sets = comparison.desired.manifests.iter();
    for set in sets.filter(|set| set.stage == stage) {
        let is_changed = is_set_changed(comparison, set);
        if is_changed {
            let action = Action::Apply {
                set: set.name.clone(),
            };
            steps.push(step(stage, master, format!("apply {}", set.name), action));
        }
        for condition in set.ready.iter().filter(|each| comparison.is_expected(each)) {
            if is_changed || comparison.is_unmet_in_cluster(condition) {
                waits.push(wait(stage, master, condition));
            }
        }
    }
    steps.extend(waits);
    alone(stage, master, steps)
}

/// Nodes whose rendered CNI configuration is not what their template and
/// their pod addresses make it, one after the other.
pub(in super::super) fn reset_pod_networks(
    comparison: &Comparison,
    stage: Stage,
) -> Vec<StagePlan> {
    let hosts = comparison.hosts.iter();
    hosts
        .filter_map(|host| {
            let node = host.desired.node.as_ref()?;
            let nodes = &comparison.world.cluster.as_ref()?.nodes;
            let pod_cidr = nodes.get(&node.name)?.pod_cidr?;
            let template = host.desired.files.get(layout::CNI_TEMPLATE)?;
            let rendered = host.facts.cni.as_ref()?;
            if is_rendered_from(rendered, &template.content, pod_cidr) {
                return None;
            }
            let action = Action::ResetCni {
                node: node.name.clone(),
            };
            // No drain: these pods' network is wrong already.
            let title = format!("end all pods of {} at once, for new addresses", node.name);
            let reset = step(stage, host.name, title, action);
            let ready = Condition::NodeReady {
                name: node.name.clone(),
            };
            let master = asked_host(comparison, host.name, &ready);
            let steps = vec![
                disruptive(reset, Disruption::Node, IsAnnounced::No),
                // The node counts as ready for a while after its kubelet went.
                wait(stage, host.name, &Condition::OverlayUp),
                wait(stage, master, &ready),
            ];
            Some(alone(stage, host.name, steps))
        })
        .flatten()
        .collect()
}

/// What a run ends with: every node ready, and everything applied at work, as
/// far as the plan didn't wait for it already. A plan that is empty so far
/// gets only what is known not to hold.
pub(in super::super) fn verify(comparison: &Comparison, plan: &Plan) -> Vec<StagePlan> {
    let is_waited_for = |condition: &Condition| {
        plan.steps().any(|step| {
            matches!(&step.action, Action::Wait { condition: known, .. } if known == condition)
        })
    };
    let is_meant = |host: &str| comparison.is_meant(host);
    let nodes = comparison.hosts.iter().filter_map(|host| {
        let node = host.desired.node.as_ref().filter(|_| is_meant(host.name));
        let name = node?.name.clone();
        Some(Condition::NodeReady { name })
    });
    let is_of_all = comparison.desired.only.is_none();
    let sets = comparison.desired.manifests.iter();
    let sets = sets.filter(|_| is_of_all);
    let mut conditions: Vec<Condition> = Vec::new();
    let all = nodes.chain(sets.flat_map(|set| set.ready.clone()));
    for condition in all.filter(|condition| comparison.is_expected(condition)) {
        let is_due = !plan.is_empty() || comparison.is_unmet_in_cluster(&condition);
        if is_due && !is_waited_for(&condition) && !conditions.contains(&condition) {
            conditions.push(condition);
        }
    }
    let master = &comparison.world.cluster_host;
    let steps = conditions
        .iter()
        .map(|condition| wait(Stage::Verify, master, condition));
    alone(Stage::Verify, master, steps.collect())
}

fn alone(stage: Stage, host: &str, steps: Vec<Step>) -> Vec<StagePlan> {
    let lane = Lane {
        host: host.to_owned(),
        steps,
    };
    side_by_side(stage, vec![vec![lane]]).into_iter().collect()
}

fn is_set_changed(comparison: &Comparison, set: &ManifestSet) -> bool {
    let cluster = comparison.world.cluster.as_ref();
    let state = cluster.and_then(|cluster| cluster.manifests.get(&set.name));
    state != Some(&ManifestState::InSync)
}

/// Whether the rendered file is what the template gives for these addresses.
/// A template that does more than put them in is compared by its subnet only.
fn is_rendered_from(rendered: &CniFacts, template: &Content, pod_cidr: IpNet) -> bool {
    if rendered.subnet != Some(pod_cidr) {
        return false;
    }
    let Content::Plain(template) = template else {
        return true;
    };
    let expected = std::str::from_utf8(template)
        .ok()
        .and_then(|template| render_for_one_range(template, pod_cidr));
    expected.is_none_or(|expected| rendered.digest == Digest::of(expected))
}

/// What containerd makes of a template for a node with one range of pod
/// addresses; none if the template has directives other than these. See
/// `cniConfigTemplate` in containerd's `internal/cri/server/update_runtime_config.go`.
fn render_for_one_range(template: &str, pod_cidr: IpNet) -> Option<String> {
    let range = pod_cidr.to_string();
    let rendered = template
        .replace("{{.PodCIDR}}", &range)
        .replace("{{range $i, $range := .PodCIDRRanges}}", "")
        .replace("{{if $i}}, {{end}}", "")
        .replace("{{$range}}", &range)
        .replace("{{end}}", "");
    (!rendered.contains("{{")).then_some(rendered)
}

impl Comparison<'_> {
    /// Whether the run is about the host.
    pub(in crate::plan) fn is_meant(&self, host: &str) -> bool {
        let only = self.desired.only.as_ref();
        only.is_none_or(|only| only.contains(host))
    }

    /// The host's zone; empty for hosts that aren't desired.
    pub(in crate::plan) fn zone_of(&self, host: &str) -> &str {
        let host = self.desired.hosts.get(host);
        host.map(|host| host.zone.as_str()).unwrap_or_default()
    }

    /// Whether the cluster has the node.
    pub(super) fn is_node_known(&self, name: &str) -> bool {
        let cluster = self.world.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.nodes.contains_key(name))
    }

    /// Whether a drain of ours left the node cordoned.
    pub(super) fn is_cordoned_by_us(&self, name: &str) -> bool {
        let cluster = self.world.cluster.as_ref();
        let node = cluster.and_then(|cluster| cluster.nodes.get(name));
        node.is_some_and(|node| node.cordoned_by_us)
    }

    /// Whether the cluster says that the node isn't there or isn't ready.
    pub(super) fn is_node_unready(&self, name: &str) -> bool {
        let cluster = self.world.cluster.as_ref();
        cluster.is_some_and(|cluster| !cluster.nodes.get(name).is_some_and(|node| node.ready))
    }

    /// Whether the cluster says that the node isn't there or has no share of
    /// the pod addresses.
    fn lacks_pod_addresses(&self, name: &str) -> bool {
        let cluster = self.world.cluster.as_ref();
        cluster.is_some_and(|cluster| {
            let node = cluster.nodes.get(name);
            node.is_none_or(|node| node.pod_cidr.is_none())
        })
    }

    /// Whether a condition can be expected to hold. While a host is left out,
    /// replicas may be on it, for minutes: what they are for is asked for
    /// then, not their number.
    fn is_expected(&self, condition: &Condition) -> bool {
        let is_whole = self.hosts.len() == self.desired.hosts.len();
        is_whole || !matches!(condition, Condition::DeploymentAvailable { .. })
    }

    /// Whether the master that was asked says that a condition of the cluster
    /// does not hold.
    pub(super) fn is_unmet_in_cluster(&self, condition: &Condition) -> bool {
        match condition {
            Condition::NodeReady { name } => return self.is_node_unready(name),
            Condition::NodeHasPodAddresses { name } => return self.lacks_pod_addresses(name),
            _ => {}
        }
        let cluster = self.world.cluster.as_ref();
        cluster.is_some_and(|cluster| {
            let mut unmet = cluster.unmet.iter();
            unmet.any(|found| found.condition == *condition)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_configuration_is_compared_with_template_and_addresses() {
        let pod_cidr: IpNet = "10.244.1.0/24".parse().unwrap();
        let facts = |text: &str, subnet: &str| CniFacts {
            digest: Digest::of(text),
            subnet: subnet.parse().ok(),
        };
        let plain = Content::Plain(b"subnet={{.PodCIDR}} mtu=1450".to_vec());
        let ranges = "{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}<{{$range}}>{{end}}";
        let ranges = Content::Plain(ranges.as_bytes().to_vec());
        let elaborate = Content::Plain(b"{{range .PodCIDRRanges}}{{.}}{{end}}".to_vec());
        for (rendered, template, expected) in [
            (
                facts("subnet=10.244.1.0/24 mtu=1450", "10.244.1.0/24"),
                &plain,
                true,
            ),
            (
                facts("subnet=10.244.1.0/24 mtu=1400", "10.244.1.0/24"),
                &plain,
                false,
            ),
            (
                facts("subnet=10.244.2.0/24 mtu=1450", "10.244.2.0/24"),
                &plain,
                false,
            ),
            (facts("<10.244.1.0/24>", "10.244.1.0/24"), &ranges, true),
            (facts("[10.244.1.0/24]", "10.244.1.0/24"), &ranges, false),
            (facts("10.244.1.0/24", "10.244.1.0/24"), &elaborate, true),
            (facts("10.244.2.0/24", "10.244.2.0/24"), &elaborate, false),
            (facts("", "10.244.1.0/24"), &Content::Pending, true),
        ] {
            assert_eq!(is_rendered_from(&rendered, template, pod_cidr), expected);
        }
    }
}
