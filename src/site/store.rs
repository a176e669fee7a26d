//! The site's directory. Everything is written to a temporary name, synced
//! and renamed; a material counts only once its spec file is there, which is
//! written last.

use super::types::{Decisions, Material, MaterialSpec, SiteView};
use crate::desired::{DigestKey, Held};
use crate::pki::{self, Authority};
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use time::OffsetDateTime;

/// Version of the site's shape; an older cofferdam refuses a newer site.
const SCHEMA: u32 = 1;
/// A site is readable by its owner alone: it holds the cluster's keys.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What hosts keep whatever the inventory says.
const HELD: &str = "held.json";

/// A site on disk.
#[derive(Clone, Debug)]
pub struct Site {
    root: Utf8PathBuf,
}

/// Keeps other runs out of a site for as long as it lives.
#[derive(Debug)]
pub struct SiteLock {
    _file: fs::File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteFile {
    schema: u32,
    cluster: String,
}

/// What lies beside a material's certificate and key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaterialFile {
    spec: MaterialSpec,
    not_after: Option<i64>,
}

impl Site {
    /// The site in a directory, which need not exist yet.
    ///
    /// # Errors
    /// When the directory is another cluster's site, or of a newer shape.
    pub fn open(root: &Utf8Path, cluster: &str) -> Result<Self> {
        let site = Self {
            root: root.to_owned(),
        };
        let path = site.path("site.toml");
        if let Some(text) = read_if_there(&path)? {
            let file: SiteFile =
                toml::from_str(&text).with_context(|| format!("reading {path}"))?;
            if file.schema > SCHEMA {
                bail!(
                    "{path} has schema {}, this cofferdam knows {SCHEMA}; use a newer cofferdam",
                    file.schema
                );
            }
            if file.cluster != cluster {
                bail!(
                    "{root} is the site of cluster `{}`, the inventory is that of `{cluster}`; give each cluster a site of its own (`site.path`)",
                    file.cluster
                );
            }
        }
        Ok(site)
    }

    /// Makes the directory and its marker if they are not there.
    ///
    /// # Errors
    /// When the directory can't be written.
    pub fn create(&self, cluster: &str) -> Result<()> {
        self.make_directory(&self.root)?;
        let path = self.path("site.toml");
        if !path.exists() {
            let file = SiteFile {
                schema: SCHEMA,
                cluster: cluster.to_owned(),
            };
            self.write("site.toml", toml::to_string(&file)?.as_bytes())?;
        }
        Ok(())
    }

    /// A path within the site.
    pub fn path(&self, name: &str) -> Utf8PathBuf {
        self.root.join(name)
    }

    /// Takes the site for one run.
    ///
    /// # Errors
    /// When another run has it.
    pub fn lock(&self) -> Result<SiteLock> {
        self.make_directory(&self.root)?;
        let path = self.path("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(SiteLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                "another run holds the site {}; wait for it to end, or end it, then run the same command again",
                self.root
            ),
            Err(error) => Err(error).with_context(|| format!("locking {path}")),
        }
    }

    /// Reads all that the desired state needs.
    ///
    /// # Errors
    /// When a file can't be read or is damaged; the path is named.
    pub fn view(&self) -> Result<SiteView> {
        let mut materials = BTreeMap::new();
        self.read_materials("pki", "", &mut materials)?;
        let decisions = match read_if_there(&self.path("decisions.toml"))? {
            Some(text) => toml::from_str(&text)
                .with_context(|| format!("reading {}", self.path("decisions.toml")))?,
            None => Decisions::default(),
        };
        let key_path = self.path("digest.key");
        let digest_key = if key_path.exists() {
            let bytes: [u8; 32] = fs::read(&key_path)?.try_into().map_err(|bytes: Vec<u8>| {
                anyhow::anyhow!(
                    "{key_path} has {} bytes, not 32; it is damaged",
                    bytes.len()
                )
            })?;
            Some(DigestKey(bytes))
        } else {
            None
        };
        let held = self.held().with_context(|| {
            format!(
                "reading {}, which a rollback wrote (without it `cofferdam upgrade` takes all hosts \
                 along)",
                self.path(HELD)
            )
        })?;
        Ok(SiteView {
            materials,
            decisions,
            digest_key,
            held,
        })
    }

    fn held(&self) -> Result<BTreeMap<String, Held>> {
        let Some(text) = read_if_there(&self.path(HELD))? else {
            return Ok(BTreeMap::new());
        };
        let held: BTreeMap<String, Held> = serde_json::from_str(&text)?;
        for (host, held) in &held {
            let mut files = held.files.iter();
            if let Some((path, _)) = files.find(|(_, file)| !file.is_sound()) {
                bail!("{path} of {host} is damaged");
            }
        }
        Ok(held)
    }

    /// Records what hosts keep, by name.
    ///
    /// # Errors
    /// When the file can't be written or removed.
    pub fn record_held(&self, held: &BTreeMap<String, Held>) -> Result<()> {
        let path = self.path(HELD);
        match (held.is_empty(), path.exists()) {
            (true, false) => Ok(()),
            (true, true) => Ok(fs::remove_file(path)?),
            (false, _) => self.write(HELD, &serde_json::to_vec_pretty(held)?),
        }
    }

    /// Records decisions.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn record_decisions(&self, decisions: &Decisions) -> Result<()> {
        self.write("decisions.toml", toml::to_string(decisions)?.as_bytes())
    }

    /// Mints what is missing or fits another spec, authorities first, and the
    /// digest key. What is there and fits is left as it is. An authority or
    /// a key that everything hangs on is never replaced.
    ///
    /// # Errors
    /// When a file can't be written, or a certificate authority would have to
    /// be replaced.
    pub fn mint(&self, specs: &BTreeMap<String, MaterialSpec>, now: OffsetDateTime) -> Result<()> {
        if !self.path("digest.key").exists() {
            self.write("digest.key", &pki::random(32)?)?;
        }
        let mut have = self.view()?.materials;
        let first = |spec: &MaterialSpec| !matches!(spec, MaterialSpec::Certificate(_));
        let ordered = specs
            .iter()
            .filter(|(_, spec)| first(spec))
            .chain(specs.iter().filter(|(_, spec)| !first(spec)));
        for (name, spec) in ordered {
            if let Some(found) = have.get(name) {
                if found.spec == *spec {
                    continue;
                }
                if first(spec) {
                    bail!(
                        "the site {} holds {name} for another cluster shape; it can't be replaced in place (was the cluster renamed?)",
                        self.root
                    );
                }
            }
            let material = self
                .mint_one(spec, &have, now)
                .with_context(|| format!("minting {name}"))?;
            self.write_material(name, &material)?;
            have.insert(name.clone(), material);
        }
        Ok(())
    }

    fn mint_one(
        &self,
        spec: &MaterialSpec,
        have: &BTreeMap<String, Material>,
        now: OffsetDateTime,
    ) -> Result<Material> {
        let MaterialSpec::Certificate(certificate) = spec else {
            return pki::mint(spec, None, now);
        };
        let found = have.get(&certificate.authority);
        let pem = found.and_then(|found| found.certificate.as_deref());
        let key = found.map(|found| String::from_utf8_lossy(&found.secret));
        let authority = match (pem, &key) {
            (Some(certificate), Some(key)) => Some(Authority { certificate, key }),
            _ => None,
        };
        pki::mint(spec, authority.as_ref(), now)
    }

    fn write_material(&self, name: &str, material: &Material) -> Result<()> {
        // Out of the way first, so that a half replaced one never counts.
        let spec_path = format!("pki/{name}.toml");
        match fs::remove_file(self.path(&spec_path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.write(&format!("pki/{name}.key"), &material.secret)?;
        if let Some(certificate) = &material.certificate {
            self.write(&format!("pki/{name}.crt"), certificate.as_bytes())?;
        }
        if let Some(public) = &material.public_key {
            self.write(&format!("pki/{name}.pub"), public.as_bytes())?;
        }
        let file = MaterialFile {
            spec: material.spec.clone(),
            not_after: material.not_after,
        };
        self.write(&spec_path, toml::to_string(&file)?.as_bytes())
    }

    fn read_materials(
        &self,
        directory: &str,
        prefix: &str,
        materials: &mut BTreeMap<String, Material>,
    ) -> Result<()> {
        let path = self.path(directory);
        if !path.exists() {
            return Ok(());
        }
        for entry in path
            .read_dir_utf8()
            .with_context(|| format!("reading {path}"))?
        {
            let entry = entry.with_context(|| format!("reading {path}"))?;
            let name = entry.file_name().to_owned();
            if entry.file_type()?.is_dir() {
                let (directory, prefix) =
                    (format!("{directory}/{name}"), format!("{prefix}{name}/"));
                self.read_materials(&directory, &prefix, materials)?;
            } else if let Some(stem) = name.strip_suffix(".toml") {
                let material = self.read_material(&format!("{directory}/{stem}"))?;
                materials.insert(format!("{prefix}{stem}"), material);
            }
        }
        Ok(())
    }

    fn read_material(&self, stem: &str) -> Result<Material> {
        let path = self.path(&format!("{stem}.toml"));
        let file: MaterialFile = toml::from_str(&fs::read_to_string(&path)?)
            .with_context(|| format!("reading {path}"))?;
        Ok(Material {
            spec: file.spec,
            certificate: read_if_there(&self.path(&format!("{stem}.crt")))?,
            secret: fs::read(self.path(&format!("{stem}.key")))?,
            public_key: read_if_there(&self.path(&format!("{stem}.pub")))?,
            not_after: file.not_after,
        })
    }

    /// Writes a file of the site so that it is either the old or the new one.
    ///
    /// # Errors
    /// When the directory can't be written; the path is named.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let directory = path.parent().unwrap_or(&self.root);
        self.make_directory(directory)?;
        let temporary = path.with_file_name(format!(".{}.new", path.file_name().unwrap_or("file")));
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(directory)?.sync_all()?;
        Ok(())
    }

    fn make_directory(&self, path: &Utf8Path) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder
            .mode(DIRECTORY_MODE)
            .recursive(true)
            .create(path)
            .with_context(|| format!("making {path}"))
    }
}

fn read_if_there(path: &Utf8Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::facts::{Generation, GenerationFile, StoredGeneration};
    use crate::site::{CertificateSpec, Usage};
    use base64::{Engine, engine::general_purpose::STANDARD};

    fn site() -> (tempfile::TempDir, Site) {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(directory.path().join("site")).unwrap();
        let site = Site::open(&root, "lab").unwrap();
        (directory, site)
    }

    fn specs(name: &str) -> BTreeMap<String, MaterialSpec> {
        let leaf = CertificateSpec {
            authority: "ca/etcd".into(),
            common_name: name.into(),
            organizations: vec![],
            dns_names: vec![name.into()],
            addresses: vec![],
            usage: Usage::Both,
        };
        [
            (
                "ca/etcd".to_owned(),
                MaterialSpec::Authority {
                    common_name: "lab etcd CA".into(),
                },
            ),
            ("etcd-server@m1".to_owned(), MaterialSpec::Certificate(leaf)),
            ("service-account".to_owned(), MaterialSpec::KeyPair),
        ]
        .into()
    }

    #[test]
    fn minting_again_changes_nothing_and_a_new_spec_only_its_own_material() {
        let (_directory, site) = site();
        let now = OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap();
        site.mint(&specs("m1"), now).unwrap();
        let first = site.view().unwrap();
        assert_eq!(first.materials.len(), 3);
        assert!(first.digest_key.is_some());
        site.mint(&specs("m1"), now).unwrap();
        assert_eq!(site.view().unwrap().materials, first.materials);
        site.mint(&specs("m2"), now).unwrap();
        let second = site.view().unwrap();
        assert_eq!(second.materials["ca/etcd"], first.materials["ca/etcd"]);
        assert_ne!(
            second.materials["etcd-server@m1"],
            first.materials["etcd-server@m1"]
        );
    }

    #[test]
    fn a_half_written_material_does_not_count() {
        let (_directory, site) = site();
        let now = OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap();
        site.mint(&specs("m1"), now).unwrap();
        fs::remove_file(site.path("pki/etcd-server@m1.toml")).unwrap();
        assert!(
            !site
                .view()
                .unwrap()
                .materials
                .contains_key("etcd-server@m1")
        );
    }

    #[test]
    fn another_clusters_site_and_a_second_run_are_refused() {
        let (_directory, site) = site();
        site.create("lab").unwrap();
        let error = Site::open(&site.root, "prod").unwrap_err().to_string();
        assert!(error.contains("is the site of cluster `lab`"), "{error}");
        let held = site.lock().unwrap();
        let error = site.lock().unwrap_err().to_string();
        assert!(error.contains("another run holds the site"), "{error}");
        drop(held);
        site.lock().unwrap();
    }

    #[test]
    fn keys_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, site) = site();
        site.mint(&specs("m1"), OffsetDateTime::UNIX_EPOCH).unwrap();
        let mode = |name: &str| fs::metadata(site.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("pki/etcd-server@m1.key"), 0o600);
        assert_eq!(mode("pki"), 0o700);
    }

    #[test]
    fn what_hosts_keep_is_proven_when_it_is_read() {
        let (_directory, site) = site();
        site.create("lab").unwrap();
        let mut stored = StoredGeneration::of(Generation {
            files: [(
                "/etc/x".to_owned(),
                GenerationFile {
                    digest: Some(Digest::of("text")),
                    mode: 0o644,
                    user: "root".to_owned(),
                    group: "root".to_owned(),
                    part: None,
                },
            )]
            .into(),
            ..Generation::default()
        });
        let keep = |stored: &StoredGeneration| Held::new(stored, ([].into(), true), |_, _| None);
        assert_eq!(keep(&stored).unwrap_err(), "/etc/x");
        stored.put(b"text");
        let held = BTreeMap::from([("w1".to_owned(), keep(&stored).unwrap())]);
        site.record_held(&held).unwrap();
        assert_eq!(site.view().unwrap().held, held);
        let path = site.path(HELD);
        let text = fs::read_to_string(&path).unwrap();
        let bytes = STANDARD.encode("text");
        fs::write(&path, text.replace(&bytes, &STANDARD.encode("test"))).unwrap();
        let error = format!("{:#}", site.view().unwrap_err());
        assert!(error.contains("/etc/x of w1 is damaged"), "{error}");
        fs::write(&path, "{").unwrap();
        let error = format!("{:#}", site.view().unwrap_err());
        assert!(error.contains("held.json"), "{error}");
        site.record_held(&BTreeMap::new()).unwrap();
        assert!(!path.exists());
    }
}
