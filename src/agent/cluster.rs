//! The cluster as a master sees it.

use super::api::Api;
use super::command::Finished;
use super::failure::last_lines;
use super::kubectl;
use super::root::Root;
use crate::facts::{ClusterFacts, ManifestState, NodeFacts};
use crate::layout::FIELD_MANAGER;
use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// kubectl is a large program and hosts have few cores.
const PARALLEL: usize = 2;
/// A dry run of a set takes a second or two.
const DIFF_LIMIT: Duration = Duration::from_secs(60);

/// Looks at the nodes, the API server's version, and what applying each
/// manifest set would change.
///
/// # Errors
/// If this host is no master, or no API server answers.
pub async fn observe(root: &Root, manifests: &BTreeMap<String, String>) -> Result<ClusterFacts> {
    let api = Api::load(root)?;
    // Futures first: a closure inside the stream would be too narrow in its
    // lifetimes for a spawned task.
    let diffs: Vec<_> = manifests
        .iter()
        .map(|(name, yaml)| async move { (name.clone(), diff(root, yaml).await) })
        .collect();
    let sets = stream::iter(diffs)
        .buffer_unordered(PARALLEL)
        .collect::<BTreeMap<String, ManifestState>>();
    let version = async {
        let answer = api.get("/version").await?;
        Ok::<_, anyhow::Error>(
            answer.and_then(|answer| Some(answer.get("gitVersion")?.as_str()?.to_owned())),
        )
    };
    let nodes = async {
        let answer = api.get("/api/v1/nodes").await?;
        let answer = answer.ok_or_else(|| anyhow!("listing nodes: the API server has none"))?;
        Ok::<_, anyhow::Error>(parse_nodes(&answer))
    };
    // The quick questions first: without an API server the dry runs would
    // only wait for their limits.
    let (version, nodes) = tokio::try_join!(version, nodes)?;
    Ok(ClusterFacts {
        nodes,
        version,
        manifests: sets.await,
    })
}

async fn diff(root: &Root, yaml: &str) -> ManifestState {
    match run_diff(root, yaml).await {
        Ok(finished) => judge(&finished),
        Err(error) => ManifestState::Unknown {
            reason: format!("{error:#}"),
        },
    }
}

async fn run_diff(root: &Root, yaml: &str) -> Result<Finished> {
    // kubectl writes both sides of each object to files and runs a program to
    // compare them: this one.
    let this = std::env::current_exe().context("finding this program")?;
    kubectl::program(root, DIFF_LIMIT)?
        .environment(
            "KUBECTL_EXTERNAL_DIFF",
            format!("{} diff", this.to_string_lossy()),
        )
        .arguments(["diff", "--server-side", "--force-conflicts"])
        .argument(format!("--field-manager={FIELD_MANAGER}"))
        .arguments(["--filename", "-"])
        .input(yaml.as_bytes().to_vec())
        .finish()
        .await
}

/// Exit status 0 says the same, 1 that the objects on its output differ; 1 is
/// also kubectl's status for errors, which print no object.
fn judge(finished: &Finished) -> ManifestState {
    let objects: Vec<String> = finished
        .stdout
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    match finished.status.code() {
        Some(0) => ManifestState::InSync,
        Some(1) if !objects.is_empty() => ManifestState::Differs { objects },
        _ => ManifestState::Unknown {
            reason: last_lines(&finished.stderr)
                .pop()
                .unwrap_or_else(|| "kubectl said nothing".to_owned()),
        },
    }
}

fn parse_nodes(list: &Value) -> BTreeMap<String, NodeFacts> {
    let items = list.get("items").and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter_map(|node| Some((text(node, "/metadata/name")?.to_owned(), parse_node(node))))
        .collect()
}

fn parse_node(node: &Value) -> NodeFacts {
    let ready = node
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| text(condition, "/type") == Some("Ready"))
        });
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    NodeFacts {
        ready: ready.and_then(|ready| text(ready, "/status")) == Some("True"),
        message: ready
            .and_then(|ready| text(ready, "/message"))
            .unwrap_or_default()
            .to_owned(),
        pod_cidr: text(node, "/spec/podCIDR").and_then(|cidr| cidr.parse().ok()),
        kubelet_version: text(node, "/status/nodeInfo/kubeletVersion")
            .unwrap_or_default()
            .to_owned(),
        unschedulable: node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
        labels: labels
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn reads_nodes() {
        let list = json!({"items": [
            {
                "metadata": {"name": "w1", "labels": {"topology.kubernetes.io/zone": "a"}},
                "spec": {"podCIDR": "10.244.1.0/24", "unschedulable": true},
                "status": {
                    "nodeInfo": {"kubeletVersion": "v1.36.0"},
                    "conditions": [{"type": "Ready", "status": "True", "message": "ready"}],
                },
            },
            {"metadata": {"name": "w2"}, "spec": {}, "status": {}},
        ]});
        let nodes = parse_nodes(&list);
        let expected = NodeFacts {
            ready: true,
            message: "ready".to_owned(),
            pod_cidr: "10.244.1.0/24".parse().ok(),
            kubelet_version: "v1.36.0".to_owned(),
            unschedulable: true,
            labels: [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into(),
        };
        assert_eq!(nodes["w1"], expected);
        assert_eq!(nodes["w2"], NodeFacts::default());
        assert!(parse_nodes(&json!({})).is_empty());
    }

    #[test]
    fn tells_a_difference_from_an_error() {
        let finished = |code: i32, stdout: &str, stderr: &str| Finished {
            status: std::process::ExitStatus::from_raw(code << 8),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(judge(&finished(0, "", "")), ManifestState::InSync);
        let differs = ManifestState::Differs {
            objects: vec!["apps.v1.Deployment.kube-system.coredns".to_owned()],
        };
        let text = "apps.v1.Deployment.kube-system.coredns\n";
        assert_eq!(judge(&finished(1, text, "exit status 1")), differs);
        let unknown = ManifestState::Unknown {
            reason: "error: no matches for kind".to_owned(),
        };
        assert_eq!(
            judge(&finished(1, "", "error: no matches for kind\n")),
            unknown
        );
    }
}
