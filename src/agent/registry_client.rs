//! Requests to the registries that hosts read from.

use super::http::{self, TlsFiles};
use super::root::Root;
use crate::layout;
use crate::registry_address::api_url;
use anyhow::{Context, Result, anyhow};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Method, RequestBuilder};
use std::time::Duration;

/// A client of cofferdam's registries, or of one that is not.
#[derive(Debug)]
pub struct RegistryClient {
    client: Client,
    /// For that registry alone.
    login: Option<(String, HeaderValue)>,
}

impl RegistryClient {
    /// With what the host has: its certificate for cofferdam's registries, and the
    /// login for another. `quiet` is how long a registry may say nothing.
    ///
    /// # Errors
    /// If the files can't be read.
    pub fn load(root: &Root, quiet: Duration) -> Result<Self> {
        let certificate = layout::REGISTRY_CLIENT_CERTIFICATE;
        let identity = (certificate, layout::REGISTRY_CLIENT_KEY);
        let identity = root.path(certificate).exists().then_some(identity);
        let files = TlsFiles::load(root, layout::REGISTRY_CA, identity)
            .context("reading the certificate for registries")?;
        let place = root.path(layout::REGISTRY_LOGIN);
        let login = match place.exists() {
            true => {
                let text = fs_err::read_to_string(&place)?;
                let login = text.split_once('\n');
                let (registry, value) = login.ok_or_else(|| anyhow!("{place} is damaged"))?;
                Some((registry.to_owned(), secret_value(value)?))
            }
            false => None,
        };
        Ok(Self {
            client: http::client(&files, quiet)?,
            login,
        })
    }

    /// For one registry before its files are on the host. `ca` is PEM.
    ///
    /// # Errors
    /// If these can't be used.
    pub fn of(
        registry: &str,
        ca: &str,
        authorization: Option<&str>,
        quiet: Duration,
    ) -> Result<Self> {
        let files = TlsFiles {
            authority: ca.as_bytes().to_vec(),
            identity: None,
        };
        let login = authorization.map(secret_value).transpose()?;
        Ok(Self {
            client: http::client(&files, quiet)?,
            login: login.map(|value| (registry.to_owned(), value)),
        })
    }

    /// A request for `path` in a registry's API: `pause/manifests/…`.
    pub fn request(&self, method: Method, registry: &str, path: &str) -> RequestBuilder {
        let request = self.client.request(method, api_url(registry, path));
        match &self.login {
            Some((known, value)) if known == registry => request.header(AUTHORIZATION, value),
            _ => request,
        }
    }
}

/// A header's value that is shown nowhere.
fn secret_value(text: &str) -> Result<HeaderValue> {
    let value: Result<HeaderValue, _> = text.trim_end().parse();
    let mut value =
        value.map_err(|_| anyhow!("the login for registries holds what no header can"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_host::TestHost;

    const CA: &str = "";

    #[test]
    fn a_login_goes_to_its_registry_alone() {
        let host = TestHost::new();
        host.write(layout::REGISTRY_CA, CA);
        host.write(
            layout::REGISTRY_LOGIN,
            "harbor.example.org/k8s\nBasic eDp5\n",
        );
        let client = RegistryClient::load(&host.root, Duration::from_secs(1)).unwrap();
        let shown = |registry: &str| {
            let request = client
                .request(Method::GET, registry, "a/blobs/x")
                .build()
                .unwrap();
            let value = request.headers().get(AUTHORIZATION);
            (
                request.url().to_string(),
                value.map(|value| value.to_str().unwrap().to_owned()),
            )
        };
        let (url, value) = shown("harbor.example.org/k8s");
        assert_eq!(url, "https://harbor.example.org/v2/k8s/a/blobs/x");
        assert_eq!(value.as_deref(), Some("Basic eDp5"));
        let (url, value) = shown("10.0.0.1:5000");
        assert_eq!(
            (url.as_str(), value),
            ("https://10.0.0.1:5000/v2/a/blobs/x", None)
        );
        assert!(!format!("{client:?}").contains("eDp5"));
    }
}
