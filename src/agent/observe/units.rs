//! What systemd says of units, by one `systemctl show` for all of them.

use super::remains;
use crate::agent::command::Program;
use crate::agent::root::Root;
use crate::agent::taken_up;
use crate::digest::Digest;
use crate::facts::UnitFacts;
use crate::layout;
use anyhow::Result;
use camino::Utf8PathBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// systemd answers in milliseconds; under a boot's load it may take longer.
const SHOW_LIMIT: Duration = Duration::from_secs(30);

const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,Type,UnitFileState,\
    NeedDaemonReload,MainPID,ActiveEnterTimestampMonotonic,TimeoutStopUSec,LoadError,Job";

/// Units that change what the planner does, where they are active.
const SERVICES_OF_INTEREST: [&str; 4] = [
    "fapolicyd.service",
    "firewalld.service",
    layout::NETWORK_MANAGER,
    "systemd-networkd.service",
];

/// Units that may behave as an older minor.
const EMULATING: [&str; 3] = [
    "kube-apiserver.service",
    "kube-controller-manager.service",
    "kube-scheduler.service",
];

/// Pulls in all swap at boot.
const SWAP_TARGET: &str = "swap.target";

/// What is learned of units.
#[derive(Default)]
pub(super) struct UnitsSeen {
    pub(super) asked: BTreeMap<String, UnitFacts>,
    pub(super) active_services: BTreeSet<String>,
    pub(super) swap_masked: bool,
    /// Units of other installers.
    pub(super) foreign: Vec<String>,
}

/// One unit as `systemctl show` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown(BTreeMap<String, String>);

impl Shown {
    pub(crate) fn get(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }

    pub(crate) fn main_pid(&self) -> u32 {
        self.get("MainPID").parse().unwrap_or(0)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.get("ActiveState") == "active"
    }

    /// Whether something of it runs, or is about to.
    pub(crate) fn has_process(&self) -> bool {
        !matches!(self.get("ActiveState"), "" | "inactive" | "failed")
    }

    pub(crate) fn is_oneshot(&self) -> bool {
        self.get("Type") == "oneshot"
    }

    /// Whether it is enabled, or pulled in by others with nothing to enable
    /// (`systemd-journald`).
    pub(crate) fn starts_at_boot(&self) -> bool {
        matches!(self.get("UnitFileState"), "enabled" | "static")
    }

    /// Whether systemd has a job for the unit that is not done yet.
    pub(crate) fn has_job(&self) -> bool {
        !matches!(self.get("Job"), "" | "0")
    }

    /// `activating (auto-restart), result exit-code`.
    pub(crate) fn summary(&self) -> String {
        let mut summary = format!("{} ({})", self.get("ActiveState"), self.get("SubState"));
        if !matches!(self.get("Result"), "" | "success") {
            summary.push_str(", result ");
            summary.push_str(self.get("Result"));
        }
        summary
    }
}

pub(super) async fn observe(root: &Root, asked: &BTreeSet<String>) -> UnitsSeen {
    let mut names: BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    names.extend(SERVICES_OF_INTEREST);
    names.extend(remains::FOREIGN_UNITS);
    names.extend(remains::SHARED_UNITS);
    names.insert(SWAP_TARGET);
    let names: Vec<&str> = names.into_iter().collect();
    let Ok(shown) = show_units(root, &names).await else {
        return UnitsSeen::default();
    };
    let is_loaded = |name: &&str| {
        shown
            .get(*name)
            .is_some_and(|shown| shown.get("LoadState") == "loaded")
    };
    let shared = if remains::is_ours(root) {
        &[][..]
    } else {
        &remains::SHARED_UNITS[..]
    };
    let foreign = remains::FOREIGN_UNITS.iter().chain(shared);
    UnitsSeen {
        asked: asked
            .iter()
            .filter_map(|name| {
                Some((
                    name.clone(),
                    facts_of(root, name, shown.get(name.as_str())?),
                ))
            })
            .collect(),
        active_services: SERVICES_OF_INTEREST
            .iter()
            .filter(|name| shown.get(**name).is_some_and(Shown::is_active))
            .map(|name| name.trim_end_matches(".service").to_owned())
            .collect(),
        swap_masked: shown
            .get(SWAP_TARGET)
            .is_some_and(|shown| shown.get("LoadState") == "masked"),
        foreign: foreign
            .filter(|name| is_loaded(name))
            .map(|name| (*name).to_owned())
            .collect(),
    }
}

/// Asks systemd about units; the answer has one entry for each name.
///
/// # Errors
/// If systemd does not answer.
pub(crate) async fn show_units(root: &Root, names: &[&str]) -> Result<BTreeMap<String, Shown>> {
    let text = Program::new(root.program("systemctl")?)
        .arguments(["show", "--no-pager", "--property", PROPERTIES, "--"])
        .arguments(names.iter().copied())
        .limit(SHOW_LIMIT)
        .succeed()
        .await?;
    Ok(names
        .iter()
        .map(|name| (*name).to_owned())
        .zip(parse_show(&text))
        .collect())
}

/// Blocks of `Property=value` lines parted by blank lines, in the order of
/// the names asked. (`Id` may differ from the name asked: aliases.)
fn parse_show(text: &str) -> Vec<Shown> {
    text.split("\n\n")
        .map(|block| {
            let properties = block.lines().filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            });
            Shown(properties.collect())
        })
        .filter(|shown| !shown.0.is_empty())
        .collect()
}

fn facts_of(root: &Root, name: &str, shown: &Shown) -> UnitFacts {
    UnitFacts {
        load: shown.get("LoadState").to_owned(),
        active: shown.get("ActiveState").to_owned(),
        sub: shown.get("SubState").to_owned(),
        enabled: shown.starts_at_boot(),
        needs_reload: shown.get("NeedDaemonReload") == "yes",
        inputs: inputs_of(root, name, shown),
        executable: match executable_of(root, shown.main_pid()) {
            Executable::Stored(digest) => Some(digest),
            Executable::NotStored | Executable::Other => None,
        },
        main_pid: shown.main_pid(),
        emulated: emulated_by(root, name, shown.main_pid()),
        active_seconds: shown
            .get("ActiveEnterTimestampMonotonic")
            .parse::<u64>()
            .ok()
            .filter(|since| *since != 0 && shown.is_active())
            .map(|since| (monotonic_microseconds().saturating_sub(since)) as f64 / 1e6),
    }
}

/// The minor that a component of the control plane emulates, by the arguments of
/// its process; of a unit without one, by its file.
fn emulated_by(root: &Root, name: &str, process: u32) -> Option<String> {
    if !EMULATING.contains(&name) {
        return None;
    }
    let read = |path: String| fs_err::read(root.path(path)).ok();
    // A process may end while it is looked at.
    let arguments = (process != 0)
        .then(|| read(format!("/proc/{process}/cmdline")))
        .flatten()
        .filter(|arguments| !arguments.is_empty())
        .or_else(|| read(format!("{}{name}", layout::UNITS)))?;
    emulated_in(&String::from_utf8_lossy(&arguments))
}

fn emulated_in(arguments: &str) -> Option<String> {
    let ends = |letter: char| letter == '\0' || letter.is_whitespace() || "\"'\\".contains(letter);
    let (_, rest) = arguments.split_once("--emulated-version=")?;
    let value = rest.split(ends).next()?;
    let value = value.strip_prefix("kube=").unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The inputs that a unit started with: from the environment of its process.
/// The process of an active oneshot unit has ended, but its environment file
/// is only ever written while such a unit is stopped, so it says the same. A
/// process that is reloaded keeps its environment, but there is a record of it.
pub(crate) fn inputs_of(root: &Root, name: &str, shown: &Shown) -> Option<Digest> {
    if name == layout::NETWORK_MANAGER {
        return taken_up::recorded(root);
    }
    if !name.ends_with(".service") {
        return None;
    }
    match shown.main_pid() {
        0 if shown.is_oneshot() && shown.is_active() => environment_inputs(root, name),
        0 => None,
        // What was replaced or removed is not what the unit would start with.
        process if executable_of(root, process) == Executable::NotStored => None,
        process => {
            let bytes = fs_err::read(root.path(format!("/proc/{process}/environ"))).ok()?;
            let text = String::from_utf8_lossy(&bytes);
            parse_inputs(text.split('\0'))
        }
    }
}

/// Which file a process was started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Executable {
    /// A binary of the store, by the digest in its name.
    Stored(Digest),
    /// One that was in the store once, or stands where a link to it should.
    /// The kernel appends ` (deleted)` to the name of a file that has been
    /// removed or replaced: proc_pid_exe(5).
    NotStored,
    /// None of ours.
    Other,
}

fn executable_of(root: &Root, process: u32) -> Executable {
    let Ok(target) = fs_err::read_link(root.path(format!("/proc/{process}/exe"))) else {
        return Executable::Other;
    };
    let target = Utf8PathBuf::from(target.to_string_lossy().into_owned());
    // The kernel's name has no links in it, and `/opt` may be one.
    let below = |directory: &str| {
        let real = root.path(directory).canonicalize_utf8().ok();
        let real = real.and_then(|real| target.strip_prefix(real).ok());
        real.or_else(|| target.strip_prefix(directory).ok())
    };
    if let Some(name) = below(layout::STORE) {
        Digest::from_hex(name.as_str()).map_or(Executable::NotStored, Executable::Stored)
    } else if below(layout::BIN).is_some() {
        Executable::NotStored
    } else {
        Executable::Other
    }
}

/// The inputs digest that a unit starts with next: that of its environment
/// file.
pub(crate) fn environment_inputs(root: &Root, name: &str) -> Option<Digest> {
    let text = fs_err::read_to_string(root.path(layout::inputs_file(name))).ok()?;
    parse_inputs(text.lines())
}

/// The inputs digest among `NAME=value` entries.
pub(crate) fn parse_inputs<'a>(mut entries: impl Iterator<Item = &'a str>) -> Option<Digest> {
    entries.find_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        (name == layout::INPUTS_VARIABLE)
            .then_some(value)?
            .parse()
            .ok()
    })
}

fn monotonic_microseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::atomic;
    use crate::agent::test_host::TestHost;
    use camino::Utf8Path;

    const SHOW: &str = "\
Type=notify
MainPID=812
Result=success
Id=etcd.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
NeedDaemonReload=no
Job=0
ActiveEnterTimestampMonotonic=1

MainPID=0
Result=exit-code
Id=kubelet.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=disabled
NeedDaemonReload=yes
Job=17

Id=none.service
LoadState=not-found
ActiveState=inactive
SubState=dead
";

    #[test]
    fn the_emulated_minor_is_read_off_arguments_and_unit_files() {
        for (arguments, expected) in [
            (
                "kube-apiserver\0--emulated-version=1.36\0--profiling=false\0",
                Some("1.36"),
            ),
            ("--emulated-version=kube=1.36\0", Some("1.36")),
            (
                "ExecStart=/x \\\n  --emulated-version=1.36 \\\n  --y",
                Some("1.36"),
            ),
            ("kube-apiserver\0--profiling=false\0", None),
            ("--emulated-version=\0", None),
        ] {
            assert_eq!(emulated_in(arguments).as_deref(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn reads_one_block_for_each_unit() {
        let shown = parse_show(SHOW);
        assert_eq!(shown.len(), 3);
        assert!(shown[0].is_active() && !shown[0].has_job());
        assert_eq!(shown[0].main_pid(), 812);
        assert!(shown[1].has_job());
        assert_eq!(
            shown[1].summary(),
            "activating (auto-restart), result exit-code"
        );
        let facts = facts_of(&Root::below("/nonexistent"), "none.service", &shown[2]);
        assert_eq!(facts.load, "not-found");
        assert_eq!((facts.inputs, facts.active_seconds), (None, None));
        let facts = facts_of(&Root::below("/nonexistent"), "kubelet.service", &shown[1]);
        assert!(facts.needs_reload && !facts.enabled);
        assert!(parse_show("").is_empty());
    }

    #[test]
    fn inputs_come_from_the_process_or_for_ended_ones_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        let (running, written) = (Digest::of("running"), Digest::of("written"));
        fs_err::create_dir_all(root.path("/proc/812")).unwrap();
        let environment = format!("PATH=/bin\0COFFERDAM_INPUTS={running}\0");
        fs_err::write(root.path("/proc/812/environ"), environment).unwrap();
        fs_err::create_dir_all(root.path(layout::INPUTS)).unwrap();
        let text = format!("COFFERDAM_INPUTS={written}\n");
        fs_err::write(root.path(layout::inputs_file("x.service")), text).unwrap();
        let shown = |text: &str| parse_show(text).remove(0);
        let cases = [
            (
                "x.service",
                "MainPID=812\nType=notify\nActiveState=active",
                Some(running),
            ),
            (
                "x.service",
                "MainPID=0\nType=oneshot\nActiveState=active",
                Some(written),
            ),
            (
                "x.service",
                "MainPID=0\nType=oneshot\nActiveState=inactive",
                None,
            ),
            (
                "x.service",
                "MainPID=0\nType=notify\nActiveState=active",
                None,
            ),
            (
                "x.service",
                "MainPID=813\nType=notify\nActiveState=active",
                None,
            ),
            ("x.socket", "ActiveState=active", None),
        ];
        for (name, text, inputs) in cases {
            assert_eq!(inputs_of(&root, name, &shown(text)), inputs, "{text}");
        }
    }

    #[test]
    fn a_process_whose_binary_was_replaced_has_no_inputs() {
        let host = TestHost::new();
        let (digest, inputs) = (Digest::of("binary"), Digest::of("inputs"));
        host.write("/proc/812/environ", &format!("COFFERDAM_INPUTS={inputs}\0"));
        let stored = format!("{}/{}", layout::STORE, digest.hex());
        let shown = parse_show("MainPID=812\nType=notify\nActiveState=active").remove(0);
        for (target, executable, expected) in [
            (stored.clone(), Executable::Stored(digest), Some(inputs)),
            (format!("{stored} (deleted)"), Executable::NotStored, None),
            (format!("{}/x", layout::BIN), Executable::NotStored, None),
            // The distribution replaces its own programs as it likes.
            (
                "/usr/lib/systemd/systemd-journald (deleted)".to_owned(),
                Executable::Other,
                Some(inputs),
            ),
        ] {
            let link = host.root.path("/proc/812/exe");
            atomic::set_link(&link, &target).unwrap();
            assert_eq!(executable_of(&host.root, 812), executable);
            assert_eq!(inputs_of(&host.root, "x.service", &shown), expected);
        }
    }

    #[test]
    fn a_linked_opt_hides_no_replaced_binary() {
        let host = TestHost::new();
        host.write("/data/cofferdam/bin/x", "");
        let digest = Digest::of("binary");
        host.write(&format!("/data/cofferdam/store/{}", digest.hex()), "binary");
        host.write("/proc/812/environ", "");
        fs_err::os::unix::fs::symlink("data", host.root.path("/opt")).unwrap();
        let stored = host.root.path("/data/cofferdam/store").join(digest.hex());
        for (target, executable) in [
            (stored.to_string(), Executable::Stored(digest)),
            (format!("{stored} (deleted)"), Executable::NotStored),
        ] {
            let link = host.root.path("/proc/812/exe");
            atomic::set_link(&link, &target).unwrap();
            assert_eq!(executable_of(&host.root, 812), executable, "{target}");
        }
    }
}
