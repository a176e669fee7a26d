//! Whether a delta and what the site has are all that a plan needs.

use super::fault::{Exit, Fault};
use crate::bundle::Bundle;
use crate::bundle::inspect::human_bytes;
use crate::desired::BlobReference;
use crate::digest::Digest;
use crate::facts::HostFacts;
use crate::plan::title::{count, names};
use crate::plan::{Action, Plan, Step};
use std::collections::{BTreeMap, BTreeSet};

/// What to do where hosts lack what a delta leaves out.
pub(super) const LACKING_HINT: &str =
    "name the bundle that it builds on with --base, or take the full bundle";

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
        format!(
            "{host}: lacks {}, {}, of {}",
            count(blobs.len(), "blob", "blobs"),
            human_bytes(blobs.values().sum()),
            names(owners.iter().map(String::as_str))
        )
    });
    let lines: Vec<String> = lines.collect();
    let message = format!(
        "{} is a delta, and hosts lack what it leaves out; nothing was changed\n{}",
        bundle.path(),
        lines.join("\n")
    );
    Err(Fault::new(Exit::Checks, message).hint(LACKING_HINT))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::reader::Trust;
    use crate::bundle::testing::{self, TestDirectory};
    use crate::bundle::write::Shape;
    use crate::bundle::{Platform, Source};
    use crate::commands::bundle_content::view;
    use crate::desired::Stage;
    use crate::facts::RegistryFacts;
    use crate::plan::{Lane, SeedArtifact, StagePlan};

    fn seed(bundle: &Bundle) -> Plan {
        let artifacts = view(bundle)
            .file_artifacts
            .into_iter()
            .map(|artifact| SeedArtifact {
                repository: artifact.repository,
                tag: artifact.tag,
                blobs: artifact.blobs,
                manifests: artifact.manifests,
            });
        let step = Step {
            stage: Stage::Registry,
            host: "m1".to_owned(),
            title: String::new(),
            disrupts: BTreeSet::new(),
            action: Action::Seed {
                artifacts: artifacts.collect(),
            },
        };
        let lane = Lane {
            host: step.host.clone(),
            steps: vec![step],
        };
        let stage = StagePlan {
            stage: Stage::Registry,
            lanes: vec![lane],
        };
        Plan {
            stages: vec![stage],
            ..Plan::default()
        }
    }

    #[test]
    fn a_delta_is_refused_where_a_registry_lacks_what_it_leaves_out() {
        let directory = TestDirectory::new();
        let layout = testing::builder(&directory.path).finish().unwrap();
        let path = directory.path.join("delta.tar");
        let shape = Shape {
            part_bytes: None,
            had: Some(layout.blobs.keys().copied().collect()),
        };
        testing::write_shaped(&path, &layout, None, &shape);
        testing::write(&directory.path.join("full.tar"), &layout, None);
        let open = |base: Vec<_>| {
            let source = Source {
                path: path.clone(),
                parts_in: Vec::new(),
                base,
            };
            Bundle::open_trusting(source, Trust::Ignored).unwrap()
        };
        let delta = open(Vec::new());
        let plan = seed(&delta);
        let holds = |blobs: BTreeMap<Digest, u64>| {
            let facts = HostFacts {
                registry: Some(RegistryFacts {
                    blobs,
                    ..RegistryFacts::default()
                }),
                ..HostFacts::default()
            };
            BTreeMap::from([("m1".to_owned(), facts)])
        };
        let all: BTreeMap<Digest, u64> = delta.left_out().collect();
        prove_closure(&delta, &plan, &holds(all.clone())).unwrap();
        // One that it lost: of which file is told.
        let lost = delta.files(&Platform::linux("arm64"))["runc"].blob.clone();
        let mut some = all;
        some.remove(&lost.digest);
        let fault = prove_closure(&delta, &plan, &holds(some.clone())).unwrap_err();
        let message = &fault.failures[0].message;
        let told = "m1: lacks 1 blob, ";
        assert!(
            message.contains(told) && message.contains("runc:1.2.3-linux-arm64"),
            "{message}"
        );
        assert_eq!(fault.exit, Exit::Checks);
        // A host that was never seen has nothing.
        let fault = prove_closure(&delta, &plan, &BTreeMap::new()).unwrap_err();
        assert!(fault.failures[0].message.contains("m1: lacks 4 blobs"));
        let whole = open(vec![directory.path.join("full.tar")]);
        prove_closure(&whole, &plan, &holds(some)).unwrap();
    }
}
