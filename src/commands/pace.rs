//! How fast and how far an upgrade goes: where it pauses, and where it ends.

use super::ask;
use super::fault::{Exit, Fault};
use crate::cli::{PauseBetween, UntilArg};
use crate::desired::Until;
use crate::event::{Event, EventSink as _, HostsByZone};
use crate::execute::Pauses;
use crate::inventory::Inventory;
use crate::output::Output;
use futures_util::future::BoxFuture;
use std::io::{self, IsTerminal};

/// The zone or host that is named.
pub(super) fn until(
    inventory: &Inventory,
    asked: Option<&UntilArg>,
) -> Result<Option<Until>, Fault> {
    let refuse = |what: &str, known: Vec<&str>| {
        let message = format!("`--until {what}` is none of {}", inventory.file);
        let hint = format!("there is {}", known.join(", "));
        Err(Fault::new(Exit::Input, message).hint(hint))
    };
    match asked {
        None => Ok(None),
        Some(UntilArg::Zone(name)) => {
            let known: Vec<&str> = inventory
                .zones
                .iter()
                .map(|zone| zone.name.as_str())
                .collect();
            match known.contains(&name.as_str()) {
                true => Ok(Some(Until {
                    zone: name.clone(),
                    host: None,
                })),
                false => refuse(&format!("zone:{name}"), known),
            }
        }
        Some(UntilArg::Host(name)) => {
            match inventory.hosts.iter().find(|host| host.name == *name) {
                Some(host) => Ok(Some(Until {
                    zone: host.zone.clone(),
                    host: Some(name.clone()),
                })),
                None => {
                    let known = inventory.hosts.iter().map(|host| host.name.as_str());
                    refuse(&format!("host:{name}"), known.collect())
                }
            }
        }
    }
}

/// Asks the operator, between zones or hosts.
pub(super) struct Asking<'a> {
    pub(super) between: PauseBetween,
    pub(super) output: &'a Output,
}

impl<'a> Asking<'a> {
    /// # Errors
    /// Where nobody is there to answer.
    pub(super) fn new(between: PauseBetween, output: &'a Output) -> Result<Self, Fault> {
        if !io::stdin().is_terminal() {
            return Err(nobody());
        }
        Ok(Self { between, output })
    }
}

/// Whether it is asked between two groups of hosts.
fn is_due(between: PauseBetween, after: &HostsByZone, before: &HostsByZone) -> bool {
    match between {
        PauseBetween::Host => after != before,
        PauseBetween::Zone => !after.keys().eq(before.keys()),
    }
}

fn nobody() -> Fault {
    Fault::new(Exit::Input, "nobody is here to answer `--pause-between`")
        .hint("run it on a terminal; or go zone by zone with `--until zone:NAME`")
}

impl Pauses for Asking<'_> {
    fn may_go_on<'a>(
        &'a self,
        after: &'a HostsByZone,
        before: &'a HostsByZone,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            if !is_due(self.between, after, before) {
                return true;
            }
            self.output.emit(Event::Paused {
                after: after.clone(),
                before: before.clone(),
            });
            let answer = ask::confirm(self.output, "Go on?", nobody());
            answer.await.is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVENTORY: &str = "[cluster]\nname = \"lab\"\n[zones.a]\n[zones.b]\n\
         [[hosts]]\nname = \"m1\"\naddress = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n\
         [[hosts]]\nname = \"w1\"\naddress = \"10.77.2.21\"\nzone = \"b\"\nroles = [\"worker\"]\n";

    fn told(text: &str) -> String {
        let inventory = crate::inventory::parse(INVENTORY, "inventory.toml".into()).unwrap();
        let asked: UntilArg = match text.parse() {
            Ok(asked) => asked,
            Err(error) => return error,
        };
        match until(&inventory, Some(&asked)) {
            Ok(until) => format!("{:?}", until.unwrap()),
            Err(fault) => format!(
                "{}; {}",
                fault.failures[0].message, fault.failures[0].hints[0]
            ),
        }
    }

    #[test]
    fn what_a_run_goes_to_is_of_the_inventory() {
        assert_eq!(told("zone:a"), "Until { zone: \"a\", host: None }");
        assert_eq!(told("host:w1"), "Until { zone: \"b\", host: Some(\"w1\") }");
        assert_eq!(
            told("zone:c"),
            "`--until zone:c` is none of inventory.toml; there is a, b"
        );
        assert_eq!(
            told("host:a"),
            "`--until host:a` is none of inventory.toml; there is m1, w1"
        );
        for odd in ["a", "zone:", "m1", "node:w1"] {
            assert_eq!(told(odd), "write `zone:NAME` or `host:NAME`");
        }
    }

    #[test]
    fn pauses_are_between_zones_or_hosts() {
        let zones = |text: &str| -> HostsByZone {
            let each = text.split(' ').map(|host| {
                let (zone, _) = host.split_at(1);
                (zone.to_owned(), [host.to_owned()].into())
            });
            each.collect()
        };
        for (between, after, before, expected) in [
            (PauseBetween::Zone, "a1", "a2", false),
            (PauseBetween::Zone, "a1", "b1", true),
            (PauseBetween::Host, "a1", "a2", true),
            (PauseBetween::Host, "a1", "a1", false),
        ] {
            assert_eq!(is_due(between, &zones(after), &zones(before)), expected);
        }
    }
}
