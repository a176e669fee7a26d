//! Pushes blobs and manifests to a registry, as the OCI distribution
//! specification has it: one upload each, whole.

use super::Content;
use super::damaged::remove_if_damaged;
use crate::agent::http;
use crate::agent::observe::open_blob;
use crate::agent::root::Root;
use crate::agent::staging::{self, Stored};
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use camino::Utf8Path;
use futures_util::TryStreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Client, Response, StatusCode};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

/// The HTTP client counts from a request's start, its body included, and a
/// layer of gigabytes takes hours over a slow link. The caller's own limit,
/// which begins anew with every piece that moves, ends what hangs.
const QUIET_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Manifests are at most 4 MiB by the specification.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Staged blobs are read in pieces of this size.
const PIECE_BYTES: usize = 512 << 10;
/// Text of a refusal that is passed on.
const REFUSAL_CHARACTERS: usize = 300;
const DIGEST_HEADER: &str = "docker-content-digest";

/// Where a manifest goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestTarget {
    pub repository: String,
    pub media_type: String,
    pub tag: Option<String>,
}

/// A client of one registry on a local socket.
#[derive(Clone, Debug)]
pub(super) struct Pusher {
    root: Root,
    client: Client,
}

impl Pusher {
    pub(super) fn new(root: Root, socket: &Utf8Path) -> Result<Self> {
        let client = http::plain(QUIET_LIMIT)
            .unix_socket(socket.as_std_path())
            .build()
            .context("making a client of the registry")?;
        Ok(Self { root, client })
    }

    pub(super) async fn put_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<Stored> {
        let pushing = || format!("putting blob {digest} into {repository}");
        remove_if_damaged(&self.root, digest)
            .await
            .with_context(pushing)?;
        if self.has_blob(repository, digest).await? {
            return Ok(Stored::AlreadyThere);
        }
        let (body, stored) = match self.local(digest, size).await.with_context(pushing)? {
            Some(file) => {
                let stream = ReaderStream::with_capacity(file, PIECE_BYTES);
                (Body::wrap_stream(stream), Stored::AlreadyThere)
            }
            None => (Body::wrap_stream(content), Stored::Taken),
        };
        let begin = self
            .client
            .post(url(&format!("{repository}/blobs/uploads/")))
            .header(CONTENT_LENGTH, 0)
            .send()
            .await
            .map_err(|error| anyhow!("{}: {}", pushing(), http::reason(&error)))?;
        let begin = accepted(begin, StatusCode::ACCEPTED)
            .await
            .with_context(pushing)?;
        let location = upload_location(&begin).with_context(pushing)?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let end = self
            .client
            .put(format!("{location}{separator}digest={digest}"))
            .header(CONTENT_LENGTH, size)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .send()
            .await
            .map_err(|error| anyhow!("{}: {}", pushing(), http::reason(&error)));
        let ended = match end {
            Ok(end) => accepted(end, StatusCode::CREATED)
                .await
                .with_context(pushing),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            // What came of it would stay on the disk until the next run.
            let _ = self.client.delete(&location).send().await;
            return Err(error);
        }
        Ok(stored)
    }

    /// The blob where it lies on this host: staged, or in the registry's store under
    /// another repository, where damaged ones were removed.
    async fn local(&self, digest: &Digest, size: u64) -> Result<Option<tokio::fs::File>> {
        if staging::is_staged(&self.root, digest, size).await? {
            let staged = tokio::fs::File::open(staging::place_of(&self.root, digest));
            return Ok(Some(staged.await?));
        }
        let (root, digest) = (self.root.clone(), *digest);
        let stored = tokio::task::spawn_blocking(move || open_blob(&root, &digest, size)).await?;
        Ok(stored.map(tokio::fs::File::from_std))
    }

    pub(super) async fn put_manifest(
        &self,
        target: &ManifestTarget,
        digest: &Digest,
        size: u64,
        mut content: Content,
    ) -> Result<Stored> {
        let ManifestTarget {
            repository,
            media_type,
            tag,
        } = target;
        let pushing = || format!("putting manifest {digest} into {repository}");
        remove_if_damaged(&self.root, digest)
            .await
            .with_context(pushing)?;
        if self.has_manifest(target, digest).await? {
            return Ok(Stored::AlreadyThere);
        }
        if size > MANIFEST_LIMIT {
            bail!(
                "{}: it has {size} bytes, more than {MANIFEST_LIMIT}",
                pushing()
            );
        }
        // One that is there, under another tag or none, comes from here: who has no bundle
        // has none to send.
        let mut bytes = Vec::new();
        let stored = match self.local(digest, size).await.with_context(pushing)? {
            Some(file) => {
                let mut file = file.take(size);
                file.read_to_end(&mut bytes).await.with_context(pushing)?;
                Stored::AlreadyThere
            }
            None => {
                while let Some(piece) = content.try_next().await? {
                    bytes.extend_from_slice(&piece);
                    if bytes.len() as u64 > size {
                        break;
                    }
                }
                Stored::Taken
            }
        };
        if bytes.is_empty() {
            bail!(
                "{}: it is not on this host, and no bundle that has it was given",
                pushing()
            );
        }
        // Under a tag the registry takes any bytes, so they are proven here.
        if bytes.len() as u64 != size || Digest::of(&bytes) != *digest {
            bail!(
                "{}: what came is {} of {} bytes",
                pushing(),
                Digest::of(&bytes),
                bytes.len()
            );
        }
        let name = tag.clone().unwrap_or_else(|| digest.to_string());
        let answer = self
            .client
            .put(url(&format!("{repository}/manifests/{name}")))
            .header(CONTENT_TYPE, media_type)
            .body(bytes)
            .send()
            .await
            .map_err(|error| anyhow!("{}: {}", pushing(), http::reason(&error)))?;
        accepted(answer, StatusCode::CREATED)
            .await
            .with_context(pushing)?;
        Ok(stored)
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let answer = self
            .client
            .head(url(&format!("{repository}/blobs/{digest}")))
            .send()
            .await
            .map_err(|error| anyhow!("asking the registry: {}", http::reason(&error)))?;
        Ok(answer.status().is_success())
    }

    async fn has_manifest(&self, target: &ManifestTarget, digest: &Digest) -> Result<bool> {
        let digest = digest.to_string();
        for name in std::iter::once(&digest).chain(&target.tag) {
            let answer = self
                .client
                .head(url(&format!("{}/manifests/{name}", target.repository)))
                .header(reqwest::header::ACCEPT, &target.media_type)
                .send()
                .await
                .map_err(|error| anyhow!("asking the registry: {}", http::reason(&error)))?;
            let found = answer.headers().get(DIGEST_HEADER);
            if !answer.status().is_success()
                || found.and_then(|value| value.to_str().ok()) != Some(&digest)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The host in it means nothing: all goes to the socket.
fn url(path: &str) -> String {
    format!("http://registry/v2/{path}")
}

fn upload_location(response: &Response) -> Result<String> {
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| anyhow!("the registry names no place for the upload"))?;
    if location.starts_with('/') {
        return Ok(format!("http://registry{location}"));
    }
    Ok(location.to_owned())
}

async fn accepted(response: Response, expected: StatusCode) -> Result<Response> {
    let status = response.status();
    if status == expected {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let text: String = text.trim().chars().take(REFUSAL_CHARACTERS).collect();
    bail!(
        "the registry answered with status {}: {text}",
        status.as_u16()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::{BodyReceiver, body_channel};
    use crate::agent::seed::pieces;
    use crate::agent::test_host::TestHost;
    use bytes::Bytes;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// A registry that has nothing, opens uploads, and answers their end as
    /// told. Returns the requests' first lines with their bodies.
    fn registry(host: &TestHost, end: &'static str) -> (Pusher, Arc<Mutex<Vec<String>>>) {
        let socket = host.root.path("/registry.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = seen.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let requests = requests.clone();
                tokio::spawn(async move {
                    let mut text = String::new();
                    let mut piece = [0; 4096];
                    while !is_whole(&text) {
                        match stream.read(&mut piece).await.unwrap() {
                            0 => return,
                            length => text.push_str(std::str::from_utf8(&piece[..length]).unwrap()),
                        }
                    }
                    let answer = match text.split(' ').next().unwrap() {
                        "HEAD" => "404 Not Found\r\nContent-Length: 0",
                        "POST" => {
                            "202 Accepted\r\nLocation: /v2/x/blobs/uploads/1?_state=s\r\nContent-Length: 0"
                        }
                        _ => end,
                    };
                    requests.lock().unwrap().push(text);
                    let answer = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\nno room");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        (Pusher::new(host.root.clone(), &socket).unwrap(), seen)
    }

    fn is_whole(text: &str) -> bool {
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return false;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then_some(value)
        });
        body.len() >= length.map_or(0, |length| length.parse().unwrap())
    }

    async fn whole_body(text: &'static str) -> Content {
        let (sender, receiver) = body_channel();
        sender.send(Bytes::from_static(text.as_bytes())).unwrap();
        sender.finish().unwrap();
        pieces(receiver)
    }

    const CREATED: &str = "201 Created\r\nContent-Length: 0";

    #[tokio::test]
    async fn a_blob_is_one_upload_from_the_body_or_from_staging() {
        let host = TestHost::new();
        let (pusher, seen) = registry(&host, CREATED);
        let digest = Digest::of("blob");
        let body = whole_body("blob").await;
        let stored = pusher.put_blob("x", &digest, 4, body).await.unwrap();
        assert_eq!(stored, Stored::Taken);
        let put = seen.lock().unwrap().pop().unwrap();
        let line = format!("PUT /v2/x/blobs/uploads/1?_state=s&digest={digest} HTTP/1.1");
        assert!(
            put.starts_with(&line) && put.ends_with("\r\n\r\nblob"),
            "{put}"
        );
        host.write(
            &format!("{}/{}", crate::layout::STAGING, digest.hex()),
            "blob",
        );
        let stored = pusher
            .put_blob("x", &digest, 4, pieces(BodyReceiver::empty()))
            .await
            .unwrap();
        assert_eq!(stored, Stored::AlreadyThere);
        assert!(
            seen.lock()
                .unwrap()
                .pop()
                .unwrap()
                .ends_with("\r\n\r\nblob")
        );
    }

    #[tokio::test]
    async fn a_tag_is_moved_back_without_a_bundle() {
        let host = TestHost::new();
        let (pusher, seen) = registry(&host, CREATED);
        let digest = Digest::of("{}");
        let place = crate::agent::observe::blob_place(&digest);
        host.write(&format!("{}/{place}", crate::layout::REGISTRY), "{}");
        let target = ManifestTarget {
            repository: "x".to_owned(),
            media_type: "application/json".to_owned(),
            tag: Some("v1".to_owned()),
        };
        let none = || pieces(BodyReceiver::empty());
        let stored = pusher.put_manifest(&target, &digest, 2, none()).await;
        assert_eq!(stored.unwrap(), Stored::AlreadyThere);
        let put = seen.lock().unwrap().pop().unwrap();
        assert!(
            put.starts_with("PUT /v2/x/manifests/v1 ") && put.ends_with("\r\n\r\n{}"),
            "{put}"
        );
        let other = Digest::of("other");
        let stored = pusher.put_manifest(&target, &other, 5, none()).await;
        let error = stored.unwrap_err().to_string();
        assert!(error.contains("no bundle that has it was given"), "{error}");
    }

    #[tokio::test]
    async fn what_is_damaged_goes_before_the_registry_is_asked_for_it() {
        let host = TestHost::new();
        let (pusher, _) = registry(&host, CREATED);
        let digest = Digest::of("{}");
        let place = crate::agent::observe::blob_place(&digest);
        let place = host.root.path(crate::layout::REGISTRY).join(place);
        let target = ManifestTarget {
            repository: "x".to_owned(),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            tag: None,
        };
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        fs_err::write(&place, "[]").unwrap();
        let body = whole_body("{}").await;
        pusher.put_blob("x", &digest, 2, body).await.unwrap();
        assert!(!place.exists());
        fs_err::write(&place, "[]").unwrap();
        let body = whole_body("{}").await;
        pusher
            .put_manifest(&target, &digest, 2, body)
            .await
            .unwrap();
        assert!(!place.exists());
    }

    #[tokio::test]
    async fn a_refusal_and_a_body_that_is_cut_off_are_errors() {
        let host = TestHost::new();
        let refusal = "507 Insufficient Storage\r\nContent-Length: 7";
        let (pusher, _) = registry(&host, refusal);
        let digest = Digest::of("blob");
        let body = whole_body("blob").await;
        let error = pusher.put_blob("x", &digest, 4, body).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("status 507: no room"),
            "{error:#}"
        );
        let (sender, receiver) = body_channel();
        sender.send(Bytes::from_static(b"bl")).unwrap();
        drop(sender);
        assert!(
            pusher
                .put_blob("x", &digest, 4, pieces(receiver))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn only_the_right_manifest_is_sent() {
        let host = TestHost::new();
        let (pusher, seen) = registry(&host, CREATED);
        let target = ManifestTarget {
            repository: "x".to_owned(),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            tag: Some("v1".to_owned()),
        };
        let digest = Digest::of("{}");
        for wrong in ["[]", "{} ", "{"] {
            let body = whole_body(wrong).await;
            assert!(
                pusher
                    .put_manifest(&target, &digest, 2, body)
                    .await
                    .is_err()
            );
        }
        let is_sent = |seen: &Mutex<Vec<String>>| {
            let seen = seen.lock().unwrap();
            seen.iter()
                .any(|text| text.starts_with("PUT /v2/x/manifests/v1 "))
        };
        assert!(!is_sent(&seen));
        let body = whole_body("{}").await;
        let stored = pusher
            .put_manifest(&target, &digest, 2, body)
            .await
            .unwrap();
        assert_eq!(stored, Stored::Taken);
        assert!(is_sent(&seen));
    }
}
