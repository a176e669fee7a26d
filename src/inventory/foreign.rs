//! The table `[registry]`: a registry of the site's own in place of cofferdam's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use toml::Spanned;

use super::hosts::HostDraft;
use super::model::{Inventory, Role};
use super::problem::{Finding, Report};
use super::raw::RawRegistry;
use super::{LoadError, names, values};
use crate::registry_address::RegistryAddress;

/// Port of a registry whose address names none.
const HTTPS_PORT: u16 = 443;

/// A registry that is not cofferdam's: hosts only read from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ForeignRegistry {
    /// `harbor.example.org/k8s`.
    #[serde(serialize_with = "as_text")]
    pub address: RegistryAddress,
    pub port: u16,
    /// What its name leads to, for the port matrix; at least one.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The CAs that its certificate may be of (PEM): absolute, or relative to the
    /// working directory.
    pub ca_file: Utf8PathBuf,
    /// Who hosts are there, and the file with the password in its first line.
    pub login: Option<(String, Utf8PathBuf)>,
    /// What the files hold; none before [`Inventory::read_registry`].
    #[serde(skip)]
    pub access: Option<RegistryAccess>,
}

/// What hosts need to read from it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAccess {
    /// PEM.
    pub ca: String,
    /// `user:password`.
    pub login: Option<String>,
}

impl std::fmt::Debug for RegistryAccess {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RegistryAccess")
    }
}

impl RegistryAccess {
    /// The value of an HTTP request's `Authorization`.
    pub fn authorization(&self) -> Option<String> {
        use base64::Engine as _;
        let login = self.login.as_ref()?;
        let login = base64::engine::general_purpose::STANDARD.encode(login);
        Some(format!("Basic {login}"))
    }
}

fn as_text<S: serde::Serializer>(
    address: &RegistryAddress,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

impl Inventory {
    /// Reads the files that `[registry]` names, if there is one.
    ///
    /// # Errors
    /// With the key and the file that can't be read or holds something else.
    pub fn read_registry(&mut self) -> Result<(), LoadError> {
        let Some(registry) = &mut self.registry else {
            return Ok(());
        };
        let ca = read("registry.ca_file", &registry.ca_file)?;
        let parsed = x509_parser::pem::Pem::iter_from_buffer(ca.as_bytes());
        let mut certificates = 0;
        for pem in parsed {
            let is_good = pem.is_ok_and(|pem| pem.parse_x509().is_ok());
            if !is_good {
                certificates = 0;
                break;
            }
            certificates += 1;
        }
        if certificates == 0 {
            return Err(LoadError::File {
                key: "registry.ca_file",
                reason: format!("{} holds no certificates in PEM", registry.ca_file),
            });
        }
        let login = match &registry.login {
            None => None,
            Some((user, file)) => {
                let text = read("registry.password_file", file)?;
                let password = text.lines().next().unwrap_or_default();
                if password.is_empty() {
                    return Err(LoadError::File {
                        key: "registry.password_file",
                        reason: format!("the first line of {file} is empty"),
                    });
                }
                Some(format!("{user}:{password}"))
            }
        };
        registry.access = Some(RegistryAccess { ca, login });
        Ok(())
    }
}

fn read(key: &'static str, file: &Utf8Path) -> Result<String, LoadError> {
    fs_err::read_to_string(file).map_err(|error| LoadError::File {
        key,
        reason: error.to_string(),
    })
}

/// The registry, and where its addresses stand.
pub(super) struct ForeignDraft {
    pub(super) registry: Option<ForeignRegistry>,
    pub(super) addresses: Vec<Spanned<Ipv4Addr>>,
}

pub(super) fn read_foreign(
    raw: &RawRegistry,
    directory: &Utf8Path,
    report: &mut Report<'_>,
) -> ForeignDraft {
    let mut addresses = values::addresses(&raw.addresses, "registry.addresses", report);
    let registry = read_registry(raw, directory, &mut addresses, report);
    ForeignDraft {
        registry,
        addresses,
    }
}

fn read_registry(
    raw: &RawRegistry,
    directory: &Utf8Path,
    written: &mut Vec<Spanned<Ipv4Addr>>,
    report: &mut Report<'_>,
) -> Option<ForeignRegistry> {
    let address = read_address(&raw.address, report);
    let ca_file = values::path(&raw.ca_file, "registry.ca_file", directory, report);
    let login = read_login(raw, directory, report);
    let (address, host, port) = address?;
    match host.parse::<Ipv4Addr>() {
        Ok(_) => {
            let host = Spanned::new(raw.address.span(), host);
            let host = values::address(&host, "registry.address", report)?;
            if let Some(one) = written.iter().find(|one| *one.get_ref() != host) {
                report.error(Finding {
                    at: one.span(),
                    key: "registry.addresses".to_owned(),
                    message: format!("the registry's address is {host}"),
                    remedy: "leave `addresses` out; it is for names".to_owned(),
                });
            }
            *written = vec![Spanned::new(raw.address.span(), host)];
        }
        Err(_) if raw.addresses.is_empty() => report.error(Finding {
            at: raw.address.span(),
            key: "registry.addresses".to_owned(),
            message: format!("which addresses `{host}` has is not told"),
            remedy: "write `addresses = [\"…\"]`, for the port matrix; names are not looked up"
                .to_owned(),
        }),
        Err(_) => {}
    }
    Some(ForeignRegistry {
        address,
        port,
        addresses: written.iter().map(|one| *one.get_ref()).collect(),
        ca_file: ca_file?,
        login,
        access: None,
    })
}

/// The address, its host alone, and its port.
fn read_address(
    raw: &Spanned<String>,
    report: &mut Report<'_>,
) -> Option<(RegistryAddress, String, u16)> {
    let text = raw.get_ref().as_str();
    let mut refuse = |message: String| {
        report.error(Finding {
            at: raw.span(),
            key: "registry.address".to_owned(),
            message,
            remedy: "write HOST, HOST:PORT or HOST/PREFIX, as for `registry push --to`".to_owned(),
        });
        None
    };
    if text.contains("://") {
        return refuse("the address has a scheme; hosts speak HTTPS to it".to_owned());
    }
    let mut address: RegistryAddress = match text.parse() {
        Ok(address) => address,
        Err(message) => return refuse(message),
    };
    // As pods' images name it.
    address.registry.make_ascii_lowercase();
    if let Some(host) = address.registry.strip_suffix(":443") {
        address.registry = host.to_owned();
    }
    let (host, port) = match address.registry.split_once(':') {
        None => (address.registry.as_str(), Some(HTTPS_PORT)),
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)),
    };
    let Some(port) = port else {
        return refuse(format!("`{}` names no port", address.registry));
    };
    if host.parse::<Ipv4Addr>().is_err() && names::check_dns_name(host).is_err() {
        return refuse(format!("`{host}` is neither a name nor an IPv4 address"));
    }
    let host = host.to_owned();
    Some((address, host, port))
}

fn read_login(
    raw: &RawRegistry,
    directory: &Utf8Path,
    report: &mut Report<'_>,
) -> Option<(String, Utf8PathBuf)> {
    let (at, key, message) = match (&raw.user, &raw.password_file) {
        (None, None) => return None,
        (Some(user), Some(file)) => {
            let file = values::path(file, "registry.password_file", directory, report)?;
            let text = user.get_ref();
            if !text.is_empty() && !text.contains(':') && !text.chars().any(char::is_control) {
                return Some((text.clone(), file));
            }
            let message = format!("`{}` is no user's name", text.escape_debug());
            (user.span(), "registry.user", message)
        }
        (Some(user), None) => {
            let message = format!("there is no password for `{}`", user.get_ref());
            (user.span(), "registry.user", message)
        }
        (None, Some(file)) => {
            let message = "whose password it is is not told".to_owned();
            (file.span(), "registry.password_file", message)
        }
    };
    report.error(Finding {
        at,
        key: key.to_owned(),
        message,
        remedy: "write both `user` and `password_file`, or neither".to_owned(),
    });
    None
}

/// Where there is such a registry, hosts run none of cofferdam's.
pub(super) fn check(hosts: &[HostDraft], report: &mut Report<'_>) {
    for host in hosts.iter().filter(|host| host.has(Role::Registry)) {
        report.error(Finding {
            at: host.roles.span(),
            key: host.key("roles"),
            message: "the role `registry` is for cofferdam's own, and `[registry]` names another"
                .to_owned(),
            remedy: "leave out the one or the other".to_owned(),
        });
    }
}
