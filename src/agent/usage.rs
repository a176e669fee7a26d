//! What an upgrade must know of who uses the cluster, and how: APIs that go
//! away, and pods that don't move.

use super::api::{Api, text};
use super::root::Root;
use super::workloads::name_of;
use crate::facts::{MovingPod, Pod, RemovedApi, UsageFacts};
use anyhow::Result;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A gauge that is 1 for each API that was asked for since the API server
/// started, with the release in which it goes:
/// <https://kubernetes.io/docs/reference/using-api/deprecation-policy/>.
const METRIC: &str = "apiserver_requested_deprecated_apis{";
/// Pods of static manifests carry it; no API ends them.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Names of clients that are told of one API.
const CLIENTS_SHOWN: usize = 5;

/// Asks this host's API server.
///
/// # Errors
/// If this host is no master, or its API server does not answer.
pub async fn observe(root: &Root) -> Result<UsageFacts> {
    let api = Api::load(root)?;
    let metrics = api.text("/metrics").await?;
    let mut removed = Vec::new();
    for mut used in parse_removed(&metrics) {
        used.clients = writers(&api, &used).await.unwrap_or_default();
        removed.push(used);
    }
    let pods = api.list("/api/v1/pods").await?;
    let budgets = api.list("/apis/policy/v1/poddisruptionbudgets").await?;
    let moving: Vec<&Value> = pods.iter().filter(|pod| is_moved(pod)).collect();
    Ok(UsageFacts {
        removed,
        moving: moving
            .iter()
            .map(|pod| MovingPod {
                workload: workload_of(pod),
                node: text(pod, "/spec/nodeName").to_owned(),
            })
            .collect(),
        bare_pods: moving
            .iter()
            .filter(|pod| owner(pod).is_none())
            .map(|pod| pod_of(pod))
            .collect(),
        local_data: moving
            .iter()
            .filter(|pod| has_local_data(pod))
            .map(|pod| pod_of(pod))
            .collect(),
        budgets: budgets.iter().filter_map(blocked).collect(),
    })
}

/// APIs that were asked for and have a release in which they go.
fn parse_removed(metrics: &str) -> Vec<RemovedApi> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(METRIC));
    lines
        .filter_map(|line| {
            let (labels, value) = line.split_once('}')?;
            if value.trim() == "0" {
                return None;
            }
            let labels: BTreeMap<&str, &str> = labels
                .split(',')
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=')?;
                    Some((name, value.trim_matches('"')))
                })
                .collect();
            let label = |name: &str| {
                labels
                    .get(name)
                    .map_or(String::new(), |value| (*value).to_owned())
            };
            let api = RemovedApi {
                group: label("group"),
                version: label("version"),
                resource: label("resource"),
                removed_in: label("removed_release"),
                clients: BTreeSet::new(),
            };
            (!api.removed_in.is_empty()).then_some(api)
        })
        .collect()
}

/// Whoever wrote objects by that API, as the objects themselves tell. Nothing
/// tells who only reads: our audit policy leaves reads out, and no rule of one can
/// name a version.
async fn writers(api: &Api, used: &RemovedApi) -> Result<BTreeSet<String>> {
    let version = format!("{}/{}", used.group, used.version);
    let list = api
        .get(&format!("/apis/{version}/{}", used.resource))
        .await?;
    let items = list.as_ref().and_then(|list| list.get("items")?.as_array());
    let mut found = BTreeSet::new();
    for object in items.into_iter().flatten() {
        let fields = object.pointer("/metadata/managedFields");
        for entry in fields.and_then(Value::as_array).into_iter().flatten() {
            if text(entry, "/apiVersion") == version && found.len() < CLIENTS_SHOWN {
                found.insert(text(entry, "/manager").to_owned());
            }
        }
    }
    Ok(found)
}

/// Whether a drain ends the pod.
fn is_moved(pod: &Value) -> bool {
    let is_mirror = pod
        .pointer("/metadata/annotations")
        .is_some_and(|annotations| annotations.get(MIRROR).is_some());
    let has_ended = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    let is_somewhere = !text(pod, "/spec/nodeName").is_empty();
    is_somewhere && !is_mirror && !has_ended && owner(pod) != Some("DaemonSet")
}

/// The kind of what would start the pod again.
fn owner(pod: &Value) -> Option<&str> {
    Some(text(controller(pod)?, "/kind"))
}

fn controller(pod: &Value) -> Option<&Value> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let mut owners = owners.iter();
    owners.find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// `deployment default/web`. A ReplicaSet of a Deployment is named by it and the
/// hash of its template, which its pods carry too.
fn workload_of(pod: &Value) -> String {
    let namespace = text(pod, "/metadata/namespace");
    let Some(controller) = controller(pod) else {
        return format!("pod {}", name_of(pod));
    };
    let (kind, name) = (text(controller, "/kind"), text(controller, "/name"));
    let hash = format!("-{}", text(pod, "/metadata/labels/pod-template-hash"));
    match name.strip_suffix(&hash).filter(|_| kind == "ReplicaSet") {
        Some(name) => format!("deployment {namespace}/{name}"),
        None => format!("{} {namespace}/{name}", kind.to_lowercase()),
    }
}

fn has_local_data(pod: &Value) -> bool {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let mut volumes = volumes.into_iter().flatten();
    volumes.any(|volume| volume.get("emptyDir").is_some())
}

/// A budget that allows no eviction even while all its pods are healthy.
fn blocked(budget: &Value) -> Option<(String, String)> {
    let number = |pointer| budget.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (expected, wanted) = (
        number("/status/expectedPods"),
        number("/status/desiredHealthy"),
    );
    (expected > 0 && wanted >= expected).then(|| {
        let reason = format!("{wanted} of its {expected} pods have to be healthy at any time");
        (name_of(budget), reason)
    })
}

fn pod_of(pod: &Value) -> Pod {
    Pod {
        name: name_of(pod),
        node: text(pod, "/spec/nodeName").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn apis_that_go_are_read_off_the_metrics() {
        let metrics = "# TYPE apiserver_requested_deprecated_apis gauge\n\
            apiserver_requested_deprecated_apis{group=\"storage.k8s.io\",removed_release=\"1.37\",resource=\"volumeattributesclasses\",subresource=\"\",version=\"v1beta1\"} 1\n\
            apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1\n\
            other{removed_release=\"1.37\"} 1\n";
        let expected = RemovedApi {
            group: "storage.k8s.io".to_owned(),
            version: "v1beta1".to_owned(),
            resource: "volumeattributesclasses".to_owned(),
            removed_in: "1.37".to_owned(),
            clients: BTreeSet::new(),
        };
        assert_eq!(parse_removed(metrics), [expected]);
    }

    #[test]
    fn pods_that_a_drain_ends_are_told_from_those_that_it_leaves() {
        let pod = |owner: Option<&str>, phase: &str| {
            let owners = owner.map(|kind| json!([{"kind": kind, "controller": true}]));
            json!({
                "metadata": {"namespace": "default", "name": "a", "ownerReferences": owners},
                "spec": {"nodeName": "w1"},
                "status": {"phase": phase},
            })
        };
        assert!(is_moved(&pod(Some("ReplicaSet"), "Running")));
        assert!(is_moved(&pod(None, "Running")));
        assert!(!is_moved(&pod(Some("DaemonSet"), "Running")));
        assert!(!is_moved(&pod(None, "Succeeded")));
        assert!(!is_moved(&json!({"metadata": {"name": "a"}, "spec": {}})));
        assert_eq!(owner(&pod(None, "Running")), None);
    }

    #[test]
    fn a_budget_that_can_never_be_met_is_found() {
        let budget = |expected: u64, wanted: u64| {
            json!({
                "metadata": {"namespace": "shop", "name": "web"},
                "status": {"expectedPods": expected, "desiredHealthy": wanted},
            })
        };
        assert_eq!(blocked(&budget(2, 1)), None);
        assert_eq!(blocked(&budget(0, 0)), None);
        let reason = "2 of its 2 pods have to be healthy at any time".to_owned();
        assert_eq!(
            blocked(&budget(2, 2)),
            Some(("shop/web".to_owned(), reason))
        );
    }
}
