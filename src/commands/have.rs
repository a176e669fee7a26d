//! `cofferdam site have`: what the site's registries hold, for a delta.

use super::fault::{Exit, Fault};
use super::interrupt::Interrupt;
use super::phase::Phase;
use super::snapshots::connected;
use super::{conclude, connect, record};
use crate::bundle::have::Have;
use crate::bundle::inspect::human_bytes;
use crate::cli::SiteHaveArgs;
use crate::desired::BundleView;
use crate::digest::Digest;
use crate::event::{Event, EventSink as _};
use crate::facts::ObserveRequest;
use crate::host::{Call, Host as _, Request, Response};
use crate::inventory::Inventory;
use crate::output::{Output, Style};
use crate::plan::title::count;
use crate::site::Site;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long a registry's host may be silent while it reads its store.
const LIMIT: Duration = Duration::from_secs(180);

pub(super) async fn run(args: SiteHaveArgs, style: Style) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let work = have(&output, &inventory, &site);
    let have = interrupt.or("nothing was changed", work).await;
    let have = conclude(&output, have)?;
    let text = serde_json::to_string_pretty(&have).map_err(anyhow::Error::from)?;
    output
        .data(&format!("{text}\n"))
        .map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}

async fn have(output: &Arc<Output>, inventory: &Inventory, site: &Site) -> Result<Have, Fault> {
    if let Some(registry) = &inventory.registry {
        let message = format!(
            "this tells what cofferdam's own registries hold, and `[registry]` names {} instead",
            registry.address
        );
        let hint = "build a delta on the last bundle: `bundle build --base LAST`; then \
                    `registry push --bundle DELTA --base LAST`";
        return Err(Fault::new(Exit::Input, message).hint(hint));
    }
    // Not the one before: registries remove its content with the next change.
    let mut bundles = record::present_bundles(site)?;
    // What a run began to bring is in registries too.
    bundles.extend(record::begun(site)?.map(|begun| begun.bundle));
    let Some(bundle) = bundles.first().map(BundleView::title) else {
        let message = format!(
            "{} knows of no bundle: nothing was installed",
            inventory.site_path
        );
        return Err(Fault::new(Exit::Input, message).hint("carry the full bundle"));
    };
    let asked: BTreeMap<Digest, u64> = bundles.iter().flat_map(content_of).collect();
    let held = ask(output, inventory, site, &asked).await?;
    let mut all: BTreeSet<Digest> = asked.keys().copied().collect();
    for blobs in held.values() {
        all.retain(|digest| blobs.contains(digest));
    }
    for (host, blobs) in &held {
        let others = held.values().flatten().collect::<BTreeSet<_>>();
        let lacks = others.iter().filter(|blob| !blobs.contains(**blob)).count();
        if lacks > 0 {
            let message = format!(
                "its registry lacks {} that others have; a delta carries what any lacks",
                count(lacks, "blob", "blobs")
            );
            let host = Some(host.clone());
            output.emit(Event::Warning { host, message });
        }
    }
    let bytes = asked.iter().filter(|(digest, _)| all.contains(digest));
    output.say(&format!(
        "{}, {}, in each registry: {}",
        count(all.len(), "blob", "blobs"),
        human_bytes(bytes.map(|(_, size)| size).sum()),
        held.keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    ));
    Ok(Have::new(inventory.cluster.name.clone(), bundle, all))
}

/// Layers, configurations and files of a bundle, with their sizes in bytes.
/// Manifests are in every delta.
pub(super) fn content_of(bundle: &BundleView) -> Vec<(Digest, u64)> {
    let images = bundle.images.iter().map(|image| &image.artifact);
    let artifacts = images.chain(&bundle.file_artifacts);
    let blobs = artifacts.flat_map(|artifact| &artifact.blobs);
    blobs.map(|blob| (blob.digest, blob.size)).collect()
}

/// Which of the blobs each registry has, read and found right.
pub(super) async fn ask(
    output: &Arc<Output>,
    inventory: &Inventory,
    site: &Site,
    asked: &BTreeMap<Digest, u64>,
) -> Result<BTreeMap<String, BTreeSet<Digest>>, Fault> {
    let connections = connect::each(inventory, site)?;
    let registries = inventory.registries();
    let phase = Phase::begin(output, "look", registries.len());
    let each = registries.into_iter().map(|registry| {
        let (connections, phase) = (&connections, &phase);
        let work = async move {
            let host = connected(connections, &registry.name).await?;
            let request = ObserveRequest {
                registry: Some(asked.clone()),
                content: true,
                ..ObserveRequest::default()
            };
            let notices = |_| phase.doing(format!("{}: reading its registry", registry.name));
            let call = Call {
                request: Request::Observe(request),
                body: None,
                notices: &notices,
                limit: LIMIT,
            };
            match host.call(call).await? {
                Response::Facts(facts) => {
                    let held = facts.registry.unwrap_or_default();
                    Ok(held.blobs.into_keys().collect())
                }
                _ => {
                    let message = format!("{}: an unexpected answer", registry.name);
                    Err(Fault::new(Exit::Failed, message))
                }
            }
        };
        (registry.name.clone(), work)
    });
    let answers = phase.for_all(each).await;
    let (mut held, mut faults) = (BTreeMap::new(), Vec::new());
    for (name, answer) in answers {
        match answer {
            Ok(blobs) => {
                held.insert(name, blobs);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(fault) = Fault::merge(faults) {
        return Err(fault);
    }
    phase.done(count(held.len(), "registry", "registries"));
    Ok(held)
}
