//! The local mirror: files and images where upstream has them.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fmt::Write;

use super::build::Build;
use super::cache::{Cache, KeyBuilder, sha256_of_file};
use super::components::{Archive, Checksum, ChecksumForm, Components, Module, Platform};
use super::image::{self, Binaries};
use super::progress::Item;
use super::registry::{Access, Private, Pusher, start, start_private};
use super::server::{Server, serve_files};
use super::tarball::{Entry, gzip, write_tar};

/// Changes when this code lays out the same inputs in another way.
const LAYOUT: &[u8] = b"1";

const FILES: &str = "files";
const REGISTRY: &str = "registry";
const BINARIES: &str = "bin";

/// A finished mirror in the cache.
pub struct Mirror {
    /// Holds files under upstream's addresses, less `https://`.
    pub files: Utf8PathBuf,
    /// A store of the CNCF registry, whose repositories have upstream's names.
    pub registry: Utf8PathBuf,
    /// This machine's binaries under their own names.
    binaries: Utf8PathBuf,
}

/// A mirror that is served on loopback until this is dropped.
///
/// The servers also die when the *thread* that started them ends: keep it
/// alive as long as they are needed.
pub struct Served {
    files: Server,
    registry: Server,
}

impl Mirror {
    /// The path of a built binary by its name, such as `kubeadm`.
    pub fn binary(&self, name: &str) -> Result<Utf8PathBuf> {
        let path = self.binaries.join(name);
        if !path.is_file() {
            bail!("no binary `{name}` is built: {path} is not there");
        }
        Ok(path)
    }

    /// Starts an empty registry that takes uploads, on a free port of 127.0.0.1.
    pub fn registry_at(&self, store: &Utf8Path) -> Result<Server> {
        start(&self.binary("registry")?, store, Access::Writable)
    }

    /// Starts an empty registry as a site of its own has one.
    pub fn private_registry_at(&self, store: &Utf8Path, private: &Private) -> Result<Server> {
        start_private(&self.binary("registry")?, store, private)
    }

    /// Serves files and images on free ports of 127.0.0.1.
    pub fn serve(&self) -> Result<Served> {
        Ok(Served {
            files: serve_files(&self.files)?,
            registry: start(&self.binary("registry")?, &self.registry, Access::ReadOnly)?,
        })
    }
}

impl Served {
    /// The options that make `cofferdam bundle` fetch from this mirror.
    pub fn mirror_arguments(&self) -> Vec<String> {
        let option = "--mirror".to_owned();
        vec![
            option.clone(),
            format!("https://=http://{}/", self.files.address),
            option,
            format!("oci://=http://{}/", self.registry.address),
        ]
    }

    /// Where an image is, for a client without mirrors.
    pub fn image_address(&self, reference: &str) -> String {
        format!("{}/{reference}", self.registry.address)
    }

    /// Where a file is, for a client without mirrors.
    pub fn file_address(&self, url: &str) -> String {
        let path = url.trim_start_matches("https://");
        format!("http://{}/{path}", self.files.address)
    }

    /// Fails when one of the servers has ended.
    pub fn check(&mut self) -> Result<()> {
        self.files.check()?;
        self.registry.check()
    }
}

/// Lays out the mirror of what was built, or finds it in the cache.
pub fn lay_out(
    components: &Components,
    builds: &[Build],
    cache: &Cache,
    item: &Item,
) -> Result<Mirror> {
    let built = Built { components, builds };
    let folder = cache.place("mirror", &built.key()?);
    if folder.exists() {
        item.cached();
    } else {
        item.begun("laying out files and images");
        cache.fill(&folder, |directory| built.fill(directory))?;
        item.done("laid out");
    }
    Ok(Mirror {
        files: folder.join(FILES),
        registry: folder.join(REGISTRY),
        binaries: folder.join(BINARIES),
    })
}

/// Modules with their builds, one for each, in the same order.
struct Built<'a> {
    components: &'a Components,
    builds: &'a [Build],
}

impl Built<'_> {
    fn modules(&self) -> impl Iterator<Item = (&Module, &Build)> {
        self.components.modules.iter().zip(self.builds)
    }

    fn key(&self) -> Result<String> {
        let mut key = KeyBuilder::new();
        key.add("layout", LAYOUT);
        key.add("components", format!("{:?}", self.components).as_bytes());
        for build in self.builds {
            key.add("build", build.key.as_bytes());
        }
        for busybox in self
            .components
            .images
            .iter()
            .filter_map(|image| image.busybox.as_ref())
        {
            key.add("busybox", image::busybox_digest(busybox)?.as_bytes());
        }
        Ok(key.finish())
    }

    fn fill(&self, directory: &Utf8Path) -> Result<()> {
        let native = Platform::native();
        let binaries = directory.join(BINARIES);
        fs_err::create_dir_all(&binaries)?;
        let mut published = Published {
            root: directory.join(FILES),
            checksums: BTreeMap::new(),
        };
        for (module, build) in self.modules() {
            for platform in module.platforms() {
                publish(module, build, &platform, &mut published)
                    .with_context(|| format!("publishing {}", module.name))?;
            }
            for name in module.binaries.keys() {
                fs_err::hard_link(build.binary(&native, name), binaries.join(name))?;
            }
        }
        published.write_checksums()?;
        self.push_images(&binaries.join("registry"), &directory.join(REGISTRY))
    }

    /// Pushes the images through the real registry, which then has them in the
    /// form that it serves them from.
    fn push_images(&self, registry: &Utf8Path, store: &Utf8Path) -> Result<()> {
        fs_err::create_dir_all(store)?;
        let pusher = Pusher {
            registry: start(registry, store, Access::Writable)?,
        };
        for image in &self.components.images {
            let (repository, tag) = image.repository_and_tag()?;
            pusher
                .push(repository, tag, &image::build(image, self)?)
                .with_context(|| format!("pushing {}", image.reference))?;
        }
        Ok(())
    }
}

impl Binaries for Built<'_> {
    fn find(&self, platform: &Platform, name: &str) -> Result<Utf8PathBuf> {
        self.modules()
            .find(|(module, _)| module.binaries.contains_key(name))
            .map(|(_, build)| build.binary(platform, name))
            .with_context(|| format!("no module builds `{name}`"))
    }
}

/// The files of the mirror while it is laid out.
struct Published {
    root: Utf8PathBuf,
    /// Path of a checksum file, its form, and its lines: digest and name.
    checksums: BTreeMap<String, (ChecksumForm, Vec<(String, String)>)>,
}

fn publish(
    module: &Module,
    build: &Build,
    platform: &Platform,
    published: &mut Published,
) -> Result<()> {
    for files in &module.files {
        for name in &files.binaries {
            let fill = |template: &str| platform.fill(template, &module.version, name);
            let path = fill(&files.path);
            fs_err::hard_link(build.binary(platform, name), published.place(&path)?)?;
            if let Some(checksum) = &files.checksum {
                published.note_checksum(&path, fill(&checksum.path), checksum)?;
            }
        }
    }
    for archive in &module.archives {
        let fill = |template: &str| platform.fill(template, &module.version, "");
        let path = fill(&archive.path);
        let entries = archive_entries(archive, &fill(&archive.folder), build, platform);
        let file = fs_err::File::create(published.place(&path)?)?;
        gzip(file, |writer| write_tar(writer, &entries))?;
        published.note_checksum(&path, fill(&archive.checksum.path), &archive.checksum)?;
    }
    Ok(())
}

fn archive_entries(
    archive: &Archive,
    folder: &str,
    build: &Build,
    platform: &Platform,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    if !folder.is_empty() {
        entries.push(Entry::directory(folder, 0o755));
    }
    entries.extend(
        archive
            .documents
            .iter()
            .map(|name| Entry::document(&format!("{folder}{name}"), build.document(name))),
    );
    entries.extend(
        archive.binaries.iter().map(|name| {
            Entry::executable(&format!("{folder}{name}"), build.binary(platform, name))
        }),
    );
    entries
}

impl Published {
    /// Where a file goes; its folder is made.
    fn place(&self, path: &str) -> Result<Utf8PathBuf> {
        let place = self.root.join(path);
        if let Some(folder) = place.parent() {
            fs_err::create_dir_all(folder)?;
        }
        Ok(place)
    }

    fn note_checksum(&mut self, path: &str, list: String, checksum: &Checksum) -> Result<()> {
        let digest = sha256_of_file(&self.root.join(path))?;
        let name = Utf8Path::new(path).file_name().unwrap_or(path).to_owned();
        let (_, lines) = self
            .checksums
            .entry(list)
            .or_insert_with(|| (checksum.form, Vec::new()));
        lines.push((digest, name));
        Ok(())
    }

    fn write_checksums(&self) -> Result<()> {
        for (path, (form, lines)) in &self.checksums {
            let text = checksum_text(*form, lines)
                .with_context(|| format!("writing the checksums of {path}"))?;
            fs_err::write(self.place(path)?, text)?;
        }
        Ok(())
    }
}

/// The text of a checksum file in upstream's form.
fn checksum_text(form: ChecksumForm, lines: &[(String, String)]) -> Result<String> {
    match (form, lines) {
        (ChecksumForm::Bare, [(digest, _)]) => Ok(digest.clone()),
        (ChecksumForm::Bare, _) => bail!("a bare checksum is of one file, not {}", lines.len()),
        (ChecksumForm::Named, lines) => {
            let mut text = String::new();
            for (digest, name) in lines {
                writeln!(text, "{digest}  {name}")?;
            }
            Ok(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_written_as_upstream_writes_them() {
        let line = |digest: &str, name: &str| (digest.to_owned(), name.to_owned());
        let two = [line("aa", "a.tar.gz"), line("bb", "b.tar.gz")];
        assert_eq!(checksum_text(ChecksumForm::Bare, &two[..1]).unwrap(), "aa");
        assert_eq!(
            checksum_text(ChecksumForm::Named, &two).unwrap(),
            "aa  a.tar.gz\nbb  b.tar.gz\n"
        );
        assert!(checksum_text(ChecksumForm::Bare, &two).is_err());
    }
}
