//! Locks and builds a small bundle from an upstream that lives in this process.

mod upstream;

use super::*;
use crate::bundle::oci::Index;
use crate::bundle::progress::NoProgress;
use crate::bundle::reader::{Bundle, Trust};
use crate::bundle::resolve::{LockOptions, LockOutcome, lock};
use crate::bundle::testing::{self, TestDirectory};
use crate::bundle::verify::verify;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use upstream::Upstream;

/// A program of a few bytes that lists a flag, for this machine.
fn program(name: &str) -> String {
    format!(
        "#!/bin/sh\necho '  --of-{name} string   x'\n# yaml:\"storage,omitempty\" {}\n",
        "x".repeat(2000)
    )
}

fn archive(members: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

const DEFINITION: &str = r#"
schema = 1
[bundle]
name = "small"
version = "1.0.0"
platforms = ["linux/amd64", "linux/arm64"]

[[files]]
name = "tool"
version = "2.0"
url = "https://one.example/v{version}/{arch}/{name}"
checksum = "{url}.sha256"
flags = true
fields = "yaml"

[[files]]
name = "member"
version = "3.0"
url = "https://two.example/pack-{arch}.tar.gz"
checksum = "{url}.sha256"
member = "pack/{name}"

[[files]]
name = "other"
version = "3.0"
url = "https://two.example/pack-{arch}.tar.gz"
member = "./pack/other"

[[images]]
name = "registry.example/pause"
tag = "3"

[[images]]
name = "other.example/team/dns"
tag = "v1"

[[manifests]]
name = "dns"
path = "manifests/dns.yaml"
"#;

/// Upstream, definition and cache of one test.
struct World {
    directory: TestDirectory,
    upstream: Upstream,
}

impl World {
    async fn new() -> Self {
        let upstream = Upstream::start().await;
        for architecture in ["amd64", "arm64"] {
            let tool = program("tool");
            upstream.file(
                &format!("one.example/v2.0/{architecture}/tool"),
                tool.as_bytes(),
            );
            let member = format!("member for {architecture}");
            let pack = archive(&[
                ("pack/member", &member),
                ("x", "y"),
                ("pack/other", "other"),
            ]);
            upstream.file(&format!("two.example/pack-{architecture}.tar.gz"), &pack);
        }
        upstream.image("registry.example/pause", "3");
        upstream.image("other.example/team/dns", "v1");
        let world = Self {
            directory: TestDirectory::new(),
            upstream,
        };
        world.write(
            "manifests/dns.yaml",
            "image: {{ images[\"other.example/team/dns\"] }}\n",
        );
        world.write("small.toml", DEFINITION);
        world.write("agent-amd64", "agent for amd64");
        world.write("agent-arm64", "agent for arm64");
        world
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        self.directory.path.join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn fetch(&self) -> FetchOptions {
        FetchOptions {
            mirrors: self.upstream.mirrors.clone(),
            ca_file: None,
        }
    }

    async fn lock(&self) -> Result<LockOutcome> {
        let options = LockOptions {
            definition: self.path("small.toml"),
            lock: None,
            cache: self.path("cache"),
            fetch: self.fetch(),
        };
        lock(&options, Arc::new(NoProgress)).await
    }

    async fn build(&self, cache: &str, output: &str) -> Result<BuildOutcome> {
        let key = match self.path("a.key").exists() {
            true => SigningKey::load(&self.path("a.key"), &crate::bundle::sign::Password::None)?,
            false => testing::keys(&self.directory.path, "a").0,
        };
        let agent = |name: &str| (Platform::linux(name), self.path(&format!("agent-{name}")));
        let options = BuildOptions {
            definition: self.path("small.toml"),
            lock: None,
            output: self.path(output),
            cache: self.path(cache),
            fetch: self.fetch(),
            agents: BTreeMap::from(["amd64", "arm64"].map(agent)),
            contexts: vec![BTreeMap::new()],
            shape: Shape::default(),
        };
        build(&options, Some(&key), Arc::new(NoProgress)).await
    }
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[tokio::test]
async fn what_is_locked_is_built_and_read_again() {
    let world = World::new().await;
    let locked = world.lock().await.unwrap();
    assert!(locked.changed);
    assert!(!world.lock().await.unwrap().changed);
    let outcome = world.build("cache", "out/small.tar").await.unwrap();
    let keys = [crate::bundle::TrustedKey::load(&world.path("a.pub")).unwrap()];
    let verification = verify(&outcome.files[0].path, Trust::Required(&keys), &NoProgress).unwrap();
    assert!(
        verification.damages.is_empty(),
        "{:?}",
        verification.damages
    );
    let bundle = Bundle::open(&outcome.files[0].path, &keys).unwrap();
    assert_eq!(bundle.length(), outcome.files[0].size);
    for platform in bundle.platforms() {
        let files = bundle.files(platform);
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["cofferdam", "member", "other", "tool"]);
        // The foreign platform has the native one's list.
        assert_eq!(files["tool"].flags, Some(vec!["of-tool".to_owned()]));
        assert_eq!(files["tool"].fields, Some(vec!["storage".to_owned()]));
        assert_eq!(files["member"].fields, None);
        let content = |name: &str| {
            let compressed = bundle
                .blob_bytes(&files[name].blob.digest, 1 << 20)
                .unwrap();
            zstd::stream::decode_all(compressed.as_slice()).unwrap()
        };
        let architecture = &platform.architecture;
        assert_eq!(
            content("member"),
            format!("member for {architecture}").as_bytes()
        );
        assert_eq!(
            content("cofferdam"),
            format!("agent for {architecture}").as_bytes()
        );
        for image in bundle.images(platform) {
            let index = bundle.blob_bytes(&image.root.digest, 1 << 20).unwrap();
            assert_eq!(
                serde_json::from_slice::<Index>(&index)
                    .unwrap()
                    .manifests
                    .len(),
                3
            );
            assert_eq!(image.content.len(), 5);
        }
    }
    let lock = bundle.contents().lock.clone().unwrap();
    let lock = bundle.blob_bytes(&lock.digest, 1 << 20).unwrap();
    assert_eq!(lock, fs::read(world.path("small.lock")).unwrap());
}

#[tokio::test]
async fn builds_do_not_depend_on_cache_or_directory() {
    let world = World::new().await;
    world.lock().await.unwrap();
    world.build("cache", "one.tar").await.unwrap();
    world
        .build("other-cache", "deep/below/two.tar")
        .await
        .unwrap();
    let before = world.upstream.requests.load(Ordering::Relaxed);
    world.build("cache", "three.tar").await.unwrap();
    assert_eq!(
        world.upstream.requests.load(Ordering::Relaxed),
        before,
        "a warm build fetches"
    );
    let first = fs::read(world.path("one.tar")).unwrap();
    for other in ["deep/below/two.tar", "three.tar"] {
        assert!(fs::read(world.path(other)).unwrap() == first, "{other}");
    }
    let left = world
        .path("cache/temporary")
        .read_dir_utf8()
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn bad_moments_of_upstream_are_bridged() {
    let world = World::new().await;
    world
        .upstream
        .break_once("/files/one.example/v2.0/amd64/tool", 503);
    world
        .upstream
        .break_once("/files/two.example/pack-arm64.tar.gz", 0);
    world
        .upstream
        .break_once("/v2/registry.example/pause/manifests/3", 500);
    world.lock().await.unwrap();
    let layer = Digest::of("shared");
    world
        .upstream
        .break_once(&format!("/v2/registry.example/pause/blobs/{layer}"), 0);
    world.build("cache", "small.tar").await.unwrap();
}

/// What came before a link was cut is not fetched again, by the same command neither.
#[tokio::test]
async fn downloads_that_were_cut_off_are_gone_on_with() {
    let world = World::new().await;
    world.lock().await.unwrap();
    let layer = Digest::of("registry.example/pause amd64");
    let paths = [
        "/files/two.example/pack-arm64.tar.gz".to_owned(),
        "/files/one.example/v2.0/amd64/tool".to_owned(),
        format!("/v2/registry.example/pause/blobs/{layer}"),
    ];
    let whole: Vec<Vec<u8>> = {
        let pages = world.upstream.pages.lock().unwrap();
        paths.iter().map(|path| pages[path].1.clone()).collect()
    };
    for path in &paths {
        world.upstream.break_once(path, 0);
    }
    world.build("fresh", "small.tar").await.unwrap();
    let rests = world.upstream.rests.lock().unwrap().clone();
    for (path, whole) in paths.iter().zip(&whole) {
        let half = (path.clone(), whole.len() / 2);
        assert!(rests.contains(&half), "{half:?} in {rests:?}");
    }
    // As of a run that was killed: of one the half, of one something else.
    let killed = world.path("killed");
    let cache = Cache::open(&killed).unwrap();
    let (half, wrong) = (Digest::of(&whole[1]), Digest::of(&whole[0]));
    let write = |digest: Digest, content: &[u8]| {
        use std::io::Write as _;
        cache.resume(&digest).unwrap().write_all(content).unwrap();
    };
    write(half, &whole[1][..700]);
    write(wrong, b"something else");
    world.upstream.rests.lock().unwrap().clear();
    world.build("killed", "again.tar").await.unwrap();
    let rests = world.upstream.rests.lock().unwrap().clone();
    assert!(rests.contains(&(paths[1].clone(), 700)), "{rests:?}");
    let read = |name: &str| fs::read(world.path(name)).unwrap();
    assert!(read("small.tar") == read("again.tar"));
    let left = world
        .path("killed/partial")
        .read_dir_utf8()
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn sums_that_differ_are_refused() {
    let world = World::new().await;
    let url = "/files/one.example/v2.0/amd64/tool";
    world.upstream.page(url, "something else");
    let error = message(world.lock().await);
    assert!(
        error.contains("one.example/v2.0/amd64/tool with the sum"),
        "{error}"
    );
    assert!(!world.path("small.lock").exists());

    world
        .upstream
        .page(&format!("{url}.sha256"), "d41d8cd98f00b204e9800998ecf8427e");
    let error = message(world.lock().await);
    assert!(error.contains("only sha256 is accepted"), "{error}");

    world
        .upstream
        .pages
        .lock()
        .unwrap()
        .remove(&format!("{url}.sha256"));
    let error = message(world.lock().await);
    assert!(
        error.contains("404") && error.contains("from mirror http://127.0.0.1"),
        "{error}"
    );
}

#[tokio::test]
async fn an_upstream_that_changed_after_the_lock_is_refused() {
    let world = World::new().await;
    world.lock().await.unwrap();
    world
        .upstream
        .page("/files/one.example/v2.0/amd64/tool", "something else");
    let error = message(world.build("fresh", "small.tar").await);
    assert!(
        error.contains("tool 2.0 for linux/amd64 as locked"),
        "{error}"
    );
    // A tag that moved does not matter: the lock has the digest.
    world
        .upstream
        .file("one.example/v2.0/amd64/tool", program("tool").as_bytes());
    world
        .upstream
        .page("/v2/registry.example/pause/manifests/3", "{}");
    world.build("fresh", "small.tar").await.unwrap();
}

#[tokio::test]
async fn programs_for_another_architecture_are_refused() {
    let world = World::new().await;
    let mut elf = vec![0; 64];
    elf[..4].copy_from_slice(b"\x7fELF");
    elf[18] = 183;
    world.upstream.file("one.example/v2.0/amd64/tool", &elf);
    let error = message(world.lock().await);
    assert!(
        error.contains("checking tool for linux/amd64: it is a program for arm64"),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_with_an_image_from_elsewhere_fails_the_build() {
    let world = World::new().await;
    world.write(
        "manifests/dns.yaml",
        "a: 1\nimage: docker.io/library/nginx:1\n",
    );
    world.lock().await.unwrap();
    let error = message(world.build("cache", "small.tar").await);
    for part in ["manifests/dns.yaml", "line 2", "docker.io/library/nginx:1"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!world.path("small.tar").exists());
}

#[tokio::test]
async fn what_was_not_locked_is_not_built() {
    let world = World::new().await;
    let error = message(world.build("cache", "small.tar").await);
    assert!(error.contains("has no lock"), "{error}");
    world.lock().await.unwrap();
    world.write("manifests/dns.yaml", "# changed\n");
    let error = message(world.build("cache", "small.tar").await);
    assert!(
        error.contains("dns.yaml has changed since the lock"),
        "{error}"
    );
    world.write(
        "small.toml",
        &DEFINITION.replace("tag = \"3\"", "tag = \"4\""),
    );
    let error = message(world.build("cache", "small.tar").await);
    assert!(error.contains("small.toml has changed since"), "{error}");
}

#[tokio::test]
async fn images_must_have_every_platform() {
    let world = World::new().await;
    let repository = "registry.example/pause";
    let manifest = world.upstream.manifest(repository, "amd64");
    let bytes = {
        let pages = world.upstream.pages.lock().unwrap();
        pages[&format!("/v2/{repository}/manifests/{}", manifest.digest)]
            .1
            .clone()
    };
    world
        .upstream
        .page(&format!("/v2/{repository}/manifests/3"), bytes);
    let error = message(world.lock().await);
    assert!(
        error.contains("for linux/amd64 only, not for linux/arm64"),
        "{error}"
    );
    // For that platform alone it is fine, without any index.
    let definition = DEFINITION.replace(", \"linux/arm64\"]", "]");
    world.write("small.toml", &definition);
    let locked = world.lock().await.unwrap().lock;
    let pause = locked
        .images
        .iter()
        .find(|image| image.reference.contains("pause"))
        .unwrap();
    assert_eq!(pause.digest, manifest.digest);
    assert_eq!(pause.platforms[0].digest, manifest.digest);
}

#[tokio::test]
async fn damage_in_the_cache_never_reaches_a_bundle() {
    let world = World::new().await;
    world.lock().await.unwrap();
    world.build("cache", "small.tar").await.unwrap();
    let layer = Digest::of("shared");
    let path = world.path("cache").join("blobs/sha256").join(layer.hex());
    fs::write(&path, "Shared").unwrap();
    let error = message(world.build("cache", "again.tar").await);
    assert!(error.contains("run the same command again"), "{error}");
    assert!(!world.path("again.tar").exists());
    world.build("cache", "again.tar").await.unwrap();
}

#[tokio::test]
async fn every_platform_needs_an_agent() {
    let world = World::new().await;
    world.lock().await.unwrap();
    let (key, _) = testing::keys(&world.directory.path, "b");
    let options = BuildOptions {
        definition: world.path("small.toml"),
        lock: None,
        output: world.path("small.tar"),
        cache: world.path("cache"),
        fetch: world.fetch(),
        agents: BTreeMap::from([(Platform::linux("amd64"), world.path("agent-amd64"))]),
        shape: Shape::default(),
        contexts: vec![BTreeMap::new()],
    };
    let error = message(build(&options, Some(&key), Arc::new(NoProgress)).await);
    let expected = match Platform::native() == Platform::linux("arm64") {
        true => "it is a program for",
        false => "--agent linux/arm64=PATH",
    };
    assert!(error.contains(expected), "{error}");
}
