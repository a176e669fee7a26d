//! Starting a host: systemd as process 1 of a container in the host's network
//! namespace and cgroups.

use super::layout::Host;
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::{Command, Stdio};

/// A host's directories.
#[derive(Clone, Debug)]
pub struct Directories {
    /// The overlay mount.
    pub root: Utf8PathBuf,
    /// `/var`, on a real file system: containerd's own overlays can't lie on an
    /// overlay.
    pub var: Utf8PathBuf,
}

/// System calls that a kubelet and a container runtime need beyond what a
/// container is given by default.
const SYSTEM_CALLS: &str = "bpf keyctl add_key perf_event_open @mount @keyring @privileged";

/// Puts itself into each cgroup of the first argument, then becomes the rest
/// of its arguments. Sessions of their own keep hosts alive when the terminal
/// that started them goes.
const ENTER_GROUPS: &str = r#"for directory in $1; do echo $$ >"$directory/cgroup.procs" || exit 1; done; shift; exec setsid "$@""#;

/// Everything after `systemd-nspawn`.
fn arguments(host: &Host, directories: &Directories) -> Vec<String> {
    vec![
        "--quiet".into(),
        "--boot".into(),
        format!("--directory={}", directories.root),
        format!("--bind={}:/var", directories.var),
        "--bind=/dev/kmsg".into(),
        format!("--machine={}", host.namespace()),
        format!("--hostname={}", host.name),
        // The machine may have no systemd of its own to register with.
        "--register=no".into(),
        "--keep-unit".into(),
        // Hosts have their own files for these.
        "--resolv-conf=off".into(),
        "--timezone=off".into(),
        "--link-journal=no".into(),
        format!(
            "--network-namespace-path={}/{}",
            super::network::NAMESPACES,
            host.namespace()
        ),
        "--capability=all".into(),
        format!("--system-call-filter={SYSTEM_CALLS}"),
        "--console=read-only".into(),
    ]
}

/// Starts a host. Its console goes to the end of `console`. The process lives
/// on when this one ends; `groups` must exist and is where to find it again.
pub fn start(
    host: &Host,
    directories: &Directories,
    groups: &[Utf8PathBuf],
    console: &Utf8Path,
) -> Result<()> {
    let output = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(console)?;
    let errors = output.try_clone()?;
    let groups: Vec<&str> = groups.iter().map(|group| group.as_str()).collect();
    let mut child = Command::new("sh")
        .args([
            "-c",
            ENTER_GROUPS,
            "sh",
            &groups.join(" "),
            "systemd-nspawn",
        ])
        .args(arguments(host, directories))
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
        .env("SYSTEMD_NSPAWN_USE_CGNS", "1")
        .stdin(Stdio::null())
        .stdout(output.into_file())
        .stderr(errors.into_file())
        .spawn()
        .with_context(|| format!("starting systemd-nspawn for {}", host.name))?;
    // As long as this process lives, it must take note of the host's end, or a
    // dead host would stay on the list of processes.
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Layout, Wanted};
    use super::*;

    #[test]
    fn the_command_line_is_exact() {
        let layout = Layout::spread(&Wanted {
            masters: 1,
            workers: 0,
            ..Wanted::default()
        })
        .unwrap();
        let directories = Directories {
            root: "/lab/m1/root".into(),
            var: "/lab/m1/var".into(),
        };
        assert_eq!(
            arguments(&layout.hosts[0], &directories),
            [
                "--quiet",
                "--boot",
                "--directory=/lab/m1/root",
                "--bind=/lab/m1/var:/var",
                "--bind=/dev/kmsg",
                "--machine=cofferdam-m1",
                "--hostname=m1",
                "--register=no",
                "--keep-unit",
                "--resolv-conf=off",
                "--timezone=off",
                "--link-journal=no",
                "--network-namespace-path=/run/netns/cofferdam-m1",
                "--capability=all",
                "--system-call-filter=bpf keyctl add_key perf_event_open @mount @keyring @privileged",
                "--console=read-only",
            ]
        );
    }
}
