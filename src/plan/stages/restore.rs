//! A restore of etcd: the snapshot to all members, their data made from it while
//! all goes on as before; then everything that has to do with etcd stops on all
//! hosts, and its data is put in place. What comes after starts it all again.

use super::super::diff::{Comparison, HostDiff};
use super::super::order::side_by_side;
use super::super::{Action, StagePlan, Step, restore, title};
use super::{lanes, step};
use crate::desired::{BlobReference, EtcdRestore, Stage};
use std::collections::BTreeMap;

pub(in super::super) fn restore_etcd(comparison: &Comparison, stage: Stage) -> Vec<StagePlan> {
    let Some(wanted) = &comparison.desired.restore else {
        return Vec::new();
    };
    let on_each = |steps: &dyn Fn(&HostDiff) -> Vec<Step>| {
        let lanes = lanes(comparison, |host| {
            match restore::is_done(wanted, host.desired, host.facts) {
                true => Vec::new(),
                false => steps(host),
            }
        });
        side_by_side(stage, vec![lanes])
    };
    let parts = [
        on_each(&|host| prepare(comparison, host, wanted, stage)),
        on_each(&|host| vec![switch(host, wanted, stage)]),
    ];
    parts.into_iter().flatten().collect()
}

fn prepare(
    comparison: &Comparison,
    host: &HostDiff,
    wanted: &EtcdRestore,
    stage: Stage,
) -> Vec<Step> {
    if host.desired.etcd.is_none() {
        return Vec::new();
    }
    let hosts = comparison.desired.hosts.iter();
    let members: BTreeMap<String, String> = hosts
        .filter_map(|(name, host)| Some((name.clone(), host.etcd.as_ref()?.peer_url.clone())))
        .collect();
    let snapshot = BlobReference {
        digest: wanted.snapshot,
        size: wanted.size,
        media_type: "application/octet-stream".to_owned(),
    };
    let put = Action::PutBlobs {
        blobs: vec![snapshot],
    };
    let make = Action::PrepareEtcdData {
        restore: wanted.clone(),
        name: host.name.to_owned(),
        members,
    };
    let size = title::size(wanted.size);
    vec![
        step(
            stage,
            host.name,
            format!("send the snapshot of etcd, {size}"),
            put,
        ),
        step(
            stage,
            host.name,
            "make etcd's data from the snapshot".to_owned(),
            make,
        ),
    ]
}

fn switch(host: &HostDiff, wanted: &EtcdRestore, stage: Stage) -> Step {
    let units = restore::units(host.desired);
    let mut stop: Vec<String> = units.map(|unit| unit.name.clone()).collect();
    stop.reverse();
    let is_member = host.desired.etcd.is_some();
    let title = match is_member {
        true => "stop the control plane and etcd, put etcd's restored data in place",
        false => "stop the control plane",
    };
    let action = Action::SwitchEtcdData {
        restore: wanted.clone(),
        stop,
        is_member,
    };
    step(stage, host.name, title.to_owned(), action)
}
