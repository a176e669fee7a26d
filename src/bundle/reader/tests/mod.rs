mod parts;

use super::*;
use crate::bundle::oci::{self, Descriptor};
use crate::bundle::progress::NoProgress;
use crate::bundle::tar_format;
use crate::bundle::testing::{self, TestDirectory};
use crate::bundle::verify::verify;
use crate::bundle::write::Layout;
use fs_err as fs;
use rand::{RngExt as _, SeedableRng as _};

#[test]
fn reads_what_was_written() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let bundle = Bundle::open(&path, &[key]).unwrap();
    assert_eq!((bundle.name(), bundle.version()), ("test", "1.0.0"));
    assert_eq!(bundle.platforms(), testing::platforms());
    let arm = Platform::linux("arm64");
    let files = bundle.files(&arm);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["kubelet", "runc"]);
    let kubelet = &files["kubelet"];
    assert_eq!(kubelet.repository, "cofferdam/file/kubelet");
    assert_eq!(kubelet.tag, "1.2.3-linux-arm64");
    assert_eq!(
        kubelet.flags.as_deref(),
        Some(["config".to_owned(), "v".to_owned()].as_slice())
    );
    assert_eq!(
        kubelet.fields.as_deref(),
        Some(["kind".to_owned(), "maxPods".to_owned()].as_slice())
    );
    assert_eq!(files["runc"].fields, None);
    let compressed = bundle.blob_bytes(&kubelet.blob.digest, 1 << 20).unwrap();
    let content = zstd::bulk::decompress(&compressed, 1 << 20).unwrap();
    assert_eq!(Digest::of(&content), kubelet.digest);
    assert_eq!(content.len() as u64, kubelet.size);

    let images = bundle.images(&arm);
    let references: Vec<&str> = images
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    assert_eq!(
        references,
        ["registry.example/pause:3", "registry.example/tools/dns:v1"]
    );
    let last = images[0].content.last().unwrap();
    assert_eq!(last, &images[0].root);
    for descriptor in images.iter().flat_map(|image| &image.content) {
        let bytes = bundle.blob_bytes(&descriptor.digest, 1 << 20).unwrap();
        assert_eq!(bytes.len() as u64, descriptor.size);
    }
    assert!(bundle.manifests()["dns"].contains("registry.example/tools/dns"));
    let lock = bundle.contents().lock.clone().unwrap();
    assert_eq!(
        bundle.blob_bytes(&lock.digest, 1 << 20).unwrap(),
        b"schema = 1\n"
    );
    let json = serde_json::to_string(bundle.contents()).unwrap();
    assert_eq!(
        &serde_json::from_str::<Contents>(&json).unwrap(),
        bundle.contents()
    );
}

#[test]
fn two_builds_are_the_same_bytes() {
    let (first, second) = (TestDirectory::new(), TestDirectory::new());
    let (secret, _) = testing::keys(&first.path, "key");
    let mut files = Vec::new();
    for directory in [&first, &second] {
        let path = directory.path.join("bundle.tar");
        let layout = testing::builder(&directory.path).finish().unwrap();
        testing::write(&path, &layout, Some(&secret));
        files.push(fs::read(path).unwrap());
    }
    assert!(files[0] == files[1]);
}

#[test]
fn every_flipped_byte_is_found() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let good = fs::read(&path).unwrap();
    let keys = [key];
    assert!(
        verify(&path, Trust::Required(&keys), &NoProgress)
            .unwrap()
            .damages
            .is_empty()
    );
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let damaged = directory.path.join("damaged.tar");
    for _ in 0..600 {
        let position = random.random_range(0..good.len());
        let mut bytes = good.clone();
        bytes[position] ^= 1 << random.random_range(0..8);
        fs::write(&damaged, bytes).unwrap();
        let found = match verify(&damaged, Trust::Required(&keys), &NoProgress) {
            Ok(verification) => !verification.damages.is_empty(),
            Err(error) => error.to_string().contains("damaged.tar"),
        };
        assert!(found, "byte {position}");
    }
}

#[test]
fn every_truncation_is_found() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let good = fs::read(&path).unwrap();
    let keys = [key];
    let damaged = directory.path.join("damaged.tar");
    let mut random = rand::rngs::StdRng::seed_from_u64(2);
    let mut lengths: Vec<usize> = (0..200)
        .map(|_| random.random_range(0..good.len()))
        .collect();
    lengths.extend([
        0,
        1,
        511,
        512,
        good.len() - 1,
        good.len() - 512,
        good.len() - 1024,
    ]);
    for length in lengths {
        fs::write(&damaged, &good[..length]).unwrap();
        let error = Bundle::open(&damaged, &keys).unwrap_err().to_string();
        let expected = if length < "oci-layout".len() {
            "not a cofferdam bundle"
        } else {
            "truncated"
        };
        assert!(error.contains(expected), "{length}: {error}");
    }
    fs::write(&damaged, [good.as_slice(), b"more"].concat()).unwrap();
    let error = Bundle::open(&damaged, &keys).unwrap_err().to_string();
    assert!(error.contains("follow the end mark"), "{error}");
}

#[test]
fn verify_names_what_a_damaged_blob_belongs_to() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let keys = [key];
    let bundle = Bundle::open(&path, &keys).unwrap();
    let kubelet = bundle.files(&Platform::linux("amd64"))["kubelet"].clone();
    let layer = bundle.images(&Platform::linux("amd64"))[0].content[1].clone();
    let mut bytes = fs::read(&path).unwrap();
    for digest in [kubelet.blob.digest, layer.digest] {
        let location = bundle.inner.shelf.blobs[&digest];
        bytes[location.offset as usize + 3] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
    let damages = verify(&path, Trust::Required(&keys), &NoProgress)
        .unwrap()
        .damages;
    let owners: Vec<&str> = damages
        .iter()
        .map(|damage| damage.belongs_to.as_str())
        .collect();
    assert_eq!(
        owners,
        [
            "file cofferdam/file/kubelet:1.2.3-linux-amd64",
            "image registry.example/pause:3",
            "image registry.example/tools/dns:v1",
        ]
    );
    let error = bundle
        .blob_bytes(&kubelet.blob.digest, 1 << 20)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("kubelet") && error.contains("copy it again"),
        "{error}"
    );
}

#[test]
fn each_kind_of_wrong_file_has_its_own_message() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let (_, other) = testing::keys(&directory.path, "other");
    let file = |name: &str, content: &[u8]| {
        let path = directory.path.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let unsigned = directory.path.join("unsigned.tar");
    testing::write(
        &unsigned,
        &testing::builder(&directory.path).finish().unwrap(),
        None,
    );
    let mut plain_tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    plain_tar
        .append_data(&mut header, "hello", b"hi".as_slice())
        .unwrap();
    let plain_tar = plain_tar.into_inner().unwrap();
    let ids = format!(
        "signed by key {}, which is not trusted here (trusted: {})",
        key.id(),
        other.id()
    );
    let cases = [
        (
            file("a.gz", b"\x1f\x8b\x08 and so on"),
            "compressed with gzip",
        ),
        (file("a.txt", b"just some text\n"), "it is a text file"),
        (file("a.bin", &[7; 2000]), "it is no tar"),
        (
            file("a.tar", &plain_tar),
            "does not begin with `oci-layout`",
        ),
        (file("empty", b""), "it is empty"),
        (directory.path.clone(), "not a regular file"),
        (directory.path.join("missing.tar"), "reading bundle"),
        (unsigned, "is not signed"),
        (path, ids.as_str()),
    ];
    for (path, expected) in cases {
        let error = Bundle::open(&path, std::slice::from_ref(&other)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains(path.as_str()), "{message}");
    }
}

#[test]
fn a_missing_platform_is_named_with_those_carried() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let bundle = Bundle::open(&path, &[key]).unwrap();
    assert!(bundle.require_platform(&Platform::linux("arm64")).is_ok());
    let error = bundle
        .require_platform(&Platform::linux("s390x"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nothing for linux/s390x; it carries linux/amd64, linux/arm64"),
        "{error}"
    );
}

/// Signs a layout that a test has tampered with and opens it.
fn open_tampered(change: impl FnOnce(&mut Layout, &mut Index)) -> Result<Verified<Bundle>, String> {
    let directory = TestDirectory::new();
    let (secret, trusted) = testing::keys(&directory.path, "key");
    let mut layout = testing::builder(&directory.path).finish().unwrap();
    let mut index: Index = serde_json::from_slice(&layout.index).unwrap();
    change(&mut layout, &mut index);
    layout.index = serde_json::to_vec(&index).unwrap();
    let path = directory.path.join("tampered.tar");
    testing::write(&path, &layout, Some(&secret));
    Bundle::open(&path, &[trusted]).map_err(|error| error.to_string())
}

#[test]
fn nothing_reachable_may_be_missing_or_of_another_size() {
    let error = open_tampered(|layout, _| {
        layout.blobs.remove(&Digest::of("shared layer")).unwrap();
    });
    let message = error.unwrap_err();
    assert!(message.contains("image registry.example/pause:3") && message.contains("missing"));

    let error = open_tampered(|_, index| index.manifests[0].size += 1);
    assert!(error.unwrap_err().contains("in place of"));
}

#[test]
fn kinds_that_are_not_known_are_refused() {
    let error = open_tampered(|_, index| {
        index.manifests[0].artifact_type = Some("application/vnd.example.v9".to_owned());
    });
    assert!(error.unwrap_err().contains("use a newer cofferdam"));
}

#[test]
fn an_index_below_an_index_is_refused() {
    let directory = TestDirectory::new();
    let (secret, trusted) = testing::keys(&directory.path, "key");
    let mut builder = testing::builder(&directory.path);
    let inner = testing::image(&directory.path, "deep.example/x:1", &testing::platforms());
    let mut child = Descriptor::plain(oci::INDEX_MEDIA_TYPE, inner.root.digest, inner.root.size);
    child.platform = Some(oci::OciPlatform::from(&Platform::linux("amd64")));
    let outer = Index {
        schema_version: 2,
        media_type: None,
        manifests: vec![child],
        annotations: None,
    };
    let text = serde_json::to_vec(&outer).unwrap();
    let mut entry = inner.clone();
    entry.root.digest = Digest::of(&text);
    entry.root.size = text.len() as u64;
    entry.root.path = directory.path.join("outer");
    fs::write(&entry.root.path, text).unwrap();
    entry.blobs.push(inner.root);
    builder.add_image(entry);
    let path = directory.path.join("deep.tar");
    testing::write(&path, &builder.finish().unwrap(), Some(&secret));
    let error = Bundle::open(&path, &[trusted]).unwrap_err().to_string();
    assert!(error.contains("is not an image manifest"), "{error}");
}

#[test]
fn hidden_blobs_are_not_read_and_verify_reports_them() {
    let directory = TestDirectory::new();
    let (secret, trusted) = testing::keys(&directory.path, "key");
    let mut layout = testing::builder(&directory.path).finish().unwrap();
    let hidden = b"hidden".to_vec();
    let digest = Digest::of(&hidden);
    layout.blobs.insert(
        digest,
        (6, crate::bundle::write::BlobSource::Memory(hidden)),
    );
    let path = directory.path.join("hidden.tar");
    testing::write(&path, &layout, Some(&secret));
    let bundle = Bundle::open(&path, std::slice::from_ref(&trusted)).unwrap();
    assert!(matches!(
        bundle.blob(&digest),
        Err(BundleError::Unreachable { .. })
    ));
    let damages = verify(&path, Trust::Required(&[trusted]), &NoProgress)
        .unwrap()
        .damages;
    assert_eq!(damages.len(), 1);
    assert_eq!(damages[0].digest, Some(digest));
}

#[test]
fn hostile_entries_are_refused_by_name() {
    let directory = TestDirectory::new();
    let (path, key) = testing::bundle(&directory.path);
    let good = fs::read(&path).unwrap();
    let body = &good[..good.len() - tar_format::TRAILER_BYTES as usize];
    let first_blob = {
        let bundle = Bundle::open(&path, std::slice::from_ref(&key)).unwrap();
        bundle.reachable_blobs()[0].0
    };
    let zeros = "0".repeat(64);
    let entry = |name: &str, change: &dyn Fn(&mut tar::Header)| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        let reference = tar_format::header("x", 0).unwrap();
        header.as_mut_bytes()[100..].copy_from_slice(&reference.as_bytes()[100..]);
        change(&mut header);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let unchanged = |_: &mut tar::Header| {};
    let kind = |kind: tar::EntryType| move |header: &mut tar::Header| header.set_entry_type(kind);
    let last = format!("blobs/sha256/{}", "f".repeat(64));
    let sha512 = format!("blobs/sha512/{}", "f".repeat(64));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (entry(&last, &kind(tar::EntryType::Symlink)), "it is a link"),
        (entry(&last, &kind(tar::EntryType::Link)), "it is a link"),
        (
            entry("blobs", &kind(tar::EntryType::Directory)),
            "it is a directory",
        ),
        (entry("x", &kind(tar::EntryType::XHeader)), "PAX extension"),
        (
            entry("x", &kind(tar::EntryType::GNULongName)),
            "GNU extension",
        ),
        (
            entry("dev", &kind(tar::EntryType::Char)),
            "neither file nor",
        ),
        (entry("/etc/passwd", &unchanged), "its path is absolute"),
        (entry("blobs/../../x", &unchanged), "leaves the directory"),
        (entry("extra", &unchanged), "no such file belongs"),
        (entry(&sha512, &unchanged), "not named by a sha256 digest"),
        (entry("index.json", &unchanged), "after the blobs or twice"),
        (
            entry(&tar_format::blob_name(&first_blob), &unchanged),
            "it is there twice",
        ),
        (
            entry(&format!("blobs/sha256/{zeros}"), &unchanged),
            "out of order",
        ),
        (
            entry(&last, &|header| header.set_mode(0o4755)),
            "not as cofferdam writes it",
        ),
        (
            entry(&last, &|header| header.set_size(1 << 40)),
            "is truncated",
        ),
        (
            entry(&last, &|header| header.set_size(u64::MAX >> 1)),
            "entry",
        ),
    ];
    let hostile = directory.path.join("hostile.tar");
    for (header, expected) in cases {
        let trailer = [0; tar_format::TRAILER_BYTES as usize];
        fs::write(&hostile, [body, &header, &trailer].concat()).unwrap();
        let error = Bundle::open(&hostile, std::slice::from_ref(&key))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_manifest_that_explodes_is_refused() {
    let directory = TestDirectory::new();
    let (secret, trusted) = testing::keys(&directory.path, "key");
    let mut builder = testing::builder(&directory.path);
    builder.add_manifest("bomb", &"0".repeat(20 << 20)).unwrap();
    let path = directory.path.join("bomb.tar");
    testing::write(&path, &builder.finish().unwrap(), Some(&secret));
    let error = Bundle::open(&path, &[trusted]).unwrap_err().to_string();
    assert!(
        error.contains("manifest/bomb") && error.contains("larger than"),
        "{error}"
    );
}
