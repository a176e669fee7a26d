//! Several bundles in one upgrade: hops, done in their order.

use super::bundle_content::view;
use super::delta::LACKING_HINT;
use super::fault::{Exit, Fault};
use super::given::{Trusted, check_known, source, verified};
use super::have::{ask, content_of};
use super::record;
use crate::bundle::inspect::human_bytes;
use crate::bundle::progress::NoProgress;
use crate::cli::{BundleArgs, HopArgs};
use crate::desired::BundleView;
use crate::desired::software::kubernetes_of;
use crate::digest::Digest;
use crate::inventory::Inventory;
use crate::output::Output;
use crate::plan::title::count;
use crate::site::Site;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is still ahead of a cluster.
pub(super) struct Ahead {
    /// In their order; at least the last.
    pub(super) hops: Vec<BundleArgs>,
    later: Later,
}

/// What deltas after the first leave out and the two hops before them don't bring, with
/// its size in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Later {
    /// What registries must have: of the second hop, and of a bundle that is present.
    needed: BTreeMap<Digest, u64>,
    /// What registries won't have any more when its hop comes: they keep two bundles.
    gone: BTreeMap<Digest, u64>,
}

/// The bundles that are still ahead of the cluster.
///
/// # Errors
/// When one can't be opened, or does not follow from the one before.
pub(super) fn ahead(
    args: &HopArgs,
    (inventory, site): (&Inventory, &Site),
    output: &Output,
) -> Result<Ahead, Fault> {
    let hops = args.bundle.iter().map(|bundle| BundleArgs {
        bundle: bundle.clone(),
        source: args.source.clone(),
        trust: args.trust.clone(),
    });
    let mut hops: Vec<BundleArgs> = hops.collect();
    if hops.len() == 1 {
        let later = Later::default();
        return Ok(Ahead { hops, later });
    }
    let trusted = Trusted::of(inventory, &args.trust)?;
    let mut views = Vec::new();
    let mut left_out = Vec::new();
    for hop in &hops {
        // A later one that is damaged must not be met half-way.
        let bundle = verified(&source(&hop.bundle, &hop.source), &trusted, &NoProgress)?;
        let view = view(&bundle);
        check_known(inventory, &view)?;
        output.say(&format!("hop       {}", view.title()));
        views.push(view);
        left_out.push(bundle.left_out().collect());
    }
    check(&views)?;
    let whole = record::whole(site)?;
    let done = done(&views, whole.as_ref());
    let done = done.min(views.len() - 1);
    hops.drain(..done);
    let present = record::present_bundles(site)?;
    let present = present.iter().flat_map(content_of).map(|(blob, _)| blob);
    let later = later(&present.collect(), &views[done..], &left_out[done..]);
    Ok(Ahead { hops, later })
}

/// The first hop is proven with its plan. What a hop has, registries have for the next
/// two; what is `present`, for the first two.
fn later(
    present: &BTreeSet<Digest>,
    views: &[BundleView],
    left_out: &[BTreeMap<Digest, u64>],
) -> Later {
    let content = views.iter().map(content_of);
    let content: Vec<BTreeSet<Digest>> = content
        .map(|blobs| blobs.into_iter().map(|(blob, _)| blob).collect())
        .collect();
    let mut later = Later::default();
    for (hop, left_out) in left_out.iter().enumerate().skip(1) {
        let before = &content[hop.saturating_sub(2)..hop];
        let lacking = left_out
            .iter()
            .filter(|(blob, _)| !before.iter().any(|content| content.contains(blob)));
        for (blob, size) in lacking {
            let blobs = match hop == 1 && present.contains(blob) {
                true => &mut later.needed,
                false => &mut later.gone,
            };
            blobs.insert(*blob, *size);
        }
    }
    later
}

impl Ahead {
    /// Refuses hops whose later deltas leave out what a registry lacks: it must not be
    /// met half-way.
    ///
    /// # Errors
    /// Names each such registry, with how much it lacks.
    pub(super) async fn prove(
        &self,
        output: &Arc<Output>,
        inventory: &Inventory,
        site: &Site,
    ) -> Result<(), Fault> {
        // What is not cofferdam's own removes nothing, and is asked when each hop comes.
        if inventory.registry.is_some() {
            return Ok(());
        }
        let Later { needed, gone } = &self.later;
        if !gone.is_empty() {
            let message = format!(
                "a later hop is a delta that leaves out {}, {}, of a bundle more than two before \
                 it, and registries keep two; nothing was changed",
                count(gone.len(), "blob", "blobs"),
                human_bytes(gone.values().sum())
            );
            return Err(Fault::new(Exit::Checks, message).hint(LACKING_HINT));
        }
        if needed.is_empty() {
            return Ok(());
        }
        let held = ask(output, inventory, site, needed).await?;
        let lines = held.iter().filter_map(|(host, held)| {
            let lacking = needed.iter().filter(|(blob, _)| !held.contains(*blob));
            let sizes: Vec<u64> = lacking.map(|(_, size)| *size).collect();
            let blobs = count(sizes.len(), "blob", "blobs");
            let bytes = human_bytes(sizes.iter().sum());
            (!sizes.is_empty()).then(|| format!("{host}: lacks {blobs}, {bytes}"))
        });
        let lines: Vec<String> = lines.collect();
        if lines.is_empty() {
            return Ok(());
        }
        let message = format!(
            "a later hop is a delta, and registries lack what it leaves out; nothing was changed\n{}",
            lines.join("\n")
        );
        Err(Fault::new(Exit::Checks, message).hint(LACKING_HINT))
    }
}

/// How many of the hops the cluster has behind it.
fn done(hops: &[BundleView], whole: Option<&BundleView>) -> usize {
    let whole = whole.map(BundleView::title);
    let place = hops.iter().rposition(|hop| Some(hop.title()) == whole);
    place.map_or(0, |place| place + 1)
}

/// Each goes on from the one before, by one minor at most.
fn check(hops: &[BundleView]) -> Result<(), Fault> {
    for (one, next) in hops.iter().zip(hops.iter().skip(1)) {
        let (Some(from), Some(to)) = (kubernetes_of(one), kubernetes_of(next)) else {
            continue;
        };
        let is_next = to.major == from.major && (from.minor..=from.minor + 1).contains(&to.minor);
        if to > from && is_next {
            continue;
        }
        let message = format!(
            "{} does not follow {}: Kubernetes goes on, and by one minor at a time",
            next.title(),
            one.title()
        );
        let hint = "give the bundles in the order of their versions, with none left out";
        return Err(Fault::new(Exit::Input, message).hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Binary;
    use crate::desired::{BlobReference, RegistryArtifact};

    fn bundles(versions: &str) -> Vec<BundleView> {
        let versions = versions.split(' ').map(|version| {
            let binary = Binary {
                digest: Digest::of(version),
                size: 1,
                blob: Digest::of("blob"),
                blob_size: 1,
                repository: String::new(),
                version: version.to_owned(),
            };
            let files = [("kube-apiserver".to_owned(), binary)].into();
            BundleView {
                name: "kubernetes".to_owned(),
                version: version.to_owned(),
                files: [("linux/amd64".to_owned(), files)].into(),
                ..BundleView::default()
            }
        });
        versions.collect()
    }

    #[test]
    fn hops_are_in_order_with_none_left_out() {
        for good in ["1.36.0", "1.36.0 1.36.4 1.37.0 1.38.1"] {
            check(&bundles(good)).unwrap();
        }
        for (bad, expected) in [
            (
                "1.36.0 1.38.0",
                "kubernetes 1.38.0 does not follow kubernetes 1.36.0",
            ),
            (
                "1.37.0 1.36.0",
                "kubernetes 1.36.0 does not follow kubernetes 1.37.0",
            ),
            ("1.36.0 1.37.0 1.37.0", "kubernetes 1.37.0 does not follow"),
        ] {
            let fault = check(&bundles(bad)).unwrap_err();
            let message = &fault.failures[0].message;
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn what_an_earlier_hop_brings_need_not_be_there() {
        let view = |blobs: &[&str]| {
            let blobs = blobs.iter().map(|blob| BlobReference {
                digest: Digest::of(*blob),
                size: 1,
                media_type: String::new(),
            });
            let artifact = RegistryArtifact {
                repository: "a".to_owned(),
                tag: "1".to_owned(),
                blobs: blobs.collect(),
                manifests: Vec::new(),
            };
            BundleView {
                file_artifacts: vec![artifact],
                ..BundleView::default()
            }
        };
        let blobs = |names: &[&str]| -> BTreeMap<Digest, u64> {
            names.iter().map(|name| (Digest::of(*name), 1)).collect()
        };
        let views = [view(&["old", "one"]), view(&["old", "one", "other", "two"])];
        let left_out = [blobs(&["old"]), blobs(&["old", "one", "other"])];
        let present = ["other", "base"].map(Digest::of).into();
        let found = later(&present, &views, &left_out);
        assert_eq!((found.needed, found.gone.len()), (blobs(&["other"]), 0));
        let found = later(&BTreeSet::new(), &views, &left_out);
        assert_eq!((found.needed.len(), found.gone), (0, blobs(&["other"])));
        let found = later(&present, &views[1..], &left_out[1..]);
        assert_eq!(found, Later::default());
        // What the first has is gone when the fourth comes, and what the base alone has
        // when the third does.
        let views = ["one", "two", "three", "four"].map(|name| view(&[name]));
        let left_out = [
            blobs(&[]),
            blobs(&["base", "one"]),
            blobs(&["base", "one", "two"]),
            blobs(&["one", "two", "three"]),
        ];
        let expected = Later {
            needed: blobs(&["base"]),
            gone: blobs(&["base", "one"]),
        };
        assert_eq!(later(&present, &views, &left_out), expected);
    }

    #[test]
    fn hops_that_are_done_are_not_done_again() {
        let hops = bundles("1.36.4 1.37.0 1.38.0");
        for (whole, expected) in [
            (None, 0),
            (Some("1.36.0"), 0),
            (Some("1.36.4"), 1),
            (Some("1.38.0"), 3),
        ] {
            let whole = whole.map(|version| bundles(version).remove(0));
            assert_eq!(done(&hops, whole.as_ref()), expected, "{whole:?}");
        }
    }
}
