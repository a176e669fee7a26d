//! An install over links as they are between sites.

use super::install::{Told, bare_hosts, copy_everywhere, link};
use super::{Figure, figure};
use crate::lab;
use crate::product::Product;
use anyhow::Result;
use std::time::Instant;

const BANDWIDTH: &str = "100mbit";

/// The stages that bring bytes to hosts, over slow links, beside a copy of
/// everything to each host.
pub(super) fn figures(product: &Product, wanted: lab::Wanted) -> Result<Vec<Figure>> {
    let lab = bare_hosts(product, wanted, Some(BANDWIDTH))?;
    let copied = copy_everywhere(&lab, product)?;
    let begun = Instant::now();
    let told = Told::by_install(product)?;
    let total = begun.elapsed().as_secs_f64();
    let bytes = link(product, &lab, &told)?;
    lab.down()?;
    let until = |stage: &str| -> f64 {
        let before = told.stages.iter().take_while(|(name, _)| name != stage);
        before.map(|(_, seconds)| seconds).sum()
    };
    let (seeded, staged) = (until("stage"), until("etcd"));
    let name = |what: &str| format!("links of 100 Mbit/s: {what}");
    Ok(vec![
        figure(name("install, from bare hosts"), (total, "s"), None, ""),
        figure(
            name("each zone's registry filled"),
            (seeded, "s"),
            Some(("ssh 'cat >' of the bundle to each host", copied)),
            "",
        ),
        figure(
            name("installed and unpacked on each host"),
            (staged, "s"),
            Some(("ssh 'cat >' of the bundle to each host", copied)),
            "",
        ),
        Figure {
            name: name("bytes over the jump host's link"),
            ..bytes
        },
    ])
}
