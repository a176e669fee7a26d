//! Modules, sysctls and swap, for now; files written beside keep them over a
//! reboot.

use crate::agent::command::Program;
use crate::agent::observe::{has_module, parse_swaps, read_sysctl, sysctl_path};
use crate::agent::root::Root;
use crate::host::Failure;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

pub(super) async fn load_modules(root: &Root, modules: &[String]) -> Result<()> {
    for module in modules {
        if has_module(root, module) {
            continue;
        }
        Program::new(root.program("modprobe")?)
            .arguments(["--", module.as_str()])
            .succeed()
            .await
            .with_context(|| format!("loading the kernel module {module}"))?;
        if !has_module(root, module) {
            bail!("loading the kernel module {module}: `modprobe` succeeded, but it is not there");
        }
    }
    Ok(())
}

pub(super) fn set_sysctls(root: &Root, sysctls: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in sysctls {
        let Some(present) = read_sysctl(root, name) else {
            bail!("setting {name}: this kernel has no such setting; is its module loaded?");
        };
        let wanted = value.split_whitespace().collect::<Vec<_>>().join(" ");
        if present == wanted {
            continue;
        }
        fs_err::write(root.path(sysctl_path(name)), format!("{value}\n"))
            .with_context(|| format!("setting {name} to {value}"))?;
        let present = read_sysctl(root, name).unwrap_or_default();
        if present != wanted {
            bail!("setting {name} to {value}: the kernel keeps {present}");
        }
    }
    Ok(())
}

pub(super) async fn swap_off(root: &Root) -> Result<()> {
    Program::new(root.program("systemctl")?)
        .arguments(["mask", "swap.target"])
        .succeed()
        .await
        .context("masking swap.target")?;
    let active = || {
        let text = fs_err::read_to_string(root.path("/proc/swaps")).unwrap_or_default();
        parse_swaps(&text)
    };
    if active().is_empty() {
        return Ok(());
    }
    Program::new(root.program("swapoff")?)
        .argument("--all")
        .limit(SWAP_OFF_LIMIT)
        .succeed()
        .await
        .context("turning swap off")?;
    let left = active();
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure {
        message: format!("turning swap off: {} is still in use", left.join(", ")),
        lines: Vec::new(),
        hint: Some("free memory on the host and run the same command again".to_owned()),
    }
    .into())
}

/// Gigabytes may have to come back into memory.
const SWAP_OFF_LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn sets_what_differs_and_names_what_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(Utf8Path::from_path(directory.path()).unwrap());
        fs_err::create_dir_all(root.path("/proc/sys/net/ipv4")).unwrap();
        let place = root.path("/proc/sys/net/ipv4/ip_forward");
        fs_err::write(&place, "0\n").unwrap();
        let one = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        set_sysctls(&root, &one("net.ipv4.ip_forward")).unwrap();
        assert_eq!(fs_err::read_to_string(&place).unwrap(), "1\n");
        let error = set_sysctls(&root, &one("net.bridge.bridge-nf-call-iptables")).unwrap_err();
        assert!(
            error.to_string().contains("bridge-nf-call-iptables"),
            "{error}"
        );
    }
}
