//! One machine: what is on its disk, what of that is synced, and what is in
//! memory only.

use crate::desired::FileKind;
use crate::digest::Digest;
use crate::facts::{Generation, ImageFacts, RegistryFacts};
use crate::layout;
use crate::owned::Pending;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A simulated machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub name: String,
    pub options: MachineOptions,
    pub disk: Disk,
    pub memory: Memory,
    /// What a power cut would bring back at paths that are not synced yet,
    /// the latest change last.
    unsynced: Vec<(String, Option<DiskFile>)>,
    /// How often each path was written: a file's inode and time of change.
    written: BTreeMap<String, u64>,
}

/// What differs between machines from the start.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    pub zone: String,
    pub address: IpAddr,
    pub has_default_route: bool,
    pub has_swap: bool,
    pub has_network_manager: bool,
    pub mtu: u32,
}

/// What lies on a disk. Equal disks are an equal end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub files: BTreeMap<String, DiskFile>,
    pub users: BTreeSet<String>,
    pub store: BTreeMap<Digest, u64>,
    /// Binaries in the store whose bytes are not what their name says.
    pub damaged_binaries: BTreeSet<Digest>,
    pub staging: BTreeMap<Digest, u64>,
    pub registry: RegistryFacts,
    /// Blobs of the registry whose bytes are not what their name says.
    pub damaged_blobs: BTreeSet<Digest>,
    pub images: BTreeMap<String, ImageFacts>,
    pub generation: Option<Generation>,
    /// The generation before it, which could be gone back to.
    pub previous: Option<Generation>,
    pub pending: Pending,
    /// The bytes of files that were ever written, by digest.
    pub contents: BTreeMap<Digest, Arc<[u8]>>,
    pub trust: BTreeSet<String>,
    /// Units that start at boot.
    pub enabled: BTreeSet<String>,
    /// Environment files with inputs digests, by unit.
    pub inputs: BTreeMap<String, Digest>,
    pub swap_masked: bool,
    /// What NetworkManager was last told to read: its inputs, and which file
    /// lay there then.
    pub taken_up: Option<(Digest, FileVersion)>,
    /// The rendered CNI configuration and the subnet in it.
    pub cni: Option<(Digest, IpNet)>,
    /// Whether a member of etcd has its data here.
    pub etcd_data: bool,
    /// Which restore it is of; none if it is of the first members' making.
    pub etcd_of: Option<String>,
    /// Which restore data was prepared for.
    pub etcd_prepared: Option<String>,
    /// Which restore was done here last.
    pub etcd_restored: Option<String>,
    /// Snapshots of it.
    pub snapshots: BTreeSet<String>,
}

/// A file as it was written once, or none.
pub type FileVersion = (u64, Option<Digest>);

/// Something at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    pub content: DiskContent,
    pub mode: u32,
    pub user: String,
    pub group: String,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskContent {
    Directory,
    Bytes(Arc<[u8]>),
    Link(String),
}

/// What a power cut takes away.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub processes: BTreeMap<String, Process>,
    /// Digests of the unit files that systemd has read.
    pub unit_files: BTreeMap<String, Digest>,
    pub modules: BTreeSet<String>,
    pub sysctls: BTreeMap<String, String>,
    pub swap_is_on: bool,
    /// Whether the kernel has the route for Services. In the model nothing
    /// puts it back by itself, as if the kernel had told nobody.
    pub has_service_route: bool,
    /// The drop-in that NetworkManager's process has read.
    pub network_manager: Option<Digest>,
    /// Whether the writable registry instance runs.
    pub is_seeding: bool,
    /// Units whose processes stand still.
    pub suspended: BTreeSet<String>,
}

/// A unit that was started.
#[derive(Clone, Debug)]
pub struct Process {
    /// What its environment carries.
    pub inputs: Option<Digest>,
    /// The stored binary that it runs, if one of ours.
    pub executable: Option<Digest>,
    /// Whether that file was replaced since by another one.
    pub is_replaced: bool,
    /// The moment from which it can be ready.
    pub ready_at: u64,
    /// Whether it told systemd that it is ready.
    pub is_active: bool,
}

/// Where unit files are.
pub(super) fn unit_path(unit: &str) -> String {
    format!("{}{unit}", layout::UNITS)
}

/// The unit that makes the route for Services.
pub(super) const ROUTE_UNIT: &str = "cofferdam-route.service";

/// Whether a unit is the system's own, and not started by us.
pub(super) fn is_systems(unit: &str) -> bool {
    layout::SYSTEM_UNITS.contains(&unit)
}

impl Machine {
    /// A freshly installed machine that is on.
    pub fn new(name: &str, options: MachineOptions) -> Self {
        let mut machine = Self {
            name: name.to_owned(),
            disk: Disk::default(),
            memory: Memory::default(),
            unsynced: Vec::new(),
            written: BTreeMap::new(),
            options,
        };
        machine.reset_memory(0);
        machine
    }

    /// What is in memory right after the kernel and systemd came up.
    pub(super) fn reset_memory(&mut self, now: u64) {
        self.memory = Memory {
            swap_is_on: self.options.has_swap && !self.disk.swap_masked,
            ..Memory::default()
        };
        self.read_unit_files();
        for line in self.lines_of_settings("/modules-load.d/") {
            self.memory.modules.insert(line);
        }
        for line in self.lines_of_settings("/sysctl.d/") {
            if let Some((name, value)) = line.split_once('=') {
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                self.memory.sysctls.insert(name, value);
            }
        }
        self.start_process(layout::JOURNALD, now);
        // It starts before anything but the root is mounted.
        if layout::inputs_file(layout::JOURNALD).starts_with("/var")
            && let Some(process) = self.memory.processes.get_mut(layout::JOURNALD)
        {
            process.inputs = None;
        }
        if self.options.has_network_manager {
            self.start_process(layout::NETWORK_MANAGER, now);
        }
    }

    /// A machine that has NetworkManager from the start.
    pub fn add_network_manager(&mut self) {
        self.options.has_network_manager = true;
        self.start_process(layout::NETWORK_MANAGER, 0);
    }

    /// What lies at a path, as inode and time of change tell it.
    pub(super) fn version(&self, path: &str) -> FileVersion {
        let written = self.written.get(path).copied().unwrap_or_default();
        (written, self.digest_at(path))
    }

    fn digest_at(&self, path: &str) -> Option<Digest> {
        match &self.disk.files.get(path)?.content {
            DiskContent::Bytes(bytes) => Some(Digest::of(bytes)),
            _ => None,
        }
    }

    /// NetworkManager reads its files again.
    pub(super) fn reload_network_manager(&mut self) {
        self.memory.network_manager = self.digest_at(layout::NETWORK_MANAGER_FILE);
    }

    /// The inputs that NetworkManager runs with, as its record tells.
    pub(super) fn recorded(&self) -> Option<Digest> {
        let (inputs, version) = self.disk.taken_up?;
        (version == self.version(layout::NETWORK_MANAGER_FILE)).then_some(inputs)
    }

    /// Whether NetworkManager runs with another drop-in than lies there.
    pub(super) fn has_stale_network_manager(&self) -> bool {
        self.runs(layout::NETWORK_MANAGER)
            && self.memory.network_manager != self.digest_at(layout::NETWORK_MANAGER_FILE)
    }

    /// `systemctl daemon-reload`.
    pub(super) fn read_unit_files(&mut self) {
        let files = self.disk.files.iter();
        self.memory.unit_files = files
            .filter_map(|(path, file)| {
                let unit = path.strip_prefix(layout::UNITS)?;
                match &file.content {
                    DiskContent::Bytes(bytes) => Some((unit.to_owned(), Digest::of(bytes))),
                    _ => None,
                }
            })
            .collect();
    }

    /// Whether a unit file changed since systemd read it.
    pub(super) fn needs_reload(&self, unit: &str) -> bool {
        let on_disk = self.digest_at(&unit_path(unit));
        on_disk.as_ref() != self.memory.unit_files.get(unit)
    }

    /// A process that carries what its environment file says now.
    pub(super) fn start_process(&mut self, unit: &str, now: u64) {
        let process = Process {
            inputs: self.disk.inputs.get(unit).copied(),
            executable: self.executable_of(unit),
            is_replaced: false,
            ready_at: now + START_TICKS,
            is_active: is_systems(unit),
        };
        self.memory.processes.insert(unit.to_owned(), process);
        if unit == layout::NETWORK_MANAGER {
            self.reload_network_manager();
        }
    }

    pub(super) fn is_active(&self, unit: &str) -> bool {
        let process = self.memory.processes.get(unit);
        process.is_some_and(|process| process.is_active)
    }

    pub(super) fn runs(&self, unit: &str) -> bool {
        self.memory.processes.contains_key(unit)
    }

    /// Whether it runs with the inputs that lie there.
    pub(super) fn runs_as_told(&self, unit: &str) -> bool {
        let process = self.memory.processes.get(unit);
        process.is_some_and(|process| process.inputs == self.disk.inputs.get(unit).copied())
    }

    /// Gives a file its name, which a power cut may take back.
    pub(super) fn rename_into_place(&mut self, path: String, file: DiskFile) {
        if let DiskContent::Bytes(bytes) = &file.content {
            self.disk.contents.insert(Digest::of(bytes), bytes.clone());
        }
        let before = self.disk.files.insert(path.clone(), file);
        *self.written.entry(path.clone()).or_default() += 1;
        self.unsynced.push((path, before));
    }

    /// Makes everything on the disk survive a power cut.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// What a power cut takes off the disk.
    pub(super) fn lose_unsynced(&mut self) {
        for (path, before) in std::mem::take(&mut self.unsynced).into_iter().rev() {
            match before {
                Some(file) => self.disk.files.insert(path, file),
                None => self.disk.files.remove(&path),
            };
        }
    }

    /// Whether a path's owner is trust, for how it is digested.
    pub(super) fn kind_of(&self, path: &str) -> FileKind {
        match self.disk.trust.contains(path) {
            true => FileKind::Trust,
            false => FileKind::Software,
        }
    }

    /// All that a run leaves on the machine, a line each.
    pub(super) fn describe(&self) -> Vec<String> {
        let Disk {
            files,
            users,
            store,
            damaged_binaries,
            staging,
            registry,
            damaged_blobs,
            images,
            generation,
            contents: _,
            previous,
            pending,
            trust,
            enabled,
            inputs,
            swap_masked,
            taken_up,
            cni,
            etcd_data,
            etcd_of,
            etcd_prepared,
            etcd_restored: _,
            snapshots: _,
        } = &self.disk;
        let mut lines = vec![format!(
            "etcd data: {etcd_data}, of {etcd_of:?}, prepared {etcd_prepared:?}"
        )];
        for (path, file) in files {
            let content = match &file.content {
                DiskContent::Directory => "directory".to_owned(),
                DiskContent::Bytes(bytes) => Digest::of(bytes).to_string(),
                DiskContent::Link(target) => format!("-> {target}"),
            };
            let DiskFile {
                mode, user, group, ..
            } = file;
            lines.push(format!("{path} {content} {mode:o} {user}:{group}"));
        }
        lines.extend(users.iter().map(|user| format!("user {user}")));
        lines.extend(store.keys().map(|digest| format!("stored {digest}")));
        lines.extend(staging.keys().map(|digest| format!("staged {digest}")));
        let damaged = damaged_binaries.iter().chain(damaged_blobs);
        lines.extend(damaged.map(|digest| format!("damaged {digest}")));
        let blobs = registry.blobs.keys();
        lines.extend(blobs.map(|digest| format!("registry blob {digest}")));
        lines.extend(registry.links.iter().map(|link| format!("registry {link}")));
        let tags = registry.tags.iter();
        lines.extend(tags.map(|(tag, digest)| format!("registry {tag} {digest}")));
        let images = images.iter();
        lines.extend(images.map(|(name, image)| format!("image {name} {image:?}")));
        if let Some(generation) = generation {
            let number = generation.number;
            lines.push(format!("generation {number} {}", generation.bundle));
            let files = generation.files.iter();
            lines.extend(files.map(|(path, file)| format!("generation {number}: {path} {file:?}")));
            lines.push(format!("generation {number}: {:?}", generation.units));
            lines.push(format!("generation {number}: {:?}", generation.binaries));
        }
        if let Some(previous) = previous {
            lines.push(format!("generation {} as well", previous.number));
        }
        let Pending {
            files, binaries, ..
        } = pending;
        let pending = files.iter().chain(binaries);
        lines.extend(pending.map(|name| format!("pending {name}")));
        lines.extend(trust.iter().map(|path| format!("trust {path}")));
        lines.extend(enabled.iter().map(|unit| format!("enabled {unit}")));
        let inputs = inputs.iter();
        lines.extend(inputs.map(|(unit, digest)| format!("inputs of {unit} {digest}")));
        lines.push(format!(
            "swap masked {swap_masked}, on {}",
            self.memory.swap_is_on
        ));
        let has_route = self.memory.has_service_route;
        lines.extend(has_route.then(|| "route for Services".to_owned()));
        let told = taken_up.map(|(inputs, _)| inputs);
        lines.push(format!(
            "NetworkManager was told {told:?}, has read {:?}",
            self.memory.network_manager
        ));
        lines.extend(cni.iter().map(|cni| format!("pod network {cni:?}")));
        for (unit, process) in &self.memory.processes {
            let Process {
                inputs,
                executable,
                is_replaced,
                is_active,
                ready_at: _,
            } = process;
            lines.push(format!(
                "{unit} runs {executable:?}, replaced {is_replaced}, with {inputs:?}, active {is_active}"
            ));
        }
        lines.extend(
            self.memory
                .modules
                .iter()
                .map(|name| format!("module {name}")),
        );
        let sysctls = self.memory.sysctls.iter();
        lines.extend(sysctls.map(|(name, value)| format!("sysctl {name} {value}")));
        lines
    }

    fn lines_of_settings(&self, directory: &str) -> Vec<String> {
        let files = self.disk.files.iter();
        files
            .filter(|(path, _)| path.contains(directory))
            .filter_map(|(_, file)| match &file.content {
                DiskContent::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
                _ => None,
            })
            .flat_map(|text| {
                let lines = text.lines().map(str::trim);
                let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                lines.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// How long a process takes until it can be ready, in moments of the model:
/// long enough that two restarts side by side would overlap.
pub(super) const START_TICKS: u64 = 4;
