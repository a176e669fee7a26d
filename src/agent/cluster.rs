//! The cluster as a master sees it.

use super::api::Api;
use super::compare::compare_all;
use super::condition;
use super::root::Root;
use super::workloads;
use crate::desired::Condition;
use crate::facts::{ClusterFacts, NodeFacts};
use crate::layout;
use anyhow::{Result, anyhow};
use serde_json::Value;
use std::collections::BTreeMap;

/// Looks at the nodes, the API server's version, what applying each manifest
/// set would change, and which of the conditions don't hold.
///
/// # Errors
/// If this host is no master, or no API server answers.
pub async fn observe(
    root: &Root,
    manifests: &BTreeMap<String, String>,
    conditions: &[Condition],
) -> Result<ClusterFacts> {
    let api = Api::load(root)?;
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
        manifests: compare_all(root, manifests).await,
        unavailable: workloads::unavailable(&api).await.unwrap_or_default(),
        unmet: condition::unmet_for_sure(root, conditions).await,
    })
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
        cordoned_by_us: is_cordoned_by_us(node),
        labels: labels
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

/// Whether a node carries the mark that a drain of ours leaves.
pub fn is_cordoned_by_us(node: &Value) -> bool {
    let annotations = node.pointer("/metadata/annotations");
    annotations.is_some_and(|annotations| annotations.get(layout::CORDONED).is_some())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            cordoned_by_us: false,
            labels: [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into(),
        };
        assert_eq!(nodes["w1"], expected);
        assert_eq!(nodes["w2"], NodeFacts::default());
        assert!(parse_nodes(&json!({})).is_empty());
    }
}
