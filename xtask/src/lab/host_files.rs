//! A host's own files: its directory, overlay, keys and names.

use super::layout::Host;
use super::nspawn::Directories;
use super::root_filesystem::OPERATOR;
use crate::shell;
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Kinds of host keys that a real sshd has.
const KEY_KINDS: &[&str] = &["rsa", "ecdsa", "ed25519"];

/// A host's directory below the lab's.
pub fn directory(lab: &Utf8Path, host: &Host) -> Utf8PathBuf {
    lab.join("hosts").join(&host.name)
}

/// Where a host's root and `/var` are.
pub fn directories(lab: &Utf8Path, host: &Host) -> Directories {
    let own = directory(lab, host);
    Directories {
        root: own.join("root"),
        var: own.join("var"),
    }
}

/// Makes a host's directory and mounts its root over the base. `authorized` is
/// the public key that root and the user `operator` accept.
pub fn make(lab: &Utf8Path, base: &Utf8Path, host: &Host, authorized: &str) -> Result<()> {
    let own = directory(lab, host);
    for name in ["upper", "work", "root"] {
        fs_err::create_dir_all(own.join(name))?;
    }
    let var = own.join("var");
    shell::read(shell::attached("cp").args(["-a", base.join("var").as_str(), var.as_str()]))
        .with_context(|| format!("making /var of {}", host.name))?;
    mount(lab, base, host)?;
    let root = own.join("root");
    for (path, contents) in names(host)? {
        fs_err::write(root.join(path), contents)?;
    }
    for (home, (user, group)) in [("root", (0, 0)), ("home/operator", OPERATOR)] {
        let directory = root.join(home).join(".ssh");
        let keys = directory.join("authorized_keys");
        fs_err::create_dir_all(&directory)?;
        fs_err::write(&keys, authorized)?;
        for (path, mode) in [(&directory, 0o700), (&keys, 0o600)] {
            fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            fs_err::os::unix::fs::chown(path, Some(user), Some(group))?;
        }
    }
    for kind in KEY_KINDS {
        let file = root.join(format!("etc/ssh/ssh_host_{kind}_key"));
        let comment = format!("root@{}", host.name);
        make_key(&file, kind, &comment)?;
    }
    Ok(())
}

/// Takes away all that a host that is off has.
pub fn remove(lab: &Utf8Path, host: &Host) -> Result<()> {
    let own = directory(lab, host);
    shell::read(shell::attached("umount").arg(own.join("root").as_str()))?;
    fs_err::remove_dir_all(own)?;
    Ok(())
}

/// Mounts a host's root; one that is mounted already is fine.
pub fn mount(lab: &Utf8Path, base: &Utf8Path, host: &Host) -> Result<()> {
    if mounted_roots()?
        .iter()
        .any(|(source, _)| *source == host.group())
    {
        return Ok(());
    }
    let own = directory(lab, host);
    let options = format!("lowerdir={base},upperdir={own}/upper,workdir={own}/work");
    let root = own.join("root");
    shell::read(
        Command::new("mount")
            .args(["-t", "overlay", &host.group(), "-o", &options])
            .arg(&root),
    )
    .with_context(|| {
        format!(
            "mounting the root of {} (hosts' directories can't lie on an overlay themselves)",
            host.name
        )
    })?;
    Ok(())
}

/// The lab's mounts on this machine: source and mount point.
pub fn mounted_roots() -> Result<Vec<(String, String)>> {
    let text = fs_err::read_to_string("/proc/self/mountinfo")?;
    Ok(lab_mounts(&text))
}

/// Makes a key pair unless it is there. The public half is written last.
pub fn make_key(file: &Utf8Path, kind: &str, comment: &str) -> Result<()> {
    if file.with_extension("pub").exists() {
        return Ok(());
    }
    if file.exists() {
        fs_err::remove_file(file)?;
    }
    shell::read(
        shell::attached("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-C", comment, "-f"])
            .arg(file),
    )
    .with_context(|| format!("making the key {file}"))?;
    Ok(())
}

/// A host's ed25519 key as `TYPE BASE64`, and its fingerprint as `SHA256:…`.
pub fn host_key(lab: &Utf8Path, host: &Host) -> Result<(String, String)> {
    let file = directory(lab, host).join("root/etc/ssh/ssh_host_ed25519_key.pub");
    let text = fs_err::read_to_string(&file)?;
    let key: Vec<&str> = text.split_whitespace().take(2).collect();
    let listing = shell::read(Command::new("ssh-keygen").args(["-l", "-f"]).arg(&file))?;
    let fingerprint = listing
        .split_whitespace()
        .nth(1)
        .with_context(|| format!("reading the fingerprint of {file}: {listing}"))?;
    Ok((key.join(" "), fingerprint.to_owned()))
}

/// Files that tell a host who it is.
fn names(host: &Host) -> Result<Vec<(&'static str, String)>> {
    let uuid = fs_err::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(vec![
        ("etc/hostname", format!("{}\n", host.name)),
        (
            "etc/hosts",
            format!(
                "127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost\n",
                host.name
            ),
        ),
        // With an identity of its own from the start, a host's first boot is no
        // "first boot", which would enable units anew.
        (
            "etc/machine-id",
            format!("{}\n", uuid.trim().replace('-', "")),
        ),
    ])
}

/// Source and mount point of each overlay whose source bears the lab's prefix.
fn lab_mounts(mountinfo: &str) -> Vec<(String, String)> {
    let prefix = format!("{}lab-", super::layout::PREFIX);
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            let (kind, source) = (right.next()?, right.next()?);
            (kind == "overlay" && source.starts_with(&prefix))
                .then(|| (source.to_owned(), point.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_labs_own_overlays_are_found() {
        let mountinfo = "\
30 1 254:0 / / rw,relatime - ext4 /dev/vda rw
90 30 0:39 / /r/target/lab/hosts/m1/root rw,relatime shared:3 - overlay cofferdam-lab-m1 rw,lowerdir=/c
91 30 0:40 / /elsewhere rw - overlay overlay rw
92 30 0:41 / /other rw - tmpfs cofferdam-lab-w1 rw
";
        assert_eq!(
            lab_mounts(mountinfo),
            [(
                "cofferdam-lab-m1".to_owned(),
                "/r/target/lab/hosts/m1/root".to_owned()
            )]
        );
    }
}
