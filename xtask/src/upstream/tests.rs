//! What lies in `upstream/` and `bundles/` fits together.

use std::collections::{BTreeMap, BTreeSet};

use super::components::{self, Components, Platform};
use crate::paths;

const MINOR: &str = "1.36";

fn components() -> Components {
    let folder = paths::repository().unwrap().join("upstream").join(MINOR);
    components::load(&folder).unwrap()
}

/// Every path of the mirror, and the members of those that are archives.
fn published(components: &Components, platform: &Platform) -> BTreeMap<String, BTreeSet<String>> {
    let mut published = BTreeMap::new();
    for module in &components.modules {
        let fill = |template: &str, name: &str| platform.fill(template, &module.version, name);
        for files in &module.files {
            for name in &files.binaries {
                published.insert(fill(&files.path, name), BTreeSet::new());
                if let Some(checksum) = &files.checksum {
                    published.insert(fill(&checksum.path, name), BTreeSet::new());
                }
            }
        }
        for archive in &module.archives {
            let folder = fill(&archive.folder, "");
            let members = archive
                .binaries
                .iter()
                .map(|name| format!("{folder}{name}"));
            published.insert(fill(&archive.path, ""), members.collect());
            published.insert(fill(&archive.checksum.path, ""), BTreeSet::new());
        }
    }
    published
}

#[test]
fn the_mirror_has_all_that_the_definition_addresses() {
    let path = paths::repository()
        .unwrap()
        .join(format!("bundles/kubernetes-{MINOR}.toml"));
    let definition: toml::Table = toml::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    let components = components();
    let platform = Platform::try_from("linux/amd64".to_owned()).unwrap();
    let published = published(&components, &platform);

    for file in definition["files"].as_array().unwrap() {
        let text = |key: &str| file.get(key).map(|value| value.as_str().unwrap());
        let (name, version) = (text("name").unwrap(), text("version").unwrap());
        let address = |template: &str| {
            let address = platform.fill(template, version, name);
            address.strip_prefix("https://").unwrap().to_owned()
        };
        let url = text("url").unwrap();
        let members = published.get(&address(url));
        let members = members.unwrap_or_else(|| panic!("{name}: {} is not in the mirror", url));
        if let Some(checksum) = text("checksum") {
            let checksum = address(&checksum.replace("{url}", url));
            assert!(published.contains_key(&checksum), "{name}: {checksum}");
        }
        match text("member").map(|member| platform.fill(member, version, name)) {
            Some(member) => assert!(members.contains(&member), "{name}: {members:?}"),
            None => assert!(members.is_empty(), "{name} needs a member"),
        }
    }

    let images: BTreeSet<&str> = components
        .images
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    for image in definition["images"].as_array().unwrap() {
        let text = |key: &str| image[key].as_str().unwrap();
        let reference = format!("{}:{}", text("name"), text("tag"));
        assert!(images.contains(reference.as_str()), "{reference}");
    }
}

#[test]
fn each_version_is_the_one_that_go_mod_requires() {
    let folder = paths::repository().unwrap().join("upstream").join(MINOR);
    for module in &components().modules {
        let source = module.source(&folder);
        let go_mod = fs_err::read_to_string(source.join("go.mod")).unwrap();
        let own = go_mod
            .lines()
            .next()
            .unwrap()
            .strip_prefix("module ")
            .unwrap();
        for package in module.binaries.values().filter(|package| *package != own) {
            let required = go_mod.lines().any(|line| {
                let mut words = line.trim().trim_start_matches("require ").split(' ');
                let (path, version) = (words.next().unwrap(), words.next());
                package.starts_with(path) && version == Some(&format!("v{}", module.version))
            });
            assert!(
                required,
                "{source}/go.mod does not require {package} {}",
                module.version
            );

            let tools = fs_err::read_to_string(source.join("tools.go")).unwrap();
            assert!(
                tools.contains(&format!("\"{package}\"")),
                "{source}/tools.go: {package}"
            );
        }
    }
}
