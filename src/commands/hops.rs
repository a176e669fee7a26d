//! Several bundles in one upgrade: hops, done in their order.

use super::bundle_content::view;
use super::fault::{Exit, Fault};
use super::given::{Trusted, check_known, source, verified};
use super::record;
use crate::bundle::progress::NoProgress;
use crate::cli::{BundleArgs, HopArgs};
use crate::desired::BundleView;
use crate::desired::software::kubernetes_of;
use crate::inventory::Inventory;
use crate::output::Output;
use crate::site::Site;

/// The bundles that are still ahead of the cluster, in their order; at least the
/// last.
///
/// # Errors
/// When one can't be opened, or does not follow from the one before.
pub(super) fn ahead(
    args: &HopArgs,
    (inventory, site): (&Inventory, &Site),
    output: &Output,
) -> Result<Vec<BundleArgs>, Fault> {
    let hops = args.bundle.iter().map(|bundle| BundleArgs {
        bundle: bundle.clone(),
        source: args.source.clone(),
        trust: args.trust.clone(),
    });
    let mut hops: Vec<BundleArgs> = hops.collect();
    if hops.len() == 1 {
        return Ok(hops);
    }
    let trusted = Trusted::of(inventory, &args.trust)?;
    let mut views = Vec::new();
    for hop in &hops {
        // A later one that is damaged must not be met half-way.
        let bundle = verified(&source(&hop.bundle, &hop.source), &trusted, &NoProgress)?;
        let view = view(&bundle);
        check_known(inventory, &view)?;
        output.say(&format!("hop       {}", view.title()));
        views.push(view);
    }
    check(&views)?;
    let whole = record::whole(site)?;
    let done = done(&views, whole.as_ref());
    hops.drain(..done.min(views.len() - 1));
    Ok(hops)
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
    use crate::digest::Digest;

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
