//! What a master's processes hold in memory.

use super::{Figure, figure};
use crate::lab::Lab;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

/// A cluster that was just installed calms down first.
const CALM: Duration = Duration::from_secs(60);

/// Names of processes as the kernel cuts them, and what they are.
const COMPONENTS: &[(&str, &str)] = &[
    ("kube-apiserver", "kube-apiserver"),
    ("kube-controller", "kube-controller-manager"),
    ("kube-scheduler", "kube-scheduler"),
    ("etcd", "etcd"),
    ("kubelet", "kubelet"),
    ("containerd", "containerd"),
    ("containerd-shim", "containerd's shims"),
    ("kube-proxy", "kube-proxy"),
    ("flanneld", "flanneld"),
    ("cofferdam", "cofferdam (API proxy, route)"),
    ("registry", "registry"),
];

/// Proportional set sizes in MiB, by component.
pub(super) type Memory = BTreeMap<&'static str, f64>;

/// Looks at a host once it is idle. What is not a component of Kubernetes is
/// left out: the system itself, and pods.
pub(super) fn idle(lab: &Lab, host: &str) -> Result<Memory> {
    std::thread::sleep(CALM);
    let line = "for p in /proc/[0-9]*; do echo \"$(cat $p/comm) $(grep ^Pss: $p/smaps_rollup)\"; done 2>/dev/null";
    let memory = parse(&lab.ssh_output(host, line)?);
    ensure!(
        memory.contains_key("kube-apiserver"),
        "no API server on {host}"
    );
    Ok(memory)
}

/// Lines such as `etcd Pss:   49152 kB`.
fn parse(text: &str) -> Memory {
    let mut memory = Memory::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, "Pss:", kibibytes, "kB"] = words[..] else {
            continue;
        };
        let component = COMPONENTS.iter().find(|(process, _)| *process == name);
        if let (Some((_, component)), Ok(kibibytes)) = (component, kibibytes.parse::<f64>()) {
            *memory.entry(component).or_default() += kibibytes / 1024.0;
        }
    }
    memory
}

/// One figure for each component, and their sum.
pub(super) fn figures(ours: &Memory, theirs: Option<&Memory>) -> Vec<Figure> {
    let sum = |memory: &Memory| memory.values().sum::<f64>();
    let mut figures = vec![figure(
        "idle master, proportional set size",
        (sum(ours), "MiB"),
        theirs.map(|theirs| ("kubeadm's", sum(theirs))),
        "1.0",
    )];
    for (_, component) in COMPONENTS {
        let Some(own) = ours.get(component) else {
            continue;
        };
        let beside = theirs.and_then(|theirs| theirs.get(component));
        figures.push(figure(
            format!("  {component}"),
            (*own, "MiB"),
            beside.map(|other| ("kubeadm's", *other)),
            "",
        ));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_name_add_up_and_others_are_left_out() {
        let text = "etcd Pss:    2048 kB\ncontainerd-shim Pss: 1024 kB\ncontainerd-shim Pss: 512 kB\n\
                    bash Pss: 10240 kB\nkthreadd \n";
        let memory = parse(text);
        assert_eq!(memory.len(), 2);
        assert!((memory["etcd"] - 2.0).abs() < 1e-9);
        assert!((memory["containerd's shims"] - 1.5).abs() < 1e-9);
    }
}
