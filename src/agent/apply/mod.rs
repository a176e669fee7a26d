//! Does single actions of a plan on this host. Each is idempotent: done again
//! after a crash in its middle, it finishes.

mod binaries;
mod cni;
mod commit;
mod download;
mod drain;
mod etcd;
mod files;
mod images;
mod kernel;
mod manifests;
mod pending;
mod registries;
mod registry;
mod restore;
pub(super) mod snapshot;
mod source;
mod sparse;
mod switch;
mod units;
mod users;

use super::channel::NoticeSender;
use super::condition;
use super::root::Root;
use crate::host::ApplyRequest;
use crate::plan::Action;
use anyhow::{Result, bail};
use std::time::Duration;

/// Does an action.
///
/// # Errors
/// Why it could not be done; what was done stays.
pub async fn apply(root: &Root, request: ApplyRequest, notices: &NoticeSender) -> Result<()> {
    let ApplyRequest {
        action,
        files,
        inputs,
        manifests,
        generation,
    } = request;
    match action {
        Action::CreateUsers { file, users } => users::create(root, &file, &users).await,
        Action::WriteFiles {
            files: changes,
            remove,
            kind,
        } => {
            files::write(
                root,
                files::WriteFiles {
                    changes,
                    remove,
                    kind,
                    bodies: files,
                },
            )
            .await
        }
        Action::LoadModules { modules } => kernel::load_modules(root, &modules).await,
        Action::SetSysctls { sysctls } => kernel::set_sysctls(root, &sysctls),
        Action::SwapOff => kernel::swap_off(root).await,
        Action::InstallBinaries {
            binaries,
            registries,
        } => binaries::install(root, &binaries, &registries, notices).await,
        Action::FetchBinaries {
            binaries,
            registries,
        } => binaries::fetch(root, &binaries, &registries, notices).await,
        Action::PullImages { images, registries } => {
            images::pull(root, &images, &registries, notices).await
        }
        Action::CopyArtifacts {
            artifacts,
            registries,
        } => registry::copy(root, &artifacts, &registries, notices).await,
        Action::StartUnits { units, wait } => {
            units::start(root, &units, &inputs, waiting(wait), notices).await
        }
        Action::SwitchUnits {
            stop,
            files: changes,
            binaries,
            units,
            wait,
        } => {
            let switch = switch::Switch {
                stop,
                changes,
                bodies: files,
                binaries,
                units,
                inputs,
                waiting: waiting(wait),
            };
            switch.run(root, notices).await
        }
        Action::SnapshotEtcd { name, endpoint } => {
            snapshot::save(root, &name, &endpoint, notices).await
        }
        Action::PrepareEtcdData {
            restore,
            name,
            members,
        } => restore::prepare(root, &restore, &name, &members).await,
        Action::SwitchEtcdData {
            restore,
            stop,
            is_member,
        } => restore::switch(root, &restore, &stop, is_member, notices).await,
        Action::Drain {
            node,
            limit_seconds,
            rules,
        } => drain::drain(root, &node, &rules, limit_seconds, notices).await,
        Action::Uncordon { node } => drain::uncordon(root, &node).await,
        Action::StopUnits { units } => units::stop(root, &units, notices).await,
        Action::Wait {
            condition,
            limit_seconds,
        } => {
            let limit = Duration::from_secs(u64::from(limit_seconds));
            condition::wait(root, &condition, limit, notices).await
        }
        Action::AddEtcdLearner {
            name,
            peer_url,
            endpoints,
            limit_seconds,
        } => {
            let joining = etcd::Joining::new(root, &peer_url, &endpoints, limit_seconds, notices);
            joining.add_learner(&name).await
        }
        Action::PromoteEtcdLearner {
            peer_url,
            endpoints,
            limit_seconds,
        } => {
            let joining = etcd::Joining::new(root, &peer_url, &endpoints, limit_seconds, notices);
            joining.promote().await
        }
        Action::Apply { set } => manifests::apply(root, &set, manifests).await,
        Action::ResetCni { node } => cni::reset(root, &node, notices).await,
        Action::Commit { generation: number } => {
            commit::commit(root, (number, generation), notices).await
        }
        Action::Mint { .. } => {
            bail!("minting on a host: keys are minted in the site, on the jump host")
        }
        Action::PutBlobs { .. } | Action::Seed { .. } => {
            bail!("taking blobs as an action: they come as requests with a body each")
        }
    }
}

fn waiting(wait: bool) -> units::Waiting {
    match wait {
        true => units::Waiting::EachActive,
        false => units::Waiting::Queued,
    }
}
