//! What a host is sent for an action: the bytes that the plan does not carry
//! are looked up in the desired state.

use super::failure::StepError;
use crate::desired::{Content, Desired, DesiredHost, File};
use crate::host::{ApplyRequest, FileBody, ManifestBody};
use crate::plan::generation::generation_of;
use crate::plan::{Action, Step};

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
    let mut request = ApplyRequest::of(step.action.clone());
    match &step.action {
        Action::WriteFiles { files, .. } => {
            let host = host()?;
            for change in files {
                let body = file_body(step, host, &change.path)?;
                request.files.insert(change.path.clone(), body);
            }
        }
        Action::StartUnits { units, .. } | Action::SwitchUnits { units, .. } => {
            let host = host()?;
            if let Action::SwitchUnits { files, .. } = &step.action {
                for change in files {
                    let body = file_body(step, host, &change.path)?;
                    request.files.insert(change.path.clone(), body);
                }
            }
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
            let generation = generation_of(host()?, *generation);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Change, FileKind, Needs, Stage, Unit};
    use crate::plan::{FileChange, FileChangeKind, UnitChange, UnitVerb};
    use std::collections::BTreeSet;

    fn file(content: Content) -> File {
        File {
            content,
            mode: 0o600,
            user: "root".to_owned(),
            group: "root".to_owned(),
            kind: FileKind::Trust,
            part: None,
        }
    }

    fn desired() -> Desired {
        let mut desired = Desired::default();
        let mut host = DesiredHost::default();
        for (path, content) in [
            ("/directory", Content::Directory),
            ("/key", Content::Secret(b"secret".to_vec())),
            ("/pending", Content::Pending),
        ] {
            host.files.insert(path.to_owned(), file(content));
        }
        host.units.push(Unit {
            name: "etcd.service".to_owned(),
            stage: Stage::Etcd,
            inputs: None,
            pending: true,
            needs: Needs::default(),
            change: Change::Restart,
            ready: None,
        });
        desired.hosts.insert("m1".to_owned(), host);
        desired
    }

    fn step(host: &str, action: Action) -> Step {
        Step {
            stage: Stage::Stage,
            host: host.to_owned(),
            title: "write files".to_owned(),
            disrupts: BTreeSet::new(),
            action,
        }
    }

    fn write(paths: &[&str]) -> Action {
        let files = paths.iter().map(|path| FileChange {
            path: (*path).to_owned(),
            change: FileChangeKind::Create,
        });
        Action::WriteFiles {
            files: files.collect(),
            remove: Vec::new(),
            kind: FileKind::Trust,
        }
    }

    #[test]
    fn bytes_are_looked_up_and_told_nowhere() {
        let step = step("m1", write(&["/directory", "/key"]));
        let request = apply_request(&step, &desired()).unwrap();
        assert_eq!(request.files["/directory"].bytes, None);
        let key = &request.files["/key"];
        assert!(key.secret && key.bytes.as_deref() == Some(b"secret"));
        assert!(!format!("{request:?}").contains("secret\""));
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        let start = Action::StartUnits {
            units: vec![UnitChange {
                name: "etcd.service".to_owned(),
                verb: UnitVerb::Start,
            }],
            wait: false,
        };
        for (host, action, expected) in [
            ("m1", write(&["/pending"]), "m1: the content of /pending"),
            ("m1", write(&["/other"]), "m1: /other"),
            ("m2", write(&["/key"]), "m2: the host"),
            ("m1", start, "m1: what etcd.service reads"),
            (
                "m1",
                Action::Apply {
                    set: "dns".to_owned(),
                },
                "m1: manifest set dns",
            ),
            ("m1", Action::Commit { generation: 1 }, ""),
        ] {
            let result = apply_request(&step(host, action), &desired());
            match expected {
                "" => assert!(result.is_ok()),
                _ => {
                    let error = result.unwrap_err().to_string();
                    assert!(error.starts_with(expected), "{error}");
                }
            }
        }
    }
}
