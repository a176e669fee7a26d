//! The root file system below all hosts: a small Debian, made once.

use crate::{paths, shell};
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;

/// The Debian release of hosts.
const SUITE: &str = "trixie";

/// How the names of root file systems start that are being built.
const UNFINISHED: &str = "new-";

/// What a host has: systemd, sshd, `nft` and the usual tools of a base system.
/// `sudo` is there for the test of an operator who is not root.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "iproute2",
    "nftables",
    "kmod",
    "procps",
    "util-linux",
    "mount",
    "sudo",
];

/// What a host must lack, so that nothing can come to rely on it.
const ABSENT: &[&str] = &[
    "usr/bin/apt-get",
    "usr/bin/containerd",
    "usr/bin/curl",
    "usr/bin/docker",
    "usr/bin/podman",
    "usr/bin/python3",
    "usr/bin/runc",
    "usr/bin/wget",
    "usr/sbin/conntrack",
    "usr/sbin/iptables",
];

/// The ids of the user `operator` and of its group, Debian's `users`.
pub const OPERATOR: (u32, u32) = (1000, 100);

/// Each runs with the new root directory as first argument, after the packages.
/// Host keys are each host's own. The stamps tell systemd that nothing has to
/// be brought up to date at a first boot, which saves seconds on each host.
const FINISH: &[&str] = &[
    r#"rm -f "$1"/etc/ssh/ssh_host_*"#,
    r#"rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/apt"#,
    r#"chroot "$1" useradd --uid 1000 --gid users --create-home --shell /bin/bash operator"#,
    r#"mkdir -p "$1"/etc/systemd/system/sysinit.target.wants"#,
    r#"ln -s ../lab-cgroups.service "$1"/etc/systemd/system/sysinit.target.wants/"#,
    r#"touch "$1"/etc/.updated "$1"/var/.updated"#,
];

/// Files of every host: path, mode, contents.
const FILES: &[(&str, u32, &str)] = &[
    (
        "etc/systemd/system/lab-cgroups.service",
        0o644,
        r#"# A container's cgroup v1 controllers are mounted read-only; on a real host they
# are writable, and kubelet and the container runtime write to them.
[Unit]
Description=Make the cgroup v1 controllers writable
DefaultDependencies=no
Before=basic.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'findmnt -rn -t cgroup -o TARGET | while read -r target; do mount -o remount,bind,rw "$target"; done'

[Install]
WantedBy=sysinit.target
"#,
    ),
    (
        // Until user sessions are permitted, only root may log in: a host that
        // answers should let everybody in.
        "etc/systemd/system/ssh.service.d/lab.conf",
        0o644,
        "[Unit]\nAfter=systemd-user-sessions.service\n",
    ),
    (
        "etc/sudoers.d/operator",
        0o440,
        "operator ALL=(ALL:ALL) NOPASSWD: ALL\n",
    ),
    ("etc/resolv.conf", 0o644, ""),
];

/// Where the root file system lies once it is made; the name is a digest of
/// everything that goes into it.
pub fn path() -> Result<Utf8PathBuf> {
    let mut digest = Sha256::new();
    for part in [SUITE].iter().chain(FINISH).chain(PACKAGES) {
        digest.update(part);
        digest.update([0]);
    }
    for (path, mode, contents) in FILES {
        digest.update(format!("{path}\0{mode:o}\0{contents}\0"));
    }
    let key: String = digest
        .finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(paths::cache()?
        .join("rootfs")
        .join(format!("{SUITE}-{key}")))
}

/// Makes the root file system if it is not there. It is built under another
/// name, so that a build that is cut off leaves nothing that looks whole.
pub fn ensure() -> Result<Utf8PathBuf> {
    let path = path()?;
    if path.exists() {
        return Ok(path);
    }
    let parent = paths::cache()?.join("rootfs");
    fs_err::create_dir_all(&parent)?;
    remove_unfinished(&parent)?;
    let new = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&parent)
        .with_context(|| format!("making a directory in {parent}"))?;
    let directory = Utf8Path::from_path(new.path()).context("the cache's path is not UTF-8")?;
    build(directory).context("making the hosts' root file system")?;
    check(directory)?;
    fs_err::rename(new.keep(), &path)?;
    Ok(path)
}

/// Removes what earlier attempts left that were cut off. One of them may still
/// be dying and writing; its leftovers are for the next time.
fn remove_unfinished(parent: &Utf8Path) -> Result<()> {
    for entry in fs_err::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            drop(fs_err::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

fn build(directory: &Utf8Path) -> Result<()> {
    let mut bootstrap = shell::attached("mmdebstrap");
    bootstrap
        .args(["--quiet", "--mode=root", "--variant=essential"])
        .arg(format!("--include={}", PACKAGES.join(",")));
    for command in FINISH {
        bootstrap.arg(format!("--customize-hook={command}"));
    }
    shell::read(bootstrap.args([SUITE, directory.as_str()]))?;
    for (path, mode, contents) in FILES {
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        // Some packages ship a link here, which would be followed.
        if fs_err::symlink_metadata(&path).is_ok() {
            fs_err::remove_file(&path)?;
        }
        fs_err::write(&path, contents)?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(*mode))?;
    }
    // mmdebstrap makes the root of what it fills its own: 0700 would lock out
    // every user but root.
    fs_err::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn check(directory: &Utf8Path) -> Result<()> {
    for path in ABSENT {
        if fs_err::symlink_metadata(directory.join(path)).is_ok() {
            bail!(
                "the hosts' root file system has /{path}, which hosts must not have: look which of the packages brings it in"
            );
        }
    }
    Ok(())
}
