//! The tables `[zones.NAME]`, and which registries each zone uses.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;

use super::hosts::HostDraft;
use super::model::{MaxUnavailable, Role, Zone};
use super::problem::{Finding, Report};
use super::raw::{FlagValue, RawZone};
use super::suggest;
use super::values;

/// A zone as far as it could be read.
pub(super) struct ZoneDraft {
    pub(super) name: Spanned<String>,
    /// The zone whose registry is used first, if named.
    pub(super) registry: Option<Spanned<String>>,
    max_unavailable: MaxUnavailable,
}

/// Zones in the order of the file; `header` is where to point if there are none.
pub(super) fn read_zones(
    raw: BTreeMap<Spanned<String>, RawZone>,
    header: Range<usize>,
    report: &mut Report<'_>,
) -> Vec<ZoneDraft> {
    let mut zones: Vec<ZoneDraft> = raw
        .into_iter()
        .map(|(name, raw)| ZoneDraft {
            max_unavailable: read_max_unavailable(&name, raw.max_unavailable.as_ref(), report),
            name,
            registry: raw.registry,
        })
        .collect();
    zones.sort_by_key(|zone| zone.name.span().start);
    for zone in &zones {
        values::label(
            &zone.name,
            &format!("zones.{}", zone.name.get_ref()),
            report,
        );
    }
    if zones.is_empty() {
        report.error(Finding {
            at: header,
            key: "zones".to_owned(),
            message: "there is no zone".to_owned(),
            remedy: "add one for each network area with its own firewall, such as `[zones.a]`"
                .to_owned(),
        });
    }
    zones
}

/// `2`, or `"25%"`.
fn read_max_unavailable(
    zone: &Spanned<String>,
    raw: Option<&Spanned<FlagValue>>,
    report: &mut Report<'_>,
) -> MaxUnavailable {
    let Some(raw) = raw else {
        return MaxUnavailable::default();
    };
    let text = raw.get_ref().0.as_str();
    let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
    let found = match text.strip_suffix('%') {
        Some(share) => number(share)
            .filter(|share| *share < 100)
            .map(MaxUnavailable::Percent),
        None => number(text).map(MaxUnavailable::Count),
    };
    if found.is_none() {
        report.error(Finding {
            at: raw.span(),
            key: format!("zones.{}.max_unavailable", zone.get_ref()),
            message: format!("`{text}` is no count of nodes and no share of them"),
            remedy: "write a count such as 2, or a share from \"1%\" to \"99%\"".to_owned(),
        });
    }
    found.unwrap_or_default()
}

/// Hosts are in zones that exist, and each zone has hosts.
pub(super) fn check_membership(zones: &[ZoneDraft], hosts: &[HostDraft], report: &mut Report<'_>) {
    let known: Vec<&str> = zones
        .iter()
        .map(|zone| zone.name.get_ref().as_str())
        .collect();
    for host in hosts {
        let zone = host.zone.get_ref().as_str();
        // Without any zone, that alone is reported.
        if !known.is_empty() && !known.contains(&zone) {
            report.error(Finding {
                at: host.zone.span(),
                key: host.key("zone"),
                message: format!("unknown zone `{zone}`"),
                remedy: suggest::remedy(zone, &known, "zones"),
            });
        }
    }
    for zone in zones {
        let name = zone.name.get_ref();
        if !hosts.iter().any(|host| host.zone.get_ref() == name) {
            report.error(Finding {
                at: zone.name.span(),
                key: format!("zones.{name}"),
                message: format!("zone `{name}` has no hosts"),
                remedy: "put a host into it, or leave it out".to_owned(),
            });
        }
    }
}

/// Gives each zone its order of registries: the one it names or its own, else the first in the
/// file; then its own; then the others in the order of the file.
///
/// Roles must have been assigned.
pub(super) fn resolve(
    zones: &[ZoneDraft],
    hosts: &[HostDraft],
    report: &mut Report<'_>,
) -> Vec<Zone> {
    let with_registry: Vec<&str> = zones
        .iter()
        .map(|zone| zone.name.get_ref().as_str())
        .filter(|name| {
            hosts
                .iter()
                .any(|host| host.zone.get_ref() == name && host.has(Role::Registry))
        })
        .collect();
    zones
        .iter()
        .map(|zone| {
            let name = zone.name.get_ref().as_str();
            check_registry_choice(zone, &with_registry, report);
            let chosen = zone
                .registry
                .as_ref()
                .map(|registry| registry.get_ref().as_str());
            let mut order = with_registry.clone();
            order.sort_by_key(|candidate| (Some(*candidate) != chosen, *candidate != name));
            Zone {
                name: name.to_owned(),
                registry_order: order.into_iter().map(str::to_owned).collect(),
                max_unavailable: zone.max_unavailable,
            }
        })
        .collect()
}

fn check_registry_choice(zone: &ZoneDraft, with_registry: &[&str], report: &mut Report<'_>) {
    let Some(chosen) = &zone.registry else { return };
    if with_registry.contains(&chosen.get_ref().as_str()) {
        return;
    }
    report.error(Finding {
        at: chosen.span(),
        key: format!("zones.{}.registry", zone.name.get_ref()),
        message: format!("no zone `{}` has a registry", chosen.get_ref()),
        remedy: match with_registry.is_empty() {
            true => "leave it out; `[registry]` names one for all".to_owned(),
            false => suggest::remedy(chosen.get_ref(), with_registry, "zones with a registry"),
        },
    });
}
