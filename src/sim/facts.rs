//! What a simulated host answers when it is observed.

use super::machine::{DiskContent, DiskFile, Machine, is_systems};
use super::world::World;
use crate::desired::{Condition, DigestKey, FileKind};
use crate::digest::Digest;
use crate::facts::{
    Cgroups, ClusterFacts, CniFacts, Entry, EtcdFacts, FileFacts, FilesystemFacts, HostFacts,
    InterfaceFacts, ManifestState, NodeFacts, ObserveRequest, RegistryFacts, RouteFacts,
    SystemFacts, UnitFacts, UnmetCondition,
};
use crate::layout;
use crate::owned::owned_units;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// Everything that the planner may ask about a host.
    pub(super) fn observe(&mut self, host: &str, request: &ObserveRequest) -> Option<HostFacts> {
        let unmet = self.unmet(host, &request.conditions);
        let machine = self.machines.get(host)?;
        let memory = &machine.memory;
        let disk = &machine.disk;
        let modules = request.modules.iter();
        let sysctls = request.sysctls.iter();
        let swaps = memory.swap_is_on.then(|| "/dev/sda2".to_owned());
        Some(HostFacts {
            system: system(machine),
            clock: 1_790_000_000.0,
            filesystems: filesystems(),
            swaps: swaps.into_iter().collect(),
            swap_masked: disk.swap_masked,
            interfaces: interfaces(machine),
            routes: routes(machine),
            modules: modules
                .map(|name| (name.clone(), memory.modules.contains(name)))
                .collect(),
            sysctls: sysctls
                .filter_map(|name| Some((name.clone(), memory.sysctls.get(name)?.clone())))
                .collect(),
            users: request.users.intersection(&disk.users).cloned().collect(),
            unmet,
            files: files(machine, request),
            store: right_ones(&disk.store, &disk.damaged_binaries, request.content),
            staging: right_ones(&disk.staging, &BTreeSet::new(), request.content),
            units: self.units(machine, request),
            images: (request.images && machine.is_active("containerd.service"))
                .then(|| disk.images.clone()),
            registry: request.registry.as_ref().map(|wanted| {
                let mut blobs = right_ones(&disk.registry.blobs, &disk.damaged_blobs, true);
                blobs.retain(|digest, size| wanted.get(digest) == Some(size));
                RegistryFacts {
                    blobs,
                    ..disk.registry.clone()
                }
            }),
            etcd: self.etcd(machine, request),
            etcd_data: disk.etcd_data,
            etcd_restored: disk.etcd_restored.clone(),
            generation: disk.generation.clone(),
            pending: disk.pending.clone(),
            trust: disk.trust.clone(),
            cni: disk.cni.map(|(digest, subnet)| CniFacts {
                digest,
                subnet: Some(subnet),
            }),
            ..HostFacts::default()
        })
    }

    fn unmet(&mut self, host: &str, conditions: &[Condition]) -> Vec<UnmetCondition> {
        let looks = conditions.iter().filter_map(|condition| {
            let reason = self.why_unmet(host, condition)?;
            let condition = condition.clone();
            Some(UnmetCondition { condition, reason })
        });
        looks.collect()
    }

    /// The cluster, if the host's API server answers.
    pub(super) fn observe_cluster(
        &mut self,
        host: &str,
        manifests: &BTreeMap<String, String>,
        conditions: &[Condition],
    ) -> Option<ClusterFacts> {
        if !self.api_is_ready(host) {
            return None;
        }
        let unmet = self.unmet(host, conditions);
        let states = manifests.iter().map(|(name, yaml)| {
            let state = match self.cluster.manifests.get(name) {
                Some(applied) if applied == yaml => ManifestState::InSync,
                _ => ManifestState::Differs {
                    objects: vec![name.clone()],
                },
            };
            (name.clone(), state)
        });
        let nodes = self.cluster.nodes.iter().map(|(name, pod_cidr)| {
            let facts = NodeFacts {
                ready: self.node_is_ready(name),
                pod_cidr: *pod_cidr,
                unschedulable: self.cluster.cordoned.contains(name),
                cordoned_by_us: self.cluster.cordoned.contains(name),
                ..NodeFacts::default()
            };
            (name.clone(), facts)
        });
        Some(ClusterFacts {
            nodes: nodes.collect(),
            manifests: states.collect(),
            version: Some("v1.36.0".to_owned()),
            unmet,
            unavailable: BTreeMap::new(),
        })
    }

    fn units(&self, machine: &Machine, request: &ObserveRequest) -> BTreeMap<String, UnitFacts> {
        let disk = &machine.disk;
        let owned = owned_units(disk.generation.as_ref(), &disk.pending);
        let names = request.units.iter().map(String::as_str).chain(owned);
        names
            .map(|name| (name.to_owned(), unit(machine, name)))
            .collect()
    }

    fn etcd(&self, machine: &Machine, request: &ObserveRequest) -> Option<EtcdFacts> {
        let has_certificate = machine.disk.files.contains_key("/etc/etcd/pki/client.crt");
        if request.etcd_endpoints.is_empty() || !has_certificate {
            return None;
        }
        Some(self.etcd_facts(&machine.name))
    }
}

/// What is read and found right, if it is to be read.
fn right_ones(
    held: &BTreeMap<Digest, u64>,
    damaged: &BTreeSet<Digest>,
    is_asked: bool,
) -> BTreeMap<Digest, u64> {
    let right = held.iter().filter(|(digest, _)| !damaged.contains(digest));
    right
        .filter(|_| is_asked)
        .map(|(digest, size)| (*digest, *size))
        .collect()
}

fn unit(machine: &Machine, name: &str) -> UnitFacts {
    let process = machine.memory.processes.get(name);
    let is_systems = is_systems(name);
    let has_it = name != layout::NETWORK_MANAGER || machine.options.has_network_manager;
    let is_there = (is_systems && has_it) || machine.memory.unit_files.contains_key(name);
    let on_disk = machine
        .disk
        .files
        .contains_key(&super::machine::unit_path(name));
    let is_service = name.ends_with(".service");
    let (active, sub) = match process {
        Some(process) if process.is_active => ("active", "running"),
        Some(_) => ("activating", "start"),
        None => ("inactive", "dead"),
    };
    UnitFacts {
        load: if is_there || on_disk {
            "loaded"
        } else {
            "not-found"
        }
        .to_owned(),
        active: active.to_owned(),
        sub: sub.to_owned(),
        enabled: machine.disk.enabled.contains(name),
        needs_reload: !is_systems && machine.needs_reload(name),
        inputs: match name {
            layout::NETWORK_MANAGER => machine.recorded(),
            _ => process
                .filter(|process| is_service && !process.is_replaced)
                .and_then(|process| process.inputs),
        },
        executable: process
            .filter(|process| !process.is_replaced)
            .and_then(|process| process.executable),
        main_pid: u32::from(process.is_some() && is_service),
        emulated: None,
        active_seconds: None,
    }
}

fn files(machine: &Machine, request: &ObserveRequest) -> BTreeMap<String, FileFacts> {
    let generation = machine
        .disk
        .generation
        .iter()
        .flat_map(|found| found.files.keys());
    let links = machine
        .disk
        .files
        .keys()
        .filter(|path| path.starts_with(layout::BIN));
    let pending = &machine.disk.pending.files;
    let asked = request.files.iter().chain(generation).chain(pending);
    let paths = asked.chain(&machine.disk.trust).chain(links);
    paths
        .filter_map(|path| {
            let file = machine.disk.files.get(path)?;
            let is_secret =
                request.secret_files.contains(path) || machine.kind_of(path) == FileKind::Trust;
            let facts = file_facts(file, is_secret, request.digest_key.as_ref());
            Some((path.clone(), facts))
        })
        .collect()
}

fn file_facts(file: &DiskFile, is_secret: bool, key: Option<&DigestKey>) -> FileFacts {
    let entry = match &file.content {
        DiskContent::Directory => Entry::Directory,
        DiskContent::Link(target) => Entry::Link {
            target: target.clone(),
        },
        DiskContent::Bytes(bytes) => Entry::File {
            size: bytes.len() as u64,
            digest: match is_secret {
                true => key.map(|key| key.digest(bytes)),
                false => Some(Digest::of(bytes)),
            },
        },
    };
    FileFacts {
        entry,
        mode: file.mode,
        user: file.user.clone(),
        group: file.group.clone(),
    }
}

fn system(machine: &Machine) -> SystemFacts {
    SystemFacts {
        hostname: machine.name.clone(),
        machine_id: format!("id-of-{}", machine.name),
        os: "Debian GNU/Linux 13 (trixie)".to_owned(),
        kernel: "6.12.0-1-amd64".to_owned(),
        platform: super::bundle::PLATFORM.to_owned(),
        systemd_version: 257,
        cgroups: Cgroups::V2,
        memory_bytes: 4 << 30,
        cpus: 2,
        nft_version: Some("1.1.3".to_owned()),
        active_services: machine
            .is_active(layout::NETWORK_MANAGER)
            .then(|| "NetworkManager".to_owned())
            .into_iter()
            .collect(),
        ..SystemFacts::default()
    }
}

fn filesystems() -> Vec<FilesystemFacts> {
    layout::PLACES
        .iter()
        .map(|path| FilesystemFacts {
            path: (*path).to_owned(),
            mount_point: "/".to_owned(),
            device: 1,
            total_bytes: 40 << 30,
            free_bytes: 30 << 30,
            read_only: false,
            noexec: false,
        })
        .collect()
}

fn interfaces(machine: &Machine) -> Vec<InterfaceFacts> {
    let address = IpNet::new(machine.options.address, 24);
    vec![InterfaceFacts {
        name: "host0".to_owned(),
        addresses: address.into_iter().collect(),
        mtu: machine.options.mtu,
    }]
}

fn routes(machine: &Machine) -> Vec<RouteFacts> {
    let found = |destination: &str| RouteFacts {
        destination: destination.parse().unwrap_or_default(),
        gateway: None,
        source: None,
        interface: "host0".to_owned(),
        ours: false,
    };
    let mut routes = vec![found("10.77.0.0/16")];
    if machine.options.has_default_route {
        routes.push(found("0.0.0.0/0"));
    }
    if machine.memory.has_service_route {
        routes.push(RouteFacts {
            source: Some(machine.options.address),
            ours: true,
            ..found("10.96.0.0/16")
        });
    }
    routes
}
