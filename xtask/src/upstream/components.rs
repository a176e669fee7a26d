//! The description of one minor: `upstream/<minor>/components.toml`.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// Everything that is built for one minor of Kubernetes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Components {
    /// In the order in which they are built.
    pub modules: Vec<Module>,
    #[serde(default)]
    pub images: Vec<Image>,
}

/// One Go module of our own that requires upstream's, with its own `go.mod`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    pub name: String,
    /// Upstream's version without a leading `v`.
    pub version: String,
    /// Folder of `go.mod`, relative to the minor's; the name if not given.
    #[serde(default)]
    folder: Option<Utf8PathBuf>,
    /// File name to Go package.
    pub binaries: BTreeMap<String, String>,
    #[serde(default)]
    pub cgo: Cgo,
    #[serde(default)]
    pub tags: Vec<String>,
    /// Go's `-X` settings; values may hold `{version}`.
    #[serde(default)]
    pub linker_variables: BTreeMap<String, String>,
    /// What a build needs from Debian. Their versions are part of the key of
    /// the build, since static linking copies them into it.
    #[serde(default)]
    pub debian_packages: Vec<String>,
    /// Files of upstream's module that are packed into its archives.
    #[serde(default)]
    pub documents: Vec<String>,
    /// The platforms to build for; this machine's if not given.
    #[serde(default)]
    platforms: Vec<Platform>,
    #[serde(default)]
    pub files: Vec<PublishedFiles>,
    #[serde(default)]
    pub archives: Vec<Archive>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgo {
    #[default]
    Off,
    /// With C, and everything linked statically.
    Static,
}

/// Binaries that upstream publishes one by one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFiles {
    pub path: String,
    pub binaries: Vec<String>,
    #[serde(default)]
    pub checksum: Option<Checksum>,
}

/// Binaries that upstream publishes in a gzipped tar.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    pub path: String,
    /// What stands before the members' names, with the closing slash.
    pub folder: String,
    pub binaries: Vec<String>,
    #[serde(default)]
    pub documents: Vec<String>,
    pub checksum: Checksum,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksum {
    pub path: String,
    pub form: ChecksumForm,
}

/// How upstream writes its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumForm {
    /// The digest in hexadecimal and nothing else.
    Bare,
    /// Lines as `sha256sum` prints them.
    Named,
}

/// One image, made as an OCI index.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Full reference: registry, repository and tag.
    pub reference: String,
    #[serde(default)]
    platforms: Vec<Platform>,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    /// `user:group`, as numbers.
    #[serde(default)]
    pub user: Option<String>,
    /// Path in the image, without the leading slash, to the binary built.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    #[serde(default)]
    pub busybox: Option<Busybox>,
}

/// A static busybox of Debian's, with a link for each applet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Busybox {
    pub debian_package: String,
    pub binary: Utf8PathBuf,
}

/// Operating system and architecture in Go's words: `linux/amd64`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Platform {
    pub os: String,
    pub architecture: String,
}

impl Platform {
    /// The platform that this program runs on.
    pub fn native() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
        }
    }

    /// As part of a file name: `linux-amd64`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.os, self.architecture)
    }

    /// Fills a template's `{os}`, `{arch}`, `{version}` and `{name}`.
    pub fn fill(&self, template: &str, version: &str, name: &str) -> String {
        template
            .replace("{os}", &self.os)
            .replace("{arch}", &self.architecture)
            .replace("{version}", version)
            .replace("{name}", name)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)
    }
}

impl TryFrom<String> for Platform {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((os, architecture)) if !os.is_empty() && !architecture.is_empty() => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            }),
            _ => Err(format!("`{text}` is not a platform such as linux/amd64")),
        }
    }
}

impl Components {
    /// The same for several platforms; what only tests need stays as it is.
    pub fn for_platforms(mut self, platforms: &[Platform]) -> Self {
        for module in &mut self.modules {
            if module.platforms.is_empty() && module.folder.is_none() {
                module.platforms = platforms.to_vec();
            }
        }
        for image in &mut self.images {
            if image.platforms.is_empty() && image.busybox.is_none() {
                image.platforms = platforms.to_vec();
            }
        }
        self
    }
}

impl Module {
    /// The folder of `go.mod`, below or beside the minor's folder.
    pub fn source(&self, minor_folder: &Utf8Path) -> Utf8PathBuf {
        let folder = self.folder.as_deref();
        minor_folder.join(folder.unwrap_or_else(|| Utf8Path::new(&self.name)))
    }

    pub fn platforms(&self) -> Vec<Platform> {
        or_native(&self.platforms)
    }
}

impl Image {
    pub fn platforms(&self) -> Vec<Platform> {
        or_native(&self.platforms)
    }

    /// Repository (with the registry's host) and tag.
    pub fn repository_and_tag(&self) -> Result<(&str, &str)> {
        self.reference
            .rsplit_once(':')
            .filter(|(repository, tag)| repository.contains('/') && !tag.contains('/'))
            .with_context(|| format!("image `{}` has no tag", self.reference))
    }
}

fn or_native(platforms: &[Platform]) -> Vec<Platform> {
    if platforms.is_empty() {
        vec![Platform::native()]
    } else {
        platforms.to_vec()
    }
}

/// A later release of what another folder has: some modules are of another
/// version, with a folder of `go.mod` each, and all else is as there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    /// The other folder, relative to this one.
    base: Utf8PathBuf,
    /// Version by module.
    versions: BTreeMap<String, String>,
}

/// Reads `components.toml` of a minor, or of a later release of one.
pub fn load(folder: &Utf8Path) -> Result<Components> {
    let path = folder.join("components.toml");
    let text = fs_err::read_to_string(&path)?;
    let read = || match toml::from_str::<Release>(&text) {
        Ok(release) => release.of(load(&folder.join(&release.base))?),
        Err(_) => parse(&text),
    };
    read().with_context(|| format!("reading {path}"))
}

impl Release {
    /// The base's components as this release has them.
    fn of(&self, mut components: Components) -> Result<Components> {
        for name in self.versions.keys() {
            if !components.modules.iter().any(|module| module.name == *name) {
                bail!("`versions` has `{name}`, which {} has not", self.base);
            }
        }
        for module in &mut components.modules {
            match self.versions.get(&module.name) {
                Some(version) => module.version.clone_from(version),
                None => module.folder = Some(module.source(&self.base)),
            }
        }
        Ok(components)
    }
}

/// A list of images alone, for binaries that are built already.
pub fn parse_images(text: &str) -> Result<Vec<Image>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct List {
        images: Vec<Image>,
    }
    Ok(toml::from_str::<List>(text)?.images)
}

/// Parses the text and checks that what is published or put into an image is
/// also built.
pub fn parse(text: &str) -> Result<Components> {
    let components: Components = toml::from_str(text)?;
    let mut platforms_of = BTreeMap::new();
    for module in &components.modules {
        for binary in module.binaries.keys() {
            if platforms_of
                .insert(binary.as_str(), module.platforms())
                .is_some()
            {
                bail!("binary `{binary}` is built twice");
            }
        }
        let files = module.files.iter().flat_map(|files| &files.binaries);
        let members = module.archives.iter().flat_map(|archive| &archive.binaries);
        if let Some(name) = files
            .chain(members)
            .find(|name| !module.binaries.contains_key(*name))
        {
            bail!(
                "module `{}` publishes `{name}`, which it does not build",
                module.name
            );
        }
        let mut packed = module
            .archives
            .iter()
            .flat_map(|archive| &archive.documents);
        if let Some(name) = packed.find(|name| !module.documents.contains(name)) {
            bail!(
                "module `{}` packs `{name}`, which is not in its documents",
                module.name
            );
        }
    }
    for image in &components.images {
        image.repository_and_tag()?;
        for binary in image.files.values() {
            let built = platforms_of.get(binary.as_str());
            for platform in image.platforms() {
                if !built.is_some_and(|built| built.contains(&platform)) {
                    bail!(
                        "image `{}` holds `{binary}`, which is not built for {platform}",
                        image.reference
                    );
                }
            }
        }
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = r#"
        [[modules]]
        name = "one"
        version = "1.2.3"
        binaries = { first = "example.com/first" }
    "#;

    #[test]
    fn a_release_takes_what_it_does_not_name_from_its_base() {
        let text = MODULE.to_owned() + &MODULE.replace("one", "two").replace("first", "second");
        let base = parse(&text).unwrap();
        let text = "base = \"../9.8\"\n[versions]\none = \"9.8.7\"\n";
        let release: Release = toml::from_str(text).unwrap();
        let found = release.of(base).unwrap();
        let told = found.modules.iter().map(|module| {
            let folder = module.source(Utf8Path::new("upstream/9.8.7"));
            format!("{} {} {folder}", module.name, module.version)
        });
        let told: Vec<String> = told.collect();
        assert_eq!(told[0], "one 9.8.7 upstream/9.8.7/one");
        assert!(
            told[1].ends_with(" upstream/9.8.7/../9.8/two"),
            "{}",
            told[1]
        );
    }

    #[test]
    fn platforms_default_to_the_native_one() {
        let components = parse(MODULE).unwrap();
        assert_eq!(components.modules[0].platforms(), [Platform::native()]);
    }

    #[test]
    fn templates_are_filled() {
        let platform = Platform::try_from("linux/arm64".to_owned()).unwrap();
        assert_eq!(
            platform.fill("x/v{version}/{os}/{arch}/{name}.sha256", "1.2.3", "first"),
            "x/v1.2.3/linux/arm64/first.sha256"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("[[modules]]\nname = 1", "invalid type"),
            ("modules = []\nimage = []", "unknown field `image`"),
            (
                &format!("{MODULE}\n[[modules.files]]\npath = \"p\"\nbinaries = [\"other\"]"),
                "module `one` publishes `other`",
            ),
            (
                &format!("{MODULE}\n{}", MODULE.replace("one", "two")),
                "`first` is built twice",
            ),
            (
                &format!("{MODULE}\n[[images]]\nreference = \"example.com/no-tag\""),
                "image `example.com/no-tag` has no tag",
            ),
            (
                &format!(
                    "{MODULE}\n[[images]]\nreference = \"example.com/a:1\"\n\
                     platforms = [\"linux/other\"]\nfiles = {{ first = \"first\" }}"
                ),
                "`first`, which is not built for linux/other",
            ),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
