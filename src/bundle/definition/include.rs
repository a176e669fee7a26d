//! Definitions that include others: what all of them list, as if one file did.

use super::{Definition, DefinitionError, raw};
use crate::digest::Digest;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use std::collections::BTreeMap;

/// Reads a definition with all that it includes. Name, version and platforms of the
/// bundle are the outermost's.
pub(super) fn load(path: &Utf8Path) -> Result<Definition, DefinitionError> {
    let mut files = Files::default();
    let mut whole = files.load(path, None)?;
    whole.digest = files.digest(whole.digest);
    whole.files.sort_by(|a, b| a.name.cmp(&b.name));
    whole
        .images
        .sort_by(|a, b| (&a.name, &a.tag).cmp(&(&b.name, &b.tag)));
    whole.manifests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(whole)
}

/// What was read so far.
#[derive(Default)]
struct Files {
    /// Files that are being read, from the outermost on.
    chain: Vec<Utf8PathBuf>,
    /// Digest of each included one that was read whole, by its real path. One that
    /// is included by several counts once.
    done: BTreeMap<Utf8PathBuf, Digest>,
    /// Kind and name of each item, and where it is listed.
    listed: BTreeMap<(&'static str, String), Utf8PathBuf>,
}

impl Files {
    /// `by` includes it; none includes the outermost.
    fn load(
        &mut self,
        path: &Utf8Path,
        by: Option<&Utf8Path>,
    ) -> Result<Definition, DefinitionError> {
        let read = || -> std::io::Result<(Utf8PathBuf, String)> {
            let text = fs::read_to_string(path)?;
            Ok((path.canonicalize_utf8()?, text))
        };
        let (real, text) = read().map_err(|error| match by {
            None => DefinitionError::Read(error),
            Some(by) => DefinitionError::Include {
                by: by.to_owned(),
                error,
            },
        })?;
        if self.chain.contains(&real) {
            return Err(DefinitionError::Circle {
                path: path.to_owned(),
            });
        }
        let (mut whole, includes) = raw::parse(&text, path)?;
        let items = (whole.files.iter().map(|file| ("file", file.name.clone())))
            .chain(
                whole
                    .images
                    .iter()
                    .map(|image| ("image", image.name.clone())),
            )
            .chain((whole.manifests.iter()).map(|manifest| ("manifest", manifest.name.clone())));
        for (kind, name) in items {
            let known = self.listed.insert((kind, name.clone()), path.to_owned());
            if let Some(other) = known {
                return Err(DefinitionError::Twice {
                    kind,
                    name,
                    files: [other, path.to_owned()],
                });
            }
        }
        self.chain.push(real);
        for include in includes {
            let place = whole.beside(&include);
            let real = place.canonicalize_utf8().ok();
            if real.is_some_and(|real| self.done.contains_key(&real)) {
                continue;
            }
            let part = self.load(&place, Some(path))?;
            let directory = include.parent().unwrap_or(Utf8Path::new(""));
            whole.files.extend(part.files);
            whole.images.extend(part.images);
            whole
                .manifests
                .extend(part.manifests.into_iter().map(|mut manifest| {
                    manifest.path = directory.join(&manifest.path);
                    manifest
                }));
        }
        if let Some(real) = self.chain.pop()
            && by.is_some()
        {
            self.done.insert(real, whole.digest);
        }
        Ok(whole)
    }

    /// Over the texts of all of them, wherever they lie.
    fn digest(&self, outermost: Digest) -> Digest {
        let mut digests: Vec<String> = self.done.values().map(Digest::to_string).collect();
        if digests.is_empty() {
            return outermost;
        }
        digests.sort();
        digests.insert(0, outermost.to_string());
        Digest::of(digests.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::TestDirectory;

    const BASE: &str = "schema = 1\n[bundle]\nname = \"base\"\nversion = \"1\"\n\
        platforms = [\"linux/amd64\"]\n\
        [[files]]\nname = \"runc\"\nversion = \"1\"\nurl = \"https://e.io/runc\"\n\
        [[manifests]]\nname = \"dns\"\npath = \"manifests/dns.yaml\"\n";

    fn site(includes: &str, rest: &str) -> String {
        format!(
            "schema = 1\ninclude = [{includes}]\n[bundle]\nname = \"site\"\nversion = \"7\"\n\
             platforms = [\"linux/arm64\"]\n{rest}"
        )
    }

    const APP: &str = "[[images]]\nname = \"site.io/app\"\ntag = \"v1\"\n\
                       [[manifests]]\nname = \"app\"\npath = \"app.yaml\"\n";

    fn world(files: &[(&str, &str)]) -> TestDirectory {
        let world = TestDirectory::new();
        for (name, text) in files {
            let place = world.path.join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        world
    }

    #[test]
    fn a_site_adds_to_what_it_includes() {
        let world = world(&[
            ("k8s/base.toml", BASE),
            ("site.toml", &site("\"k8s/base.toml\"", APP)),
        ]);
        let path = world.path.join("site.toml");
        let found = Definition::load(&path).unwrap();
        assert_eq!((&*found.name, &*found.version), ("site", "7"));
        assert_eq!(found.platforms[0].to_string(), "linux/arm64");
        assert_eq!(found.files[0].name, "runc");
        assert_eq!(found.images[0].name, "site.io/app");
        let manifests = found.manifests.iter();
        let places: Vec<Utf8PathBuf> = manifests.map(|one| found.manifest_path(one)).collect();
        let expected = ["app.yaml", "k8s/manifests/dns.yaml"];
        assert_eq!(places, expected.map(|place| world.path.join(place)));

        // Whatever of all that changes, the lock is of another definition.
        fs::write(world.path.join("k8s/base.toml"), format!("{BASE}# more\n")).unwrap();
        assert_ne!(Definition::load(&path).unwrap().digest, found.digest);
        // Alone, it is what its own text is.
        let base = Definition::load(&world.path.join("k8s/base.toml")).unwrap();
        assert_eq!(base.digest, Digest::of(format!("{BASE}# more\n")));
    }

    #[test]
    fn what_two_include_counts_once() {
        let world = world(&[
            ("base.toml", BASE),
            ("one.toml", &site("\"base.toml\"", "")),
            ("site.toml", &site("\"one.toml\", \"base.toml\"", APP)),
        ]);
        let found = Definition::load(&world.path.join("site.toml")).unwrap();
        assert_eq!(found.files.len(), 1);
    }

    #[test]
    fn what_can_not_be_included_is_named() {
        let twice = site("\"base.toml\"", &BASE[BASE.find("[[files]]").unwrap()..]);
        let world = world(&[
            ("base.toml", BASE),
            ("twice.toml", &twice),
            ("gone.toml", &site("\"nowhere.toml\"", "")),
            ("self.toml", &site("\"circle.toml\"", "")),
            ("circle.toml", &site("\"self.toml\"", "")),
            ("bad.toml", "schema = 1\nkeys = 1\n"),
            ("has-bad.toml", &site("\"bad.toml\"", "")),
        ]);
        for (name, parts) in [
            (
                "twice.toml",
                &["file `runc`", "twice.toml", "base.toml"][..],
            ),
            ("gone.toml", &["gone.toml", "nowhere.toml"]),
            ("self.toml", &["self.toml", "includes itself"]),
            ("has-bad.toml", &["bad.toml:2:1", "unknown key `keys`"]),
        ] {
            let error = Definition::load(&world.path.join(name)).unwrap_err();
            let told = format!("{:#}", anyhow::Error::from(error));
            assert!(
                parts.iter().all(|part| told.contains(part)),
                "{name}: {told}"
            );
        }
    }
}
