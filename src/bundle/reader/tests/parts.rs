//! Bundles in parts, deltas, and bundles with several signatures.

use super::*;
use crate::bundle::sign::{SigningKey, TrustedKey};
use crate::bundle::write::{self, Shape, write_files};
use std::collections::BTreeSet;

struct Parted {
    directory: TestDirectory,
    keys: [TrustedKey; 1],
    paths: Vec<Utf8PathBuf>,
}

impl Parted {
    /// The test bundle in parts as small as can be.
    fn new() -> Self {
        let directory = TestDirectory::new();
        let (secret, trusted) = testing::keys(&directory.path, "bundle");
        let layout = testing::builder(&directory.path).finish().unwrap();
        let fit = |part_bytes| Shape {
            part_bytes: Some(part_bytes),
            had: None,
        };
        let signature = [secret.sign(&layout.index, "test").unwrap().render()];
        let path = directory.path.join("x.tar");
        let least = write::plan(&path, &layout, &signature, &fit(1))
            .unwrap_err()
            .least;
        let files = testing::write_shaped(&path, &layout, Some(&secret), &fit(least));
        Self {
            directory,
            keys: [trusted],
            paths: files.into_iter().map(|file| file.path).collect(),
        }
    }

    fn verify(&self, source: impl Into<Source>) -> Result<Vec<Damage>, BundleError> {
        let verified = verify(source, Trust::Required(&self.keys), &NoProgress);
        verified.map(|verified| verified.damages)
    }
}

#[test]
fn a_bundle_in_parts_is_read_by_any_of_them() {
    let parted = Parted::new();
    let whole = testing::builder(&parted.directory.path).finish().unwrap();
    assert!(parted.paths.len() > 2);
    for path in &parted.paths {
        let bundle = Bundle::open(path, &parted.keys).unwrap();
        assert_eq!(bundle.parts(), parted.paths.len());
        assert_eq!(bundle.path(), path);
        assert_eq!(bundle.index(), whole.index);
        let blobs: BTreeSet<Digest> = bundle
            .reachable_blobs()
            .into_iter()
            .map(|(digest, _)| digest)
            .collect();
        assert!(blobs.iter().eq(whole.blobs.keys()));
        for digest in &blobs {
            bundle.blob_bytes(digest, 1 << 20).unwrap();
        }
        assert_eq!(parted.verify(path).unwrap(), []);
    }
}

#[test]
fn parts_are_found_in_other_directories_and_missing_ones_are_named() {
    let parted = Parted::new();
    let count = parted.paths.len();
    let elsewhere = parted.directory.path.join("stick");
    fs::create_dir(&elsewhere).unwrap();
    // Names mean nothing; neither do other files beside them.
    fs::rename(&parted.paths[1], elsewhere.join("second")).unwrap();
    fs::write(elsewhere.join("a.txt"), "notes").unwrap();
    let first = &parted.paths[0];
    let error = Bundle::open(first, &parted.keys).unwrap_err().to_string();
    let expected = format!("is part 1 of {count}; missing: 2 (looked in ");
    assert!(error.contains(&expected), "{error}");
    let source = |place: &Utf8Path| Source {
        path: first.clone(),
        parts_in: vec![place.to_owned()],
        base: Vec::new(),
    };
    for place in [elsewhere.clone(), elsewhere.join("second")] {
        assert_eq!(parted.verify(source(&place)).unwrap(), []);
    }
    // One that lies there, but whose front is damaged, is named.
    let mut bytes = fs::read(elsewhere.join("second")).unwrap();
    bytes[600] ^= 1;
    fs::write(&parted.paths[1], bytes).unwrap();
    let error = Bundle::open(first, &parted.keys).unwrap_err().to_string();
    let expected = format!(
        "front is damaged, or it is of another bundle: {}",
        parted.paths[1]
    );
    assert!(error.contains(&expected), "{error}");
    let error = Bundle::open(&parted.paths[1], &parted.keys).unwrap_err();
    assert!(
        error.to_string().contains(parted.paths[1].as_str()),
        "{error}"
    );
    // Of another bundle of the same name nothing is taken.
    let other = Parted::new();
    fs::copy(&other.paths[1], &parted.paths[1]).unwrap();
    let error = Bundle::open(first, &parted.keys).unwrap_err().to_string();
    assert!(error.contains("missing: 2"), "{error}");
}

#[test]
fn every_flipped_byte_of_a_part_is_found_and_its_file_named() {
    let parted = Parted::new();
    let mut random = rand::rngs::StdRng::seed_from_u64(3);
    for round in 0..1400 {
        let place = round % parted.paths.len();
        let path = &parted.paths[place];
        let good = fs::read(path).unwrap();
        let mut bytes = good.clone();
        let position = random.random_range(0..good.len());
        bytes[position] ^= 1 << random.random_range(0..8);
        fs::write(path, bytes).unwrap();
        // Whichever part is named on the command line.
        let named = &parted.paths[round / 7 % parted.paths.len()];
        match parted.verify(named) {
            Ok(damages) => {
                // What follows from a damage is told too, without a file.
                let is_named = |damage: &Damage| damage.to_string().contains(path.as_str());
                let is_found = damages.iter().any(is_named);
                assert!(is_found, "byte {position} of {path}: {damages:?}");
            }
            Err(error) => {
                let text = error.to_string();
                let part = format!("missing: {}", place + 1);
                let is_named = text.contains(path.as_str()) || text.contains(&part);
                assert!(is_named, "byte {position} of {path}: {text}");
            }
        }
        fs::write(path, good).unwrap();
    }
}

#[test]
fn a_part_that_ends_early_is_named() {
    let parted = Parted::new();
    let path = &parted.paths[1];
    let good = fs::read(path).unwrap();
    let mut random = rand::rngs::StdRng::seed_from_u64(4);
    for _ in 0..100 {
        let length = random.random_range(0..good.len());
        fs::write(path, &good[..length]).unwrap();
        let error = parted.verify(&parted.paths[0]).unwrap_err().to_string();
        assert!(error.contains(path.as_str()), "{length}: {error}");
    }
}

/// The test bundle, and what a delta of it is without the content of `had`.
fn delta(had: impl Fn(&Layout) -> BTreeSet<Digest>) -> (TestDirectory, [TrustedKey; 1]) {
    let directory = TestDirectory::new();
    let (secret, trusted) = testing::keys(&directory.path, "bundle");
    let layout = testing::builder(&directory.path).finish().unwrap();
    testing::write(&directory.path.join("full.tar"), &layout, Some(&secret));
    let shape = Shape {
        part_bytes: None,
        had: Some(had(&layout)),
    };
    let path = directory.path.join("delta.tar");
    testing::write_shaped(&path, &layout, Some(&secret), &shape);
    (directory, [trusted])
}

fn all_of(layout: &Layout) -> BTreeSet<Digest> {
    layout.blobs.keys().copied().collect()
}

#[test]
fn a_delta_tells_what_it_leaves_out_and_takes_it_from_its_base() {
    let (directory, keys) = delta(all_of);
    let path = directory.path.join("delta.tar");
    let bundle = Bundle::open(&path, &keys).unwrap();
    assert!(bundle.is_delta());
    let full = Bundle::open(&directory.path.join("full.tar"), &keys).unwrap();
    assert_eq!(bundle.index_digest(), full.index_digest());
    assert_eq!(bundle.contents(), full.contents());
    assert!(!full.is_delta() && bundle.length() < full.length());
    let kubelet = bundle.files(&Platform::linux("amd64"))["kubelet"].clone();
    assert!(bundle.is_left_out(&kubelet.blob.digest));
    let error = bundle
        .blob_bytes(&kubelet.blob.digest, 1 << 20)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is a delta, and leaves out blob"), "{text}");
    assert!(text.contains("kubelet"), "{text}");
    let verified = verify(&path, Trust::Required(&keys), &NoProgress).unwrap();
    assert!(verified.damages.is_empty(), "{:?}", verified.damages);
    assert!(verified.left_out.unwrap().blobs > 3);

    let source = Source {
        path,
        parts_in: Vec::new(),
        base: vec![directory.path.join("full.tar")],
    };
    let bundle = Bundle::open(&source, &keys).unwrap();
    assert_eq!(bundle.left_out().count(), 0);
    assert_eq!(bundle.reachable_blobs().len(), full.reachable_blobs().len());
    bundle.blob_bytes(&kubelet.blob.digest, 1 << 20).unwrap();
    let verified = verify(&source, Trust::Required(&keys), &NoProgress).unwrap();
    assert!(verified.damages.is_empty(), "{:?}", verified.damages);
    // A base is not believed for more than its digests say.
    let full_path = directory.path.join("full.tar");
    let mut bytes = fs::read(&full_path).unwrap();
    let location = full.inner.shelf.blobs[&kubelet.blob.digest];
    bytes[location.offset as usize] ^= 1;
    fs::write(&full_path, bytes).unwrap();
    let verified = verify(&source, Trust::Required(&keys), &NoProgress).unwrap();
    assert_eq!(verified.damages.len(), 1);
    let damage = verified.damages[0].to_string();
    assert!(
        damage.contains("full.tar") && damage.contains("kubelet"),
        "{damage}"
    );
}

/// Only content can be at a site: what says what a bundle holds has to be in it.
#[test]
fn a_delta_without_what_is_read_first_is_damaged() {
    let (directory, keys) = delta(all_of);
    let full = Bundle::open_unverified(&directory.path.join("full.tar")).unwrap();
    let layout = Layout::of(&full);
    let mut tolerated = BTreeSet::new();
    for gone in testing::builder(&directory.path)
        .finish()
        .unwrap()
        .read_first
    {
        let mut layout = layout.clone();
        layout.blobs.remove(&gone);
        let shape = Shape {
            part_bytes: None,
            had: Some(BTreeSet::new()),
        };
        let path = directory.path.join("bad.tar");
        let signature = [full.signatures()[0].render()];
        let files = write::plan(&path, &layout, &signature, &shape).unwrap();
        write_files(&files, &layout, &signature, &NoProgress).unwrap();
        let Err(error) = Bundle::open(&path, &keys) else {
            tolerated.insert(gone);
            continue;
        };
        assert!(error.to_string().contains("it is missing"), "{error}");
    }
    // The empty configuration and the lock say nothing of what is there.
    let unread = [Digest::of(oci::EMPTY_CONTENT), Digest::of("schema = 1\n")];
    assert_eq!(tolerated, BTreeSet::from(unread));
}

#[test]
fn any_of_several_signatures_is_enough() {
    let directory = TestDirectory::new();
    let (first, first_public) = testing::keys(&directory.path, "first");
    let (second, second_public) = testing::keys(&directory.path, "second");
    let (_, third_public) = testing::keys(&directory.path, "third");
    let layout = testing::builder(&directory.path).finish().unwrap();
    let path = directory.path.join("x.tar");
    let write = |keys: &[&SigningKey], index: &[u8]| {
        let sign = |key: &&SigningKey| key.sign(index, "test").unwrap().render();
        let signatures: Vec<String> = keys.iter().map(sign).collect();
        let files = write::plan(&path, &layout, &signatures, &Shape::default()).unwrap();
        write_files(&files, &layout, &signatures, &NoProgress).unwrap();
    };
    write(&[&first, &second], &layout.index);
    for key in [&first_public, &second_public] {
        let bundle = Bundle::open(&path, std::slice::from_ref(key)).unwrap();
        assert_eq!(bundle.signed_by(), Some(key.id()));
        assert_eq!(bundle.signatures().len(), 2);
    }
    let third = std::slice::from_ref(&third_public);
    let error = Bundle::open(&path, third).unwrap_err().to_string();
    let expected = format!(
        "signed by key {}, {}",
        first_public.id(),
        second_public.id()
    );
    assert!(error.contains(&expected), "{error}");
    // Unsigned is taken where that is allowed; what a trusted key signed must be right.
    let bundle = Bundle::open_trusting(&path, Trust::UnsignedToo(third)).unwrap();
    assert_eq!(bundle.signed_by(), None);
    write(&[], &layout.index);
    assert!(Bundle::open_trusting(&path, Trust::UnsignedToo(third)).is_ok());
    assert!(Bundle::open_trusting(&path, Trust::Required(third)).is_err());
    write(&[&first], b"something else");
    let first = std::slice::from_ref(&first_public);
    let error = Bundle::open_trusting(&path, Trust::UnsignedToo(first)).unwrap_err();
    assert!(error.to_string().contains("does not match"), "{error}");
    assert!(Bundle::open_trusting(&path, Trust::UnsignedToo(third)).is_ok());
}
