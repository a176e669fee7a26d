//! An upstream in the test's process: file server and registry in one.

use crate::bundle::fetch::Mirrors;
use crate::bundle::oci::{self, Descriptor, Index, Manifest, OciPlatform};
use crate::bundle::platform::Platform;
use crate::digest::Digest;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Path to status and body.
type Pages = Arc<Mutex<BTreeMap<String, (u16, Vec<u8>)>>>;

/// An HTTP server that is file server and registry in one. A status of 0 closes the
/// connection in the middle of the body, once.
pub(super) struct Upstream {
    pub(super) pages: Pages,
    pub(super) requests: Arc<AtomicUsize>,
    /// Path and first byte of each request for a rest.
    pub(super) rests: Rests,
    pub(super) mirrors: Mirrors,
}

type Rests = Arc<Mutex<Vec<(String, usize)>>>;

impl Upstream {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (pages, requests) = (Pages::default(), Arc::new(AtomicUsize::new(0)));
        let mirrors = Mirrors::parse(&[
            format!("https://=http://127.0.0.1:{port}/files/"),
            format!("oci://=http://127.0.0.1:{port}/"),
        ]);
        let (served, counted) = (Arc::clone(&pages), Arc::clone(&requests));
        let rests = Rests::default();
        let noted = Arc::clone(&rests);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(answer(connection, Arc::clone(&served), Arc::clone(&noted)));
            }
        });
        Self {
            pages,
            requests,
            rests,
            mirrors: mirrors.unwrap(),
        }
    }

    pub(super) fn page(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.pages
            .lock()
            .unwrap()
            .insert(path.to_owned(), (200, content.into()));
    }

    pub(super) fn break_once(&self, path: &str, status: u16) {
        self.pages.lock().unwrap().get_mut(path).unwrap().0 = status;
    }

    /// A file with its sum beside it.
    pub(super) fn file(&self, url: &str, content: &[u8]) {
        self.page(&format!("/files/{url}"), content);
        let name = url.rsplit('/').next().unwrap();
        let line = format!("{}  {name}\n", Digest::of(content).hex());
        self.page(&format!("/files/{url}.sha256"), line);
    }

    pub(super) fn blob(&self, repository: &str, kind: &str, content: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, content);
        let place = if oci::kind(kind) == oci::Kind::Blob {
            "blobs"
        } else {
            "manifests"
        };
        self.page(
            &format!("/v2/{repository}/{place}/{}", descriptor.digest),
            content,
        );
        descriptor
    }

    /// A manifest with two layers.
    pub(super) fn manifest(&self, repository: &str, architecture: &str) -> Descriptor {
        let config = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
        let layer =
            |content: &str| self.blob(repository, "application/x.layer", content.as_bytes());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST_MEDIA_TYPE.to_owned()),
            artifact_type: None,
            config: self.blob(repository, "application/x.config", config.as_bytes()),
            layers: vec![
                layer("shared"),
                layer(&format!("{repository} {architecture}")),
            ],
            annotations: None,
        };
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        let mut child = self.blob(repository, oci::MANIFEST_MEDIA_TYPE, text.as_bytes());
        child.platform = Some(OciPlatform::from(&Platform::linux(architecture)));
        child
    }

    /// An image with an index over three architectures.
    pub(super) fn image(&self, repository: &str, tag: &str) {
        let children = ["amd64", "s390x", "arm64"];
        let index = Index {
            schema_version: 2,
            media_type: Some(oci::INDEX_MEDIA_TYPE.to_owned()),
            manifests: children
                .map(|name| self.manifest(repository, name))
                .to_vec(),
            annotations: None,
        };
        let text = serde_json::to_string_pretty(&index).unwrap();
        self.blob(repository, oci::INDEX_MEDIA_TYPE, text.as_bytes());
        self.page(&format!("/v2/{repository}/manifests/{tag}"), text);
    }
}

async fn answer(mut connection: TcpStream, pages: Pages, rests: Rests) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let from = request.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        let range = value.strip_prefix("bytes=")?.strip_suffix('-')?;
        key.eq_ignore_ascii_case("range")
            .then(|| range.parse().unwrap())
    });
    let (mut status, mut body) = {
        let mut pages = pages.lock().unwrap();
        let found = pages.get(&path).cloned();
        if let Some(page) = pages.get_mut(&path) {
            page.0 = 200;
        }
        found.unwrap_or((if path == "/v2/" { 200 } else { 404 }, b"{}".to_vec()))
    };
    // What registries say of manifests; plain files don't mind.
    let kind = if body.starts_with(b"{") && String::from_utf8_lossy(&body).contains("manifests") {
        oci::INDEX_MEDIA_TYPE
    } else {
        oci::MANIFEST_MEDIA_TYPE
    };
    let mut more = String::new();
    if let Some(from) = from.filter(|_| status == 200) {
        rests.lock().unwrap().push((path, from));
        more = format!(
            "content-range: bytes {from}-{}/{}\r\n",
            body.len() - 1,
            body.len()
        );
        body.drain(..from);
        status = 206;
    }
    let sent = if status == 0 {
        body.len() / 2
    } else {
        body.len()
    };
    let header = format!(
        "HTTP/1.1 {} x\r\ncontent-length: {}\r\ncontent-type: {kind}\r\n{more}connection: close\r\n\r\n",
        status.max(200),
        body.len()
    );
    let _ = connection.write_all(header.as_bytes()).await;
    let _ = connection.write_all(&body[..sent]).await;
    let _ = connection.shutdown().await;
}
