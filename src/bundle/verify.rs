//! `cofferdam bundle verify`: reads everything once and names everything damaged.

use super::hash::COPY_BUFFER_BYTES;
use super::progress::Progress;
use super::reader::{Bundle, BundleError, Damage, Source, Trust};
use super::sign::KeyId;
use crate::digest::Digest;
use serde::Serialize;
use std::io::Read as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Name of the stage that progress is reported under.
const STAGE: &str = "verify";
/// More threads than this wait for the disk rather than hash.
const THREADS_LIMIT: usize = 8;

/// What verifying found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    pub name: String,
    pub version: String,
    pub index_digest: Digest,
    /// The key whose signature was checked; `None` if none was.
    pub signed_by: Option<KeyId>,
    /// Number of blobs read.
    pub blobs: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Number of the bundle's files.
    pub parts: usize,
    /// What a delta leaves out, since a site has it; none for a full bundle.
    pub left_out: Option<LeftOut>,
    /// Everything that is wrong. Empty for a good bundle.
    pub damages: Vec<Damage>,
}

/// Content that is not at hand.
#[derive(Debug, Clone, Serialize)]
pub struct LeftOut {
    pub blobs: usize,
    pub bytes: u64,
}

impl LeftOut {
    /// What a bundle leaves out, if it is a delta.
    pub fn of(bundle: &Bundle) -> Option<Self> {
        bundle.is_delta().then(|| Self {
            blobs: bundle.left_out().count(),
            bytes: bundle.left_out().map(|(_, size)| size).sum(),
        })
    }
}

/// Checks a whole bundle: its signatures, as far as they are asked for, its structure, and the
/// digest of every blob. An error means that the file could not be read as a bundle
/// at all; damaged blobs are in the result.
pub fn verify(
    source: impl Into<Source>,
    trust: Trust<'_>,
    progress: &dyn Progress,
) -> Result<Verification, BundleError> {
    let (bundle, mut damages) = Bundle::open_damaged(&source.into(), trust)?;
    let blobs = bundle.reachable_blobs();
    damages.extend(hash_all(&bundle, &blobs, progress));
    damages.extend(bundle.unreachable_blobs().into_iter().map(|digest| Damage {
        digest: Some(digest),
        belongs_to: "nothing".to_owned(),
        problem: "it lies in the file, but nothing in the index leads to it".to_owned(),
        part: bundle.part_of(&digest),
    }));
    // A damaged manifest is met by the walk and again by hashing.
    damages.sort_by(|a, b| (&a.belongs_to, &a.digest).cmp(&(&b.belongs_to, &b.digest)));
    damages.dedup_by(|a, b| a.digest == b.digest && a.belongs_to == b.belongs_to);
    Ok(Verification {
        name: bundle.name().to_owned(),
        version: bundle.version().to_owned(),
        index_digest: bundle.index_digest(),
        signed_by: bundle.signed_by(),
        blobs: blobs.len(),
        bytes: blobs.iter().map(|(_, size)| size).sum(),
        parts: bundle.parts(),
        left_out: LeftOut::of(&bundle),
        damages,
    })
}

/// Hashes blobs on all cores. Threads take the next blob in the file's order, so a
/// spinning disk is read nearly front to back.
fn hash_all(bundle: &Bundle, blobs: &[(Digest, u64)], progress: &dyn Progress) -> Vec<Damage> {
    let total: u64 = blobs.iter().map(|(_, size)| size).sum();
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let damages = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_LIMIT);
    let item = bundle.path().as_str();
    let work = || {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        while let Some((digest, _)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let advance = |bytes: u64| {
                let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                progress.advance(STAGE, item, done, Some(total));
            };
            if let Err(problem) = hash_one(bundle, digest, &mut buffer, &advance) {
                let mut damages = damages.lock().unwrap_or_else(|poison| poison.into_inner());
                for owner in bundle.owners(digest) {
                    let problem = problem.clone();
                    damages.push(Damage {
                        digest: Some(*digest),
                        belongs_to: owner,
                        problem,
                        part: bundle.part_of(digest),
                    });
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    damages
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner())
}

fn hash_one(
    bundle: &Bundle,
    digest: &Digest,
    buffer: &mut [u8],
    advance: &dyn Fn(u64),
) -> Result<(), String> {
    let mut reader = bundle.blob(digest).map_err(|error| error.to_string())?;
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => advance(read as u64),
            Err(error) => return Err(error.to_string()),
        }
    }
}
