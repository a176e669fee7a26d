//! The tables `[cluster]`, `[ssh]` and `[site]`.

use std::net::Ipv4Addr;
use std::ops::Range;

use camino::{Utf8Path, Utf8PathBuf};
use ipnet::Ipv4Net;
use toml::Spanned;

use super::model::{ApiName, Survive, Swap};
use super::names;
use super::problem::{Finding, Report};
use super::raw::{RawCluster, RawSite, RawSsh};
use super::suggest;
use super::values::{self, Limits};
use crate::ports::numbers;

const DEFAULT_DOMAIN: &str = "cluster.local";
const DEFAULT_POD_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
const DEFAULT_SERVICE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
/// Controller-manager's own default (`--node-cidr-mask-size-ipv4`).
const DEFAULT_POD_MASK: u8 = 24;
/// A /28 leaves 13 addresses for a node's pods; add-ons alone want a handful.
const LONGEST_POD_MASK: i64 = 28;
/// Least MTU of IPv4 hosts that carry anything useful over VXLAN: the IPv6 minimum, less VXLAN's
/// own 50 bytes, rounded down.
const LEAST_MTU: i64 = 1200;
/// Largest jumbo frames in use (9216 bytes), less VXLAN's 50.
const LARGEST_MTU: i64 = 9166;
const SURVIVE: [(&str, Survive); 3] = [
    ("zone", Survive::Zone),
    ("host", Survive::Host),
    ("nothing", Survive::Nothing),
];
const SWAP: [(&str, Swap); 2] = [("off", Swap::Off), ("keep", Swap::Keep)];
const DEFAULT_USER: &str = "root";

/// `[cluster]` as far as it could be read.
pub(super) struct ClusterDraft {
    /// Where `[cluster]` itself stands.
    pub(super) header: Range<usize>,
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) pod_cidr: Option<NetworkDraft>,
    pub(super) service_cidr: Option<NetworkDraft>,
    pub(super) pod_mask: Option<Spanned<u8>>,
    pub(super) api_names: Vec<ApiName>,
    pub(super) dns_upstreams: Vec<Spanned<Ipv4Addr>>,
    pub(super) ntp_servers: Vec<Spanned<Ipv4Addr>>,
    pub(super) survive: Option<Survive>,
    pub(super) swap: Option<Swap>,
    pub(super) mtu: Option<u32>,
}

/// A network, and where it stands; a default one stands nowhere.
pub(super) struct NetworkDraft {
    pub(super) key: &'static str,
    pub(super) network: Ipv4Net,
    pub(super) at: Option<Range<usize>>,
}

/// `[ssh]` as far as it could be read: what hosts fall back to.
pub(super) struct SshDefaults {
    pub(super) user: String,
    pub(super) port: u16,
    pub(super) key: Option<Utf8PathBuf>,
    pub(super) jump_host: Option<Spanned<Ipv4Addr>>,
}

pub(super) fn read_cluster(raw: Spanned<RawCluster>, report: &mut Report<'_>) -> ClusterDraft {
    let header = raw.span();
    let raw = raw.into_inner();
    values::label(&raw.name, "cluster.name", report);
    let pod_mask = match &raw.pod_mask {
        None => Some(Spanned::new(header.clone(), DEFAULT_POD_MASK)),
        Some(raw) => {
            let limits = Limits {
                key: "cluster.pod_mask",
                range: 8..=LONGEST_POD_MASK,
                noun: "pod mask",
            };
            values::number(raw, limits, report).map(|mask| Spanned::new(raw.span(), mask))
        }
    };
    let mtu = raw.mtu.as_ref().and_then(|raw| {
        let range = LEAST_MTU..=LARGEST_MTU;
        values::number(
            raw,
            Limits {
                key: "cluster.mtu",
                range,
                noun: "usable MTU",
            },
            report,
        )
    });
    let pod_cidr = Written {
        key: "cluster.pod_cidr",
        raw: raw.pod_cidr.as_ref(),
    };
    let service_cidr = Written {
        key: "cluster.service_cidr",
        raw: raw.service_cidr.as_ref(),
    };
    ClusterDraft {
        header,
        domain: read_domain(raw.domain.as_ref(), report),
        pod_cidr: read_network(pod_cidr, DEFAULT_POD_CIDR, report),
        service_cidr: read_network(service_cidr, DEFAULT_SERVICE_CIDR, report),
        pod_mask,
        api_names: read_api_names(&raw.api_names, report),
        dns_upstreams: values::addresses(&raw.dns_upstreams, "cluster.dns_upstreams", report),
        ntp_servers: values::addresses(&raw.ntp_servers, "cluster.ntp_servers", report),
        survive: choice(raw.survive.as_ref(), "cluster.survive", &SURVIVE, report),
        swap: choice(raw.swap.as_ref(), "cluster.swap", &SWAP, report),
        mtu,
        name: raw.name.into_inner(),
    }
}

pub(super) fn read_ssh(raw: &RawSsh, directory: &Utf8Path, report: &mut Report<'_>) -> SshDefaults {
    let user = read_user(raw.user.as_ref(), "ssh.user", report);
    let port = values::port(raw.port.as_ref(), "ssh.port", report);
    let key = raw
        .key
        .as_ref()
        .and_then(|raw| values::path(raw, "ssh.key", directory, report));
    let jump_host = raw.jump_host.as_ref().and_then(|raw| {
        let address = values::address(raw, "ssh.jump_host", report)?;
        Some(Spanned::new(raw.span(), address))
    });
    SshDefaults {
        user: user.unwrap_or_else(|| DEFAULT_USER.to_owned()),
        port: port.unwrap_or(numbers::SSH_PORT),
        key,
        jump_host,
    }
}

/// The site's directory, by default `site-<cluster name>` beside the inventory.
pub(super) fn read_site(
    raw: &RawSite,
    cluster_name: &str,
    directory: &Utf8Path,
    report: &mut Report<'_>,
) -> Utf8PathBuf {
    let default = || directory.join(format!("site-{cluster_name}"));
    let path = raw
        .path
        .as_ref()
        .and_then(|raw| values::path(raw, "site.path", directory, report));
    path.unwrap_or_else(default)
}

/// A user to log in as, if one is written and fit.
pub(super) fn read_user(
    raw: Option<&Spanned<String>>,
    key: &str,
    report: &mut Report<'_>,
) -> Option<String> {
    let raw = raw?;
    match names::check_user(raw.get_ref()) {
        Ok(()) => Some(raw.get_ref().clone()),
        Err(reason) => {
            report.error(Finding {
                at: raw.span(),
                key: key.to_owned(),
                message: format!("`{}` is no user name: it {reason}", raw.get_ref()),
                remedy: "write root, or a user with sudo but without password".to_owned(),
            });
            None
        }
    }
}

/// A key that may be written.
struct Written<'a> {
    key: &'static str,
    raw: Option<&'a Spanned<String>>,
}

fn read_network(
    written: Written<'_>,
    default: Ipv4Net,
    report: &mut Report<'_>,
) -> Option<NetworkDraft> {
    let key = written.key;
    let Some(raw) = written.raw else {
        return Some(NetworkDraft {
            key,
            network: default,
            at: None,
        });
    };
    let network = values::network(raw, key, report)?;
    Some(NetworkDraft {
        key,
        network,
        at: Some(raw.span()),
    })
}

fn read_domain(raw: Option<&Spanned<String>>, report: &mut Report<'_>) -> String {
    let Some(raw) = raw else {
        return DEFAULT_DOMAIN.to_owned();
    };
    if let Err(reason) = names::check_dns_name(raw.get_ref()) {
        report.error(Finding {
            at: raw.span(),
            key: "cluster.domain".to_owned(),
            message: format!("`{}` is no DNS name: it {reason}", raw.get_ref()),
            remedy: format!("write a lower-case DNS name, such as {DEFAULT_DOMAIN}"),
        });
    }
    raw.get_ref().clone()
}

fn read_api_names(raw: &[Spanned<String>], report: &mut Report<'_>) -> Vec<ApiName> {
    let mut names: Vec<ApiName> = Vec::new();
    for item in raw {
        let text = item.get_ref().as_str();
        let name = match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(ApiName::Address(address)),
            Err(_) if text.contains(':') => Err((
                "is neither a DNS name nor an IPv4 address".to_owned(),
                "leave out ports; IPv6 is not supported yet",
            )),
            Err(_) => match names::check_dns_name(text) {
                Ok(()) => Ok(ApiName::Dns(text.to_owned())),
                Err(reason) => Err((
                    format!("is no DNS name or address: it {reason}"),
                    "write a lower-case DNS name, or an IPv4 address",
                )),
            },
        };
        let (message, remedy) = match name {
            Ok(name) if names.contains(&name) => {
                ("is listed twice".to_owned(), "leave one of them out")
            }
            Ok(name) => {
                names.push(name);
                continue;
            }
            Err(complaint) => complaint,
        };
        report.error(Finding {
            at: item.span(),
            key: "cluster.api_names".to_owned(),
            message: format!("`{text}` {message}"),
            remedy: remedy.to_owned(),
        });
    }
    names
}

/// One of a few words, by default the first.
fn choice<T: Copy>(
    raw: Option<&Spanned<String>>,
    key: &str,
    words: &[(&str, T)],
    report: &mut Report<'_>,
) -> Option<T> {
    let Some(raw) = raw else {
        return words.first().map(|(_, value)| *value);
    };
    let written = raw.get_ref().as_str();
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written) {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let (last, others) = known.split_last()?;
    report.error(Finding {
        at: raw.span(),
        key: key.to_owned(),
        message: match others {
            [one] => format!("`{written}` is neither `{one}` nor `{last}`"),
            _ => format!("`{written}` is none of `{}`, `{last}`", others.join("`, `")),
        },
        remedy: suggest::remedy(written, &known, "values"),
    });
    None
}
