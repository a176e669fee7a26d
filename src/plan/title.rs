//! Titles of steps: short, for an operator at three in the morning.

use super::diff::{HostDiff, readers};
use super::{FileChange, UnitChange, UnitVerb};
use crate::desired::{Binary, Condition, FileKind};
use crate::ports::numbers::{KUBE_PROXY_HEALTH_PORT, KUBELET_HEALTH_PORT};
use std::collections::{BTreeMap, BTreeSet};

/// As many names as fit on a line that is read at a glance.
const NAMES_SHOWN: usize = 4;

/// `1 file`, `3 files`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

/// Bytes in decimal units, as disks and networks are sold: `402 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let tenths = bytes.saturating_mul(10) / unit;
    match tenths {
        100.. => format!("{} {name}", tenths / 10),
        _ => format!("{}.{} {name}", tenths / 10, tenths % 10),
    }
}

/// Names without `.service`, at most [`NAMES_SHOWN`] of them.
pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names
        .into_iter()
        .map(|name| name.strip_suffix(".service").unwrap_or(name))
        .collect();
    match names.get(NAMES_SHOWN..) {
        None | Some([]) => names.join(", "),
        Some(rest) => format!(
            "{} and {} more",
            names[..NAMES_SHOWN].join(", "),
            rest.len()
        ),
    }
}

/// `write 12 files (etcd, kube-apiserver)`: the names are of the units that
/// read them.
pub fn write_files(host: &HostDiff, files: &[FileChange], kind: FileKind) -> String {
    let what = match kind {
        FileKind::Software => count(files.len(), "file", "files"),
        FileKind::Trust => count(files.len(), "key or certificate", "keys and certificates"),
    };
    let reading: BTreeSet<&str> = files
        .iter()
        .flat_map(|file| readers(&file.path, host.desired))
        .map(|unit| unit.name.as_str())
        .collect();
    // In start order, which is how people think of them.
    let units = host.desired.units.iter().map(|unit| unit.name.as_str());
    let units: Vec<&str> = units.filter(|unit| reading.contains(unit)).collect();
    match (files, units.is_empty()) {
        ([file], true) => format!("write {}", file.path),
        (_, true) => format!("write {what}"),
        (_, false) => format!("write {what} ({})", names(units)),
    }
}

/// `start etcd`, `restart kubelet, start kube-proxy`.
pub fn units(units: &[UnitChange]) -> String {
    let mut verbs: Vec<UnitVerb> = Vec::new();
    for unit in units {
        if !verbs.contains(&unit.verb) {
            verbs.push(unit.verb);
        }
    }
    let parts = verbs.into_iter().map(|verb| {
        let word = match verb {
            UnitVerb::Start => "start",
            UnitVerb::Restart => "restart",
            UnitVerb::Reload => "reload",
            UnitVerb::Enable => "enable",
        };
        let those = units.iter().filter(|unit| unit.verb == verb);
        format!("{word} {}", names(those.map(|unit| unit.name.as_str())))
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// `put kubelet in place, write 2 files, restart kubelet, kube-proxy`.
pub fn switch(
    files: &[FileChange],
    binaries: &BTreeMap<String, Binary>,
    changes: &[UnitChange],
) -> String {
    let mut parts = Vec::new();
    if !binaries.is_empty() {
        let names = names(binaries.keys().map(String::as_str));
        parts.push(format!("put {names} in place"));
    }
    match files {
        [] => {}
        [file] => parts.push(format!("write {}", file.path)),
        _ => parts.push(format!("write {}", count(files.len(), "file", "files"))),
    }
    parts.push(units(changes));
    parts.join("; ")
}

/// `wait until etcd is healthy`.
pub fn wait(condition: &Condition) -> String {
    let what = match condition {
        Condition::UnitActive { unit } => format!("{} runs", names([unit.as_str()])),
        Condition::RegistryServing { .. } => "the registry serves".to_owned(),
        Condition::EtcdHealthy { .. } => "etcd is healthy".to_owned(),
        Condition::ApiReady { .. } => "the API server is ready".to_owned(),
        Condition::HealthEndpoint { port } => match *port {
            KUBELET_HEALTH_PORT => "kubelet is well".to_owned(),
            KUBE_PROXY_HEALTH_PORT => "kube-proxy is well".to_owned(),
            port => format!("port {port} reports health"),
        },
        Condition::NodeReady { name } => format!("node {name} is ready"),
        Condition::NodeHasPodAddresses { name } => format!("node {name} has pod addresses"),
        Condition::WorkloadsAvailable { .. } => "workloads are as available as before".to_owned(),
        Condition::OverlayUp => "the pod network is up".to_owned(),
        Condition::DeploymentAvailable { name } => format!("{name} is available"),
        Condition::ApiServiceAvailable { name } => format!("{name} answers"),
        Condition::ControllerManagerLeads => "a controller-manager leads".to_owned(),
        Condition::DnsAnswers { address, .. } => format!("DNS answers at {address}"),
    };
    format!("wait until {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (12_345_678, "12 MB"),
            (402_000_000, "402 MB"),
            (1_250_000_000, "1.2 GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn units_are_grouped_by_verb() {
        let change = |name: &str, verb| UnitChange {
            name: name.to_owned(),
            verb,
        };
        let changes = [
            change("containerd.service", UnitVerb::Restart),
            change("kubelet.service", UnitVerb::Start),
            change("kube-proxy.service", UnitVerb::Restart),
        ];
        assert_eq!(
            units(&changes),
            "restart containerd, kube-proxy; start kubelet"
        );
    }

    #[test]
    fn many_names_are_cut() {
        assert_eq!(names(["a", "b", "c", "d"]), "a, b, c, d");
        assert_eq!(
            names(["a", "b", "c", "d", "e.service"]),
            "a, b, c, d and 1 more"
        );
    }
}
