//! Who leads the controllers.

use crate::agent::api::{Api, text};
use crate::agent::root::Root;
use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager";
/// The leader renews every two seconds (`--leader-elect-retry-period`). What is left of
/// the three that a look at a condition may take is for the last answer.
const LOOK: Duration = Duration::from_millis(2700);
const INTERVAL: Duration = Duration::from_millis(300);

/// Whether the lease is renewed while one looks. No clock is asked: hosts' may differ.
pub(super) async fn controller_manager_leads(root: &Root) -> Result<()> {
    let api = Api::load(root)?;
    let begin = Instant::now();
    let read = async || {
        let lease = api.get(LEASE).await?;
        lease.ok_or_else(|| anyhow!("no controller-manager has led yet"))
    };
    let first = read().await?;
    loop {
        sleep(INTERVAL).await;
        let now = read().await?;
        match judge(&first, &now) {
            Ok(()) => return Ok(()),
            Err(reason) if begin.elapsed() + INTERVAL >= LOOK => bail!(reason),
            Err(_) => {}
        }
    }
}

/// The lease at first, and now.
fn judge(first: &Value, now: &Value) -> Result<(), String> {
    let same = |pointer: &str| text(first, pointer) == text(now, pointer);
    let holder = text(now, "/spec/holderIdentity");
    let host = holder.rsplit_once('_').map_or(holder, |parts| parts.0);
    if holder.is_empty() {
        return Err("no controller-manager leads".to_owned());
    }
    if !same("/spec/holderIdentity") || !same("/spec/acquireTime") {
        return Err(format!("{host} has just begun to lead"));
    }
    if same("/spec/renewTime") {
        return Err(format!("{host} led last, and does not renew it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(holder: &str, acquired: &str, renewed: &str) -> Value {
        json!({"spec": {
            "holderIdentity": holder, "acquireTime": acquired, "renewTime": renewed,
        }})
    }

    #[test]
    fn whoever_renews_it_leads() {
        let first = lease("m1_6f", "10:00", "10:20");
        let told = |now: Value| judge(&first, &now);
        assert_eq!(told(lease("m1_6f", "10:00", "10:22")), Ok(()));
        let gone = Err("m1 led last, and does not renew it".to_owned());
        assert_eq!(told(first.clone()), gone);
        // Its caches are still empty.
        let new = Err("m2 has just begun to lead".to_owned());
        assert_eq!(told(lease("m2_1a", "10:35", "10:35")), new);
        let again = Err("m1 has just begun to lead".to_owned());
        assert_eq!(told(lease("m1_6f", "10:35", "10:35")), again);
        let nobody = Err("no controller-manager leads".to_owned());
        assert_eq!(told(lease("", "10:00", "10:22")), nobody);
    }
}
