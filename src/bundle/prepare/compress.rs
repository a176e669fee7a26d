//! Compressing files for the bundle, once for each content.

use crate::bundle::cache::{Cache, RecordKind};
use crate::bundle::hash::COPY_BUFFER_BYTES;
use crate::bundle::progress::Progress;
use crate::digest::Digest;
use anyhow::{Context, Result};
use fs_err::File;
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};

/// Name of the stage that progress is reported under.
const STAGE: &str = "compress";
/// Level of zstd. Measured on kubelet (84 MB): level 3 gives 23.1 MB in 0.4 s, 9
/// gives 21.0 MB in 1.8 s, 12 gives 20.8 MB in 3.7 s, 19 gives 18.3 MB in 99 s
/// (gzip -9: 24.6 MB). Past 9 the time grows faster than the bundle shrinks.
const LEVEL: i32 = 9;

/// A compressed file in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compressed {
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// The result depends on the content, the settings and the library's version.
fn record_kind() -> RecordKind {
    RecordKind(format!(
        "zstd-{}-level-{LEVEL}",
        zstd::zstd_safe::version_number()
    ))
}

/// What compressing a file gave earlier, if that is still in the cache.
pub fn compressed_before(cache: &Cache, digest: &Digest) -> Option<Compressed> {
    let compressed: Compressed = cache.record(&record_kind(), digest)?;
    cache
        .holds(&compressed.digest, compressed.size)
        .then_some(compressed)
}

/// Compresses a blob of the cache into another. One thread and fixed settings: the
/// same content gives the same bytes on every machine.
pub fn compress(
    cache: &Cache,
    digest: &Digest,
    item: &str,
    progress: &dyn Progress,
) -> Result<Compressed> {
    if let Some(compressed) = compressed_before(cache, digest) {
        return Ok(compressed);
    }
    let context = || format!("compressing {item}");
    let mut input = File::open(cache.blob_path(digest))?;
    let total = input.metadata()?.len();
    let mut encoder =
        zstd::stream::write::Encoder::new(cache.writer()?, LEVEL).with_context(context)?;
    encoder
        .set_pledged_src_size(Some(total))
        .with_context(context)?;
    encoder.include_checksum(true).with_context(context)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut done = 0;
    loop {
        let read = input.read(&mut buffer).with_context(context)?;
        if read == 0 {
            break;
        }
        encoder.write_all(&buffer[..read]).with_context(context)?;
        done += read as u64;
        progress.advance(STAGE, item, done, Some(total));
    }
    let (compressed, size) = encoder.finish().with_context(context)?.commit()?;
    let compressed = Compressed {
        digest: compressed,
        size,
    };
    cache.put_record(&record_kind(), digest, &compressed)?;
    Ok(compressed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::progress::NoProgress;
    use crate::bundle::testing::TestDirectory;

    #[test]
    fn compressing_is_repeatable_and_remembered() {
        let content: Vec<u8> = (0..3_000_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 11) as u8)
            .collect();
        let mut results = Vec::new();
        for _ in 0..2 {
            let directory = TestDirectory::new();
            let cache = Cache::open(&directory.path).unwrap();
            let digest = cache.put(&content).unwrap();
            assert_eq!(compressed_before(&cache, &digest), None);
            let compressed = compress(&cache, &digest, "x", &NoProgress).unwrap();
            assert_eq!(compressed_before(&cache, &digest), Some(compressed));
            let bytes = cache.read(&compressed.digest).unwrap();
            assert!(zstd::stream::decode_all(bytes.as_slice()).unwrap() == content);
            results.push(compressed);
            cache.remove(&compressed.digest).unwrap();
            assert_eq!(compressed_before(&cache, &digest), None);
        }
        assert_eq!(results[0], results[1]);
    }
}
