//! What of the inventory may be why a component does not run.

use super::fault::Fault;
use crate::event::{EventFailure, EventPlace};
use crate::inventory::{Component, Inventory, OverridePlace};
use std::collections::BTreeSet;

/// Settings that are told when none of them is named in what the host says.
const MOST: usize = 8;

/// Points failures of components at what the inventory sets of them. What the
/// host's last lines name comes first, and alone.
pub(super) fn point_to_overrides(mut fault: Fault, inventory: &Inventory) -> Fault {
    for failure in &mut fault.failures {
        for component in Component::ALL {
            point(failure, component, inventory);
        }
    }
    fault
}

fn point(failure: &mut EventFailure, component: Component, inventory: &Inventory) {
    let host = failure.host.as_deref();
    let mut hosts = inventory.hosts.iter();
    let Some(host) = hosts.find(|known| Some(known.name.as_str()) == host) else {
        return;
    };
    let unit = format!("{component}.service");
    let mut told = std::iter::once(&failure.message).chain(&failure.hints);
    if !told.any(|text| text.contains(&unit)) {
        return;
    }
    let said = failure.lines.join("\n");
    let mut places = inventory.override_places(host, component);
    let is_in_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let words: BTreeSet<&str> = said.split(|letter| !is_in_word(letter)).collect();
    let is_named = |place: &OverridePlace| {
        words.contains(place.name) || words.contains(format!("--{}", place.name).as_str())
    };
    if places.iter().any(is_named) {
        places.retain(is_named);
    }
    let file = &inventory.file;
    let told = places.iter().take(MOST);
    failure.places.extend(told.clone().map(|place| EventPlace {
        file: file.to_string(),
        line: Some(place.location.line),
        column: Some(place.location.column),
        message: format!("{} is set here", place.key),
    }));
    let keys = told.map(|place| format!("`{}` ({file}:{})", place.key, place.location.line));
    let keys: Vec<String> = keys.collect();
    if !keys.is_empty() {
        failure.hints.push(format!(
            "the inventory sets {}: if that is why, change it and run the same command again",
            keys.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Exit;
    use super::*;

    fn inventory() -> Inventory {
        let text = "[cluster]\nname = \"lab\"\n[zones.a]\n\
             [[hosts]]\nname = \"m1\"\naddress = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n\
             [[hosts]]\nname = \"w1\"\naddress = \"10.77.1.21\"\nzone = \"a\"\nroles = [\"worker\"]\n\
             [overrides.kubelet]\nconfig = { maxPods = 50, evictionHard = { \"memory.available\" = \"much\" } }\n\
             [overrides.kube-proxy]\nconfig = { metricsBindAddress = \"0.0.0.0\" }\n";
        crate::inventory::parse(text, "inventory.toml".into()).unwrap()
    }

    fn told(host: &str, message: &str, line: &str) -> Vec<String> {
        let mut fault = Fault::new(Exit::Failed, message);
        fault.failures[0].host = Some(host.to_owned());
        fault.failures[0].lines = vec![line.to_owned()];
        let fault = point_to_overrides(fault, &inventory());
        let failure = &fault.failures[0];
        assert_eq!(failure.hints.is_empty(), failure.places.is_empty());
        let places = failure.places.iter();
        places
            .map(|place| format!("{}:{}: {}", place.file, place.line.unwrap(), place.message))
            .collect()
    }

    #[test]
    fn what_the_host_names_is_pointed_at_alone() {
        let message = "w1: starting kubelet.service: it failed";
        let limit = "inventory.toml:15: overrides.kubelet.config.evictionHard is set here";
        let pods = "inventory.toml:15: overrides.kubelet.config.maxPods is set here";
        for (host, message, line, expected) in [
            ("w1", message, "evictionHard: bad quantity", &[limit][..]),
            ("m1", message, "it panicked, maxPodsPerCore", &[pods, limit]),
            ("elsewhere", message, "evictionHard", &[]),
            ("w1", "w1: the disk is full", "evictionHard", &[]),
            ("w1", "w1: starting containerd.service: it failed", "", &[]),
        ] {
            assert_eq!(told(host, message, line), expected, "{message} {line}");
        }
    }
}
