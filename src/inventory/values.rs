//! Single values: addresses, networks, numbers, paths. Each reader reports what is wrong and
//! then gives `None`, so that one bad value doesn't hide the next.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use camino::{Utf8Path, Utf8PathBuf};
use ipnet::{Ipv4Net, Ipv6Net};
use toml::Spanned;

use super::names;
use super::problem::{Finding, Report};

/// An IPv4 address that a host can be reached at from another.
pub(super) fn address(
    raw: &Spanned<String>,
    key: &str,
    report: &mut Report<'_>,
) -> Option<Ipv4Addr> {
    let text = raw.get_ref().as_str();
    let (message, remedy) = match text.parse::<Ipv4Addr>() {
        Ok(address) => match unreachable_kind(address) {
            None => return Some(address),
            Some(kind) => (
                format!("{address} is {kind} address, which no other host can reach"),
                "write the address that other hosts use",
            ),
        },
        Err(_) if text.parse::<Ipv6Addr>().is_ok() => (
            format!("`{text}` is an IPv6 address"),
            "write an IPv4 address; IPv6 is not supported yet",
        ),
        Err(_) if text.contains('/') => (
            format!("`{text}` is no address"),
            "leave out the slash and what is behind it",
        ),
        Err(_) => (
            format!("`{text}` is no IPv4 address"),
            "write an address such as 10.0.0.5; names are not looked up",
        ),
    };
    report.error(Finding {
        at: raw.span(),
        key: key.to_owned(),
        message,
        remedy: remedy.to_owned(),
    });
    None
}

/// A list of distinct addresses.
pub(super) fn addresses(
    raw: &[Spanned<String>],
    key: &str,
    report: &mut Report<'_>,
) -> Vec<Spanned<Ipv4Addr>> {
    let mut found: Vec<Spanned<Ipv4Addr>> = Vec::new();
    for item in raw {
        let Some(address) = address(item, key, report) else {
            continue;
        };
        if found.iter().any(|earlier| *earlier.get_ref() == address) {
            report.error(Finding {
                at: item.span(),
                key: key.to_owned(),
                message: format!("{address} is listed twice"),
                remedy: "leave one of them out".to_owned(),
            });
            continue;
        }
        found.push(Spanned::new(item.span(), address));
    }
    found
}

/// An IPv4 network without host bits, apart from addresses that have a meaning of their own.
pub(super) fn network(
    raw: &Spanned<String>,
    key: &str,
    report: &mut Report<'_>,
) -> Option<Ipv4Net> {
    let text = raw.get_ref().as_str();
    let (message, remedy) = match text.parse::<Ipv4Net>() {
        Ok(network) if network.addr() != network.network() => (
            format!("{network} has bits set behind its prefix"),
            format!("write {}", network.trunc()),
        ),
        Ok(network) => match special_network(network) {
            None => return Some(network),
            Some(special) => (
                format!("{network} overlaps {special}, which can't be routed"),
                "choose a private network, such as 10.244.0.0/16".to_owned(),
            ),
        },
        Err(_) if text.parse::<Ipv6Net>().is_ok() => (
            format!("`{text}` is an IPv6 network"),
            "write an IPv4 network; IPv6 is not supported yet".to_owned(),
        ),
        Err(_) => (
            format!("`{text}` is no IPv4 network"),
            "write address and prefix length, such as 10.244.0.0/16".to_owned(),
        ),
    };
    report.error(Finding {
        at: raw.span(),
        key: key.to_owned(),
        message,
        remedy,
    });
    None
}

/// A TCP port, if one is written.
pub(super) fn port(raw: Option<&Spanned<i64>>, key: &str, report: &mut Report<'_>) -> Option<u16> {
    number(
        raw?,
        Limits {
            key,
            range: 1..=65_535,
            noun: "port",
        },
        report,
    )
}

/// What a whole number may be.
pub(super) struct Limits<'a> {
    pub(super) key: &'a str,
    pub(super) range: RangeInclusive<i64>,
    pub(super) noun: &'a str,
}

/// A whole number within limits.
pub(super) fn number<N: TryFrom<i64>>(
    raw: &Spanned<i64>,
    limits: Limits<'_>,
    report: &mut Report<'_>,
) -> Option<N> {
    let value = *raw.get_ref();
    let converted = N::try_from(value)
        .ok()
        .filter(|_| limits.range.contains(&value));
    if converted.is_none() {
        report.error(Finding {
            at: raw.span(),
            key: limits.key.to_owned(),
            message: format!("{value} is no {}", limits.noun),
            remedy: format!(
                "write a number from {} to {}",
                limits.range.start(),
                limits.range.end()
            ),
        });
    }
    converted
}

/// A file or directory, relative ones to the inventory's own directory.
pub(super) fn path(
    raw: &Spanned<String>,
    key: &str,
    directory: &Utf8Path,
    report: &mut Report<'_>,
) -> Option<Utf8PathBuf> {
    let text = raw.get_ref().as_str();
    let (message, remedy) = if text.is_empty() {
        ("the path is empty", "write a path, or leave the key out")
    } else if text.starts_with('~') {
        (
            "`~` is not expanded",
            "write an absolute path, or one relative to the inventory",
        )
    } else if text.chars().any(char::is_control) {
        (
            "the path holds a control character",
            "write a path without it",
        )
    } else {
        return Some(directory.join(text));
    };
    report.error(Finding {
        at: raw.span(),
        key: key.to_owned(),
        message: message.to_owned(),
        remedy: remedy.to_owned(),
    });
    None
}

/// Reports a name that is no RFC 1123 label.
pub(super) fn label(raw: &Spanned<String>, key: &str, report: &mut Report<'_>) {
    let name = raw.get_ref();
    if let Err(reason) = names::check_label(name) {
        report.error(Finding {
            at: raw.span(),
            key: key.to_owned(),
            message: format!("`{name}` is no name: it {reason}"),
            remedy: names::label_remedy(name),
        });
    }
}

fn unreachable_kind(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_loopback() {
        Some("a loopback")
    } else if address.octets()[0] == 0 {
        Some("an unspecified")
    } else if address.is_multicast() {
        Some("a multicast")
    } else if address.octets()[0] >= 240 {
        Some("a reserved or broadcast")
    } else {
        None
    }
}

/// The block of special addresses (RFC 6890) that a network overlaps.
fn special_network(network: Ipv4Net) -> Option<Ipv4Net> {
    const SPECIAL: [([u8; 4], u8); 5] = [
        ([0, 0, 0, 0], 8),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    SPECIAL
        .into_iter()
        .map(|(octets, prefix)| Ipv4Net::new_assert(octets.into(), prefix))
        .find(|special| overlap(*special, network))
}

/// Whether two networks share an address: one then holds the other.
pub(super) fn overlap(left: Ipv4Net, right: Ipv4Net) -> bool {
    left.contains(&right) || right.contains(&left)
}
