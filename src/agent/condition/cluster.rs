//! Conditions of objects in the cluster.

use crate::agent::api::{Api, text};
use crate::agent::root::Root;
use crate::agent::workloads;
use anyhow::{Result, anyhow, bail};
use serde_json::Value;

pub(super) async fn node_ready(root: &Root, name: &str) -> Result<()> {
    let node = read(root, &format!("/api/v1/nodes/{name}")).await?;
    let node = node.ok_or_else(|| anyhow!("it has not registered"))?;
    judge_condition(&node, "Ready")
}

pub(super) async fn node_has_pod_addresses(root: &Root, name: &str) -> Result<()> {
    let node = read(root, &format!("/api/v1/nodes/{name}")).await?;
    let node = node.ok_or_else(|| anyhow!("it has not registered"))?;
    match node.pointer("/spec/podCIDR") {
        Some(_) => Ok(()),
        None => bail!("controller-manager has not given it pod addresses"),
    }
}

pub(super) async fn deployment_available(root: &Root, name: &str) -> Result<()> {
    let (namespace, deployment) = name
        .split_once('/')
        .ok_or_else(|| anyhow!("`{name}` is not `namespace/name`"))?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}");
    let object = read(root, &path).await?;
    judge_rollout(&object.ok_or_else(|| anyhow!("there is no such deployment"))?)
}

pub(super) async fn workloads_available(root: &Root, except: &[String]) -> Result<()> {
    let unavailable = workloads::unavailable(&Api::load(root)?).await?;
    let mut unavailable = unavailable.iter();
    match unavailable.find(|(name, _)| !except.contains(name)) {
        Some((name, how)) => bail!("{name}: {how}"),
        None => Ok(()),
    }
}

pub(super) async fn api_service_available(root: &Root, name: &str) -> Result<()> {
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}");
    let object = read(root, &path).await?;
    let object = object.ok_or_else(|| anyhow!("there is no such API"))?;
    judge_condition(&object, "Available")
}

async fn read(root: &Root, path: &str) -> Result<Option<Value>> {
    Api::load(root)?.get(path).await
}

/// Whether the object's condition of that type is `True`; if not, its message.
fn judge_condition(object: &Value, kind: &str) -> Result<()> {
    let condition = object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| text(condition, "/type") == kind)
        });
    match condition {
        None => bail!("nothing is known of {kind} yet"),
        Some(condition) if text(condition, "/status") == "True" => Ok(()),
        Some(condition) => bail!(
            "{}: {}",
            text(condition, "/reason"),
            text(condition, "/message")
        ),
    }
}

/// What `kubectl rollout status` waits for, in its order.
fn judge_rollout(deployment: &Value) -> Result<()> {
    let number = |pointer: &str| {
        deployment
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    let wanted = deployment
        .pointer("/spec/replicas")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    let (updated, replicas, available) = (
        number("/status/updatedReplicas"),
        number("/status/replicas"),
        number("/status/availableReplicas"),
    );
    if number("/status/observedGeneration") < number("/metadata/generation") {
        bail!("its change has not been seen yet");
    }
    if updated < wanted {
        bail!("{updated} of {wanted} replicas are updated");
    }
    if replicas > updated {
        bail!("{} old replicas have not ended", replicas - updated);
    }
    if available < updated {
        bail!("{available} of {updated} replicas are available");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_ready_by_its_condition() {
        let node = |status: &str| {
            json!({"status": {"conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": status, "reason": "KubeletNotReady",
                 "message": "container runtime network not ready"},
            ]}})
        };
        assert!(judge_condition(&node("True"), "Ready").is_ok());
        let error = judge_condition(&node("False"), "Ready").unwrap_err();
        assert_eq!(
            error.to_string(),
            "KubeletNotReady: container runtime network not ready"
        );
        assert!(judge_condition(&node("Unknown"), "Ready").is_err());
        assert!(judge_condition(&json!({}), "Ready").is_err());
    }

    #[test]
    fn a_rollout_is_done_as_kubectl_has_it() {
        let deployment = |observed, updated, replicas, available| {
            json!({
                "metadata": {"generation": 2},
                "spec": {"replicas": 2},
                "status": {"observedGeneration": observed, "updatedReplicas": updated,
                    "replicas": replicas, "availableReplicas": available},
            })
        };
        let cases = [
            (deployment(1, 2, 2, 2), Some("its change")),
            (deployment(2, 1, 3, 2), Some("1 of 2 replicas are updated")),
            (deployment(2, 2, 3, 2), Some("1 old replicas")),
            (
                deployment(2, 2, 2, 1),
                Some("1 of 2 replicas are available"),
            ),
            (deployment(2, 2, 2, 2), None),
        ];
        for (object, reason) in cases {
            match (judge_rollout(&object), reason) {
                (Ok(()), None) => {}
                (Err(error), Some(reason)) => {
                    assert!(error.to_string().contains(reason), "{error}");
                }
                (result, reason) => panic!("{result:?} is not {reason:?}"),
            }
        }
    }
}
