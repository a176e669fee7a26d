//! Workloads of the cluster: which of them are not whole.

use super::api::Api;
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where each kind is listed, where it says how many replicas it is to have
/// (with what stands for none), and how many of them are available.
const KINDS: [(&str, &str, &str, u64, &str); 3] = [
    (
        "deployment",
        "/apis/apps/v1/deployments",
        "/spec/replicas",
        1,
        "/status/availableReplicas",
    ),
    (
        "statefulset",
        "/apis/apps/v1/statefulsets",
        "/spec/replicas",
        1,
        "/status/availableReplicas",
    ),
    (
        "daemonset",
        "/apis/apps/v1/daemonsets",
        "/status/desiredNumberScheduled",
        0,
        "/status/numberAvailable",
    ),
];

/// Workloads with fewer available replicas than they are to have: `deployment
/// default/web` to `1 of 2 replicas are available`.
///
/// # Errors
/// If the API server does not answer.
pub async fn unavailable(api: &Api) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (kind, path, wanted, default, available) in KINDS {
        let items = api.list(path).await?;
        for object in &items {
            let number = |pointer, default| {
                let value = object.pointer(pointer).and_then(Value::as_u64);
                value.unwrap_or(default)
            };
            let (wanted, available) = (number(wanted, default), number(available, 0));
            if available < wanted {
                found.insert(
                    format!("{kind} {}", name_of(object)),
                    format!("{available} of {wanted} replicas are available"),
                );
            }
        }
    }
    Ok(found)
}

/// `namespace/name`.
pub fn name_of(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    format!(
        "{}/{}",
        text("/metadata/namespace").unwrap_or_default(),
        text("/metadata/name").unwrap_or_default()
    )
}
