//! Two rooms with a master each, and a witness elsewhere that is a member of
//! etcd and nothing else: the answer to people with two rooms.

use super::Context;
use super::zones::{all_well, zones_cut};
use crate::lab::{Kind, Lab};
use anyhow::{Context as _, Result, ensure};
use fs_err as fs;
use std::time::Duration;

/// The witness's zone has no registry, and names the second room's.
pub fn install(context: &Context) -> Result<()> {
    let product = &context.product;
    let text = fs::read_to_string(&product.inventory)?;
    let named = text.replacen("[zones.c]", "[zones.c]\nregistry = \"b\"", 1);
    ensure!(named != text, "no zone c in the inventory");
    fs::write(&product.inventory, named)?;
    product.install()?;
    all_well(product)?;
    let lab = context.lab()?;
    let asked = |registry: &str| witness_asked(&lab, registry);
    ensure!(asked("m2")?, "the witness did not pull from room b");
    ensure!(!asked("m1")?, "the witness pulled from room a");
    let nodes = product.kubectl(&["get", "nodes", "-o", "name"])?;
    ensure!(!nodes.contains("node/e1"), "a witness is a node:\n{nodes}");
    let members = product.etcdctl(&["member", "list"])?;
    ensure!(members.lines().count() == 3, "members:\n{members}");
    Ok(())
}

/// Whether a registry's log knows the witness.
fn witness_asked(lab: &Lab, registry: &str) -> Result<bool> {
    let mut hosts = lab.hosts().iter();
    let witness = hosts.find(|host| host.kind == Kind::Witness);
    let address = witness.context("no witness")?.address.to_string();
    let log = lab.ssh_output(registry, "journalctl -u registry --no-pager -o cat")?;
    Ok(log.lines().any(|line| line.contains(&address)))
}

/// The first room is cut off, where the first master is.
pub fn one_cut(context: &Context) -> Result<()> {
    zones_cut(context, &["a"], Duration::from_secs(15))
}

/// Each room, and the witness.
pub fn each_cut(context: &Context) -> Result<()> {
    zones_cut(context, &["a", "b", "c"], Duration::from_secs(60))
}
