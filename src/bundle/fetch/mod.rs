//! The downloader. Only locking and building use it: nothing else of cofferdam may
//! reach out.

mod checksum;
mod download;
mod mirrors;
mod registry;
mod retry;

pub use checksum::published_digest;
pub use download::{Download, Downloader};
pub use mirrors::Mirrors;
pub use registry::{Registries, RemoteBlob};
pub(in crate::bundle) use retry::{Failure, with_retries};

use anyhow::{Context as _, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};
use std::time::Duration;

/// How long connecting may take: a server that does not answer by then is taken for
/// down, even behind a slow proxy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a transfer may stand still. Whole downloads have no limit, since they
/// may be large and links slow.
pub(in crate::bundle) const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Downloads at once: enough to fill a link past one slow server, few enough that
/// public registries do not throttle.
pub const PARALLEL_DOWNLOADS: usize = 4;

/// Where and how to fetch.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// Replaced prefixes of addresses.
    pub mirrors: Mirrors,
    /// PEM file with certificate authorities to trust beside the system's.
    pub ca_file: Option<Utf8PathBuf>,
}

/// Fails on a machine without any certificate authorities. Clients can't be set up
/// there, even for mirrors without TLS, and say so badly.
fn check_authorities() -> Result<()> {
    let built = reqwest::Client::builder().build();
    built.map(drop).map_err(|error| {
        anyhow!(
            "setting up downloads: {}; install the system's certificate authorities (package \
             ca-certificates), or name a PEM file in the environment variable SSL_CERT_FILE",
            chain(&error)
        )
    })
}

/// A client of registries with whatever is special in a configuration, and authorities
/// to trust beside the system's.
pub(in crate::bundle) fn registry_client(
    ca_file: Option<&Utf8Path>,
    special: ClientConfig,
) -> Result<Client> {
    check_authorities()?;
    let mut extra_root_certificates = Vec::new();
    if let Some(path) = ca_file {
        extra_root_certificates.push(Certificate {
            encoding: CertificateEncoding::Pem,
            data: fs_err::read(path)?,
        });
    }
    let config = ClientConfig {
        connect_timeout: Some(CONNECT_TIMEOUT),
        user_agent: concat!("cofferdam/", env!("CARGO_PKG_VERSION")),
        extra_root_certificates,
        ..special
    };
    Client::try_from(config)
        .map_err(|error| anyhow!(chain(&error)))
        .context("setting up the registry client")
}

/// An error with all its causes in one line: HTTP errors say little at the top.
pub(in crate::bundle) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
