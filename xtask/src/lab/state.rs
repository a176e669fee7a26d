//! What a lab leaves in `/run` so that any later command finds it again.

use super::layout::Layout;
use super::network::DefaultRoute;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// State, console logs and the lock of the one lab of this machine.
pub const DIRECTORY: &str = "/run/cofferdam-lab";
/// Raised when the meaning of the state file changes.
const VERSION: u32 = 1;
/// Taking a lab up or down takes seconds; whoever waits longer than this for
/// another command should be told.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// How far a lab came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `lab up` is at work, or was cut short.
    Making,
    /// All hosts answered once.
    Up,
}

/// The contents of `state.json`. It is written before anything is made, so
/// that what it names may or may not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub phase: Phase,
    /// The boot of the machine that the lab belongs to: none survives a reboot.
    pub boot: String,
    /// Where inventory, key and hosts' directories lie.
    pub directory: Utf8PathBuf,
    /// The root file system below all hosts.
    pub base: Utf8PathBuf,
    pub layout: Layout,
    pub default_route: DefaultRoute,
    /// Kernel values as they were before.
    pub sysctls: BTreeMap<String, String>,
    /// Whether `/run/netns` was mounted before.
    pub had_namespaces: Presence,
}

/// Whether something was on the machine before the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Before,
    Absent,
}

impl State {
    /// A state for a lab that is about to be made.
    pub fn new(
        directory: &Utf8Path,
        base: &Utf8Path,
        layout: &Layout,
        default_route: DefaultRoute,
    ) -> Result<Self> {
        let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
        let mounted = format!(" {} ", super::network::NAMESPACES);
        Ok(Self {
            version: VERSION,
            phase: Phase::Making,
            boot: boot()?,
            directory: directory.to_owned(),
            base: base.to_owned(),
            layout: layout.clone(),
            default_route,
            sysctls: super::sysctls::note(),
            had_namespaces: if mounts.contains(&mounted) {
                Presence::Before
            } else {
                Presence::Absent
            },
        })
    }

    /// Reads the state; none if there is no lab.
    pub fn load() -> Result<Option<Self>> {
        let path = file();
        let text = match fs_err::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let state: Self = serde_json::from_str(&text).with_context(|| {
            format!("reading {path}: take the lab down with `cargo xtask lab down`")
        })?;
        if state.version != VERSION {
            bail!(
                "{path} was written by another version: take the lab down with `cargo xtask lab down`"
            );
        }
        Ok(Some(state))
    }

    /// Writes the state, whole or not at all.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("writing the lab's state")?;
        let new = Utf8Path::new(DIRECTORY).join("state.json.new");
        fs_err::write(&new, text)?;
        fs_err::rename(&new, file())?;
        Ok(())
    }

    /// Whether the machine has been rebooted since.
    pub fn is_of_this_boot(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
    }
}

fn file() -> Utf8PathBuf {
    Utf8Path::new(DIRECTORY).join("state.json")
}

fn boot() -> Result<String> {
    let text = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// A host's console log.
pub fn console(host: &str) -> Utf8PathBuf {
    Utf8Path::new(DIRECTORY).join(format!("console-{host}.log"))
}

/// The machine's one lock on its lab, held while this value lives. It is given
/// up by the kernel when the process ends, however that happens.
#[derive(Debug)]
pub struct Lock {
    _directory: fs_err::File,
}

impl Lock {
    /// Waits for other commands to finish, with a limit.
    pub fn take() -> Result<Self> {
        let started = Instant::now();
        loop {
            fs_err::create_dir_all(DIRECTORY)?;
            let directory = fs_err::File::open(DIRECTORY)?;
            if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // `down` removes the directory: a lock on a removed one is none.
                let held = directory.metadata()?.ino();
                if fs_err::metadata(DIRECTORY).is_ok_and(|present| present.ino() == held) {
                    return Ok(Self {
                        _directory: directory,
                    });
                }
            }
            if started.elapsed() > LOCK_LIMIT {
                bail!(
                    "another `cargo xtask lab` command is still at work after {} s: wait for it, or end it",
                    LOCK_LIMIT.as_secs()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Wanted;
    use super::*;

    #[test]
    fn a_state_survives_its_file_format() {
        let layout = Layout::spread(&Wanted {
            masters: 3,
            workers: 2,
            ..Wanted::default()
        })
        .unwrap();
        let state = State {
            version: VERSION,
            phase: Phase::Up,
            boot: "b".into(),
            directory: "/repository/target/lab".into(),
            base: "/cache/root".into(),
            layout,
            default_route: DefaultRoute::ToRouter,
            sysctls: BTreeMap::from([("kernel/panic".into(), "1".into())]),
            had_namespaces: Presence::Absent,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
