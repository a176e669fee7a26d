//! Server-side apply of manifests, by kubectl.

use crate::agent::kubectl;
use crate::agent::root::Root;
use crate::host::{Failure, ManifestBody};
use crate::layout::FIELD_MANAGER;
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// A set of a few dozen objects takes seconds, on a busy API server longer.
const APPLY_LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn apply(root: &Root, set: &str, body: Option<ManifestBody>) -> Result<()> {
    let Some(body) = body.filter(|body| body.name == set) else {
        bail!("applying the manifests {set}: the request does not carry them");
    };
    let program = kubectl::program(root, APPLY_LIMIT)?
        .arguments(["apply", "--server-side", "--force-conflicts"])
        .argument(format!("--field-manager={FIELD_MANAGER}"))
        .arguments(["--filename", "-"])
        .input(body.yaml.into_bytes());
    let finished = program.finish().await?;
    if finished.status.success() {
        return Ok(());
    }
    let failure = Failure {
        hint: Some(format!(
            "ask the API server what is wrong with it: `cofferdam kubectl -- get events -A`, and look at the manifests `{set}` of the bundle"
        )),
        ..program.failure(&finished)
    };
    Err(failure).with_context(|| format!("applying the manifests {set}"))
}
