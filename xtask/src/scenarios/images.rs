//! What nodes and registries keep of images once nobody goes back to them.

use super::Context;
use super::upgrade::NEXT;
use super::zones::{all_well, is_node};
use crate::lab::{Host, Kind, Lab};
use crate::product::{Product, run_quietly};
use crate::shell;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;

/// After an upgrade nodes keep the old images pinned, for the way back, and registries
/// their content; after the next change nodes leave them to kubelet, registries remove
/// theirs, and what is needed stays.
pub fn old_ones_go(context: &Context) -> Result<()> {
    let (lab, mut next) = (context.lab()?, Product::for_lab(NEXT)?);
    let nodes: Vec<&Host> = lab.hosts().iter().filter(|host| is_node(host)).collect();
    let before = nodes
        .iter()
        .map(|host| as_generations_say(&lab, host))
        .collect::<Result<Vec<_>>>()?;
    let registries = || -> Result<Vec<Store>> {
        let hosts = lab.hosts().iter();
        let masters = hosts.filter(|host| host.kind == Kind::Master);
        masters.map(|host| Store::of(&lab, host)).collect()
    };
    let stores = registries()?;
    let inventory = next.inventory.clone();
    let text = fs_err::read_to_string(&inventory)?;
    let (setting, other) = (
        "\"memory.available\" = \"2%\"",
        "\"memory.available\" = \"3%\"",
    );
    ensure!(
        text.contains(setting),
        "the lab's inventory has no {setting}"
    );
    next.inventory = inventory.with_file_name("evicting.toml");
    fs_err::write(&next.inventory, text.replace(setting, other))?;
    run_quietly(&mut next.verb("install", &["--yes"]))?;
    let mut left = 0;
    for (host, before) in nodes.iter().zip(before) {
        let after = as_generations_say(&lab, host)?;
        ensure!(
            after.is_subset(&before),
            "{}: pins are new: {after:?}",
            host.name
        );
        left += before.len() - after.len();
    }
    ensure!(left > 0, "no image was left to kubelet");
    shell::say(&format!(
        "        {left} pins of old images taken off {} nodes",
        nodes.len()
    ));
    for (before, after) in stores.iter().zip(registries()?) {
        ensure!(
            after.tags.is_subset(&before.tags) && after.tags.len() < before.tags.len(),
            "tags before: {:?}, after: {:?}",
            before.tags,
            after.tags
        );
        ensure!(
            !after.holds(":1.36.0") && after.holds(":1.37.0"),
            "{:?}",
            after.tags
        );
        ensure!(
            after.megabytes < 0.8 * before.megabytes,
            "{:.1} MB before, {:.1} MB after",
            before.megabytes,
            after.megabytes
        );
        shell::say(&format!(
            "        a registry held {:.1} MB before, and {:.1} MB after that",
            before.megabytes, after.megabytes
        ));
    }
    next.inventory = inventory;
    run_quietly(&mut next.verb("install", &["--yes"]))?;
    all_well(&next).map(drop)
}

/// After an install, the registries' logs know each node's containerd: it asked for each
/// image by its digest and by its tag.
pub fn asked_for_by_digest_and_tag(lab: &Lab) -> Result<()> {
    let mut logs = String::new();
    for host in lab.hosts().iter().filter(|host| host.kind == Kind::Master) {
        let log = "journalctl -u registry --no-pager -o cat | grep containerd/";
        logs += &lab.ssh_output(&host.name, log)?;
    }
    let mut asked = 0;
    for host in lab.hosts().iter().filter(|host| is_node(host)) {
        let listed = lab.ssh_output(&host.name, "/opt/cofferdam/bin/ctr -n k8s.io images list")?;
        let tags = listed.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, digest) = (words.next()?, words.nth(1)?);
            let is_tag = !name.contains('@') && !name.contains("sha256:");
            is_tag.then_some((name.rsplit_once(':')?, digest))
        });
        let address = format!("{} - ", host.address);
        let from_here: Vec<&str> = logs
            .lines()
            .filter(|line| line.starts_with(&address))
            .collect();
        for ((repository, tag), digest) in tags {
            for name in [tag, digest] {
                let path = format!("/v2/{repository}/manifests/{name}?");
                ensure!(
                    from_here.iter().any(|line| line.contains(&path)),
                    "{}: no registry was asked for {path}",
                    host.name
                );
                asked += 1;
            }
        }
    }
    ensure!(asked > 0, "no node has an image");
    shell::say(&format!(
        "        {asked} digests and tags asked for by nodes' containerd"
    ));
    Ok(())
}

/// What a registry holds.
struct Store {
    tags: BTreeSet<String>,
    megabytes: f64,
}

impl Store {
    /// Fails if its tags are not those that the host's generations name.
    fn of(lab: &Lab, host: &Host) -> Result<Self> {
        let found = "cd /var/lib/cofferdam/registry/docker/registry/v2/repositories && \
            find . -path '*/_manifests/tags/*/current/link'";
        let found = lab.ssh_output(&host.name, found)?;
        let tags = found.lines().filter_map(|line| {
            let name = line.strip_prefix("./")?.strip_suffix("/current/link")?;
            let (repository, tag) = name.split_once("/_manifests/tags/")?;
            Some(format!("{repository}:{tag}"))
        });
        let tags: BTreeSet<String> = tags.collect();
        let mut named = BTreeSet::new();
        for generation in generations(lab, host)? {
            let artifacts = generation["artifacts"].as_array();
            let artifacts = artifacts.with_context(|| format!("{}: no artifacts", host.name))?;
            let names = artifacts
                .iter()
                .filter_map(|name| name.as_str()?.split_once('@'));
            named.extend(names.map(|(name, _)| name.to_owned()));
        }
        ensure!(
            tags == named,
            "{}: its registry has {tags:?}, its generations name {named:?}",
            host.name
        );
        let bytes = lab.ssh_output(&host.name, "du -sb /var/lib/cofferdam/registry | cut -f1")?;
        Ok(Self {
            tags,
            megabytes: bytes.trim().parse::<f64>()? / 1e6,
        })
    }

    fn holds(&self, part: &str) -> bool {
        self.tags.iter().any(|tag| tag.contains(part))
    }
}

fn generations(lab: &Lab, host: &Host) -> Result<Vec<Value>> {
    let kept = "cat /var/lib/cofferdam/generations/*.json";
    let kept = lab.ssh_output(&host.name, kept)?;
    let generations = serde_json::Deserializer::from_str(&kept).into_iter();
    Ok(generations.collect::<Result<_, _>>()?)
}

/// Digests of the images that a node keeps from kubelet's collector, which are those
/// that its two generations name.
fn as_generations_say(lab: &Lab, host: &Host) -> Result<BTreeSet<String>> {
    let listed = "/opt/cofferdam/bin/ctr -n k8s.io images list -q";
    let listed = lab.ssh_output(&host.name, listed)?;
    let pinned: BTreeSet<String> = listed
        .lines()
        .filter_map(|name| name.strip_prefix("cofferdam/pinned:"))
        .map(str::to_owned)
        .collect();
    let mut named = BTreeSet::new();
    for generation in generations(lab, host)? {
        let images = generation["images"].as_array();
        let images = images.with_context(|| format!("{}: no images", host.name))?;
        named.extend(
            images
                .iter()
                .filter_map(|image| Some(image.as_str()?.to_owned())),
        );
    }
    ensure!(
        pinned == named,
        "{}: pinned are {pinned:?}, its generations name {named:?}",
        host.name
    );
    Ok(pinned)
}
