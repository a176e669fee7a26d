//! Which hosts a lab has, in which zones, at which addresses. Pure.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Everything of the lab lies in this network, and nothing else does.
pub const LAB_NETWORK: &str = "10.77.0.0/16";
/// The router's leg to the jump host, which is the machine itself.
pub const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);
/// The address that hosts see the jump host as.
pub const JUMP_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
/// Prefix of every network namespace, link and mount source of the lab. What
/// bears it is the lab's, so that a lab without its state can be swept up.
pub const PREFIX: &str = "cofferdam-";
/// The router's network namespace.
pub const ROUTER_NAMESPACE: &str = "cofferdam-router";
/// The machine's end of the link between jump host and router.
pub const JUMP_LINK: &str = "cofferdam-jump";
/// The router's end of that link.
pub const ROUTER_JUMP_LINK: &str = "jump";

/// Zones are 10.77.1.0/24 and up; 10.77.9.0/24 is the jump host's.
const MAXIMUM_ZONES: usize = 8;
/// Masters are .11 to .20, workers .21 and up.
const FIRST_MASTER: u8 = 11;
const MAXIMUM_MASTERS: u8 = 10;
const FIRST_WORKER: u8 = 21;
const MAXIMUM_WORKERS: u8 = 200;
/// Witnesses are .5 to .9.
const FIRST_WITNESS: u8 = 5;
const MAXIMUM_WITNESSES: u8 = 5;
/// A bridge is called `zone-NAME`, and interface names have 15 characters.
const MAXIMUM_ZONE_NAME: usize = 10;

/// The lab's zones and hosts, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub zones: Vec<Zone>,
    pub hosts: Vec<Host>,
}

/// A failure zone: one layer-2 network behind the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    pub name: String,
    /// The zone's network is 10.77.NUMBER.0/24.
    pub number: u8,
}

/// One host: a network namespace and a container that boots systemd in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub zone: String,
    pub address: Ipv4Addr,
    pub kind: Kind,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Master,
    Worker,
    /// A member of etcd and nothing else.
    Witness,
}

/// How many hosts are wanted, and in which zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub masters: u8,
    pub workers: u8,
    /// Hosts with etcd alone, in the zones after the masters'.
    pub witnesses: u8,
    /// Empty: `a`, `b`, `c`, as many as can be filled.
    pub zones: Vec<String>,
}

impl Layout {
    /// Spreads the wanted hosts over the zones, one per zone in turn, masters
    /// and workers each from the first zone on, witnesses behind the masters. The
    /// last byte of an address
    /// tells the host: m2 ends in 12, w2 in 22, whatever their zones are.
    pub fn spread(wanted: &Wanted) -> Result<Self> {
        if wanted.masters == 0 || wanted.masters > MAXIMUM_MASTERS {
            bail!("--masters must lie between 1 and {MAXIMUM_MASTERS}");
        }
        if wanted.workers > MAXIMUM_WORKERS {
            bail!("--workers must be at most {MAXIMUM_WORKERS}");
        }
        if wanted.witnesses > MAXIMUM_WITNESSES {
            bail!("--witnesses must be at most {MAXIMUM_WITNESSES}");
        }
        let names = zone_names(wanted)?;
        let zones: Vec<Zone> = (1u8..)
            .zip(names)
            .map(|(number, name)| Zone { name, number })
            .collect();
        let place = |index: u8| &zones[usize::from(index) % zones.len()];
        let masters = (0..wanted.masters).map(|index| {
            let zone = place(index);
            Host {
                name: format!("m{}", index + 1),
                zone: zone.name.clone(),
                address: zone.address(FIRST_MASTER + index),
                kind: Kind::Master,
            }
        });
        let workers = (0..wanted.workers).map(|index| {
            let zone = place(index);
            Host {
                name: format!("w{}", index + 1),
                zone: zone.name.clone(),
                address: zone.address(FIRST_WORKER + index),
                kind: Kind::Worker,
            }
        });
        let witnesses = (0..wanted.witnesses).map(|index| {
            let zone = place(wanted.masters + index);
            Host {
                name: format!("e{}", index + 1),
                zone: zone.name.clone(),
                address: zone.address(FIRST_WITNESS + index),
                kind: Kind::Witness,
            }
        });
        let hosts: Vec<Host> = masters.chain(workers).chain(witnesses).collect();
        if let Some(empty) = zones
            .iter()
            .find(|zone| hosts.iter().all(|host| host.zone != zone.name))
        {
            bail!(
                "zone {} has no host: name fewer zones with --zones, or ask for more hosts",
                empty.name
            );
        }
        Ok(Self { zones, hosts })
    }

    /// The host of that name, or an error that lists the names there are.
    pub fn host(&self, name: &str) -> Result<&Host> {
        match self.hosts.iter().find(|host| host.name == name) {
            Some(host) => Ok(host),
            None => {
                let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
                bail!("the lab has no host {name}: it has {}", names.join(", "))
            }
        }
    }

    /// The zone of that name.
    pub fn zone_named(&self, name: &str) -> Result<&Zone> {
        match self.zones.iter().find(|zone| zone.name == name) {
            Some(zone) => Ok(zone),
            None => {
                let names: Vec<&str> = self.zones.iter().map(|zone| zone.name.as_str()).collect();
                bail!("the lab has no zone {name}: it has {}", names.join(", "))
            }
        }
    }

    /// The hosts that a command line means: one by name, or `all`.
    pub fn select(&self, name: &str) -> Result<Vec<&Host>> {
        if name == "all" {
            return Ok(self.hosts.iter().collect());
        }
        Ok(vec![self.host(name)?])
    }

    /// The zone that a host is in.
    pub fn zone(&self, host: &Host) -> Result<&Zone> {
        match self.zones.iter().find(|zone| zone.name == host.zone) {
            Some(zone) => Ok(zone),
            None => bail!(
                "host {} is in zone {}, which is not there",
                host.name,
                host.zone
            ),
        }
    }
}

impl Zone {
    /// An address in this zone's network.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, last)
    }

    /// This zone's network.
    pub fn network(&self) -> String {
        format!("{}/24", self.address(0))
    }

    /// The router's address in this zone.
    pub fn router(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The router's bridge for this zone.
    pub fn bridge(&self) -> String {
        format!("zone-{}", self.name)
    }
}

impl Host {
    /// The host's network namespace, also its name as a machine.
    pub fn namespace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// The name of the host's cgroup in every hierarchy, and the source of its
    /// root mount.
    pub fn group(&self) -> String {
        format!("{PREFIX}lab-{}", self.name)
    }

    /// A fixed hardware address: after a power cut the host comes back with
    /// the one that its neighbors remember, as a real machine does.
    pub fn hardware_address(&self) -> String {
        hardware_address(self.address)
    }
}

/// A locally administered hardware address made of an IP address.
pub fn hardware_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn zone_names(wanted: &Wanted) -> Result<Vec<String>> {
    if wanted.zones.is_empty() {
        let members = wanted.masters + wanted.witnesses;
        let count = usize::from(members.max(wanted.workers).clamp(1, 3));
        return Ok(["a", "b", "c"][..count]
            .iter()
            .map(ToString::to_string)
            .collect());
    }
    if wanted.zones.len() > MAXIMUM_ZONES {
        bail!(
            "--zones names {} zones, at most {MAXIMUM_ZONES} are possible",
            wanted.zones.len()
        );
    }
    for (index, name) in wanted.zones.iter().enumerate() {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty()
            || name.len() > MAXIMUM_ZONE_NAME
            || !name.chars().all(letters)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            bail!(
                "zone name {name:?} does not fit: use up to {MAXIMUM_ZONE_NAME} lower-case letters, digits and inner dashes"
            );
        }
        if wanted.zones[..index].contains(name) {
            bail!("--zones names {name} twice");
        }
    }
    Ok(wanted.zones.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(masters: u8, workers: u8, zones: &[&str]) -> Result<Vec<String>> {
        let layout = Layout::spread(&Wanted {
            masters,
            workers,
            zones: zones.iter().map(ToString::to_string).collect(),
            ..Wanted::default()
        })?;
        Ok(told(&layout))
    }

    fn told(layout: &Layout) -> Vec<String> {
        let hosts = layout.hosts.iter();
        let line = |host: &Host| format!("{} {} {}", host.name, host.zone, host.address);
        hosts.map(line).collect()
    }

    #[test]
    fn a_witness_stands_in_a_zone_of_its_own() {
        let layout = Layout::spread(&Wanted {
            masters: 2,
            workers: 1,
            witnesses: 1,
            ..Wanted::default()
        });
        let expected = [
            "m1 a 10.77.1.11",
            "m2 b 10.77.2.12",
            "w1 a 10.77.1.21",
            "e1 c 10.77.3.5",
        ];
        assert_eq!(told(&layout.unwrap()), expected);
    }

    #[test]
    fn hosts_are_spread_over_zones_in_turn() {
        let table: &[(u8, u8, &[&str], &[&str])] = &[
            (
                1,
                2,
                &[],
                &["m1 a 10.77.1.11", "w1 a 10.77.1.21", "w2 b 10.77.2.22"],
            ),
            (1, 0, &[], &["m1 a 10.77.1.11"]),
            (
                3,
                1,
                &[],
                &[
                    "m1 a 10.77.1.11",
                    "m2 b 10.77.2.12",
                    "m3 c 10.77.3.13",
                    "w1 a 10.77.1.21",
                ],
            ),
            (
                1,
                2,
                &["north", "south"],
                &[
                    "m1 north 10.77.1.11",
                    "w1 north 10.77.1.21",
                    "w2 south 10.77.2.22",
                ],
            ),
            (1, 1, &["a"], &["m1 a 10.77.1.11", "w1 a 10.77.1.21"]),
        ];
        for (masters, workers, zones, hosts) in table {
            assert_eq!(&spread(*masters, *workers, zones).unwrap(), hosts);
        }
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused_with_the_reason() {
        let table: &[(u8, u8, &[&str], &str)] = &[
            (0, 1, &[], "--masters must lie between 1 and 10"),
            (11, 1, &[], "--masters must lie between 1 and 10"),
            (1, 201, &[], "--workers must be at most 200"),
            (1, 1, &["a", "b"], "zone b has no host"),
            (2, 1, &["a", "a"], "--zones names a twice"),
            (1, 1, &["Upper"], "zone name \"Upper\" does not fit"),
            (1, 1, &["far-too-long-name"], "does not fit"),
        ];
        for (masters, workers, zones, reason) in table {
            let error = spread(*masters, *workers, zones).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} lacks {reason:?}");
        }
    }

    #[test]
    fn addresses_are_unique_in_the_largest_lab() {
        let layout = Layout::spread(&Wanted {
            masters: MAXIMUM_MASTERS,
            workers: MAXIMUM_WORKERS,
            zones: vec!["only".into()],
            witnesses: MAXIMUM_WITNESSES,
        })
        .unwrap();
        let mut addresses: Vec<_> = layout.hosts.iter().map(|host| host.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), layout.hosts.len());
    }

    #[test]
    fn hosts_are_selected_by_name_or_all_together() {
        let layout = Layout::spread(&Wanted {
            masters: 1,
            workers: 1,
            ..Wanted::default()
        })
        .unwrap();
        assert_eq!(layout.select("w1").unwrap().len(), 1);
        assert_eq!(layout.select("all").unwrap().len(), 2);
        let error = layout.select("w9").unwrap_err().to_string();
        assert_eq!(error, "the lab has no host w9: it has m1, w1");
        assert_eq!(layout.hosts[0].hardware_address(), "02:00:0a:4d:01:0b");
    }
}
