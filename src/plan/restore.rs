//! What a restore of etcd does to the rest of a plan: members whose data is yet
//! to be put in place, and all that asks them, are brought up anew. So they are
//! taken for stopped, and the plan is what it is for hosts that were.

use super::world::World;
use crate::desired::{Desired, DesiredHost, EtcdRestore, Stage, Unit};
use crate::facts::HostFacts;
use crate::inventory::Inventory;
use crate::site::Decisions;

/// The world without etcd and the control plane of the hosts on which a restore
/// has yet to be done. None if none is wanted.
pub(super) fn without_etcd(desired: &Desired, world: &World) -> Option<World> {
    let restore = desired.restore.as_ref()?;
    let mut world = world.clone();
    let mut is_whole = true;
    for (name, host) in &desired.hosts {
        let Some(facts) = world.hosts.get_mut(name) else {
            continue;
        };
        if is_done(restore, host, facts) {
            continue;
        }
        is_whole = false;
        for unit in units(host) {
            facts.units.remove(&unit.name);
        }
        facts.etcd = None;
    }
    if !is_whole {
        // What other hosts saw of etcd, and the API servers of what is in it.
        for facts in world.hosts.values_mut() {
            facts.etcd = None;
        }
        world.cluster = None;
    }
    Some(world)
}

/// Whether the host is restored, or has nothing to restore.
pub fn is_done(restore: &EtcdRestore, host: &DesiredHost, facts: &HostFacts) -> bool {
    let is_restored = facts.etcd_restored.as_ref() == Some(&restore.token);
    let has_data = host.etcd.is_none() || facts.etcd_data;
    units(host).next().is_none() || is_restored && has_data
}

/// The host's part of etcd and the control plane, in start order.
pub(super) fn units(host: &DesiredHost) -> impl Iterator<Item = &Unit> {
    let units = host.units.iter();
    units.filter(|unit| matches!(unit.stage, Stage::Etcd | Stage::ControlPlane))
}

/// All members of the inventory begin together. Returns what is new of that, a
/// line each.
pub fn decide(decisions: &mut Decisions, inventory: &Inventory) -> Vec<String> {
    let members = inventory.etcd_members().into_iter();
    let members: Vec<String> = members.map(|host| host.name.clone()).collect();
    if decisions.etcd_bootstrap == members && decisions.etcd_joined.is_empty() {
        return Vec::new();
    }
    let line = format!("etcd begins anew with the members {}", members.join(", "));
    decisions.etcd_bootstrap = members;
    decisions.etcd_joined.clear();
    vec![line]
}

/// Three masters in one zone, for tests.
#[cfg(test)]
pub(crate) fn three_masters() -> Inventory {
    let host = |name: &str, last: u8| {
        format!(
            "[[hosts]]\nname = \"{name}\"\naddress = \"10.77.1.{last}\"\nzone = \"a\"\n\
             roles = [\"control-plane\"]\n"
        )
    };
    let text = format!(
        "[cluster]\nname = \"lab\"\nsurvive = \"host\"\n[zones.a]\n{}{}{}",
        host("m1", 11),
        host("m2", 12),
        host("m3", 13)
    );
    crate::inventory::parse(&text, "inventory.toml".into()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_begin_together_whoever_joined_later() {
        let mut decisions = Decisions {
            etcd_bootstrap: vec!["m1".to_owned()],
            etcd_joined: vec!["m3".to_owned(), "m2".to_owned()],
            ..Decisions::default()
        };
        let new = decide(&mut decisions, &three_masters());
        assert_eq!(new, ["etcd begins anew with the members m1, m2, m3"]);
        assert_eq!(decisions.etcd_bootstrap, ["m1", "m2", "m3"]);
        assert_eq!(decisions.etcd_joined, [""; 0]);
        assert_eq!(decide(&mut decisions, &three_masters()), [""; 0]);
    }
}
