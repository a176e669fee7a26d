//! Whether a delta and what the site has are all that a plan needs.

use super::fault::{Exit, Fault};
use crate::bundle::Bundle;
use crate::bundle::inspect::human_bytes;
use crate::desired::BlobReference;
use crate::digest::Digest;
use crate::facts::HostFacts;
use crate::plan::{Action, Plan, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Owners of blobs that are named; the others are counted.
const NAMED: usize = 4;

/// Refuses a plan for which hosts would need what the bundle leaves out.
///
/// # Errors
/// Names each such host, with how much it lacks and of what.
pub(super) fn prove_closure(
    bundle: &Bundle,
    plan: &Plan,
    hosts: &BTreeMap<String, HostFacts>,
) -> Result<(), Fault> {
    if !bundle.is_delta() {
        return Ok(());
    }
    let mut lacking: BTreeMap<&str, BTreeMap<Digest, u64>> = BTreeMap::new();
    for step in plan.steps() {
        let facts = hosts.get(&step.host);
        for blob in needed(step, facts) {
            if bundle.is_left_out(&blob.digest) {
                let of_host = lacking.entry(&step.host).or_default();
                of_host.insert(blob.digest, blob.size);
            }
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let lines = lacking.iter().map(|(host, blobs)| {
        let owners: BTreeSet<String> = blobs.keys().flat_map(|blob| bundle.owners(blob)).collect();
        let named: Vec<&str> = owners.iter().take(NAMED).map(String::as_str).collect();
        let more = match owners.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{host}: lacks {} blobs, {}, of {}{more}",
            blobs.len(),
            human_bytes(blobs.values().sum()),
            named.join(", ")
        )
    });
    let lines: Vec<String> = lines.collect();
    let message = format!(
        "{} is a delta, and hosts lack what it leaves out; nothing was changed\n{}",
        bundle.path(),
        lines.join("\n")
    );
    let hint = "name the bundle that it builds on with --base, or take the full bundle";
    Err(Fault::new(Exit::Checks, message).hint(hint))
}

/// The blobs whose bytes a step would ask for.
fn needed<'a>(step: &'a Step, facts: Option<&HostFacts>) -> Vec<&'a BlobReference> {
    let registry = facts.and_then(|facts| facts.registry.as_ref());
    match &step.action {
        Action::PutBlobs { blobs } => blobs.iter().collect(),
        Action::Seed { artifacts } => {
            let blobs = artifacts
                .iter()
                .flat_map(|artifact| artifact.blobs.iter().chain(&artifact.manifests));
            blobs
                .filter(|blob| !registry.is_some_and(|held| held.blobs.contains_key(&blob.digest)))
                .collect()
        }
        _ => Vec::new(),
    }
}
