//! Whether a lock is still what its definition says, without any network.

use super::definition::Definition;
use super::lock::Lock;
use super::platform::Platform;
use super::resolve::{member, placeholders};
use crate::digest::Digest;
use fs_err as fs;
use std::collections::BTreeSet;
use std::io;

/// What of a definition its lock doesn't have as it is written there, and what the
/// lock has beside it, a line each. Manifests are read.
///
/// # Errors
/// If a manifest of the definition can't be read.
pub fn disagreements(definition: &Definition, lock: &Lock) -> io::Result<Vec<String>> {
    let defined = defined(definition)?;
    let locked = locked(lock);
    let missing = defined.difference(&locked);
    let mut lines: Vec<String> = missing
        .map(|item| format!("not in the lock: {item}"))
        .collect();
    let stale = locked.difference(&defined);
    lines.extend(stale.map(|item| format!("in the lock alone: {item}")));
    if lines.is_empty() && lock.definition.digest != definition.digest {
        lines.push(
            "the definition's text is another, in something that locks don't hold".to_owned(),
        );
    }
    Ok(lines)
}

fn defined(definition: &Definition) -> io::Result<BTreeSet<String>> {
    let mut items = BTreeSet::from([bundle(&definition.name, &definition.version)]);
    for platform in &definition.platforms {
        for file in &definition.files {
            let url = placeholders(file, platform, None).expand(&file.url);
            items.insert(of_file(
                (&file.name, &file.version, platform),
                (&url, member(file, platform).as_deref()),
                file.licence.as_deref(),
            ));
        }
        for image in &definition.images {
            items.insert(format!("image {} for {platform}", image.reference()));
        }
    }
    for manifest in &definition.manifests {
        let text = fs::read(definition.manifest_path(manifest))?;
        items.insert(of_manifest(&manifest.name, &Digest::of(text)));
    }
    Ok(items)
}

fn locked(lock: &Lock) -> BTreeSet<String> {
    let mut items = BTreeSet::from([bundle(&lock.definition.name, &lock.definition.version)]);
    for file in &lock.files {
        items.insert(of_file(
            (&file.name, &file.version, &file.platform),
            (&file.url, file.member.as_deref()),
            file.licence.as_deref(),
        ));
    }
    for image in &lock.images {
        for half in &image.platforms {
            let platform = &half.platform;
            items.insert(format!("image {} for {platform}", image.reference));
        }
    }
    for manifest in &lock.manifests {
        items.insert(of_manifest(&manifest.name, &manifest.digest));
    }
    items
}

fn bundle(name: &str, version: &str) -> String {
    format!("bundle {name} {version}")
}

/// A file, where it comes from, and under which licence.
fn of_file(
    (name, version, platform): (&str, &str, &Platform),
    (url, member): (&str, Option<&str>),
    licence: Option<&str>,
) -> String {
    let member = member.map_or(String::new(), |member| format!(", {member} in it"));
    let licence = licence.map_or(String::new(), |licence| format!(", {licence}"));
    format!("file {name} {version} for {platform} from {url}{member}{licence}")
}

fn of_manifest(name: &str, digest: &Digest) -> String {
    format!("manifest {name} {}", digest.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::lock::{LockedDefinition, LockedFile, LockedManifest, SCHEMA};
    use crate::bundle::testing::TestDirectory;

    const TEXT: &str = "schema = 1\n[bundle]\nname = \"x\"\nversion = \"1\"\n\
                        platforms = [\"linux/amd64\"]\n\
                        [[files]]\nname = \"etcd\"\nversion = \"3.6.16\"\nurl = \"https://e.io/e\"\n\
                        [[manifests]]\nname = \"dns\"\npath = \"dns.yaml\"\n";

    #[test]
    fn every_disagreement_is_named() {
        let directory = TestDirectory::new();
        let path = directory.path.join("x.toml");
        fs::write(directory.path.join("dns.yaml"), "dns").unwrap();
        let definition = Definition::parse(TEXT, &path).unwrap();
        let mut lock = Lock {
            schema: SCHEMA,
            definition: LockedDefinition {
                name: "x".to_owned(),
                version: "1".to_owned(),
                platforms: definition.platforms.clone(),
                digest: definition.digest,
            },
            files: vec![LockedFile {
                name: "etcd".to_owned(),
                version: "3.6.16".to_owned(),
                platform: definition.platforms[0].clone(),
                licence: None,
                url: "https://e.io/e".to_owned(),
                download: Digest::of("etcd"),
                download_size: 4,
                member: None,
                digest: Digest::of("etcd"),
                size: 4,
            }],
            images: Vec::new(),
            manifests: vec![LockedManifest {
                name: "dns".to_owned(),
                path: "dns.yaml".into(),
                digest: Digest::of("dns"),
                size: 3,
            }],
        };
        assert_eq!(
            disagreements(&definition, &lock).unwrap(),
            Vec::<String>::new()
        );
        lock.files[0].version = "3.6.15".to_owned();
        fs::write(directory.path.join("dns.yaml"), "other").unwrap();
        let (new, old) = (Digest::of("other").short(), Digest::of("dns").short());
        assert_eq!(
            disagreements(&definition, &lock).unwrap(),
            [
                "not in the lock: file etcd 3.6.16 for linux/amd64 from https://e.io/e".to_owned(),
                format!("not in the lock: manifest dns {new}"),
                "in the lock alone: file etcd 3.6.15 for linux/amd64 from https://e.io/e"
                    .to_owned(),
                format!("in the lock alone: manifest dns {old}"),
            ]
        );
        lock.files[0].version = "3.6.16".to_owned();
        fs::write(directory.path.join("dns.yaml"), "dns").unwrap();
        let changed = Definition::parse(&format!("{TEXT}# changed\n"), &path).unwrap();
        assert_eq!(
            disagreements(&changed, &lock).unwrap(),
            ["the definition's text is another, in something that locks don't hold"]
        );
    }
}
