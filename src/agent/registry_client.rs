//! Requests to the registries that hosts read from.

use super::http::{self, TlsFiles};
use super::root::Root;
use crate::layout;
use crate::registry_address::api_url;
use anyhow::{Context, Result, anyhow};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Method, RequestBuilder};
use std::time::Duration;

/// A client of cofferdam's registries, and of one that is not.
#[derive(Debug)]
pub struct RegistryClient {
    /// With the host's certificate.
    own: Client,
    foreign: Option<Foreign>,
}

/// It is shown no certificate, and the login is for it alone.
#[derive(Debug)]
struct Foreign {
    registry: String,
    client: Client,
    login: Option<HeaderValue>,
}

impl RegistryClient {
    /// With what the host has: its certificate for cofferdam's registries, and CA and
    /// login for another. `quiet` is how long a registry may say nothing.
    ///
    /// # Errors
    /// If the files can't be read.
    pub fn load(root: &Root, quiet: Duration) -> Result<Self> {
        let reading = "reading the certificates for registries";
        let place = root.path(layout::FOREIGN_REGISTRY);
        let foreign = match place.exists() {
            true => {
                let text = fs_err::read_to_string(&place)?;
                let mut lines = text.lines();
                let registry = lines.next().unwrap_or_default();
                let files = TlsFiles::load(root, layout::FOREIGN_REGISTRY_CA, None);
                Some(Foreign {
                    registry: registry.to_owned(),
                    client: http::client(&files.context(reading)?, quiet)?,
                    login: lines.next().map(secret_value).transpose()?,
                })
            }
            false => None,
        };
        let identity = (
            layout::REGISTRY_CLIENT_CERTIFICATE,
            layout::REGISTRY_CLIENT_KEY,
        );
        let own = match (root.path(layout::REGISTRY_CA).exists(), &foreign) {
            (false, Some(foreign)) => foreign.client.clone(),
            _ => {
                let files = TlsFiles::load(root, layout::REGISTRY_CA, Some(identity));
                http::client(&files.context(reading)?, quiet)?
            }
        };
        Ok(Self { own, foreign })
    }

    /// For a registry that is not cofferdam's, before its files are on the host. `ca` is
    /// PEM.
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
        let client = http::client(&files, quiet)?;
        let login = authorization.map(secret_value).transpose()?;
        Ok(Self {
            own: client.clone(),
            foreign: Some(Foreign {
                registry: registry.to_owned(),
                client,
                login,
            }),
        })
    }

    /// A request for `path` in a registry's API: `pause/manifests/…`.
    pub fn request(&self, method: Method, registry: &str, path: &str) -> RequestBuilder {
        let url = api_url(registry, path);
        let foreign = self.foreign.as_ref();
        match foreign.filter(|foreign| foreign.registry == registry) {
            None => self.own.request(method, url),
            Some(foreign) => {
                let request = foreign.client.request(method, url);
                match &foreign.login {
                    Some(login) => request.header(AUTHORIZATION, login),
                    None => request,
                }
            }
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

    #[test]
    fn a_login_goes_to_its_registry_alone() {
        let host = TestHost::new();
        host.write(layout::FOREIGN_REGISTRY_CA, "");
        let text = "harbor.example.org/k8s\nBasic eDp5\n";
        host.write(layout::FOREIGN_REGISTRY, text);
        let client = RegistryClient::load(&host.root, Duration::from_secs(1)).unwrap();
        let shown = |registry: &str| {
            let request = client.request(Method::GET, registry, "a/blobs/x");
            let request = request.build().unwrap();
            let value = request.headers().get(AUTHORIZATION);
            let value = value.map(|value| value.to_str().unwrap().to_owned());
            (request.url().to_string(), value)
        };
        let (url, value) = shown("harbor.example.org/k8s");
        assert_eq!(url, "https://harbor.example.org/v2/k8s/a/blobs/x");
        assert_eq!(value.as_deref(), Some("Basic eDp5"));
        let (url, value) = shown("10.0.0.1:5000");
        let expected = ("https://10.0.0.1:5000/v2/a/blobs/x", None);
        assert_eq!((url.as_str(), value), expected);
        assert!(!format!("{client:?}").contains("eDp5"));
    }
}
