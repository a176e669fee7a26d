//! Taking a lab down, whole or half, with or without its state.
//!
//! Everything is found by its name, not by what was written down: namespaces,
//! links, mounts and cgroups bear the lab's prefix, and processes are those in
//! the lab's cgroups, so that a process id that went to somebody else meanwhile
//! is safe. The state only adds what has no name: kernel values and directories.

use super::state::{DIRECTORY, Presence, State};
use super::{cgroups, host_files, layout, network, sysctls};
use crate::{paths, shell};
use anyhow::{Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A killed command's children end within this time.
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Where systemd-nspawn keeps directories for its containers; one that was
/// killed may leave its own.
const NSPAWN_DIRECTORIES: &[&str] = &[
    "/run/systemd/nspawn/propagate",
    "/run/systemd/nspawn/unix-export",
];

/// What `lab up` and an install write below the lab's directory for hosts that
/// end with the lab. The key and bundles are kept.
const GENERATED: &[&str] = &[
    "hosts",
    "site",
    "inventory.toml",
    "fingerprints",
    "known_hosts",
    super::router::FILE,
    "rules.nft",
];

/// Takes everything down, goes on after an error, and fails at the end with all
/// that could not be removed. The caller holds the lock.
pub fn sweep(state: Option<&State>) -> Result<()> {
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{error:#}"));
        }
    };
    let directory = match state {
        Some(state) => state.directory.clone(),
        None => paths::lab()?,
    };
    note(end_processes());
    note(network::sweep());
    match unmount() {
        // What is still mounted must not be emptied.
        Ok(()) => note(remove_generated(&directory)),
        failed => note(failed),
    }
    note(remove_nspawn_directories());
    if let Some(state) = state {
        if state.is_of_this_boot() {
            sysctls::restore(&state.sysctls);
        }
        if state.had_namespaces == Presence::Absent {
            note(remove_namespace_directory());
        }
    }
    if !problems.is_empty() {
        bail!(
            "the lab is not fully down, run `cargo xtask lab down` again: {}",
            problems.join("; ")
        );
    }
    fs_err::remove_dir_all(DIRECTORY)?;
    Ok(())
}

fn end_processes() -> Result<()> {
    let groups = cgroups::sweep(&format!("{}lab-", layout::PREFIX))?;
    cgroups::cut_power(&groups)?;
    cgroups::remove(&groups)
}

fn unmount() -> Result<()> {
    for (_, point) in host_files::mounted_roots()? {
        shell::read(Command::new("umount").arg(point))?;
    }
    Ok(())
}

fn remove_generated(directory: &Utf8Path) -> Result<()> {
    for name in GENERATED {
        let path = directory.join(name);
        match fs_err::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => remove_directory(&path)?,
            Ok(_) => fs_err::remove_file(&path)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// Removes a directory in which a copy of a command that was killed may still
/// be at its last file.
fn remove_directory(path: &Utf8Path) -> Result<()> {
    let started = Instant::now();
    loop {
        match fs_err::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > REMOVAL_LIMIT => return Err(error.into()),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn remove_nspawn_directories() -> Result<()> {
    for parent in NSPAWN_DIRECTORIES {
        let Ok(entries) = fs_err::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(path) = Utf8PathBuf::from_path_buf(entry.path()) else {
                continue;
            };
            if path
                .file_name()
                .is_some_and(|name| name.starts_with(layout::PREFIX))
            {
                // It may be a mount, or not.
                drop(shell::read(Command::new("umount").arg(&path)));
                fs_err::remove_dir(&path)?;
            }
        }
    }
    Ok(())
}

/// `ip netns` mounts its directory over itself at the first use and leaves it.
fn remove_namespace_directory() -> Result<()> {
    let mounted = fs_err::metadata(network::NAMESPACES).is_ok();
    if mounted && network::namespaces("").is_empty() {
        drop(shell::read(Command::new("umount").arg(network::NAMESPACES)));
        fs_err::remove_dir(network::NAMESPACES)?;
    }
    Ok(())
}
