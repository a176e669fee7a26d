use super::*;
use crate::bundle::progress::NoProgress;
use crate::bundle::testing::{self, TestDirectory};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// `user:secret` in base64.
const LOGIN: &str = "dXNlcjpzZWNyZXQ=";

/// A registry in this process, which lets one user in.
#[derive(Clone, Default)]
struct Registry(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// `repository@digest`.
    blobs: BTreeSet<String>,
    /// `repository:tag` or `repository@digest`.
    manifests: BTreeSet<String>,
    bytes: HashMap<String, usize>,
    mounts: usize,
    uploads: usize,
    /// The upload that fails, counted from 1; none at 0.
    breaks_at: usize,
    can_mount: bool,
    /// Refuses indexes whose children it has not got.
    is_strict: bool,
    /// By name, what was put there.
    contents: HashMap<String, Vec<u8>>,
}

impl Registry {
    async fn start() -> (Self, String) {
        let registry = Self::default();
        registry.0.lock().unwrap().can_mount = true;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = registry.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve(connection));
            }
        });
        (registry, address)
    }

    /// One request after the other, until the client has enough.
    async fn serve(self, mut connection: TcpStream) {
        loop {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                match connection.read(&mut byte).await {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (key, value) = line.split_once(": ")?;
                    key.eq_ignore_ascii_case(name).then(|| value.to_owned())
                })
            };
            let length = header("content-length").map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            connection.read_exact(&mut body).await.unwrap();
            let is_in = header("authorization") == Some(format!("Basic {LOGIN}"));
            let (status, more) = match is_in {
                true => self.answer(head.lines().next().unwrap(), &body),
                false => (401, "www-authenticate: Basic realm=\"x\"\r\n".to_owned()),
            };
            if status == 0 {
                return;
            }
            let body = match status {
                400 => r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"x"}]}"#,
                _ => "",
            };
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{more}\r\n{body}");
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// Status and further headers; 0 breaks the connection.
    fn answer(&self, line: &str, body: &[u8]) -> (u16, String) {
        let mut state = self.0.lock().unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (method, path) = (words[0], words[1]);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let value = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| value);
            found.next_back().map(|value| value.replace("%3A", ":"))
        };
        let path = path.strip_prefix("/v2/").unwrap();
        let located = |repository: &str| (201, format!("location: /v2/{repository}/x\r\n"));
        if let Some((repository, digest)) = path.split_once("/blobs/sha256:") {
            let name = format!("{repository}@sha256:{digest}");
            return (
                if state.blobs.contains(&name) {
                    200
                } else {
                    404
                },
                String::new(),
            );
        }
        if let Some(repository) = path.strip_suffix("/blobs/uploads/") {
            if let (Some(digest), Some(from)) = (value("mount"), value("from")) {
                let from = from.replace("%2F", "/");
                if state.can_mount && state.blobs.contains(&format!("{from}@{digest}")) {
                    state.blobs.insert(format!("{repository}@{digest}"));
                    state.mounts += 1;
                    return located(repository);
                }
            }
            let location = format!("location: /v2/{repository}/upload\r\n");
            return (202, location);
        }
        if let Some(repository) = path.strip_suffix("/upload") {
            state.uploads += 1;
            if state.uploads == state.breaks_at {
                return (0, String::new());
            }
            let digest = value("digest").unwrap();
            assert_eq!(digest, Digest::of(body).to_string());
            state.bytes.insert(digest.clone(), body.len());
            state.blobs.insert(format!("{repository}@{digest}"));
            return located(repository);
        }
        if let Some((repository, name)) = path.split_once("/manifests/")
            && method == "PUT"
        {
            let mark = if name.contains(':') { "@" } else { ":" };
            let content: serde_json::Value = serde_json::from_slice(body).unwrap();
            let children = content["manifests"].as_array().into_iter().flatten();
            let is_there = |child: &serde_json::Value| {
                let name = format!("{repository}@{}", child["digest"].as_str().unwrap());
                state.manifests.contains(&name)
            };
            if state.is_strict && !children.into_iter().all(is_there) {
                return (400, String::new());
            }
            let name = format!("{repository}{mark}{name}");
            state.contents.insert(name.clone(), body.to_vec());
            state.manifests.insert(name);
            return located(repository);
        }
        (200, String::new())
    }
}

struct World {
    _directory: TestDirectory,
    bundle: Bundle,
    registry: Registry,
    to: Destination,
    access: Access,
}

impl World {
    async fn new() -> Self {
        let directory = TestDirectory::new();
        let (path, key) = testing::bundle(&directory.path);
        let (registry, address) = Registry::start().await;
        Self {
            bundle: Bundle::clone(&Bundle::open(&path, &[key]).unwrap()),
            _directory: directory,
            registry,
            to: format!("http://{address}/k8s").parse().unwrap(),
            access: Access {
                login: Some(("user".to_owned(), "secret".to_owned())),
                ca_file: None,
            },
        }
    }

    async fn push(&self) -> Result<Pushed> {
        push(&self.bundle, &self.to, &self.access, &NoProgress).await
    }
}

#[tokio::test]
async fn all_images_and_files_are_pushed_once() {
    let world = World::new().await;
    let pushed = world.push().await.unwrap();
    assert_eq!((pushed.artifacts, pushed.there), (6, 0));
    {
        let state = world.registry.0.lock().unwrap();
        for name in [
            "k8s/registry.example/pause:3",
            "k8s/registry.example/tools/dns:v1",
            "k8s/cofferdam/file/kubelet:1.2.3-linux-arm64",
        ] {
            assert!(
                state.manifests.contains(name),
                "{name} in {:?}",
                state.manifests
            );
        }
        // What repositories share is sent to one of them.
        assert_eq!(state.uploads, pushed.sent);
        assert!(state.mounts > 0);
        let bytes: usize = state.bytes.values().sum();
        assert_eq!(bytes as u64, pushed.sent_bytes);
    }
    let again = world.push().await.unwrap();
    assert_eq!((again.sent, again.sent_bytes), (0, 0));
    assert_eq!(again.there, pushed.sent);
}

#[tokio::test]
async fn a_registry_that_can_not_mount_gets_blobs_again() {
    let world = World::new().await;
    world.registry.0.lock().unwrap().can_mount = false;
    let pushed = world.push().await.unwrap();
    let state = world.registry.0.lock().unwrap();
    assert_eq!(state.mounts, 0);
    assert!(state.uploads > pushed.sent);
    assert!(state.manifests.contains("k8s/registry.example/pause:3"));
}

/// Most registries take no index with children left out, and that is told.
#[tokio::test]
async fn a_strict_registry_gets_indexes_of_what_is_carried() {
    let world = World::new().await;
    let pushed = world.push().await.unwrap();
    assert_eq!(pushed.reduced, Vec::<String>::new());
    world.registry.0.lock().unwrap().is_strict = true;
    let pushed = world.push().await.unwrap();
    assert_eq!(pushed.reduced.len(), 2);
    assert!(pushed.reduced[0].ends_with("k8s/registry.example/pause:3"));
    let state = world.registry.0.lock().unwrap();
    let index = &state.contents["k8s/registry.example/pause:3"];
    let index: serde_json::Value = serde_json::from_slice(index).unwrap();
    let platforms: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| child["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    // Upstream's own is there as a blob that is named, for hosts that want its digest.
    let repository = "k8s/registry.example/pause";
    let tag = format!("{repository}:sha256-");
    let mut kept = state.contents.iter();
    let (name, kept) = kept.find(|(name, _)| name.starts_with(&tag)).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(kept).unwrap();
    let digest = kept["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(
        format!("{repository}:{}.index", digest.replace(':', "-")),
        *name
    );
    assert!(state.blobs.contains(&format!("{repository}@{digest}")));
}

#[tokio::test]
async fn a_broken_connection_is_tried_again() {
    let world = World::new().await;
    world.registry.0.lock().unwrap().breaks_at = 3;
    let pushed = world.push().await.unwrap();
    let state = world.registry.0.lock().unwrap();
    assert_eq!(state.uploads, pushed.sent + 1);
}

#[tokio::test]
async fn a_wrong_password_is_told_before_anything_is_sent() {
    let mut world = World::new().await;
    world.access.login = Some(("user".to_owned(), "wrong".to_owned()));
    let error = format!("{:#}", world.push().await.unwrap_err());
    let expected = format!("getting into registry {}", world.to.address.registry);
    assert!(
        error.contains(&expected) && error.contains("401"),
        "{error}"
    );
    assert_eq!(world.registry.0.lock().unwrap().uploads, 0);
}

#[test]
fn destinations() {
    let destination = |is_plain, registry: &str, prefix: &str| {
        Ok(Destination {
            is_plain,
            address: RegistryAddress {
                registry: registry.to_owned(),
                prefix: prefix.to_owned(),
            },
        })
    };
    for (text, expected) in [
        (
            "harbor.example.org",
            destination(false, "harbor.example.org", ""),
        ),
        (
            "https://harbor.example.org:8443/k8s/prod/",
            destination(false, "harbor.example.org:8443", "k8s/prod"),
        ),
        (
            "http://127.0.0.1:5000/x",
            destination(true, "127.0.0.1:5000", "x"),
        ),
    ] {
        assert_eq!(text.parse::<Destination>(), expected, "{text}");
    }
    for text in ["", "/x", "ftp://h", "h/Upper", "h/a//b", "h/a b", "h h/a"] {
        assert!(text.parse::<Destination>().is_err(), "{text}");
    }
}
