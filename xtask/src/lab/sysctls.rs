//! Kernel values that are the machine's own, not a host's: noted before the
//! lab comes up and put back when it goes.

use crate::shell;
use anyhow::Result;
use std::collections::BTreeMap;

/// What systemd, kubelet and kube-proxy set at their start, and what an
/// installer may set in a host's `sysctl.d`, as far as it has no namespace.
const NOTED: &[&str] = &[
    "fs/aio-max-nr",
    "fs/file-max",
    "fs/inotify/max_queued_events",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "fs/nr_open",
    "fs/protected_fifos",
    "fs/protected_hardlinks",
    "fs/protected_regular",
    "fs/protected_symlinks",
    "fs/suid_dumpable",
    "kernel/core_pattern",
    "kernel/core_uses_pid",
    "kernel/keys/maxbytes",
    "kernel/keys/maxkeys",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/pid_max",
    "kernel/sysrq",
    "kernel/threads-max",
    "net/netfilter/nf_conntrack_max",
    "vm/max_map_count",
    "vm/overcommit_memory",
    "vm/overcommit_ratio",
    "vm/panic_on_oom",
    "vm/swappiness",
];

/// Watches are counted over all hosts together, and the usual limits are made
/// for one machine.
const RAISED: &[(&str, u64)] = &[
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 1_048_576),
];

/// Reads the present values. One that this kernel lacks is left out.
pub fn note() -> BTreeMap<String, String> {
    NOTED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), read(name)?)))
        .collect()
}

/// Raises what several hosts need more of.
pub fn raise() -> Result<()> {
    for (name, least) in RAISED {
        let present = read(name).and_then(|value| value.parse::<u64>().ok());
        if present.is_some_and(|present| present < *least) {
            fs_err::write(path(name), least.to_string())?;
        }
    }
    Ok(())
}

/// Puts noted values back where they changed. A value that can't be put back
/// is named and left; it is no reason to keep the rest of the lab.
pub fn restore(noted: &BTreeMap<String, String>) {
    for (name, value) in noted {
        if read(name).as_ref() == Some(value) {
            continue;
        }
        if let Err(error) = fs_err::write(path(name), value) {
            shell::say(&format!("warning: putting back {name} = {value}: {error}"));
        }
    }
}

fn path(name: &str) -> String {
    format!("/proc/sys/{name}")
}

fn read(name: &str) -> Option<String> {
    let text = fs_err::read_to_string(path(name)).ok()?;
    Some(text.trim().to_owned())
}
