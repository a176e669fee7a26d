//! The real registry on loopback over a store, and pushing images to it.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::http::{self, Request, Response};
use super::image::{BuiltImage, INDEX, MANIFEST, digest};
use super::progress::{KilledOnDrop, last_lines, tied_to_this_process};

/// A server on loopback starts in well under a second; a busy machine may
/// need several.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_millis(50);

/// How many of the last lines of a server that did not start are shown.
const SHOWN_LINES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Uploads are refused.
    ReadOnly,
    Writable,
}

/// A server on loopback that is killed when dropped.
pub struct Server {
    pub address: SocketAddr,
    // In this order, so that the server ends before its folder goes.
    _child: KilledOnDrop,
    _folder: TempDir,
}

/// Starts the registry over a store and waits until it answers.
pub fn start(binary: &Utf8Path, store: &Utf8Path, access: Access) -> Result<Server> {
    let address = free_address()?;
    let folder = tempfile::tempdir()?;
    let config = utf8(&folder)?.join("config.yml");
    // JSON is YAML.
    fs_err::write(&config, configuration(address, store, access).to_string())?;
    start_server("registry", folder, address, |log| {
        let child = tied_to_this_process(binary.as_str())
            .args(["serve", config.as_str()])
            // The registry would send traces to a collector on this machine.
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok((child, "/v2/"))
    })
}

/// Serves a folder's files with busybox and waits until it answers.
pub fn start_file_server(files: &Utf8Path) -> Result<Server> {
    let address = free_address()?;
    let folder = tempfile::tempdir()?;
    start_server("busybox httpd", folder, address, |log| {
        let child = tied_to_this_process("busybox")
            .args([
                "httpd",
                "-f",
                "-p",
                &address.to_string(),
                "-h",
                files.as_str(),
            ])
            // Without this it would read the machine's own /etc/httpd.conf.
            .args(["-c", "/dev/null"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok((child, "/"))
    })
}

impl Server {
    /// Fails when the server has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self._child.0.try_wait()? {
            bail!("the server on {} has ended: {status}", self.address);
        }
        Ok(())
    }

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
        let response = http::send(self.address, request)?;
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

/// Starts a server with its output in a log, and waits until it answers a
/// request for the page that `start` names.
fn start_server(
    name: &str,
    folder: TempDir,
    address: SocketAddr,
    start: impl FnOnce(std::fs::File) -> Result<(std::process::Child, &'static str)>,
) -> Result<Server> {
    let log = utf8(&folder)?.join("log");
    let output = fs_err::File::create(&log)?.into_parts().0;
    let (child, page) = start(output).with_context(|| format!("starting {name}"))?;
    let mut server = Server {
        address,
        _child: KilledOnDrop(child),
        _folder: folder,
    };
    let started = Instant::now();
    loop {
        let reason = match http::get(address, page) {
            Ok(_) => return Ok(server),
            Err(error) => error,
        };
        let given_up = started.elapsed() > START_LIMIT;
        if let Err(reason) = server
            .check()
            .and(if given_up { Err(reason) } else { Ok(()) })
        {
            let lines = last_lines(&log, SHOWN_LINES)?;
            return Err(reason.context(format!("waiting for {name}; its last lines:\n{lines}")));
        }
        std::thread::sleep(START_INTERVAL);
    }
}

/// An address on loopback that nothing listens on. Another process may take
/// it before the server does; then the server ends, and says so.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn utf8(folder: &TempDir) -> Result<Utf8PathBuf> {
    Utf8PathBuf::from_path_buf(folder.path().to_owned())
        .ok()
        .context("the folder for temporary files has a name that is not UTF-8")
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
    fn a_server_that_ends_is_reported_with_its_words() {
        let error = start_server(
            "test server",
            tempfile::tempdir().unwrap(),
            free_address().unwrap(),
            |log| {
                let child = std::process::Command::new("sh")
                    .args(["-c", "echo address in use >&2; exit 1"])
                    .stderr(log)
                    .spawn()?;
                Ok((child, "/"))
            },
        )
        .err()
        .unwrap();
        let text = format!("{error:#}");
        assert!(
            text.contains("test server") && text.contains("address in use"),
            "{text}"
        );
    }

    #[test]
    fn a_folder_is_served_until_the_server_is_dropped() {
        crate::shell::debian_packages(&["busybox-static"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("file"), "content").unwrap();
        let server = start_file_server(&utf8(&folder).unwrap()).unwrap();
        let address = server.address;
        assert_eq!(http::get(address, "/file").unwrap().body, b"content");
        drop(server);
        assert!(http::get(address, "/file").is_err());
    }

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
