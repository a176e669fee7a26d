//! Images in containerd's `k8s.io` namespace, as `ctr` lists them.

use crate::agent::command::Program;
use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::ImageFacts;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// `ctr` waits by itself for a containerd that does not answer.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// The socket of containerd: without it there is nobody to ask.
const SOCKET: &str = "/run/containerd/containerd.sock";

const PINNED: &str = "io.cri-containerd.pinned=pinned";
const PIN_PREFIX: &str = "cofferdam/pinned:";
const MANAGED: &str = "io.cri-containerd.image=managed";

/// `ctr` in the namespace of Kubernetes.
///
/// # Errors
/// If it is not installed.
pub(crate) fn program(root: &Root) -> Result<Program> {
    program_in(root, "k8s.io")
}

/// `ctr` in any namespace.
///
/// # Errors
/// If it is not installed.
pub(crate) fn program_in(root: &Root, namespace: &str) -> Result<Program> {
    let path = root.binary("ctr")?;
    Ok(Program::new(path).arguments(["--namespace", namespace]))
}

/// Whether there is a containerd that could be asked.
pub(crate) fn has_containerd(root: &Root) -> bool {
    root.path(SOCKET).exists()
}

/// The images that containerd holds; none if it does not answer.
pub(crate) async fn images(root: &Root) -> Option<BTreeMap<String, ImageFacts>> {
    if !has_containerd(root) {
        return None;
    }
    let list = |verb: &str| {
        program(root).map(|program| {
            program
                .arguments(["--timeout", "8s", "images", verb])
                .limit(LIST_LIMIT)
        })
    };
    let (listed, checked) = (list("list").ok()?, list("check").ok()?);
    let (listed, checked) = tokio::join!(listed.succeed(), checked.succeed());
    Some(parse_images(&listed.ok()?, &checked.ok()?))
}

/// What a name of a namespace leads to; none if there is no such image.
///
/// # Errors
/// If containerd does not answer.
pub(crate) async fn named(root: &Root, namespace: &str, name: &str) -> Result<Option<Digest>> {
    let listed = program_in(root, namespace)?
        .arguments(["images", "list", &format!("name=={name}")])
        .limit(LIST_LIMIT)
        .succeed()
        .await?;
    let found = listed.lines().filter_map(parse_listed);
    Ok(found
        .filter_map(|(found, digest, _)| (found == name).then_some(digest))
        .next())
}

/// The name under which the kubelet looks an image up by digest:
/// `registry.k8s.io/pause:3.10.2` to `registry.k8s.io/pause@sha256:…`.
pub fn image_key_by_digest(reference: &str, digest: &Digest) -> String {
    format!("{}@{digest}", repository_of(reference))
}

/// The name that keeps an image from kubelet's collector. kubelet replaces a
/// name with its labels whenever a pod wants it pulled anew
/// (`imagePullPolicy: Always`), so the label stands on a name that no pod can
/// ask for: it is no reference by the rules, which is also why containerd
/// tells it to nobody.
pub fn image_pin(digest: &Digest) -> String {
    format!("{PIN_PREFIX}{digest}")
}

/// The digest that a name keeps from kubelet's collector; none for other names.
pub fn pinned_by(name: &str) -> Option<Digest> {
    name.strip_prefix(PIN_PREFIX)?.parse().ok()
}

/// A reference without its tag and digest.
pub fn repository_of(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Joins `ctr images list` (labels) and `ctr images check` (content). A tag is
/// complete only together with its twin by digest, which is what the kubelet
/// asks for, so that a pull that was cut off is visible; it is pinned if the
/// digest is.
fn parse_images(listed: &str, checked: &str) -> BTreeMap<String, ImageFacts> {
    let complete: BTreeMap<&str, bool> = checked.lines().filter_map(parse_checked).collect();
    let found: BTreeMap<&str, ImageFacts> = listed
        .lines()
        .filter_map(|line| {
            let (name, digest, labels) = parse_listed(line)?;
            let has = |label: &str| labels.split(',').any(|each| each == label);
            let facts = ImageFacts {
                digest,
                pinned: has(PINNED),
                complete: has(MANAGED) && complete.get(name).copied().unwrap_or(false),
            };
            Some((name, facts))
        })
        .collect();
    let is_pinned = |digest: &Digest| {
        let pin = found.get(image_pin(digest).as_str());
        pin.is_some_and(|pin| pin.pinned && pin.digest == *digest)
    };
    found
        .iter()
        .filter(|(name, _)| !name.starts_with(PIN_PREFIX))
        .map(|(name, facts)| {
            let twin = found.get(image_key_by_digest(name, &facts.digest).as_str());
            let is_identifier = name.starts_with("sha256:");
            let facts = ImageFacts {
                digest: facts.digest,
                pinned: is_pinned(&facts.digest),
                complete: facts.complete
                    && (is_identifier || twin.is_some_and(|twin| twin.complete)),
            };
            ((*name).to_owned(), facts)
        })
        .collect()
}

/// `REF TYPE DIGEST SIZE PLATFORMS LABELS`; the size is two words.
fn parse_listed(line: &str) -> Option<(&str, Digest, &str)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let digest = words.nth(1)?.parse().ok()?;
    Some((name, digest, words.next_back().unwrap_or("")))
}

/// `REF TYPE DIGEST STATUS SIZE UNPACKED`, status `complete (3/3)`.
fn parse_checked(line: &str) -> Option<(&str, bool)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.get(2)?.parse::<Digest>().ok()?;
    let is_complete = words.get(3) == Some(&"complete") && words.last() == Some(&"true");
    Some((words.first()?, is_complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_complete_together_with_its_twin() {
        let digest = Digest::of("index");
        let other = Digest::of("other");
        let kind = "application/vnd.oci.image.index.v1+json";
        let pin = image_pin(&digest);
        let listed = format!(
            "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
             {pin} {kind} {digest} 312.5 KiB linux/amd64,linux/arm64 {MANAGED},{PINNED} \n\
             registry.k8s.io/pause:3.10.2 {kind} {digest} 312.5 KiB linux/amd64,linux/arm64 {MANAGED} \n\
             registry.k8s.io/pause@{digest} {kind} {digest} 312.5 KiB linux/amd64,linux/arm64 {MANAGED} \n\
             host:5000/alone:v1 {kind} {other} 1.0 MiB linux/amd64 {MANAGED},{PINNED} \n\
             host:5000/bare:v1 {kind} {other} 1.0 MiB - - \n"
        );
        let checked = format!(
            "REF TYPE DIGEST STATUS SIZE UNPACKED\n\
             registry.k8s.io/pause:3.10.2 {kind} {digest} complete (3/3) 312.5 KiB/312.5 KiB true \n\
             registry.k8s.io/pause@{digest} {kind} {digest} complete (3/3) 312.5 KiB/312.5 KiB true \n\
             host:5000/alone:v1 {kind} {other} complete (3/3) 1.0 MiB/1.0 MiB true \n\
             host:5000/bare:v1 {kind} {other} incomplete (1/3) 0.1 MiB/1.0 MiB false \n"
        );
        let images = parse_images(&listed, &checked);
        let state = |name: &str| {
            let facts = &images[name];
            (facts.pinned, facts.complete)
        };
        assert_eq!(state("registry.k8s.io/pause:3.10.2"), (true, true));
        assert_eq!(state("host:5000/alone:v1"), (false, false));
        assert_eq!(state("host:5000/bare:v1"), (false, false));
        assert_eq!(images["host:5000/bare:v1"].digest, other);
        assert!(!images.contains_key(&pin));
        assert!(parse_images("", "").is_empty());
    }

    #[test]
    fn a_pin_is_no_reference_that_a_pod_could_ask_for() {
        let pin = image_pin(&Digest::of("index"));
        assert!(pin.parse::<oci_client::Reference>().is_err(), "{pin}");
    }

    #[test]
    fn parts_references() {
        let cases = [
            ("registry.k8s.io/pause:3.10.2", "registry.k8s.io/pause"),
            ("host:5000/a/b:v1", "host:5000/a/b"),
            ("host:5000/a/b", "host:5000/a/b"),
            (
                "docker.io/library/busybox@sha256:00",
                "docker.io/library/busybox",
            ),
        ];
        for (reference, repository) in cases {
            assert_eq!(repository_of(reference), repository);
        }
    }
}
