//! Actions on a simulated host, as the sequence of small operations that the
//! agent's are made of; a fault may come before any of them.

use super::host::SimulatedHost;
use super::machine::{DiskContent, DiskFile, Machine, is_systems};
use super::software::{commit, fetch_binaries, link_binaries, name_before};
use super::world::{Durability, InHand, World};
use crate::desired::{Condition, FileKind};
use crate::digest::Digest;
use crate::facts::ImageFacts;
use crate::host::{ApplyRequest, FileBody, HostError};
use crate::layout;
use crate::plan::{Action, UnitChange, UnitVerb};
use std::collections::BTreeMap;

/// How often a wait looks before it gives up: far more often than anything in
/// the model takes.
const LOOKS: u32 = 300;

pub(super) type Done = Result<(), HostError>;

/// Does one action.
pub(super) async fn apply(host: &SimulatedHost, request: ApplyRequest) -> Done {
    match &request.action {
        Action::WriteFiles { remove, kind, .. } => {
            write_files(host, &request.files, remove, *kind).await
        }
        Action::CreateUsers { file, users } => create_users(host, file, users).await,
        Action::LoadModules { modules } => {
            for module in modules {
                let module = module.clone();
                change(host, Durability::Unsynced, |machine| {
                    machine.memory.modules.insert(module);
                })
                .await?;
            }
            Ok(())
        }
        Action::SetSysctls { sysctls } => {
            for (name, value) in sysctls.clone() {
                change(host, Durability::Unsynced, |machine| {
                    machine.memory.sysctls.insert(name, value);
                })
                .await?;
            }
            Ok(())
        }
        Action::SwapOff => {
            change(host, Durability::Synced, |machine| {
                machine.disk.swap_masked = true
            })
            .await?;
            let off = |machine: &mut Machine| machine.memory.swap_is_on = false;
            change(host, Durability::Unsynced, off).await
        }
        Action::InstallBinaries {
            binaries,
            registries,
        } => {
            fetch_binaries(host, binaries, registries).await?;
            link_binaries(host, binaries, InHand::GivenUp).await
        }
        Action::FetchBinaries {
            binaries,
            registries,
        } => fetch_binaries(host, binaries, registries).await,
        Action::SwitchUnits {
            stop,
            binaries,
            units,
            wait,
            ..
        } => {
            halt_units(host, stop).await?;
            put_files(host, &request.files, InHand::Finished).await?;
            link_binaries(host, binaries, InHand::Finished).await?;
            start_units(host, units, &request.inputs).await?;
            match wait {
                true => wait_for_units(host, units).await,
                false => Ok(()),
            }
        }
        Action::PullImages { images, registries } => pull_images(host, images, registries).await,
        Action::CopyArtifacts {
            artifacts,
            registries,
        } => host.copy_artifacts(artifacts, registries).await,
        Action::StartUnits { units, wait } => {
            start_units(host, units, &request.inputs).await?;
            match wait {
                true => wait_for_units(host, units).await,
                false => Ok(()),
            }
        }
        Action::SnapshotEtcd { name, .. } => {
            let serves = host.world.with(|world| world.etcd_serves(&host.name));
            if !serves {
                return Err(host.failed("its member of etcd does not answer"));
            }
            let name = name.clone();
            change(host, Durability::Synced, |machine| {
                machine.disk.snapshots.insert(name);
            })
            .await
        }
        Action::PrepareEtcdData { restore, .. } => {
            let (token, snapshot) = (restore.token.clone(), restore.snapshot);
            let is_staged = host.world.with(|world| {
                let machine = world.machines.get(&host.name);
                machine.is_some_and(|machine| machine.disk.staging.contains_key(&snapshot))
            });
            if !is_staged {
                return Err(host.failed("the snapshot is not there"));
            }
            change(host, Durability::Synced, |machine| {
                machine.disk.etcd_prepared = Some(token);
            })
            .await
        }
        Action::SwitchEtcdData {
            restore,
            stop,
            is_member,
        } => {
            halt_units(host, stop).await?;
            if *is_member {
                exchange_etcd_data(host, &restore.token).await?;
            }
            let token = restore.token.clone();
            disruptive(host, |machine, _| machine.disk.etcd_restored = Some(token)).await?;
            let snapshot = restore.snapshot;
            disruptive(host, |machine, _| {
                machine.disk.staging.remove(&snapshot);
                machine.disk.etcd_prepared = None;
            })
            .await
        }
        Action::Drain { node, .. } => {
            cordon(host, node, true).await?;
            // Its pods end in their own time.
            host.pause().await;
            host.check_connection().await
        }
        Action::Uncordon { node } => cordon(host, node, false).await,
        Action::StopUnits { units } => stop_units(host, units).await,
        Action::Wait { condition, .. } => wait_until(host, condition).await,
        Action::AddEtcdLearner { name, .. } => {
            change_members(host, |world| world.add_etcd_learner(name)).await
        }
        Action::PromoteEtcdLearner { .. } => {
            let name = host.name.clone();
            change_members(host, |world| world.promote_etcd_learner(&name)).await
        }
        Action::Apply { set } => apply_set(host, set, &request).await,
        Action::ResetCni { .. } => reset_cni(host).await,
        Action::Commit { .. } => commit(host, request.generation.clone()).await,
        Action::Mint { .. } | Action::PutBlobs { .. } | Action::Seed { .. } => {
            Err(host.failed("not an action that a host does in one piece"))
        }
    }
}

/// A change that is given up where the run dies.
pub(super) async fn change(
    host: &SimulatedHost,
    durability: Durability,
    change: impl FnOnce(&mut Machine),
) -> Done {
    host.operate(InHand::GivenUp, durability, |machine, _| change(machine))
        .await
}

/// A change that the agent brings to its end even if the run dies.
async fn disruptive(host: &SimulatedHost, change: impl FnOnce(&mut Machine, u64)) -> Done {
    host.operate(InHand::Finished, Durability::Synced, change)
        .await
}

async fn write_files(
    host: &SimulatedHost,
    files: &BTreeMap<String, FileBody>,
    remove: &[String],
    kind: FileKind,
) -> Done {
    if kind == FileKind::Trust && !files.is_empty() {
        let paths: Vec<String> = files.keys().cloned().collect();
        change(host, Durability::Synced, |machine| {
            machine.disk.trust.extend(paths);
        })
        .await?;
    }
    match kind {
        FileKind::Software => put_files(host, files, InHand::GivenUp).await?,
        FileKind::Trust => place_files(host, files, InHand::GivenUp).await?,
    }
    for path in remove {
        let path = path.clone();
        change(host, Durability::Synced, |machine| machine.remove(&path)).await?;
    }
    if kind == FileKind::Trust && !remove.is_empty() {
        let gone: Vec<String> = remove.to_vec();
        change(host, Durability::Synced, |machine| {
            machine.disk.trust.retain(|path| !gone.contains(path));
        })
        .await?;
    }
    Ok(())
}

/// Files of software, known as ours before they are there.
async fn put_files(
    host: &SimulatedHost,
    files: &BTreeMap<String, FileBody>,
    in_hand: InHand,
) -> Done {
    name_before(
        host,
        files.keys().cloned().collect(),
        BTreeMap::new(),
        in_hand,
    )
    .await?;
    place_files(host, files, in_hand).await
}

async fn place_files(
    host: &SimulatedHost,
    files: &BTreeMap<String, FileBody>,
    in_hand: InHand,
) -> Done {
    for (path, body) in files {
        let user = body.user.clone();
        let is_known = host.world.with(|world| {
            let machine = world.machines.get(&host.name);
            user == "root" || machine.is_some_and(|machine| machine.disk.users.contains(&user))
        });
        if !is_known {
            return Err(host.failed(format!("{path}: there is no user {}", body.user)));
        }
        let file = DiskFile {
            content: match &body.bytes {
                Some(bytes) => DiskContent::Bytes(bytes.as_slice().into()),
                None => DiskContent::Directory,
            },
            mode: body.mode,
            user: body.user.clone(),
            group: body.group.clone(),
        };
        // Renamed, and then its directory synced.
        let path = path.clone();
        let place = |machine: &mut Machine, _| machine.rename_into_place(path, file);
        host.operate(in_hand, Durability::Unsynced, place).await?;
        host.operate(in_hand, Durability::Synced, |_, _| {}).await?;
    }
    Ok(())
}

async fn create_users(host: &SimulatedHost, file: &str, users: &[String]) -> Done {
    let has_file = |world: &mut World| {
        let machine = world.machines.get(&host.name);
        machine.is_some_and(|machine| machine.disk.files.contains_key(file))
    };
    if !host.world.with(has_file) {
        return Err(host.failed(format!("{file} is not there")));
    }
    for user in users {
        let user = user.clone();
        change(host, Durability::Synced, |machine| {
            machine.disk.users.insert(user);
        })
        .await?;
    }
    Ok(())
}

async fn pull_images(
    host: &SimulatedHost,
    images: &BTreeMap<String, Digest>,
    registries: &[String],
) -> Done {
    for (reference, digest) in images {
        let reason = host.world.with(|world| {
            let machine = world.machines.get(&host.name)?;
            if !machine.is_active("containerd.service") {
                return Some("containerd does not run".to_owned());
            }
            world.why_image_not_served(&host.name, registries, reference, digest)
        });
        if let Some(reason) = reason {
            return Err(host.failed(format!("pulling {reference}: {reason}")));
        }
        // Content first, the label that pins it afterwards.
        for pinned in [false, true] {
            let image = ImageFacts {
                digest: *digest,
                pinned,
                complete: true,
            };
            let reference = reference.clone();
            change(host, Durability::Synced, |machine| {
                machine.disk.images.insert(reference, image);
            })
            .await?;
        }
    }
    Ok(())
}

async fn start_units(
    host: &SimulatedHost,
    units: &[UnitChange],
    inputs: &BTreeMap<String, Digest>,
) -> Done {
    disruptive(host, |machine, _| machine.read_unit_files()).await?;
    for unit in units {
        let name = unit.name.as_str();
        let reason = host
            .world
            .with(|world| world.why_not_startable(&host.name, name));
        if let Some(reason) = reason {
            return Err(host.failed(reason));
        }
        let is_systems = is_systems(name);
        let runs = |world: &mut World| {
            let machine = world.machines.get(&host.name);
            machine.is_some_and(|machine| machine.runs(name))
        };
        if is_systems && !host.world.with(runs) {
            continue;
        }
        if !is_systems {
            disruptive(host, |machine, _| {
                machine.disk.enabled.insert(name.to_owned());
            })
            .await?;
        }
        if unit.verb == UnitVerb::Enable {
            continue;
        }
        if name == layout::NETWORK_MANAGER {
            take_up(host, inputs.get(name).copied()).await?;
            continue;
        }
        if let Some(inputs) = inputs.get(name) {
            disruptive(host, |machine, _| {
                machine.disk.inputs.insert(name.to_owned(), *inputs);
            })
            .await?;
        }
        host.world.with(|world| world.check_start(&host.name, name));
        let verb = unit.verb;
        disruptive(host, |machine, now| run_verb(machine, name, verb, now)).await?;
    }
    Ok(())
}

/// NetworkManager is reloaded, and then the record is made.
async fn take_up(host: &SimulatedHost, inputs: Option<Digest>) -> Done {
    disruptive(host, |machine, _| machine.reload_network_manager()).await?;
    disruptive(host, |machine, _| {
        let version = machine.version(layout::NETWORK_MANAGER_FILE);
        machine.disk.taken_up = inputs.map(|inputs| (inputs, version));
    })
    .await
}

/// What systemd does for a verb.
fn run_verb(machine: &mut Machine, unit: &str, verb: UnitVerb, now: u64) {
    match verb {
        UnitVerb::Enable => {}
        // A start of what runs as it should does nothing.
        UnitVerb::Start if machine.runs_as_told(unit) => {}
        UnitVerb::Start | UnitVerb::Restart => machine.start_process(unit, now),
        UnitVerb::Reload => {
            let inputs = machine.disk.inputs.get(unit).copied();
            let executable = machine.executable_of(unit);
            match machine.memory.processes.get_mut(unit) {
                // A successor takes over.
                Some(process) => {
                    process.inputs = inputs;
                    process.executable = executable;
                    process.is_replaced = false;
                }
                None => machine.start_process(unit, now),
            }
        }
    }
}

async fn wait_for_units(host: &SimulatedHost, units: &[UnitChange]) -> Done {
    for unit in units {
        let unit = unit.name.clone();
        wait_until(host, &Condition::UnitActive { unit }).await?;
    }
    Ok(())
}

async fn wait_until(host: &SimulatedHost, condition: &Condition) -> Done {
    let mut last = String::new();
    for _ in 0..LOOKS {
        host.check_connection().await?;
        let unmet = host
            .world
            .with(|world| world.why_unmet(&host.name, condition));
        match unmet {
            None => return Ok(()),
            Some(reason) => last = reason,
        }
        host.pause().await;
        tokio::task::yield_now().await;
    }
    Err(host.failed(last))
}

/// Cordons a node or takes that back, through the host's API server.
async fn cordon(host: &SimulatedHost, node: &str, is_cordoned: bool) -> Done {
    change(host, Durability::Unsynced, |_| {}).await?;
    let changed = host.world.with(|world| {
        if !world.api_is_ready(&host.name) {
            return Err("the API server does not answer");
        }
        let cordoned = &mut world.cluster.cordoned;
        match is_cordoned {
            true => cordoned.insert(node.to_owned()),
            false => cordoned.remove(node),
        };
        Ok(())
    });
    changed.map_err(|reason| host.failed(reason))
}

/// Tries until etcd agrees; it does what it was asked for even if nobody is
/// there to hear of it.
async fn change_members(
    host: &SimulatedHost,
    mut change_them: impl FnMut(&mut World) -> Result<(), String>,
) -> Done {
    let mut last = String::new();
    for _ in 0..LOOKS {
        change(host, Durability::Unsynced, |_| {}).await?;
        match host.world.with(&mut change_them) {
            Ok(()) => {
                host.world.with(World::unsettle);
                return Ok(());
            }
            Err(reason) => last = reason,
        }
        host.pause().await;
        tokio::task::yield_now().await;
    }
    Err(host.failed(last))
}

/// What was prepared takes the place of what the member had, in one go.
async fn exchange_etcd_data(host: &SimulatedHost, token: &str) -> Done {
    let is_prepared = host.world.with(|world| {
        let machine = world.machines.get(&host.name);
        machine.is_some_and(|machine| machine.disk.etcd_prepared.as_deref() == Some(token))
    });
    if !is_prepared {
        return Err(host.failed("no data was prepared"));
    }
    disruptive(host, |machine, _| {
        machine.disk.etcd_data = true;
        machine.disk.etcd_of.clone_from(&machine.disk.etcd_prepared);
    })
    .await?;
    host.world.with(|world| world.restore_etcd(token));
    Ok(())
}

/// Stopped for a moment: enabled, and with its inputs.
async fn halt_units(host: &SimulatedHost, units: &[String]) -> Done {
    for unit in units {
        disruptive(host, |machine, _| {
            machine.memory.processes.remove(unit);
        })
        .await?;
    }
    Ok(())
}

async fn stop_units(host: &SimulatedHost, units: &[String]) -> Done {
    for unit in units {
        disruptive(host, |machine, _| {
            machine.memory.processes.remove(unit);
            machine.disk.enabled.remove(unit);
            machine.disk.inputs.remove(unit);
        })
        .await?;
    }
    Ok(())
}

async fn apply_set(host: &SimulatedHost, set: &str, request: &ApplyRequest) -> Done {
    let is_ready = host.world.with(|world| world.api_is_ready(&host.name));
    if !is_ready {
        return Err(host.failed("the API server does not answer"));
    }
    let Some(manifests) = &request.manifests else {
        return Err(host.failed("no manifests came with the action"));
    };
    change(host, Durability::Unsynced, |_| {}).await?;
    host.world.with(|world| {
        let yaml = manifests.yaml.clone();
        world.cluster.manifests.insert(set.to_owned(), yaml);
    });
    Ok(())
}

async fn reset_cni(host: &SimulatedHost) -> Done {
    const KUBELET: &str = "kubelet.service";
    disruptive(host, |machine, _| {
        machine.memory.processes.remove(KUBELET);
    })
    .await?;
    disruptive(host, |machine, _| machine.disk.cni = None).await?;
    disruptive(host, |machine, now| machine.start_process(KUBELET, now)).await
}
