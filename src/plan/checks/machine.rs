//! The machine and its system.

use super::{Finding, Question, Subject, finding};
use crate::facts::Cgroups;
use crate::inventory::{Component, Role};
use crate::plan::title::size;

/// kube-proxy's nftables mode needs it:
/// https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-nftables
const KERNEL: (u32, u32) = (5, 13);
/// The oldest on which the units' options and the API proxy's hand-over work.
const SYSTEMD: u32 = 247;
/// What kubeadm asks for on control-plane hosts, too.
const MASTER_MEMORY: u64 = 1_700_000_000;
/// kubelet, containerd, kube-proxy and flanneld with some room for pods.
const NODE_MEMORY: u64 = 700_000_000;
/// What kubeadm asks for on control-plane hosts, too.
const MASTER_PROCESSORS: u32 = 2;
/// kube-proxy reads `nft`'s JSON as 1.0.1 and later print it.
const NFT: (u32, u32, u32) = (1, 0, 1);
/// Leases of leader election and certificates' notBefore bear less.
const CLOCK_BETWEEN_MASTERS: f64 = 2.0;
/// Certificates are valid from an hour before they were made, so that this
/// much is still far from hurting.
const CLOCK_TO_JUMP_HOST: f64 = 600.0;

pub(super) fn root(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let user = subject.facts.system.user_id;
        let found = format!("the agent runs as user {user}, not as root");
        let remedy = "name root in `ssh.user`, or let that user run `sudo` without a password";
        (user != 0).then(|| (found, remedy.to_owned()))
    })
}

pub(super) fn architecture(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let platform = &subject.facts.system.platform;
        if question.platforms.contains(platform) {
            return None;
        }
        let carried: Vec<&str> = question.platforms.iter().map(String::as_str).collect();
        let found = format!(
            "it is {platform}, and the bundle carries {}",
            carried.join(", ")
        );
        let remedy = format!("build the bundle with {platform} among its platforms");
        Some((found, remedy))
    })
}

pub(super) fn kernel(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let kernel = &subject.facts.system.kernel;
        let [major, minor] = leading_numbers(kernel)?;
        let found = format!(
            "kernel {kernel}, {}.{} or newer is needed",
            KERNEL.0, KERNEL.1
        );
        let is_old = subject.host.is_node() && (major, minor) < KERNEL;
        is_old.then(|| (found, "install a newer kernel and boot it".to_owned()))
    })
}

pub(super) fn systemd(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let version = subject.facts.system.systemd_version;
        let found = format!("systemd {version}, {SYSTEMD} or newer is needed");
        let remedy = "install a newer release of the operating system".to_owned();
        (version < SYSTEMD).then_some((found, remedy))
    })
}

pub(super) fn cgroups(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let layout = match subject.facts.system.cgroups {
            Cgroups::V2 => return None,
            Cgroups::V1 => "v1",
            Cgroups::Hybrid => "v1 with a v2 hierarchy beside it",
            Cgroups::Unknown => "of an unknown layout",
        };
        let inventory = question.inventory;
        let config = inventory.override_config(subject.host, Component::Kubelet);
        let allowed = config.get("failCgroupV1").and_then(toml::Value::as_bool) == Some(false);
        if !subject.host.is_node() || allowed {
            return None;
        }
        let found = format!("control groups are {layout}, on which kubelet refuses to start");
        let remedy = "boot with `systemd.unified_cgroup_hierarchy=1`, or allow it in the inventory: \
                      `[overrides.kubelet] config = { failCgroupV1 = false }`";
        Some((found, remedy.to_owned()))
    })
}

pub(super) fn memory(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let needed = match is_master(&subject) {
            true => MASTER_MEMORY,
            false => NODE_MEMORY,
        };
        let there = subject.facts.system.memory_bytes;
        let found = format!("{} of memory, {} are needed", size(there), size(needed));
        (there < needed).then(|| (found, "give it more memory".to_owned()))
    })
}

pub(super) fn processors(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let there = subject.facts.system.cpus;
        let is_low = is_master(&subject) && there < MASTER_PROCESSORS;
        let found = format!("{there} processor, {MASTER_PROCESSORS} are advised for a master");
        is_low.then(|| (found, "give it more processors".to_owned()))
    })
}

pub(super) fn nft(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        if !subject.host.is_node() {
            return None;
        }
        let (major, minor, patch) = NFT;
        let remedy = format!("install the package nftables, {major}.{minor}.{patch} or newer");
        let Some(version) = &subject.facts.system.nft_version else {
            return Some(("`nft` is not there".to_owned(), remedy));
        };
        let found = leading_numbers(version).map(|[a, b, c]: [u32; 3]| (a, b, c));
        let is_old = found.is_none_or(|found| found < NFT);
        is_old.then(|| (format!("nft {version} is too old"), remedy))
    })
}

pub(super) fn clock(question: &Question) -> Vec<Finding> {
    let remedy = "set its clock, and keep it right by NTP";
    let offset_of = |subject: &Subject| question.clock_offsets.get(&subject.host.name).copied();
    let mut findings: Vec<Finding> = question
        .subjects()
        .filter_map(|subject| {
            let offset = offset_of(&subject).filter(|offset| offset.abs() > CLOCK_TO_JUMP_HOST)?;
            let way = if offset > 0.0 { "ahead of" } else { "behind" };
            let found = format!(
                "its clock is {:.0} s {way} this machine's, {CLOCK_TO_JUMP_HOST:.0} s are allowed",
                offset.abs()
            );
            Some(finding(&subject, found, remedy))
        })
        .collect();
    let masters: Vec<(Subject, f64)> = question
        .subjects()
        .filter(is_master)
        .filter_map(|subject| Some((subject, offset_of(&subject)?)))
        .collect();
    let Some((first, reference)) = masters.first() else {
        return findings;
    };
    for (subject, offset) in &masters[1..] {
        let apart = (offset - reference).abs();
        if apart > CLOCK_BETWEEN_MASTERS {
            let found = format!(
                "its clock is {apart:.1} s apart from that of {}, {CLOCK_BETWEEN_MASTERS:.0} s are \
                 allowed between masters",
                first.host.name
            );
            findings.push(finding(subject, found, remedy));
        }
    }
    findings
}

fn is_master(subject: &Subject) -> bool {
    subject.host.has(Role::ControlPlane) || subject.host.has(Role::Etcd)
}

/// The first numbers of a version; what is missing counts as 0. None if it
/// does not begin with a number.
fn leading_numbers<const N: usize>(version: &str) -> Option<[u32; N]> {
    let mut numbers = [0; N];
    let parts = version.split(|character: char| !character.is_ascii_digit());
    for (index, (number, part)) in numbers.iter_mut().zip(parts).enumerate() {
        match part.parse() {
            Ok(parsed) => *number = parsed,
            Err(_) if index == 0 => return None,
            Err(_) => break,
        }
    }
    Some(numbers)
}
