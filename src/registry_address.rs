//! Where a registry is, and what stands before its repositories.

use std::fmt;
use std::str::FromStr;

/// `harbor.example.org/k8s`: the registry's host with its port, if it has one, and a
/// prefix, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    /// `harbor.example.org`, or `10.0.0.5:5000`.
    pub registry: String,
    /// Without slashes at its ends; may be empty.
    pub prefix: String,
}

impl RegistryAddress {
    /// A repository's name there: `k8s/registry.k8s.io/pause`.
    pub fn repository(&self, name: &str) -> String {
        match self.prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{}/{name}", self.prefix),
        }
    }
}

impl FromStr for RegistryAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (registry, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_matches('/');
        let is_part = |part: &str| {
            let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            part.starts_with(is_edge)
                && part.ends_with(is_edge)
                && part.chars().all(|c| is_edge(c) || "-._".contains(c))
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        if registry.is_empty() || !registry.chars().all(is_host) {
            return Err(format!("`{registry}` is no host of a registry"));
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(format!(
                "`{prefix}` can't stand before repositories: write lower-case letters, digits, \
                 `-`, `.` and `_`"
            ));
        }
        Ok(Self {
            registry: registry.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for RegistryAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.registry)?;
        match self.prefix.is_empty() {
            true => Ok(()),
            false => write!(formatter, "/{}", self.prefix),
        }
    }
}

/// The URL of something in the API of a registry that is written as
/// [`RegistryAddress`] displays itself: `https://harbor.example.org/v2/k8s/…`.
pub fn api_url(registry: &str, path: &str) -> String {
    match registry.split_once('/') {
        None => format!("https://{registry}/v2/{path}"),
        Some((host, prefix)) => format!("https://{host}/v2/{prefix}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_before_repositories() {
        let address: RegistryAddress = "harbor.example.org/k8s/one/".parse().unwrap();
        assert_eq!(address.to_string(), "harbor.example.org/k8s/one");
        assert_eq!(address.repository("a/b"), "k8s/one/a/b");
        let url = api_url(&address.to_string(), "a/b/blobs/x");
        assert_eq!(url, "https://harbor.example.org/v2/k8s/one/a/b/blobs/x");
        let address: RegistryAddress = "10.0.0.5:5000".parse().unwrap();
        assert_eq!(address.repository("a/b"), "a/b");
        assert_eq!(
            api_url(&address.to_string(), "a"),
            "https://10.0.0.5:5000/v2/a"
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "/k8s",
            "a b/k8s",
            "harbor/K8s",
            "harbor/a//b",
            "harbor/-a",
        ] {
            assert!(text.parse::<RegistryAddress>().is_err(), "{text}");
        }
    }
}
