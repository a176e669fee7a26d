//! The real registry on loopback over a store, and pushing images to it.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use std::io::{Seek, Write};
use std::net::SocketAddr;

use super::http::{self, Request, Response};
use super::image::{BuiltImage, INDEX, MANIFEST, digest};
use super::progress::tied_to_this_process;
use super::server::{Server, Start, free_address};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Uploads are refused.
    ReadOnly,
    Writable,
}

/// Starts the registry over a store and waits until it answers.
pub fn start(binary: &Utf8Path, store: &Utf8Path, access: Access) -> Result<Server> {
    let address = free_address()?;
    serve(binary, address, &configuration(address, store, access))
}

/// What a registry of a site's own has: TLS, and users with passwords.
pub struct Private {
    pub address: SocketAddr,
    /// PEM.
    pub certificate: Utf8PathBuf,
    pub key: Utf8PathBuf,
    /// Lines of `user:bcrypt`.
    pub htpasswd: Utf8PathBuf,
}

/// Starts such a registry. It takes no index whose children are not all there.
pub fn start_private(binary: &Utf8Path, store: &Utf8Path, private: &Private) -> Result<Server> {
    let mut config = configuration(private.address, store, Access::Writable);
    config["http"]["tls"] = json!({"certificate": private.certificate, "key": private.key});
    config["auth"] = json!({"htpasswd": {"realm": "registry", "path": private.htpasswd}});
    serve(binary, private.address, &config)
}

fn serve(binary: &Utf8Path, address: SocketAddr, config: &serde_json::Value) -> Result<Server> {
    let mut text = tempfile::tempfile()?;
    // JSON is YAML.
    write!(text, "{config}")?;
    let mut config = text;
    config.rewind()?;
    Server::start(Start {
        name: "registry",
        command: tied_to_this_process(binary.as_str())
            .args(["serve", "/dev/stdin"])
            // The registry would send traces to a collector on this machine.
            .env("OTEL_TRACES_EXPORTER", "none"),
        address,
        page: "/v2/",
        input: config.into(),
    })
}

/// Takes images into a writable registry.
pub struct Pusher {
    pub registry: Server,
}

impl Pusher {
    /// Pushes an image, blobs first, and names its index with a tag.
    pub fn push(&self, repository: &str, tag: &str, image: &BuiltImage) -> Result<()> {
        for blob in &image.blobs {
            self.push_blob(repository, blob)?;
        }
        for manifest in &image.manifests {
            self.push_manifest(repository, &digest(manifest), MANIFEST, manifest)?;
        }
        self.push_manifest(repository, tag, INDEX, &image.index)
    }

    fn push_blob(&self, repository: &str, blob: &[u8]) -> Result<()> {
        let begin = Request {
            method: "POST",
            target: &format!("/v2/{repository}/blobs/uploads/"),
            content_type: "application/octet-stream",
            body: &[],
        };
        let response = self.send(&begin, 202)?;
        let location = response
            .header("location")
            .context("an upload without a location")?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let digest = digest(blob);
        let upload = Request {
            method: "PUT",
            target: &format!("{location}{separator}digest={digest}"),
            content_type: "application/octet-stream",
            body: blob,
        };
        self.send(&upload, 201).map(drop)
    }

    fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<()> {
        let upload = Request {
            method: "PUT",
            target: &format!("/v2/{repository}/manifests/{reference}"),
            content_type: media_type,
            body: manifest,
        };
        let response = self.send(&upload, 201)?;
        let stored = response.header("docker-content-digest");
        if stored != Some(&digest(manifest)) {
            bail!("{repository}:{reference} was stored as {stored:?}");
        }
        Ok(())
    }

    fn send(&self, request: &Request<'_>, expected_status: u16) -> Result<Response> {
        let response = http::send(self.registry.address, request)?;
        if response.status != expected_status {
            bail!(
                "{} {}: status {}: {}",
                request.method,
                request.target,
                response.status,
                String::from_utf8_lossy(&response.body)
            );
        }
        Ok(response)
    }
}

fn configuration(address: SocketAddr, store: &Utf8Path, access: Access) -> serde_json::Value {
    json!({
        "version": "0.1",
        "log": { "level": "warn", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": store },
            "maintenance": {
                "uploadpurging": { "enabled": false },
                "readonly": { "enabled": access == Access::ReadOnly },
            },
        },
        "http": { "addr": address.to_string(), "relativeurls": true, "secret": "loopback" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_read_only_registry_refuses_uploads() {
        let address = free_address().unwrap();
        for (access, expected) in [(Access::ReadOnly, true), (Access::Writable, false)] {
            let configuration = configuration(address, Utf8Path::new("/store"), access);
            let readonly = &configuration["storage"]["maintenance"]["readonly"]["enabled"];
            assert_eq!(*readonly, expected);
        }
    }
}
