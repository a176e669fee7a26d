//! What steps of ours have stopped, and whether two zones lack something at
//! once because of it.

use super::world::World;
use std::collections::BTreeSet;

const ETCD: &str = "etcd.service";
const API_SERVER: &str = "kube-apiserver.service";
const REGISTRY: &str = "registry.service";

/// What other zones stand in for while it is down.
const STOOD_IN_FOR: [&str; 3] = [ETCD, API_SERVER, REGISTRY];

/// Hosts with their units that a step of ours stopped, and that don't serve
/// again yet.
pub(super) type Disrupted = BTreeSet<(String, &'static str)>;

impl World {
    /// Which of those units serve on a host.
    pub(super) fn serving(&self, host: &str) -> Vec<&'static str> {
        let units = STOOD_IN_FOR.into_iter();
        units.filter(|unit| self.serves(host, unit)).collect()
    }

    /// An API server serves only while the member of etcd beside it does, so
    /// that whatever stops the one disrupts both.
    fn serves(&self, host: &str, unit: &str) -> bool {
        match unit {
            API_SERVER => self.api_is_ready(host),
            _ => self.is_active(host, unit),
        }
    }

    /// Records what a step of ours stopped on a host, of what served `before`
    /// it. No two zones may lack the same at once.
    pub(super) fn note_disruptions(&mut self, host: &str, before: &[&'static str]) {
        for unit in before {
            if self.serves(host, unit) || !self.is_desired(host, unit) {
                continue;
            }
            let down = self
                .disrupted
                .iter()
                .find(|(other, kind)| kind == unit && self.zone_of(other) != self.zone_of(host));
            // Of two members both are needed; that is announced.
            let is_announced = *unit == ETCD && self.etcd_voters().len() <= 2;
            if let Some((other, _)) = down.filter(|_| !is_announced) {
                self.violations.push(format!(
                    "{host}: a step of ours stopped {unit} while that of {other}, in another zone, was down by one too"
                ));
            }
            self.disrupted.insert((host.to_owned(), unit));
        }
    }

    /// Forgets what serves again, or is not to be there any more.
    pub(super) fn forget_disruptions(&mut self) {
        let mut disrupted = std::mem::take(&mut self.disrupted);
        disrupted.retain(|(host, unit)| !self.serves(host, unit) && self.is_desired(host, unit));
        self.disrupted = disrupted;
    }

    /// A fault, or somebody, did something to the host: what is down there now
    /// is no longer down by us.
    pub(super) fn forget_disruptions_of(&mut self, host: &str) {
        self.disrupted.retain(|(other, _)| other != host);
    }

    fn is_desired(&self, host: &str, unit: &str) -> bool {
        let host = self.desired.hosts.get(host);
        host.is_some_and(|host| host.units.iter().any(|known| known.name == unit))
    }
}
