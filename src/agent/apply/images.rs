//! Images on a node before its kubelet asks for them: pulled by digest, with
//! proof that the tag leads there, under both names by which the kubelet may
//! ask, pinned against its collector by a third.

use super::registries::{QUIET_LIMIT, Registries};
use super::sparse::{self, Index};
use crate::agent::channel::NoticeSender;
use crate::agent::command::Program;
use crate::agent::observe::{
    ctr, ctr_in, has_containerd, image_key_by_digest, image_pin, images, named, pinned_by, platform,
};
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::ImageFacts;
use crate::host::{Failure, Notice};
use crate::layout;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// containerd tries every registry by itself; a layer of a gigabyte over a
/// slow link takes its time.
const PULL_LIMIT: Duration = Duration::from_secs(900);
/// containerd's Kubernetes part takes new images up by an event.
const TAKE_UP_LIMIT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Names are changed without touching content.
const UNPIN_LIMIT: Duration = Duration::from_secs(30);
/// Where tags are proven: no pod sees what is in this namespace of containerd's.
const PROOF: &str = "cofferdam-proof";
const PIN: &str = "io.cri-containerd.pinned=pinned";

pub(super) async fn pull(
    root: &Root,
    wanted: &BTreeMap<String, Digest>,
    registries: &[String],
    notices: &NoticeSender,
) -> Result<()> {
    let total = wanted.len() as u64;
    let present = images(root).await.unwrap_or_default();
    end_old_proofs(root).await?;
    let readers = Registries::new(root, registries, notices, QUIET_LIMIT)?;
    for (index, (reference, digest)) in wanted.iter().enumerate() {
        notices.send_lossy(Notice::Progress {
            item: reference.clone(),
            done: index as u64,
            total,
        });
        if !is_right(present.get(reference), digest) {
            let pull = async {
                let index = sparse::find(&readers, reference, digest).await?;
                pull_one(root, (reference, digest), index, &present).await
            };
            pull.await
                .with_context(|| format!("pulling {reference} from {}", registries.join(" or ")))?;
        }
    }
    wait_taken_up(root, wanted).await
}

fn is_right(found: Option<&ImageFacts>, digest: &Digest) -> bool {
    found.is_some_and(|facts| facts.digest == *digest && facts.pinned && facts.complete)
}

async fn pull_by_name(root: &Root, name: &str) -> Result<()> {
    let pull = ctr(root)?.arguments(["images", "pull"]);
    through_mirrors(pull, name).succeed().await?;
    Ok(())
}

/// What this host's platform has under a name, from where pods get it.
fn through_mirrors(program: Program, name: &str) -> Program {
    program
        .arguments(["--hosts-dir", layout::REGISTRY_HOSTS])
        .arguments(["--platform", &platform()])
        // An index keeps its bytes, also where the bundle leaves children out.
        .arguments(["--skip-metadata", name])
        .limit(PULL_LIMIT)
}

async fn pull_one(
    root: &Root,
    (reference, digest): (&str, &Digest),
    index: Option<Index>,
    present: &BTreeMap<String, ImageFacts>,
) -> Result<()> {
    let by_digest = image_key_by_digest(reference, digest);
    let is_imported = index.is_some();
    match index {
        None => {
            pull_by_name(root, &by_digest).await?;
            prove_tag(root, reference, digest).await?;
        }
        // Its tag leads to one platform's image there.
        Some(index) => {
            let child = image_key_by_digest(reference, &index.child);
            pull_by_name(root, &child).await?;
            sparse::import(root, &by_digest, &index).await?;
        }
    }
    // A name that leads elsewhere is moved; one that is right stays, so that
    // the image is never without it.
    let is_tagged = !is_imported
        && present
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

/// Lets containerd look the tag up as it does for a pod, through its mirrors. Content is
/// there by then, for all of its namespaces.
///
/// # Errors
/// If no registry knows the tag, or it leads elsewhere.
async fn prove_tag(root: &Root, reference: &str, digest: &Digest) -> Result<()> {
    let fetch = ctr_in(root, PROOF)?.arguments(["content", "fetch"]);
    through_mirrors(fetch, reference).succeed().await?;
    let found = named(root, PROOF, reference).await;
    end_proof(root, [reference]).await?;
    match found? {
        Some(found) if found == *digest => Ok(()),
        Some(found) => bail!("the tag leads to {found}, not to {digest}"),
        None => bail!("containerd did not keep what the tag leads to"),
    }
}

/// What is left in that namespace keeps its content from kubelet's collector.
async fn end_proof<'a>(root: &Root, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    ctr_in(root, PROOF)?
        .arguments(["images", "rm"])
        .arguments(names)
        .limit(UNPIN_LIMIT)
        .succeed()
        .await?;
    Ok(())
}

/// What a run that was killed amid a proof left.
async fn end_old_proofs(root: &Root) -> Result<()> {
    let listed = ctr_in(root, PROOF)?
        .arguments(["images", "list", "--quiet"])
        .limit(UNPIN_LIMIT)
        .succeed()
        .await?;
    match listed.lines().next() {
        Some(_) => end_proof(root, listed.lines()).await,
        None => Ok(()),
    }
}

/// Leaves images that are none of `kept` to kubelet's collector, which takes
/// those that no container uses once the disk fills. Hosts without containerd
/// have none.
///
/// # Errors
/// If containerd runs and does not answer.
pub(super) async fn unpin_others(root: &Root, kept: &BTreeSet<Digest>) -> Result<()> {
    // Somebody else's containerd is none of ours.
    let Some(program) = ctr(root).ok().filter(|_| has_containerd(root)) else {
        return Ok(());
    };
    let listed = program
        .arguments(["images", "list", "--quiet"])
        .limit(UNPIN_LIMIT)
        .succeed()
        .await
        .context("listing images")?;
    let others: Vec<&str> = listed
        .lines()
        .filter(|name| pinned_by(name).is_some_and(|digest| !kept.contains(&digest)))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    ctr(root)?
        .arguments(["images", "rm"])
        .arguments(others.iter().copied())
        .limit(UNPIN_LIMIT)
        .succeed()
        .await
        .context("leaving old images to kubelet's collector")?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    /// A host whose ctr lists these names and writes down how it is called.
    fn host(names: &[&str]) -> TestHost {
        let host = TestHost::new();
        let log = host.root.path("/log");
        let names = names.join(" ");
        let list = format!("case $2 in list) for each in {names}; do echo $each; done;; esac");
        host.binary("ctr", &format!("shift 2; echo \"$*\" >> {log}\n{list}"));
        host.write("/run/containerd/containerd.sock", "");
        host
    }

    #[tokio::test]
    async fn pins_of_images_that_nobody_needs_are_taken_off() {
        let (kept, old) = (Digest::of("kept"), Digest::of("old"));
        let (kept_pin, old_pin) = (image_pin(&kept), image_pin(&old));
        // Names of the operator's own images stay, whatever they lead to.
        let names = [
            "site/app:v1",
            "registry.k8s.io/pause:3.10",
            &kept_pin,
            &old_pin,
        ];
        let host = host(&names);
        unpin_others(&host.root, &[kept].into()).await.unwrap();
        let log = host.read("/log");
        let changes: Vec<&str> = log.lines().filter(|line| !line.contains("list")).collect();
        assert_eq!(changes, [format!("images rm {old_pin}")]);
    }

    /// A containerd that is led to `tagged` by each tag.
    fn resolving(tagged: &Digest) -> TestHost {
        let host = TestHost::new();
        let log = host.root.path("/log");
        let list = format!("case $4 in list) echo \"${{5#name==}} type {tagged} 1 B - -\";; esac");
        host.binary("ctr", &format!("echo \"$*\" >> {log}\n{list}"));
        host
    }

    #[tokio::test]
    async fn a_name_is_given_once_the_tag_is_proven() {
        let (digest, other) = (Digest::of("index"), Digest::of("other"));
        let reference = "registry.k8s.io/pause:3.10";
        let by_digest = image_key_by_digest(reference, &digest);
        for (tagged, is_right) in [(digest, true), (other, false)] {
            let host = resolving(&tagged);
            let none = BTreeMap::new();
            let pulled = pull_one(&host.root, (reference, &digest), None, &none).await;
            let log = host.read("/log");
            let lines = log.lines();
            let ends: Vec<&str> = lines
                .filter_map(|line| line.split(' ').next_back())
                .collect();
            assert_eq!(ends[..2], [&by_digest, reference], "{log}");
            let tag = format!(
                "--namespace k8s.io images tag --local --force --skip-reference-check {by_digest} \
                 {} {reference}",
                image_pin(&digest)
            );
            assert_eq!(log.lines().any(|line| line == tag), is_right, "{log}");
            let removed = format!("--namespace {PROOF} images rm {reference}");
            assert!(log.lines().any(|line| line == removed), "{log}");
            assert_eq!(pulled.is_ok(), is_right);
            if let Err(error) = pulled {
                let expected = format!("leads to {other}, not to {digest}");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_host_without_containerd_is_not_asked() {
        let host = TestHost::new();
        unpin_others(&host.root, &BTreeSet::new()).await.unwrap();
    }
}
