//! Modules, sysctls and swap.

use crate::agent::root::Root;
use std::collections::{BTreeMap, BTreeSet};

/// What a module brings, for kernels that have it built in without a trace in
/// `/sys/module`, and for containers that share a kernel.
const FEATURES: [(&str, &str); 3] = [
    ("br_netfilter", "/proc/sys/net/bridge"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ("ip_tables", "/proc/net/ip_tables_names"),
];

pub(super) fn swaps(root: &Root) -> Vec<String> {
    parse_swaps(&fs_err::read_to_string(root.path("/proc/swaps")).unwrap_or_default())
}

pub(super) fn modules(root: &Root, asked: &BTreeSet<String>) -> BTreeMap<String, bool> {
    asked
        .iter()
        .map(|module| (module.clone(), has_module(root, module)))
        .collect()
}

/// Whether a module is loaded, built in, or its feature is there.
pub(crate) fn has_module(root: &Root, module: &str) -> bool {
    let name = module.replace('-', "_");
    if root.path("/sys/module").join(&name).exists() {
        return true;
    }
    if FEATURES
        .iter()
        .any(|(module, path)| *module == name && root.path(path).exists())
    {
        return true;
    }
    let filesystems = fs_err::read_to_string(root.path("/proc/filesystems")).unwrap_or_default();
    has_filesystem(&filesystems, &name) || is_built_in(root, &name)
}

pub(super) fn sysctls(root: &Root, asked: &BTreeSet<String>) -> BTreeMap<String, String> {
    asked
        .iter()
        .filter_map(|name| Some((name.clone(), read_sysctl(root, name)?)))
        .collect()
}

/// A sysctl's value with its blanks made single spaces.
pub(crate) fn read_sysctl(root: &Root, name: &str) -> Option<String> {
    let text = fs_err::read_to_string(root.path(sysctl_path(name))).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The file of a sysctl. Dots part its name; a dot within a part (an
/// interface's name) is written as a slash, as in sysctl.d.
pub(crate) fn sysctl_path(name: &str) -> String {
    let swapped: String = name
        .chars()
        .map(|letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

pub(crate) fn parse_swaps(text: &str) -> Vec<String> {
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(|path| path.replace("\\040", " "))
        .collect()
}

fn has_filesystem(filesystems: &str, name: &str) -> bool {
    filesystems
        .lines()
        .any(|line| line.split_whitespace().last() == Some(name))
}

fn is_built_in(root: &Root, name: &str) -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let list = fs_err::read_to_string(root.path(format!("/lib/modules/{release}/modules.builtin")))
        .unwrap_or_default();
    lists_module(&list, name)
}

/// Lines like `kernel/net/bridge/bridge.ko`.
fn lists_module(list: &str, name: &str) -> bool {
    list.lines().any(|line| {
        let file = line.rsplit('/').next().unwrap_or(line);
        let module = file.split('.').next().unwrap_or(file);
        module.replace('-', "_") == name
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn reads_swaps() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/sda2                               partition\t1000\t0\t-2\n\
                    /swap\\040file                           file\t1000\t0\t-3\n";
        assert_eq!(parse_swaps(text), ["/dev/sda2", "/swap file"]);
        assert!(parse_swaps("Filename\tType\n").is_empty());
        assert!(parse_swaps("").is_empty());
    }

    #[test]
    fn finds_modules_by_any_trace() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        for path in ["/sys/module/vxlan", "/proc/sys/net/bridge"] {
            fs_err::create_dir_all(root.path(path)).unwrap();
        }
        fs_err::write(
            root.path("/proc/filesystems"),
            "nodev\tsysfs\nnodev\toverlay\n",
        )
        .unwrap();
        let asked = ["vxlan", "br_netfilter", "overlay", "ip_vs", "nf_conntrack"];
        let facts = modules(&root, &asked.map(str::to_owned).into());
        let found: Vec<&str> = facts
            .iter()
            .filter(|(_, there)| **there)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(found, ["br_netfilter", "overlay", "vxlan"]);
        let list = "kernel/net/netfilter/xt_mark.ko\nkernel/drivers/net/vxlan/ip-vs.ko.zst\n";
        assert!(lists_module(list, "ip_vs"));
        assert!(!lists_module(list, "ip"));
    }

    #[test]
    fn reads_sysctls_by_dotted_name() {
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward"),
            "/proc/sys/net/ipv4/ip_forward"
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/100.rp_filter"),
            "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"
        );
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        fs_err::create_dir_all(root.path("/proc/sys/kernel")).unwrap();
        fs_err::write(root.path("/proc/sys/kernel/sem"), "250\t32000  32\n").unwrap();
        assert_eq!(
            read_sysctl(&root, "kernel.sem").as_deref(),
            Some("250 32000 32")
        );
        assert_eq!(read_sysctl(&root, "kernel.none"), None);
    }
}
