//! Takes a node's pods off it, by upstream's own drain, and lets pods back.
//!
//! What is ours of a cordon is readable where it lies: a node that a drain
//! cordoned carries an annotation, written in the same change. One that people
//! cordoned has none, and stays cordoned.

use crate::agent::api::{Api, text};
use crate::agent::channel::NoticeSender;
use crate::agent::cluster::is_cordoned_by_us;
use crate::agent::kubectl;
use crate::agent::root::Root;
use crate::host::{Failure, Notice};
use crate::inventory::DrainRule;
use crate::layout;
use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What kubectl may take to change one object.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// What kubectl may take beyond its own time-out.
const GRACE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pods that are named while they are waited for.
const NAMES_SHOWN: usize = 3;

/// Cordons the node and evicts its pods, but for those of DaemonSets: first those
/// that a rule is for, then all others within `limit_seconds`.
///
/// # Errors
/// If pods are left when their time is over, or can't be evicted. A cordon of ours
/// is taken back then.
pub(super) async fn drain(
    root: &Root,
    node: &str,
    rules: &[DrainRule],
    limit_seconds: u32,
    notices: &NoticeSender,
) -> Result<()> {
    cordon(root, node).await?;
    let of_rules = rules.iter().map(Some);
    for rule in of_rules.chain([None]) {
        let Err(failure) = evict(root, node, rule, limit_seconds, notices).await else {
            continue;
        };
        uncordon(root, node)
            .await
            .with_context(|| format!("{}; and then", failure.message))?;
        return Err(failure.into());
    }
    Ok(())
}

/// Evicts the pods of a rule, or all that are left.
async fn evict(
    root: &Root,
    node: &str,
    rule: Option<&DrainRule>,
    limit_seconds: u32,
    notices: &NoticeSender,
) -> Result<(), Failure> {
    let limit_seconds = rule
        .and_then(|rule| rule.timeout_seconds)
        .unwrap_or(limit_seconds);
    let limit = Duration::from_secs(limit_seconds.into());
    let of_rule = rule.map_or(String::new(), |rule| {
        format!(" of pods with {}", rule.selector)
    });
    let failed = |message: String| Failure {
        message: format!("draining {node}{of_rule}: {message}"),
        lines: Vec::new(),
        hint: None,
    };
    let program =
        kubectl::program(root, limit + GRACE).map_err(|error| failed(format!("{error:#}")))?;
    let program = program.arguments(
        arguments(node, rule, limit_seconds)
            .iter()
            .map(String::as_str),
    );
    let begun = Instant::now();
    let finished = tokio::select! {
        finished = program.finish() => finished,
        () = tell_what_is_left(root, node, notices) => unreachable!("it tells for ever"),
    };
    let failure = match finished {
        Ok(finished) if finished.status.success() => return Ok(()),
        Ok(finished) => Failure {
            lines: program.failure(&finished).lines,
            ..failed(match begun.elapsed() < limit {
                true => "kubectl would not; nothing was changed there".to_owned(),
                false => format!(
                    "pods are left on it after {limit_seconds} s, and nothing was changed there"
                ),
            })
        },
        Err(error) => failed(format!("{error:#}")),
    };
    Err(Failure {
        hint: Some(
            "see what holds them: `cofferdam kubectl -- get poddisruptionbudgets -A`; give them \
             more time with `[drain]` in the inventory; then run the same command again"
                .to_owned(),
        ),
        ..failure
    })
}

/// What kubectl is told.
fn arguments(node: &str, rule: Option<&DrainRule>, limit_seconds: u32) -> Vec<String> {
    let mut arguments = vec![
        "drain".to_owned(),
        node.to_owned(),
        "--ignore-daemonsets".to_owned(),
        "--delete-emptydir-data".to_owned(),
        format!("--timeout={limit_seconds}s"),
    ];
    if let Some(rule) = rule {
        arguments.push(format!("--pod-selector={}", rule.selector));
        let grace = rule.grace_seconds;
        arguments.extend(grace.map(|seconds| format!("--grace-period={seconds}")));
    }
    arguments
}

/// Lets pods come to the node again, if its cordon is ours.
///
/// # Errors
/// If the node can't be read or changed.
pub(super) async fn uncordon(root: &Root, node: &str) -> Result<()> {
    let object = read(root, node).await?;
    if !is_cordoned_by_us(&object) {
        return Ok(());
    }
    patch(
        root,
        node,
        &json!({
            "metadata": {"annotations": {layout::CORDONED: null}},
            "spec": {"unschedulable": null},
        }),
    )
    .await
    .with_context(|| format!("uncordoning {node}"))
}

async fn cordon(root: &Root, node: &str) -> Result<()> {
    let object = read(root, node).await?;
    if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    patch(
        root,
        node,
        &json!({
            "metadata": {"annotations": {layout::CORDONED: "true"}},
            "spec": {"unschedulable": true},
        }),
    )
    .await
    .with_context(|| format!("cordoning {node}"))
}

async fn read(root: &Root, node: &str) -> Result<Value> {
    let object = Api::load(root)?
        .get(&format!("/api/v1/nodes/{node}"))
        .await?;
    object.ok_or_else(|| anyhow!("there is no node {node}"))
}

async fn patch(root: &Root, node: &str, change: &Value) -> Result<()> {
    kubectl::program(root, CHANGE_LIMIT)?
        .arguments(["patch", "node", node, "--type=merge", "--patch"])
        .argument(change.to_string())
        .succeed()
        .await
        .map(drop)
}

async fn tell_what_is_left(root: &Root, node: &str, notices: &NoticeSender) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Ok(pods) = pods_of(root, node).await {
            let reason = what_is_left(node, &pods);
            notices.send_lossy(Notice::Waiting { reason });
        }
    }
}

async fn pods_of(root: &Root, node: &str) -> Result<Value> {
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
    let list = Api::load(root)?.get(&path).await?;
    list.ok_or_else(|| anyhow!("the API server has no pods"))
}

fn what_is_left(node: &str, list: &Value) -> String {
    let items = list.get("items").and_then(Value::as_array);
    let is_evicted = |pod: &&Value| {
        let owners = pod.pointer("/metadata/ownerReferences");
        let mut owners = owners.and_then(Value::as_array).into_iter().flatten();
        let is_daemon = owners.any(|owner| text(owner, "/kind") == "DaemonSet");
        let has_ended = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
        !is_daemon && !has_ended
    };
    let left: Vec<String> = items
        .into_iter()
        .flatten()
        .filter(is_evicted)
        .map(|pod| {
            let (namespace, name) = (
                text(pod, "/metadata/namespace"),
                text(pod, "/metadata/name"),
            );
            format!("{namespace}/{name}")
        })
        .collect();
    let names = left[..left.len().min(NAMES_SHOWN)].join(", ");
    match left.len() {
        0 => format!("{node}: its last pods end"),
        1 => format!("{node}: 1 pod is left: {names}"),
        count if count > NAMES_SHOWN => format!("{node}: {count} pods are left: {names}, …"),
        count => format!("{node}: {count} pods are left: {names}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_a_rule_have_a_time_of_their_own() {
        let rule = DrainRule {
            selector: "app in (db, cache)".to_owned(),
            grace_seconds: Some(30),
            timeout_seconds: None,
        };
        let told = |rule| arguments("w1", rule, 7).join(" ");
        let all = "drain w1 --ignore-daemonsets --delete-emptydir-data --timeout=7s";
        assert_eq!(told(None), all);
        assert_eq!(
            told(Some(&rule)),
            format!("{all} --pod-selector=app in (db, cache) --grace-period=30")
        );
    }

    #[test]
    fn tells_the_pods_that_a_drain_waits_for() {
        let pod = |name: &str, owner: &str, phase: &str| {
            json!({
                "metadata": {"namespace": "default", "name": name,
                             "ownerReferences": [{"kind": owner}]},
                "status": {"phase": phase},
            })
        };
        let told = |pods: Vec<Value>| what_is_left("w1", &json!({ "items": pods }));
        assert_eq!(
            told(vec![
                pod("a", "DaemonSet", "Running"),
                pod("b", "Job", "Succeeded")
            ]),
            "w1: its last pods end"
        );
        assert_eq!(
            told(vec![pod("a", "ReplicaSet", "Running")]),
            "w1: 1 pod is left: default/a"
        );
        let many = ["a", "b", "c", "d"].map(|name| pod(name, "ReplicaSet", "Running"));
        assert_eq!(
            told(many.into()),
            "w1: 4 pods are left: default/a, default/b, default/c, …"
        );
    }
}
