//! HTTP clients for registries and API servers. They trust the CAs that they are
//! told, and never take a proxy from the environment.

use super::root::Root;
use anyhow::{Context, Result};
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use std::time::Duration;

/// A neighbor in the same data center answers a dial in milliseconds; a
/// firewall that drops packets must not cost more than this.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// PEM texts that a client is made of.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    pub authority: Vec<u8>,
    /// Certificate and key, one after the other.
    pub identity: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads a CA, and a certificate with its key.
    ///
    /// # Errors
    /// If one of the files can't be read.
    pub fn load(root: &Root, authority: &str, identity: Option<(&str, &str)>) -> Result<Self> {
        let identity = match identity {
            Some((certificate, key)) => {
                let mut pem = fs_err::read(root.path(certificate))?;
                pem.push(b'\n');
                pem.extend(fs_err::read(root.path(key))?);
                Some(pem)
            }
            None => None,
        };
        Ok(Self {
            authority: fs_err::read(root.path(authority))?,
            identity,
        })
    }
}

/// A client that trusts only the given CA. `quiet` is how long the other side
/// may say nothing.
///
/// # Errors
/// If a certificate or key can't be read as PEM.
pub fn client(files: &TlsFiles, quiet: Duration) -> Result<Client> {
    let authorities =
        Certificate::from_pem_bundle(&files.authority).context("reading the CA's certificate")?;
    let builder = plain(quiet).tls_certs_only(authorities);
    // Wherever it is sent on to.
    let mut builder = builder.https_only(true);
    if let Some(identity) = &files.identity {
        let identity =
            Identity::from_pem(identity).context("reading the client's certificate and key")?;
        builder = builder.identity(identity);
    }
    builder.build().context("making an HTTPS client")
}

/// A client without TLS, for loopback and local sockets. Without a list of
/// its own, even an empty one, it would look for the system's CAs, which a
/// bare host has not got, and fail.
pub fn plain(quiet: Duration) -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(quiet)
}

/// The innermost cause of an HTTP error, which says more than the outer ones
/// (`connection refused` rather than `error sending request`).
pub fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        innermost.to_string()
    }
}
