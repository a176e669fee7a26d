//! The machine and its system.

use crate::agent::command::Program;
use crate::agent::root::Root;
use crate::facts::{Cgroups, ProtocolNames, SystemFacts};
use crate::layout::{HEADER, PROTOCOLS_FILE};
use std::time::Duration;

/// `nft --version` and `systemctl --version` only print a line.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// Versions that are learned by running programs.
pub(super) struct Versions {
    pub(super) systemd: u32,
    pub(super) nft: Option<String>,
}

pub(super) fn observe(root: &Root) -> SystemFacts {
    let read = |path| fs_err::read_to_string(root.path(path)).unwrap_or_default();
    let uname = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    SystemFacts {
        hostname: text(uname.nodename()),
        machine_id: read("/etc/machine-id").trim().to_owned(),
        os: parse_os_release(&first_readable(
            root,
            &["/etc/os-release", "/usr/lib/os-release"],
        )),
        kernel: text(uname.release()),
        platform: platform_of(&text(uname.machine())),
        cgroups: parse_cgroups(&read("/proc/self/mountinfo")),
        memory_bytes: parse_memory(&read("/proc/meminfo")),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        selinux: parse_selinux(&read("/sys/fs/selinux/enforce")),
        protocol_names: protocol_names(fs_err::read(root.path(PROTOCOLS_FILE)).ok()),
        user_id: rustix::process::geteuid().as_raw(),
        ..SystemFacts::default()
    }
}

/// The host's OCI platform, `linux/amd64`.
pub(crate) fn platform() -> String {
    platform_of(&rustix::system::uname().machine().to_string_lossy())
}

pub(super) async fn observe_versions(root: &Root) -> Versions {
    let (systemd, nft) = tokio::join!(version_line(root, "systemctl"), version_line(root, "nft"));
    Versions {
        systemd: systemd.map_or(0, |line| parse_systemd_version(&line)),
        nft: nft.and_then(|line| parse_nft_version(&line)),
    }
}

async fn version_line(root: &Root, program: &str) -> Option<String> {
    Program::new(root.program(program).ok()?)
        .argument("--version")
        .limit(VERSION_LIMIT)
        .succeed()
        .await
        .ok()
}

fn first_readable(root: &Root, paths: &[&str]) -> String {
    paths
        .iter()
        .find_map(|path| fs_err::read_to_string(root.path(path)).ok())
        .unwrap_or_default()
}

/// `PRETTY_NAME="Debian GNU/Linux 13 (trixie)"`.
fn parse_os_release(text: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
        .unwrap_or_default()
}

/// From the kernel's name of a machine to OCI's.
fn platform_of(machine: &str) -> String {
    let architecture = match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// `systemd 257 (257.7-1~deb13u1)`, on the first line.
fn parse_systemd_version(text: &str) -> u32 {
    text.split_whitespace()
        .nth(1)
        .map(|word| word.trim_end_matches(|letter: char| !letter.is_ascii_digit()))
        .and_then(|word| word.split(|letter: char| !letter.is_ascii_digit()).next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// `nftables v1.1.3 (Commodore Bullmoose #4)`.
fn parse_nft_version(text: &str) -> Option<String> {
    let word = text.split_whitespace().nth(1)?;
    let version = word.strip_prefix('v').unwrap_or(word);
    version
        .starts_with(|letter: char| letter.is_ascii_digit())
        .then(|| version.to_owned())
}

/// `MemTotal:       24689764 kB`.
fn parse_memory(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes * 1024)
}

/// From the contents of `/etc/protocols`, lines such as `tcp 6 TCP # comment`.
fn protocol_names(bytes: Option<Vec<u8>>) -> ProtocolNames {
    let Some(bytes) = bytes else {
        return ProtocolNames::Absent;
    };
    let text = String::from_utf8_lossy(&bytes);
    let is_named = |name: &str, number: &str| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(name) && words.next() == Some(number)
        })
    };
    match is_named("tcp", "6") && is_named("udp", "17") {
        _ if text.starts_with(HEADER) => ProtocolNames::Absent,
        true => ProtocolNames::Complete,
        false => ProtocolNames::Incomplete,
    }
}

fn parse_selinux(text: &str) -> Option<String> {
    match text.trim() {
        "1" => Some("enforcing".to_owned()),
        "0" => Some("permissive".to_owned()),
        _ => None,
    }
}

/// Reads the layout off the mounts: version 2 at `/sys/fs/cgroup` itself, or
/// version 1 controllers below it, with or without a version 2 tree.
fn parse_cgroups(mountinfo: &str) -> Cgroups {
    let mut has_controllers = false;
    let mut has_second = false;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = before.split(' ').nth(4) else {
            continue;
        };
        match after.split(' ').next() {
            Some("cgroup2") if mount_point == "/sys/fs/cgroup" => return Cgroups::V2,
            Some("cgroup2") if mount_point.starts_with("/sys/fs/cgroup/") => has_second = true,
            // A tree with a name only serves systemd.
            Some("cgroup") if !after.contains("name=") => has_controllers = true,
            _ => {}
        }
    }
    match (has_controllers, has_second) {
        (true, true) => Cgroups::Hybrid,
        (true, false) => Cgroups::V1,
        (false, _) => Cgroups::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let cases = [
            ("systemd 257 (257.7-1~deb13u1)\n+PAM", 257),
            ("systemd 247 (v247)\n", 247),
            ("systemd 256-rc1 (x)", 256),
            ("", 0),
            ("bash: systemctl: command not found", 0),
        ];
        for (text, version) in cases {
            assert_eq!(parse_systemd_version(text), version, "{text}");
        }
        assert_eq!(
            parse_nft_version("nftables v1.1.3 (Commodore Bullmoose #4)\n").as_deref(),
            Some("1.1.3")
        );
        assert_eq!(parse_nft_version("nft: not found"), None);
        assert_eq!(parse_nft_version(""), None);
    }

    #[test]
    fn reads_the_machine() {
        assert_eq!(
            parse_memory("MemTotal:       24689764 kB\nMemFree: 1 kB\n"),
            25_282_318_336
        );
        assert_eq!(parse_memory("nonsense"), 0);
        assert_eq!(
            parse_os_release("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"),
            "Debian GNU/Linux 13 (trixie)"
        );
        assert_eq!(platform_of("x86_64"), "linux/amd64");
        assert_eq!(platform_of("aarch64"), "linux/arm64");
        assert_eq!(parse_selinux("1"), Some("enforcing".to_owned()));
        assert_eq!(parse_selinux(""), None);
    }

    #[test]
    fn knows_whether_protocols_have_names() {
        use ProtocolNames::{Absent, Complete, Incomplete};
        let full = "# Internet protocols\nip\t0\tIP\ntcp\t6\tTCP\nudp 17 UDP # x\n";
        let ours = format!("{HEADER}{full}");
        assert_eq!(protocol_names(None), Absent);
        for (bytes, expected) in [
            (full.as_bytes(), Complete),
            // Whoever wrote this did not write UTF-8.
            (b"# caf\xe9\ntcp 6\nudp 17\n", Complete),
            (ours.as_bytes(), Absent),
            (b"", Incomplete),
            (b"#tcp 6\nudp 17\n", Incomplete),
        ] {
            assert_eq!(protocol_names(Some(bytes.to_vec())), expected, "{bytes:?}");
        }
    }

    #[test]
    fn tells_the_layouts_of_control_groups_apart() {
        let second = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let first = "31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n";
        let named =
            "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let below = "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let cases = [
            (second.to_owned(), Cgroups::V2),
            (format!("{first}{named}"), Cgroups::V1),
            (format!("{first}{named}{below}"), Cgroups::Hybrid),
            (named.to_owned(), Cgroups::Unknown),
            (String::new(), Cgroups::Unknown),
        ];
        for (text, layout) in cases {
            assert_eq!(parse_cgroups(&text), layout, "{text}");
        }
    }
}
