//! Images on a node before its kubelet asks for them: pulled by digest, under
//! both names by which the kubelet may ask, pinned against its collector by a
//! third.

use crate::agent::channel::NoticeSender;
use crate::agent::observe::{ctr, image_key_by_digest, image_pin, images, platform};
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::ImageFacts;
use crate::host::{Failure, Notice};
use crate::layout;
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// containerd tries every registry by itself; a layer of a gigabyte over a
/// slow link takes its time.
const PULL_LIMIT: Duration = Duration::from_secs(900);
/// containerd's Kubernetes part takes new images up by an event.
const TAKE_UP_LIMIT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const PIN: &str = "io.cri-containerd.pinned=pinned";

pub(super) async fn pull(
    root: &Root,
    wanted: &BTreeMap<String, Digest>,
    registries: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    let total = wanted.len() as u64;
    let present = images(root).await.unwrap_or_default();
    for (index, (reference, digest)) in wanted.iter().enumerate() {
        notices.send_lossy(Notice::Progress {
            item: reference.clone(),
            done: index as u64,
            total,
        });
        if !is_right(present.get(reference), digest) {
            pull_one(root, reference, digest, &present)
                .await
                .with_context(|| format!("pulling {reference} from {}", registries.join(" or ")))?;
        }
    }
    wait_taken_up(root, wanted).await
}

fn is_right(found: Option<&ImageFacts>, digest: &Digest) -> bool {
    found.is_some_and(|facts| facts.digest == *digest && facts.pinned && facts.complete)
}

async fn pull_one(
    root: &Root,
    reference: &str,
    digest: &Digest,
    present: &BTreeMap<String, ImageFacts>,
) -> Result<()> {
    let by_digest = image_key_by_digest(reference, digest);
    ctr(root)?
        .arguments(["images", "pull"])
        .arguments(["--hosts-dir", layout::REGISTRY_HOSTS])
        .arguments(["--platform", &platform()])
        // An index keeps its bytes, also where the bundle leaves children out.
        .arguments(["--skip-metadata", &by_digest])
        .limit(PULL_LIMIT)
        .succeed()
        .await?;
    // A name that leads elsewhere is moved; one that is right stays, so that
    // the image is never without it.
    let is_tagged = present
        .get(reference)
        .is_some_and(|facts| facts.digest == *digest);
    let pin = image_pin(digest);
    let names = [pin.as_str(), reference];
    let names = if is_tagged { &names[..1] } else { &names };
    ctr(root)?
        .arguments(["images", "tag", "--local", "--force"])
        .arguments(["--skip-reference-check", &by_digest])
        .arguments(names.iter().copied())
        .succeed()
        .await?;
    ctr(root)?
        .arguments(["images", "label", &pin, PIN])
        .succeed()
        .await?;
    Ok(())
}

/// Waits until containerd's Kubernetes part knows the images, which it marks
/// on each of them.
async fn wait_taken_up(root: &Root, wanted: &BTreeMap<String, Digest>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let found = images(root)
            .await
            .ok_or_else(|| anyhow!("listing images: containerd does not answer"))?;
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|(reference, digest)| !is_right(found.get(*reference), digest))
            .map(|(reference, _)| reference.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if begin.elapsed() >= TAKE_UP_LIMIT {
            return Err(Failure {
                message: format!(
                    "pulling images: after {} s containerd does not show as whole and pinned: {}",
                    TAKE_UP_LIMIT.as_secs(),
                    missing.join(", ")
                ),
                lines: Vec::new(),
                hint: Some(
                    "look at containerd's log on the host: `journalctl -u containerd`".to_owned(),
                ),
            }
            .into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
