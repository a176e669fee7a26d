//! Whether applying manifests would change anything: kubectl applies them as
//! a dry run on the server, and what comes back is compared with what is
//! there. (`kubectl diff` would need a program on the host to compare files.)

use super::command::{Finished, Program};
use super::failure::last_lines;
use super::kubectl;
use super::root::Root;
use crate::facts::ManifestState;
use crate::layout::FIELD_MANAGER;
use anyhow::{Result, bail};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A dry run takes a second or two.
const LIMIT: Duration = Duration::from_secs(60);
/// Of all sets together: what takes longer is asked set by set.
const JOINT_LIMIT: Duration = Duration::from_secs(20);
/// What differs between two reads of the same object, or is nobody's to
/// apply.
const LEFT_OUT: [&str; 3] = ["managedFields", "resourceVersion", "generation"];

/// kubectl is a large program and hosts have few cores.
const PARALLEL: usize = 2;

/// Compares manifest sets, by name, with the cluster: all at once, and one by
/// one only where not all are in sync.
pub async fn compare_all(
    root: &Root,
    sets: &BTreeMap<String, String>,
) -> BTreeMap<String, ManifestState> {
    if sets.is_empty() {
        return BTreeMap::new();
    }
    let texts: Vec<&str> = sets.values().map(String::as_str).collect();
    let joint = compare(root, &texts.join("\n---\n"), JOINT_LIMIT).await;
    if joint == ManifestState::InSync {
        let names = sets.keys().cloned();
        return names.map(|name| (name, ManifestState::InSync)).collect();
    }
    // Futures first: a closure inside the stream would be too narrow in its
    // lifetimes for a spawned task.
    let comparisons: Vec<_> = sets
        .iter()
        .map(|(name, yaml)| async move { (name.clone(), compare(root, yaml, LIMIT).await) })
        .collect();
    stream::iter(comparisons)
        .buffer_unordered(PARALLEL)
        .collect()
        .await
}

/// Compares a manifest set with the cluster.
async fn compare(root: &Root, yaml: &str, limit: Duration) -> ManifestState {
    match compare_both(root, yaml, limit).await {
        Ok(objects) if objects.is_empty() => ManifestState::InSync,
        Ok(objects) => ManifestState::Differs { objects },
        Err(error) => ManifestState::Unknown {
            reason: format!("{error:#}"),
        },
    }
}

async fn compare_both(root: &Root, yaml: &str, limit: Duration) -> Result<Vec<String>> {
    let program = |arguments: &[&str]| {
        let program = kubectl::program(root, limit)?;
        Ok::<Program, anyhow::Error>(
            program
                .arguments(arguments.iter().copied())
                .arguments(["--filename", "-", "--output", "json"])
                .input(yaml.as_bytes().to_vec()),
        )
    };
    let manager = format!("--field-manager={FIELD_MANAGER}");
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        &manager,
    ];
    let (wanted, present) = (program(&apply)?, program(&["get", "--ignore-not-found"])?);
    let (wanted, present) = tokio::join!(wanted.finish(), present.finish());
    Ok(differing(&objects_of(&wanted?)?, &objects_of(&present?)?))
}

/// Objects by name, from what kubectl printed: one object, a list, or nothing.
fn objects_of(finished: &Finished) -> Result<BTreeMap<String, Value>> {
    if !finished.status.success() {
        let lines = last_lines(&finished.stderr);
        bail!(
            "{}",
            lines.last().map_or("kubectl said nothing", String::as_str)
        );
    }
    parse_objects(&finished.stdout)
}

fn parse_objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let mut value = value?;
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => {
                objects.extend(items.into_iter().map(|item| (name_of(&item), item)));
            }
            _ => {
                objects.insert(name_of(&value), value);
            }
        }
    }
    Ok(objects)
}

/// Names of the objects that would be made or changed.
fn differing(wanted: &BTreeMap<String, Value>, present: &BTreeMap<String, Value>) -> Vec<String> {
    wanted
        .iter()
        .filter(|(name, object)| present.get(*name).map(comparable) != Some(comparable(object)))
        .map(|(name, _)| name.clone())
        .collect()
}

/// `apps/v1 Deployment kube-system/coredns`.
fn name_of(object: &Value) -> String {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let name = text("/metadata/name");
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    match text("/metadata/namespace") {
        "" => format!("{version} {kind} {name}"),
        namespace => format!("{version} {kind} {namespace}/{name}"),
    }
}

fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in LEFT_OUT {
            metadata.remove(field);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::super::test_host::TestHost;
    use super::*;
    use serde_json::json;

    fn object(kind: &str, name: &str, value: u32, version: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": "t", "resourceVersion": version,
                "managedFields": [{"manager": version}]},
            "data": {"value": value}, "status": {"seen": version},
        })
    }

    /// A kubectl that prints what the API server would.
    fn host(wanted: &str, present: &str) -> TestHost {
        let host = TestHost::new();
        host.write("/wanted", wanted);
        host.write("/present", present);
        let script = r#"cat > /dev/null; root=$(dirname "$0")/../../..
            case "$1" in apply) cat "$root/wanted" ;; get) cat "$root/present" ;; esac"#;
        host.binary("kubectl", script);
        host
    }

    #[tokio::test]
    async fn names_what_would_be_made_or_changed() {
        let list = |items: &[Value]| json!({"kind": "List", "items": items}).to_string();
        let wanted = list(&[
            object("Same", "a", 1, "7"),
            object("Changed", "b", 2, "8"),
            object("New", "c", 3, "9"),
        ]);
        let present = list(&[
            object("Same", "a", 1, "70"),
            object("Changed", "b", 1, "80"),
        ]);
        let state = compare(&host(&wanted, &present).root, "yaml", LIMIT).await;
        let objects = vec!["v1 Changed t/b".to_owned(), "v1 New t/c".to_owned()];
        assert_eq!(state, ManifestState::Differs { objects });
        let one = object("Same", "a", 1, "7").to_string();
        let state = compare(&host(&one, &one).root, "yaml", LIMIT).await;
        assert_eq!(state, ManifestState::InSync);
        let state = compare(&host(&one, "").root, "yaml", LIMIT).await;
        assert!(matches!(state, ManifestState::Differs { .. }));
    }

    #[tokio::test]
    async fn sets_are_compared_one_by_one_only_where_they_differ() {
        let sets = ["a", "b"].map(|name| (name.to_owned(), format!("set: {name}")));
        let sets = BTreeMap::from(sets);
        for (present, states, calls) in [
            ("{}", [ManifestState::InSync, ManifestState::InSync], 2),
            (
                "",
                [
                    ManifestState::InSync,
                    ManifestState::Differs {
                        objects: vec!["v1 Set t/b".to_owned()],
                    },
                ],
                6,
            ),
        ] {
            let host = TestHost::new();
            let object = object("Set", "b", 1, "7").to_string();
            host.write("/present", if present == "{}" { &object } else { "" });
            host.write("/object", &object);
            // It knows the object of set b alone.
            host.binary(
                "kubectl",
                r#"root=$(dirname "$0")/../../..; text=$(cat); echo call >> "$root/calls"
                case "$text" in *b*) ;; *) exit 0 ;; esac
                case "$1" in apply) cat "$root/object" ;; get) cat "$root/present" ;; esac"#,
            );
            let found = compare_all(&host.root, &sets).await;
            assert_eq!(found.into_values().collect::<Vec<_>>(), states);
            assert_eq!(host.read("/calls").lines().count(), calls);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_no_difference() {
        let host = TestHost::new();
        host.binary(
            "kubectl",
            "cat > /dev/null; echo 'namespaces \"t\" not found' >&2; exit 1",
        );
        let expected = ManifestState::Unknown {
            reason: "namespaces \"t\" not found".to_owned(),
        };
        assert_eq!(compare(&host.root, "yaml", LIMIT).await, expected);
    }
}
