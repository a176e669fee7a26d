//! The end state of hosts: every file that an install brings, with its mode,
//! owner and digest, and every unit of it that runs.

use crate::lab::Lab;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// By host, then by path or unit.
pub type State = BTreeMap<String, BTreeMap<String, String>>;

/// Where an install writes. The rendered CNI configuration holds the node's
/// share of the pod addresses, which nodes get in the order in which they
/// register, and generations count up with every run that changed something.
const SCRIPT: &str = r#"
set -e
for root in /opt/cofferdam /etc/kubernetes /etc/etcd /etc/containerd /etc/cofferdam \
    /etc/sysusers.d /etc/modules-load.d /etc/sysctl.d /etc/systemd/system \
    /etc/systemd/journald.conf.d /var/lib/cofferdam/registry/docker/registry/v2/repositories; do
  [ -e "$root" ] || continue
  find "$root" -printf '%p\t%y %m %u:%g %l\n'
  find "$root" -type f -exec sha256sum {} + | while read -r sum path; do
    printf '%s\t%s\n' "$path#" "$sum"
  done
done
for unit in $(systemctl list-unit-files --state=enabled --no-legend --plain | cut -d' ' -f1); do
  printf 'unit %s\t%s\n' "$unit" "$(systemctl is-active "$unit" || true)"
done
"#;

/// Looks at every host of the lab.
pub fn of(lab: &Lab) -> Result<State> {
    let mut state = State::new();
    for host in lab.hosts() {
        let text = lab.ssh_output(&host.name, SCRIPT)?;
        let entries: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ensure!(
            entries.len() > 50,
            "{}: only {} entries",
            host.name,
            entries.len()
        );
        state.insert(host.name.clone(), entries);
    }
    Ok(state)
}

/// The first twenty differences, for people.
pub fn differences(expected: &State, found: &State) -> Vec<String> {
    let mut differences = Vec::new();
    let empty = BTreeMap::new();
    let hosts: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    for host in hosts {
        let (left, right) = (
            expected.get(host).unwrap_or(&empty),
            found.get(host).unwrap_or(&empty),
        );
        let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for name in names {
            let (before, after) = (left.get(name), right.get(name));
            if before != after {
                let show = |value: Option<&String>| value.map_or("-".to_owned(), Clone::clone);
                differences.push(format!(
                    "{host} {name}: {} != {}",
                    show(before),
                    show(after)
                ));
            }
        }
    }
    differences.truncate(20);
    differences
}
