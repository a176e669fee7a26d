//! Builds one host's desired state piece by piece.

use super::command_line::{Flags, exec_start};
use super::error::DesiredError;
use super::held::Held;
use super::software::Software;
use super::types::*;
use crate::digest::Digest;
use crate::inventory::{Component, Host, Inventory};
use crate::site::{HostDecisions, Material, MaterialSpec, SiteView};
use crate::{desired::materials, layout};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What the desired state is a function of.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub inventory: &'a Inventory,
    pub software: &'a Software,
    pub site: &'a SiteView,
    /// What the site must hold; see [`materials::materials`].
    pub specs: &'a BTreeMap<String, MaterialSpec>,
}

impl<'a> Inputs<'a> {
    /// A material that the site holds for the spec that is wanted now.
    pub fn material(&self, name: &str) -> Option<&'a Material> {
        let material = self.site.materials.get(name)?;
        (self.specs.get(name) == Some(&material.spec)).then_some(material)
    }
}

/// Who may read a file.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    pub user: &'a str,
    pub group: &'a str,
    pub mode: u32,
}

impl<'a> Access<'a> {
    /// Readable by everybody, written by root.
    pub const PUBLIC: Access<'static> = Access {
        user: "root",
        group: "root",
        mode: 0o644,
    };
    /// Root's alone.
    pub const ROOT: Access<'static> = Access {
        user: "root",
        group: "root",
        mode: 0o400,
    };

    /// One user's alone, read-only.
    pub fn only(user: &'a str) -> Self {
        Self {
            user,
            group: user,
            mode: 0o400,
        }
    }
}

/// A unit before its inputs are digested.
pub struct UnitSpec<'a> {
    /// With suffix.
    pub name: &'a str,
    pub stage: Stage,
    /// Text of the unit file.
    pub text: String,
    /// Files that the process reads only at its start: a change restarts it.
    pub reads: &'a [&'a str],
    /// Files that must be there, but are read again while it runs.
    pub follows: &'a [&'a str],
    pub binaries: &'a [&'a str],
    pub change: Change,
    pub ready: Option<Condition>,
}

/// One host's desired state in the making.
pub struct HostBuilder<'a> {
    pub inputs: Inputs<'a>,
    pub host: &'a Host,
    pub decisions: &'a HostDecisions,
    pub built: DesiredHost,
    /// What of the host is being built.
    part: Option<Part>,
}

impl<'a> HostBuilder<'a> {
    /// An empty state for one host.
    ///
    /// # Errors
    /// When nothing was decided about the host yet.
    pub fn new(inputs: Inputs<'a>, host: &'a Host) -> Result<Self, DesiredError> {
        let decisions =
            inputs
                .site
                .decisions
                .hosts
                .get(&host.name)
                .ok_or_else(|| DesiredError::Undecided {
                    host: host.name.clone(),
                })?;
        Ok(Self {
            inputs,
            host,
            decisions,
            built: DesiredHost::default(),
            part: None,
        })
    }

    /// Builds a part of the host, which may be held as it was.
    ///
    /// # Errors
    /// Those of `build`, and where what is held is no whole of what the inventory
    /// has.
    pub fn part(
        &mut self,
        part: Part,
        build: impl FnOnce(&mut Self) -> Result<(), DesiredError>,
    ) -> Result<(), DesiredError> {
        self.part = Some(part);
        let others = self.built.units.len();
        build(self)?;
        if let Some(held) = self.held() {
            let units = self.built.units[others..].iter();
            let path = |unit: &Unit| format!("{}{}", layout::UNITS, unit.name);
            let mut lacking = units.filter(|unit| !held.files.contains_key(&path(unit)));
            if let Some(unit) = lacking.next() {
                return Err(DesiredError::Held {
                    host: self.host.name.clone(),
                    generation: held.generation,
                    unit: unit.name.clone(),
                });
            }
            let others = held.files.iter();
            let others = others.filter(|(_, file)| file.part == Some(part));
            for (path, file) in others {
                let entry = self.built.files.entry(path.clone());
                entry.or_insert_with(|| file.to_file());
            }
        }
        self.part = None;
        Ok(())
    }

    /// Builds what stays as the inventory has it, amid a part.
    pub fn outside<Built>(&mut self, build: impl FnOnce(&mut Self) -> Built) -> Built {
        let part = self.part.take();
        let built = build(self);
        self.part = part;
        built
    }

    /// What the part that is being built is held as.
    pub fn held(&self) -> Option<&'a Held> {
        let held = self.inputs.site.held.get(&self.host.name)?;
        held.parts.contains(&self.part?).then_some(held)
    }

    /// A configuration file without secrets.
    pub fn plain(&mut self, path: &str, text: String) {
        self.file(
            path,
            Content::Plain(text.into_bytes()),
            Access::PUBLIC,
            FileKind::Software,
        );
    }

    /// A directory with its owner.
    pub fn directory(&mut self, path: &str, access: Access<'_>) {
        self.file(path, Content::Directory, access, FileKind::Software);
    }

    /// The certificate of a material, in the open.
    pub fn certificate(&mut self, path: &str, material: &str) {
        let certificate = self
            .inputs
            .material(material)
            .and_then(|found| found.certificate.as_ref());
        let content =
            certificate.map_or(Content::Pending, |pem| Content::Plain(pem.clone().into()));
        self.file(path, content, Access::PUBLIC, FileKind::Trust);
    }

    /// The private key of a material.
    pub fn key(&mut self, path: &str, material: &str, access: Access<'_>) {
        let found = self.inputs.material(material);
        let content = found.map_or(Content::Pending, |found| {
            Content::Secret(found.secret.clone())
        });
        self.file(path, content, access, FileKind::Trust);
    }

    /// A file with secrets that is rendered from materials, or pending while
    /// one of them is.
    pub fn secret(&mut self, path: &str, text: Option<String>, access: Access<'_>) {
        let content = text.map_or(Content::Pending, |text| Content::Secret(text.into_bytes()));
        self.file(path, content, access, FileKind::Trust);
    }

    /// Any file.
    pub fn file(&mut self, path: &str, content: Content, access: Access<'_>, kind: FileKind) {
        if let Some(held) = self.held().filter(|_| kind == FileKind::Software) {
            if let Some(file) = held.files.get(path) {
                self.built.files.insert(path.to_owned(), file.to_file());
            }
            return;
        }
        let file = File {
            content,
            mode: access.mode,
            user: access.user.to_owned(),
            group: access.group.to_owned(),
            kind,
            part: self.part,
        };
        self.built.files.insert(path.to_owned(), file);
    }

    /// A kubeconfig for the user whose certificate a material is.
    pub fn kubeconfig(&mut self, path: &str, material: &str, server: &str, access: Access<'_>) {
        let text = super::kubeconfig::kubeconfig(self.inputs, material, server);
        self.secret(path, text, access);
    }

    /// Takes a binary from its bundle for this host's platform.
    ///
    /// # Errors
    /// When the bundle lacks the platform or the file.
    pub fn binary(&mut self, name: &str) -> Result<&Binary, DesiredError> {
        // What belongs to no part goes back with any.
        let held = match self.part {
            Some(_) => self.held(),
            None => self.inputs.site.held.get(&self.host.name),
        };
        if let Some(held) = held.and_then(|held| held.binaries.get(name)) {
            let known = self.built.binaries.entry(name.to_owned());
            return Ok(known.or_insert_with(|| held.clone()));
        }
        let bundle = self.inputs.software.bundle_of(&self.host.name, name);
        let platform = &self.decisions.platform;
        let files = bundle
            .files
            .get(platform)
            .ok_or_else(|| DesiredError::Platform {
                bundle: bundle.name.clone(),
                platform: platform.clone(),
                host: self.host.name.clone(),
            })?;
        let binary = files.get(name).ok_or_else(|| DesiredError::File {
            bundle: bundle.name.clone(),
            file: name.to_owned(),
            platform: platform.clone(),
            host: self.host.name.clone(),
        })?;
        Ok(self
            .built
            .binaries
            .entry(name.to_owned())
            .or_insert_with(|| binary.clone()))
    }

    /// A system user.
    pub fn user(&mut self, name: &str) {
        self.built.users.insert(name.to_owned());
    }

    /// The host's member of etcd.
    pub fn etcd(&mut self, membership: EtcdMembership) {
        self.built.etcd = Some(membership);
    }

    /// Flags with the inventory's overrides on top.
    pub fn overridden_flags(&self, component: Component, mut flags: Flags) -> Flags {
        flags.extend(self.inputs.inventory.override_flags(self.host, component));
        flags
    }

    /// A configuration with the inventory's overrides merged in.
    pub fn overridden_config(
        &self,
        component: Component,
        config: serde_json::Value,
    ) -> serde_json::Value {
        let mut config = config;
        let over = self.inputs.inventory.override_config(self.host, component);
        // The inventory holds nothing that JSON can't.
        if let Ok(over) = serde_json::to_value(over) {
            merge(&mut config, over);
        }
        config
    }

    /// Renders a unit's template; `command` is its `ExecStart=`.
    ///
    /// # Errors
    /// When the template names a value that isn't there.
    pub fn unit_text(
        &self,
        unit: &str,
        template: &str,
        binary: &str,
        flags: &Flags,
    ) -> Result<String, DesiredError> {
        let command = exec_start(binary, flags);
        let values = minijinja::context! {
            command,
            inputs_file => layout::inputs_file(unit),
            node_name => self.host.name.clone(),
        };
        render(unit, template, values)
    }

    /// Adds a unit: its file, and itself with the digest of its inputs.
    pub fn unit(&mut self, spec: UnitSpec<'_>) {
        let path = format!("/etc/systemd/system/{}", spec.name);
        self.plain(&path, spec.text);
        self.managed_unit(
            spec_needs(&path, spec.reads, spec.follows, spec.binaries),
            UnitParts {
                name: spec.name,
                stage: spec.stage,
                change: spec.change,
                ready: spec.ready,
                reads: spec.reads.iter().copied().chain([path.as_str()]).collect(),
                binaries: spec.binaries,
            },
        );
    }

    /// Adds a unit whose file may belong to somebody else.
    fn managed_unit(&mut self, mut needs: Needs, parts: UnitParts<'_>) {
        if self.held().is_some() {
            // What it was then may not read all that it would now.
            let files = &self.built.files;
            needs.files.retain(|path| files.contains_key(path));
            needs.follows.retain(|path| files.contains_key(path));
        }
        let inputs = self.inputs_digest(&parts.reads, parts.binaries);
        self.built.units.push(Unit {
            name: parts.name.to_owned(),
            stage: parts.stage,
            pending: inputs.is_none(),
            inputs,
            needs,
            change: parts.change,
            ready: parts.ready,
        });
    }

    /// One of [`layout::SYSTEM_UNITS`], which is given files to read.
    pub fn system_unit(&mut self, name: &str, change: Change, reads: &[&str]) {
        let needs = spec_needs(reads[0], reads, &[], &[]);
        self.managed_unit(
            needs,
            UnitParts {
                name,
                stage: Stage::Prepare,
                change,
                ready: None,
                reads: reads.to_vec(),
                binaries: &[],
            },
        );
    }

    /// A unit without a process of its own, such as a socket.
    pub fn processless_unit(&mut self, name: &str, stage: Stage, text: String) {
        let path = format!("/etc/systemd/system/{name}");
        self.plain(&path, text);
        self.built.units.push(Unit {
            name: name.to_owned(),
            stage,
            inputs: None,
            pending: false,
            needs: spec_needs(&path, &[], &[], &[]),
            change: Change::Restart,
            ready: None,
        });
    }

    /// Digest over the names and digests of files and binaries; none while
    /// one of them is pending.
    fn inputs_digest(&self, reads: &[&str], binaries: &[&str]) -> Option<Digest> {
        let mut hasher = Sha256::new();
        let sorted: BTreeSet<&str> = reads.iter().copied().collect();
        for path in sorted {
            let Some(file) = self.built.files.get(path) else {
                match self.held() {
                    Some(_) => continue,
                    None => return None,
                }
            };
            let digest = match (&file.content, &self.inputs.site.digest_key) {
                (Content::Plain(bytes), _) => Digest::of(bytes),
                (content, Some(key)) => content.digest(key)?,
                (_, None) => return None,
            };
            hasher.update(format!("{path} {digest}\n"));
        }
        for name in binaries {
            let binary = self.built.binaries.get(*name)?;
            hasher.update(format!("{name} {}\n", binary.digest));
        }
        Some(Digest::from_bytes(hasher.finalize().into()))
    }
}

struct UnitParts<'a> {
    name: &'a str,
    stage: Stage,
    change: Change,
    ready: Option<Condition>,
    reads: Vec<&'a str>,
    binaries: &'a [&'a str],
}

fn spec_needs(path: &str, reads: &[&str], follows: &[&str], binaries: &[&str]) -> Needs {
    let files = reads.iter().chain(follows).copied().chain([path]);
    Needs {
        files: files.map(str::to_owned).collect(),
        follows: follows.iter().map(|&path| path.to_owned()).collect(),
        binaries: binaries.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// Renders a minijinja template; a value that isn't there is an error.
///
/// # Errors
/// With the template's name and line.
pub fn render(
    name: &str,
    template: &str,
    values: impl Into<minijinja::Value>,
) -> Result<String, DesiredError> {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let rendered = environment.render_named_str(name, template, values);
    // The engine drops the last newline.
    rendered
        .map(|text| text + "\n")
        .map_err(|error| DesiredError::Render {
            what: name.to_owned(),
            reason: format!("{error:#}"),
        })
}

/// Merges tables deeply; anything else in `over` replaces what was there.
pub fn merge(base: &mut serde_json::Value, over: serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// The name of a host's own material; see [`materials::of`].
pub fn own(kind: &str, host: &Host) -> String {
    materials::of(kind, host)
}
