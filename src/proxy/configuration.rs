//! The proxy's configuration: a small TOML file, read once at the start. A
//! change of it is taken up by a hand-over to a successor, never in place.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

/// What one node's proxy is to do.
///
/// The file is rendered with [`ProxyConfiguration::to_toml`] and read with
/// [`load`], so that both sides share this one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfiguration {
    /// Loopback address and port that clients on this node connect to. It must
    /// equal `ListenStream=` of the socket unit.
    pub listen: SocketAddr,
    /// Failure zone of this node: backends of the same zone come first.
    pub zone: String,
    /// PEM file with the CAs that sign the API servers' serving certificates;
    /// it is read again while the proxy runs.
    pub certificate_authority: Utf8PathBuf,
    /// Every API server of the cluster, in the order in which they are tried
    /// when nothing else tells them apart.
    pub backends: Vec<BackendConfiguration>,
}

/// One API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfiguration {
    /// The host's name in the inventory, for messages.
    pub name: String,
    /// Failure zone of the API server's host.
    pub zone: String,
    /// Address and port, such as `10.77.1.11:6443`. Names are not resolved:
    /// the proxy must not depend on DNS.
    pub address: SocketAddr,
}

/// Why a configuration was refused. Each message names the file and the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file could not be read.
    #[error("reading the proxy's configuration")]
    Read(#[source] std::io::Error),
    /// Not TOML, an unknown key, a missing key or a wrong type; the parser's
    /// message shows line, column and the line itself.
    #[error("parsing the proxy's configuration {file}: {}", message.trim_end())]
    Syntax {
        /// Path of the file.
        file: Utf8PathBuf,
        /// The parser's message.
        message: String,
    },
    /// A value that can't work.
    #[error("checking the proxy's configuration {file}: key `{key}`: {problem}")]
    Value {
        /// Path of the file.
        file: Utf8PathBuf,
        /// The key as written in the file, such as `backends[1].address`.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl ProxyConfiguration {
    /// The configuration as the text of its file; the same value always gives
    /// the same bytes.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// Parses and checks the text of a configuration; `file` is for messages only.
pub fn parse(text: &str, file: &Utf8Path) -> Result<ProxyConfiguration, ConfigurationError> {
    let configuration: ProxyConfiguration =
        toml::from_str(text).map_err(|error| ConfigurationError::Syntax {
            file: file.to_owned(),
            message: error.to_string(),
        })?;
    check(&configuration).map_err(|(key, problem)| ConfigurationError::Value {
        file: file.to_owned(),
        key,
        problem,
    })?;
    Ok(configuration)
}

/// Reads, parses and checks a configuration file.
pub fn load(file: &Utf8Path) -> Result<ProxyConfiguration, ConfigurationError> {
    let text = fs_err::read_to_string(file).map_err(ConfigurationError::Read)?;
    parse(&text, file)
}

/// The first value that can't work, as key and problem.
fn check(configuration: &ProxyConfiguration) -> Result<(), (String, String)> {
    let refuse = |key: String, problem: String| Err((key, problem));
    if !configuration.listen.ip().is_loopback() {
        return refuse(
            "listen".to_owned(),
            format!(
                "{} is not a loopback address; use one such as 127.0.0.1:6444, since other hosts \
                 are not to use this proxy",
                configuration.listen
            ),
        );
    }
    if configuration.listen.port() == 0 {
        return refuse(
            "listen".to_owned(),
            "port 0 names no port; use 6444".to_owned(),
        );
    }
    if configuration.certificate_authority.is_relative() {
        return refuse(
            "certificate_authority".to_owned(),
            format!(
                "{} is not an absolute path",
                configuration.certificate_authority
            ),
        );
    }
    if configuration.backends.is_empty() {
        return refuse(
            "backends".to_owned(),
            "no API server is listed; add one [[backends]] table for each".to_owned(),
        );
    }
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (index, backend) in configuration.backends.iter().enumerate() {
        let key = |field: &str| format!("backends[{index}].{field}");
        if backend.name.is_empty() {
            return refuse(key("name"), "the name is empty".to_owned());
        }
        if !names.insert(&backend.name) {
            return refuse(key("name"), format!("{:?} is listed twice", backend.name));
        }
        if !addresses.insert(backend.address) {
            return refuse(
                key("address"),
                format!("{} is listed twice", backend.address),
            );
        }
        if backend.address.port() == 0 || backend.address.ip().is_unspecified() {
            return refuse(
                key("address"),
                format!(
                    "{} can't be connected to; use ADDRESS:6443",
                    backend.address
                ),
            );
        }
        // A proxy that dials itself would multiply one connection without end.
        if backend.address == configuration.listen {
            return refuse(
                key("address"),
                format!("{} is the proxy's own address", backend.address),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
listen = "127.0.0.1:6444"
zone = "a"
certificate_authority = "/etc/kubernetes/pki/ca.crt"

[[backends]]
name = "m1"
zone = "a"
address = "10.77.1.11:6443"

[[backends]]
name = "m2"
zone = "b"
address = "10.77.2.11:6443"
"#;

    #[test]
    fn reads_what_it_writes() {
        let configuration = parse(GOOD, Utf8Path::new("proxy.toml")).unwrap();
        assert_eq!(configuration.backends.len(), 2);
        let written = configuration.to_toml().unwrap();
        assert_eq!(
            parse(&written, Utf8Path::new("proxy.toml")).unwrap(),
            configuration
        );
        assert_eq!(configuration.to_toml().unwrap(), written);
    }

    #[test]
    fn refuses_bad_values_naming_file_and_key() {
        let cases = [
            (
                "127.0.0.1:6444",
                "10.0.0.1:6444",
                "key `listen`: 10.0.0.1:6444 is not a loopback",
            ),
            ("127.0.0.1:6444", "127.0.0.1:0", "key `listen`: port 0"),
            ("127.0.0.1:6444", "localhost", "listen = \"localhost\""),
            (
                "zone = \"a\"\ncert",
                "zoen = \"a\"\ncert",
                "unknown field `zoen`",
            ),
            ("zone = \"a\"\ncert", "cert", "missing field `zone`"),
            (
                "\"/etc/kubernetes/pki/ca.crt\"",
                "7",
                "certificate_authority = 7",
            ),
            (
                "/etc/kubernetes/pki/ca.crt",
                "ca.crt",
                "key `certificate_authority`: ca.crt",
            ),
            (
                "name = \"m2\"",
                "name = \"m1\"",
                "key `backends[1].name`: \"m1\" is listed twice",
            ),
            ("name = \"m2\"", "name = \"\"", "key `backends[1].name`"),
            (
                "10.77.2.11:6443",
                "10.77.1.11:6443",
                "key `backends[1].address`",
            ),
            (
                "10.77.2.11:6443",
                "127.0.0.1:6444",
                "the proxy's own address",
            ),
            (
                "10.77.2.11:6443",
                "0.0.0.0:6443",
                "key `backends[1].address`",
            ),
            (
                "10.77.2.11:6443",
                "m2.example:6443",
                "address = \"m2.example:6443\"",
            ),
            (
                "name = \"m2\"",
                "name = \"m2\"\nweight = 3",
                "unknown field `weight`",
            ),
        ];
        for (good, bad, expected) in cases {
            assert!(GOOD.contains(good), "{good}");
            let error = parse(
                &GOOD.replacen(good, bad, 1),
                Utf8Path::new("/etc/proxy.toml"),
            );
            let message = error.unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{expected:?} is not in {message:?}"
            );
            assert!(message.contains("/etc/proxy.toml"), "{message:?}");
        }
    }

    #[test]
    fn refuses_a_configuration_without_backends() {
        let text = GOOD.split("[[backends]]").next().unwrap();
        let error = parse(text, Utf8Path::new("p.toml"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("missing field `backends`"), "{error}");
        let error = parse(&format!("{text}\nbackends = []"), Utf8Path::new("p.toml")).unwrap_err();
        assert!(
            error.to_string().contains("key `backends`: no API server"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load(Utf8Path::new("/nonexistent/proxy.toml")).unwrap_err();
        let chain = format!("{:#}", anyhow::Error::from(error));
        assert!(chain.contains("/nonexistent/proxy.toml"), "{chain}");
    }
}
