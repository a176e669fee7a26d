//! A cgroup of its own for each host, in every hierarchy of the machine.
//!
//! Without it all hosts would share one tree, and their kubelets would kill
//! each other's pods. It also tells which processes belong to a host: a
//! process can't leave it, and a process id that was given to somebody else
//! is not in it.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// A killed process is gone in milliseconds, unless a device holds it.
const POWER_CUT_LIMIT: Duration = Duration::from_secs(15);
/// For this long only the host's init is killed, so that the kernel ends all
/// the rest with it and the container manager tidies up after itself.
const INIT_FIRST: Duration = Duration::from_secs(2);
/// The kernel counts a process out of its cgroup a moment after its end.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// How deep below a hierarchy's root a lab's cgroup may lie: this machine's
/// service manager keeps its own in a few levels.
const SWEEP_DEPTH: usize = 6;

/// One mounted hierarchy, and where this process lies in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory in which a host's cgroup is made.
    pub parent: Utf8PathBuf,
    /// Where the hierarchy is mounted.
    pub mount: Utf8PathBuf,
    pub kind: Kind,
}

/// What a new cgroup needs before a process may enter it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// cgroup v1 `cpuset`: processors and memory nodes, copied from above.
    Cpuset,
    /// cgroup v2 alone: controllers handed down by the parent.
    Unified,
}

/// Finds the hierarchies from the text of `/proc/self/cgroup` and
/// `/proc/self/mountinfo`. One that is not mounted is left out.
pub fn hierarchies(cgroup: &str, mountinfo: &str) -> Vec<Hierarchy> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    let only_unified = cgroup.lines().all(|line| line.starts_with("0::"));
    let find = |line: &str| -> Option<Hierarchy> {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let own = fields.next()?;
        let mount = if controllers.is_empty() {
            mounts.iter().find(|mount| mount.kind == "cgroup2")?
        } else {
            let first = controllers.split(',').next()?;
            mounts
                .iter()
                .find(|mount| mount.kind == "cgroup" && mount.options.contains(&first))?
        };
        let kind = match controllers {
            "" if only_unified => Kind::Unified,
            controllers if controllers.split(',').any(|name| name == "cpuset") => Kind::Cpuset,
            _ => Kind::Plain,
        };
        // In cgroup v2 a group with processes can't hand controllers down, so
        // that there the root is the only place that surely can.
        let below = match kind {
            Kind::Unified => "",
            _ => own.strip_prefix(mount.root).unwrap_or(own),
        };
        Some(Hierarchy {
            parent: Utf8Path::new(mount.point).join(below.trim_start_matches('/')),
            mount: mount.point.into(),
            kind,
        })
    };
    cgroup.lines().filter_map(find).collect()
}

/// Reads the hierarchies of this process.
pub fn own_hierarchies() -> Result<Vec<Hierarchy>> {
    let cgroup = fs_err::read_to_string("/proc/self/cgroup")?;
    let mountinfo = fs_err::read_to_string("/proc/self/mountinfo")?;
    let hierarchies = hierarchies(&cgroup, &mountinfo);
    if hierarchies.is_empty() {
        bail!("no cgroup hierarchy is mounted on this machine, and hosts need one");
    }
    Ok(hierarchies)
}

/// Makes a host's cgroup in one hierarchy and returns its directory.
pub fn make(hierarchy: &Hierarchy, name: &str) -> Result<Utf8PathBuf> {
    let directory = hierarchy.parent.join(name);
    fs_err::create_dir_all(&directory)?;
    match hierarchy.kind {
        Kind::Plain => {}
        Kind::Cpuset => {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs_err::read_to_string(hierarchy.parent.join(file))?;
                fs_err::write(directory.join(file), value.trim())?;
            }
        }
        Kind::Unified => {
            let available = fs_err::read_to_string(hierarchy.parent.join("cgroup.controllers"))?;
            for controller in available.split_whitespace() {
                let control = hierarchy.parent.join("cgroup.subtree_control");
                fs_err::write(control, format!("+{controller}"))?;
            }
        }
    }
    Ok(directory)
}

/// All directories whose name starts with `prefix`, in any hierarchy, however
/// they came to be there.
pub fn sweep(prefix: &str) -> Result<Vec<Utf8PathBuf>> {
    fn walk(directory: &Utf8Path, prefix: &str, depth: usize, found: &mut Vec<Utf8PathBuf>) {
        for child in children(directory) {
            if child
                .file_name()
                .is_some_and(|name| name.starts_with(prefix))
            {
                found.push(child);
            } else if depth > 0 {
                walk(&child, prefix, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    for hierarchy in own_hierarchies()? {
        walk(&hierarchy.mount, prefix, SWEEP_DEPTH, &mut found);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The ids of all processes in and below these directories.
pub fn members(directories: &[Utf8PathBuf]) -> BTreeSet<i32> {
    let mut ids = BTreeSet::new();
    let mut open: Vec<Utf8PathBuf> = directories.to_vec();
    while let Some(directory) = open.pop() {
        // A directory that vanishes meanwhile has no members.
        if let Ok(text) = fs_err::read_to_string(directory.join("cgroup.procs")) {
            // The id 0 stands for a process that this namespace can't name.
            let named = text.lines().filter_map(|line| line.parse::<i32>().ok());
            ids.extend(named.filter(|id| *id > 0));
        }
        open.extend(children(&directory));
    }
    ids
}

/// Ends everything in these directories at once, as a power cut does: first
/// the host's init, with which the kernel kills its whole process namespace,
/// then whatever else is left.
pub fn cut_power(directories: &[Utf8PathBuf]) -> Result<()> {
    let started = Instant::now();
    loop {
        let ids = members(directories);
        if ids.is_empty() {
            return Ok(());
        }
        let inits: Vec<i32> = ids.iter().copied().filter(|id| is_host_init(*id)).collect();
        let victims = if !inits.is_empty() {
            inits
        } else if started.elapsed() > INIT_FIRST {
            ids.iter().copied().collect()
        } else {
            Vec::new()
        };
        for id in victims {
            kill(id)?;
        }
        if started.elapsed() > POWER_CUT_LIMIT {
            let left: Vec<String> = ids.iter().map(|id| describe(*id)).collect();
            bail!(
                "processes still there {} s after SIGKILL: {}",
                POWER_CUT_LIMIT.as_secs(),
                left.join(", ")
            );
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes these directories and all cgroups below them, which must be empty
/// of processes.
pub fn remove(directories: &[Utf8PathBuf]) -> Result<()> {
    let started = Instant::now();
    for directory in directories {
        loop {
            match remove_tree(directory) {
                Ok(()) => break,
                Err(error) if started.elapsed() > REMOVAL_LIMIT => {
                    return Err(error).with_context(|| format!("removing cgroup {directory}"));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
    Ok(())
}

fn remove_tree(directory: &Utf8Path) -> std::io::Result<()> {
    for child in children(directory) {
        remove_tree(&child)?;
    }
    match fs_err::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn children(directory: &Utf8Path) -> Vec<Utf8PathBuf> {
    let Ok(entries) = fs_err::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Utf8PathBuf::from_path_buf(entry.path()).ok())
        .collect()
}

/// Sends SIGKILL; a process that is gone already is fine.
fn kill(id: i32) -> Result<()> {
    let Some(pid) = Pid::from_raw(id) else {
        return Ok(());
    };
    match kill_process(pid, Signal::KILL) {
        Err(error) if error != rustix::io::Errno::SRCH => {
            Err(error).with_context(|| format!("killing {}", describe(id)))
        }
        _ => Ok(()),
    }
}

/// Whether a process is number 1 of a process namespace right below ours.
/// Pods have such processes too, but another level down.
fn is_host_init(id: i32) -> bool {
    let levels = |path: String| fs_err::read_to_string(path).map(|status| namespace_ids(&status));
    let (Ok(own), Ok(ids)) = (
        levels("/proc/self/status".into()),
        levels(format!("/proc/{id}/status")),
    ) else {
        return false;
    };
    ids.len() == own.len() + 1 && ids.last() == Some(&1)
}

/// The ids of a process in each process namespace, outermost first, from the
/// text of its `/proc/PID/status`.
fn namespace_ids(status: &str) -> Vec<i32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .map(|ids| {
            ids.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

/// A process for people: its id and command line.
fn describe(id: i32) -> String {
    format!("{id} ({})", command_line(id).join(" "))
}

/// The arguments a process was started with; none if it is gone.
pub fn command_line(id: i32) -> Vec<String> {
    let bytes = fs_err::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: Vec<&'a str>,
}

impl<'a> Mount<'a> {
    /// One line of mountinfo: `31 23 0:28 ROOT POINT OPTIONS … - KIND SOURCE OPTIONS`.
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        Some(Self {
            root: left.next()?,
            point: left.next()?,
            kind: right.next()?,
            options: right.nth(1)?.split(',').collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cgroup: &str, mountinfo: &str) -> Vec<(String, Kind)> {
        hierarchies(cgroup, mountinfo)
            .into_iter()
            .map(|hierarchy| (hierarchy.parent.into_string(), hierarchy.kind))
            .collect()
    }

    const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn every_hierarchy_is_found_with_the_own_path_below_it() {
        let cgroup = "9:name=systemd:/\n4:memory:/manager/16ce\n3:cpuset:/\n2:pids:/\n0::/\n";
        assert_eq!(
            found(cgroup, HYBRID_MOUNTS),
            [
                ("/sys/fs/cgroup/systemd/".to_owned(), Kind::Plain),
                ("/sys/fs/cgroup/memory/manager/16ce".to_owned(), Kind::Plain),
                ("/sys/fs/cgroup/cpuset/".to_owned(), Kind::Cpuset),
                ("/sys/fs/cgroup/unified/".to_owned(), Kind::Plain),
            ]
        );
    }

    #[test]
    fn a_mount_of_a_part_of_a_hierarchy_shortens_the_path() {
        let mounts = "9 1 0:9 /box /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(
            found("3:cpu,cpuacct:/box/inner\n", mounts),
            [("/sys/fs/cgroup/cpu/inner".to_owned(), Kind::Plain)]
        );
    }

    #[test]
    fn with_cgroup_v2_alone_hosts_lie_at_the_root() {
        let mounts = "9 1 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            found("0::/user.slice/session-1.scope\n", mounts),
            [("/sys/fs/cgroup/".to_owned(), Kind::Unified)]
        );
    }

    #[test]
    fn process_ids_of_all_namespaces_are_read() {
        let table: &[(&str, &[i32])] = &[
            (
                "Name:\tsystemd\nNSpid:\t7672\t1\nNSpgid:\t7672\t1\n",
                &[7672, 1],
            ),
            ("NSpid:\t12\n", &[12]),
            ("Name:\told kernel\n", &[]),
        ];
        for (status, ids) in table {
            assert_eq!(&namespace_ids(status), ids);
        }
    }
}
