//! Locks: every digest that a definition resolved to.
//!
//! A lock is made to be read in review: sorted, one line per item, nothing in it that
//! depends on when or where it was made.

use super::definition::Definition;
use super::platform::Platform;
use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use serde::Deserialize;

/// The only schema of locks so far.
pub const SCHEMA: u32 = 1;

/// A resolved definition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub schema: u32,
    pub definition: LockedDefinition,
    /// Sorted by name and platform.
    #[serde(default)]
    pub files: Vec<LockedFile>,
    /// Sorted by reference.
    #[serde(default)]
    pub images: Vec<LockedImage>,
    /// Sorted by name.
    #[serde(default)]
    pub manifests: Vec<LockedManifest>,
}

/// The definition that a lock belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedDefinition {
    pub name: String,
    pub version: String,
    pub platforms: Vec<Platform>,
    /// Digest of the definition's text.
    pub digest: Digest,
}

/// A file for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    pub name: String,
    pub version: String,
    pub platform: Platform,
    pub licence: Option<String>,
    /// Upstream's address, whatever mirror it was fetched from.
    pub url: String,
    /// Digest and size in bytes of what is downloaded.
    pub download: Digest,
    pub download_size: u64,
    /// The file inside of the download, if that is an archive.
    pub member: Option<String>,
    /// Digest and size in bytes of the file itself.
    pub digest: Digest,
    pub size: u64,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    pub reference: String,
    pub licence: Option<String>,
    /// Upstream's index; or its manifest, where upstream has no index.
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    /// By platform, sorted.
    pub platforms: Vec<LockedPlatformImage>,
}

/// One platform's half of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPlatformImage {
    pub platform: Platform,
    /// The manifest.
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    /// Configuration first, then the layers in order.
    pub blobs: Vec<LockedBlob>,
}

/// A configuration or layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedBlob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// A manifest template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedManifest {
    pub name: String,
    pub path: Utf8PathBuf,
    pub digest: Digest,
    pub size: u64,
}

/// A definition together with the lock that belongs to it. Bundles are built from
/// nothing else, so nothing unresolved gets into one.
#[derive(Debug, Clone)]
pub struct Locked {
    definition: Definition,
    lock: Lock,
    text: String,
}

impl Locked {
    /// Loads a definition with its lock. Fails unless the lock was made from this very
    /// definition.
    pub fn load(definition: Definition, lock_path: &Utf8Path) -> Result<Self> {
        let remedy = format!("run `cofferdam bundle lock {}`", definition.path);
        if !lock_path.exists() {
            bail!("{} has no lock at {lock_path}; {remedy}", definition.path);
        }
        let text = fs::read_to_string(lock_path)?;
        let lock = Lock::parse(&text).with_context(|| format!("reading lock {lock_path}"))?;
        if lock.definition.digest != definition.digest {
            bail!(
                "{} has changed since {lock_path} was made from it; {remedy} and look at what \
                 changed in the lock",
                definition.path
            );
        }
        Ok(Self {
            definition,
            lock,
            text,
        })
    }

    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The lock's text as it lies on disk.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Lock {
    /// Parses a lock.
    pub fn parse(text: &str) -> Result<Self> {
        // The schema is asked first: a lock of another one has other keys.
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u32,
        }
        let SchemaOnly { schema } = toml::from_str(text)?;
        if schema != SCHEMA {
            bail!("it has schema {schema}, this cofferdam knows {SCHEMA}; make it anew");
        }
        Ok(toml::from_str(text)?)
    }

    /// The lock's text: a line for each file, image, and platform of an image. The same
    /// lock always gives the same bytes.
    pub fn render(&self) -> String {
        let definition = &self.definition;
        let platforms = definition.platforms.iter();
        let platforms: Vec<String> = platforms.map(|name| quoted(&name.to_string())).collect();
        let mut lines = vec![
            "# Made by `cofferdam bundle lock`. Review and commit it; do not edit it.".to_owned(),
            format!("schema = {}", self.schema),
            format!("definition.name = {}", quoted(&definition.name)),
            format!("definition.version = {}", quoted(&definition.version)),
            format!("definition.platforms = [{}]", platforms.join(", ")),
            format!("definition.digest = \"{}\"", definition.digest),
        ];
        let mut list = |name: &str, items: Vec<String>| {
            if !items.is_empty() {
                lines.push(format!("\n{name} = ["));
                lines.extend(items.into_iter().map(|item| format!("  {item},")));
                lines.push("]".to_owned());
            }
        };
        list("files", self.files.iter().map(file_line).collect());
        list("images", self.images.iter().map(image_lines).collect());
        list(
            "manifests",
            self.manifests.iter().map(manifest_line).collect(),
        );
        lines.join("\n") + "\n"
    }
}

fn file_line(file: &LockedFile) -> String {
    Fields::default()
        .text("name", &file.name)
        .text("version", &file.version)
        .text("platform", &file.platform.to_string())
        .number("size", file.size)
        .optional("licence", file.licence.as_deref())
        .text("url", &file.url)
        .optional("member", file.member.as_deref())
        .number("download_size", file.download_size)
        .text("download", &file.download.to_string())
        .text("digest", &file.digest.to_string())
        .inline()
}

/// A line of the image's own, and one for each platform.
fn image_lines(image: &LockedImage) -> String {
    let halves = image.platforms.iter().map(|half| {
        let blobs = half.blobs.iter().map(|blob| {
            Fields::default()
                .number("size", blob.size)
                .text("media_type", &blob.media_type)
                .text("digest", &blob.digest.to_string())
                .inline()
        });
        let blobs = blobs.collect::<Vec<_>>().join(", ");
        let half = Fields::default()
            .text("platform", &half.platform.to_string())
            .number("size", half.size)
            .text("media_type", &half.media_type)
            .text("digest", &half.digest.to_string())
            .plain("blobs", &format!("[{blobs}]"))
            .inline();
        format!("    {half},\n")
    });
    let halves: String = halves.collect();
    Fields::default()
        .text("reference", &image.reference)
        .number("size", image.size)
        .optional("licence", image.licence.as_deref())
        .text("media_type", &image.media_type)
        .text("digest", &image.digest.to_string())
        .plain("platforms", &format!("[\n{halves}  ]"))
        .inline()
}

fn manifest_line(manifest: &LockedManifest) -> String {
    Fields::default()
        .text("name", &manifest.name)
        .number("size", manifest.size)
        .text("path", manifest.path.as_str())
        .text("digest", &manifest.digest.to_string())
        .inline()
}

/// An inline table, its keys in the order that a reader wants to see first.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn plain(mut self, key: &str, value: &str) -> Self {
        self.0.push(format!("{key} = {value}"));
        self
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.plain(key, &quoted(value))
    }

    fn optional(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    fn number(self, key: &str, value: u64) -> Self {
        self.plain(key, &value.to_string())
    }

    fn inline(self) -> String {
        format!("{{ {} }}", self.0.join(", "))
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let blob = |name: &str| LockedBlob {
            digest: Digest::of(name),
            size: 7,
            media_type: "application/x".to_owned(),
        };
        Lock {
            schema: SCHEMA,
            definition: LockedDefinition {
                name: "test".to_owned(),
                version: "1.0".to_owned(),
                platforms: vec![Platform::linux("amd64"), Platform::linux("arm64")],
                digest: Digest::of("definition"),
            },
            files: vec![LockedFile {
                name: "etcd".to_owned(),
                version: "3.6.16".to_owned(),
                platform: Platform::linux("amd64"),
                licence: Some("Apache-2.0 OR \"odd\"".to_owned()),
                url: "https://example.org/etcd.tar.gz".to_owned(),
                download: Digest::of("archive"),
                download_size: 10,
                member: Some("a/etcd".to_owned()),
                digest: Digest::of("etcd"),
                size: u64::from(u32::MAX) + 1,
            }],
            images: vec![LockedImage {
                reference: "a.io/a:1".to_owned(),
                licence: None,
                digest: Digest::of("index"),
                size: 3,
                media_type: "application/y".to_owned(),
                platforms: vec![LockedPlatformImage {
                    platform: Platform::linux("amd64"),
                    digest: Digest::of("manifest"),
                    size: 4,
                    media_type: "application/z".to_owned(),
                    blobs: vec![blob("config"), blob("layer")],
                }],
            }],
            manifests: vec![LockedManifest {
                name: "dns".to_owned(),
                path: "manifests/dns.yaml".into(),
                digest: Digest::of("dns"),
                size: 9,
            }],
        }
    }

    #[test]
    fn locks_round_trip() {
        let text = lock().render();
        assert_eq!(Lock::parse(&text).unwrap(), lock(), "{text}");
        assert_eq!(Lock::parse(&text).unwrap().render(), text);
        // What changes of a file, or of an image's platform, is one line of a diff.
        for (name, lines) in [("etcd.tar.gz", 1), ("a.io/a:1", 1), ("linux/amd64", 3)] {
            let with = text.lines().filter(|line| line.contains(name));
            assert_eq!(with.count(), lines, "{text}");
        }
    }

    #[test]
    fn other_schemas_and_unknown_keys_are_refused() {
        let text = lock().render();
        let error = Lock::parse(&text.replace("schema = 1", "schema = 9")).unwrap_err();
        assert!(error.to_string().contains("schema 9"), "{error}");
        let error = Lock::parse(&text.replace("download_size", "downloaded")).unwrap_err();
        assert!(error.to_string().contains("downloaded"), "{error}");
    }

    #[test]
    fn a_lock_serves_its_own_definition_only() {
        let directory = crate::bundle::testing::TestDirectory::new();
        let path = directory.path.join("x.toml");
        let text = "schema = 1\n[bundle]\nname = \"x\"\nversion = \"1\"\n\
                    platforms = [\"linux/amd64\"]\n";
        let definition = Definition::parse(text, &path).unwrap();
        let lock_path = Definition::lock_path(&path);
        let error = Locked::load(definition.clone(), &lock_path)
            .unwrap_err()
            .to_string();
        assert!(error.contains("run `cofferdam bundle lock"), "{error}");
        let mut lock = lock();
        lock.definition.digest = definition.digest;
        fs::write(&lock_path, lock.render()).unwrap();
        assert!(Locked::load(definition, &lock_path).is_ok());
        let changed = Definition::parse(&format!("{text}# changed\n"), &path).unwrap();
        let error = Locked::load(changed, &lock_path).unwrap_err().to_string();
        assert!(error.contains("has changed since"), "{error}");
    }
}
