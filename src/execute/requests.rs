//! What a host is sent for an action: the bytes that the plan does not carry
//! are looked up in the desired state.

use super::failure::StepError;
use crate::desired::{Content, Desired, DesiredHost, File};
use crate::host::{ApplyRequest, FileBody, ManifestBody};
use crate::plan::generation::generation_of;
use crate::plan::{Action, Step};
use std::collections::BTreeMap;

/// The request for a step.
///
/// # Errors
/// When the desired state lacks something that the step names, or does not
/// know it yet.
pub(super) fn apply_request(step: &Step, desired: &Desired) -> Result<ApplyRequest, StepError> {
    let host = || {
        let host = desired.hosts.get(&step.host);
        host.ok_or_else(|| missing(step, "the host"))
    };
    let mut request = ApplyRequest {
        action: step.action.clone(),
        files: BTreeMap::new(),
        inputs: BTreeMap::new(),
        manifests: None,
        generation: None,
    };
    match &step.action {
        Action::WriteFiles { files, .. } => {
            let host = host()?;
            for change in files {
                let body = file_body(step, host, &change.path)?;
                request.files.insert(change.path.clone(), body);
            }
        }
        Action::StartUnits { units, .. } => {
            let host = host()?;
            for change in units {
                let unit = host.units.iter().find(|unit| unit.name == change.name);
                let unit = unit.ok_or_else(|| missing(step, &change.name))?;
                if unit.pending {
                    return Err(missing(step, &format!("what {} reads", change.name)));
                }
                let inputs = unit.inputs.map(|inputs| (change.name.clone(), inputs));
                request.inputs.extend(inputs);
            }
        }
        Action::Apply { set } => {
            let known = desired.manifests.iter().find(|known| known.name == *set);
            let known = known.ok_or_else(|| missing(step, &format!("manifest set {set}")))?;
            request.manifests = Some(ManifestBody::from(known));
        }
        Action::Commit { generation } => {
            let generation = generation_of(host()?, &desired.bundle, *generation);
            let generation = generation.ok_or_else(|| missing(step, "a file's content"))?;
            request.generation = Some(generation);
        }
        _ => {}
    }
    Ok(request)
}

fn file_body(step: &Step, host: &DesiredHost, path: &str) -> Result<FileBody, StepError> {
    let file: &File = host.files.get(path).ok_or_else(|| missing(step, path))?;
    let bytes = match &file.content {
        Content::Directory => None,
        Content::Plain(bytes) | Content::Secret(bytes) => Some(bytes.clone()),
        Content::Pending => return Err(missing(step, &format!("the content of {path}"))),
    };
    Ok(FileBody {
        bytes,
        mode: file.mode,
        user: file.user.clone(),
        group: file.group.clone(),
        kind: file.kind,
        secret: matches!(file.content, Content::Secret(_)),
    })
}

fn missing(step: &Step, what: &str) -> StepError {
    StepError::Missing {
        host: step.host.clone(),
        what: what.to_owned(),
    }
}
