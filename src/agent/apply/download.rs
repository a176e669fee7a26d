//! Compressed binaries on their way into the store: from staging or from a
//! registry, unpacked and proven while they are written.

use crate::agent::atomic::{self, Ownership};
use crate::agent::http;
use crate::agent::observe::BINARY_MODE;
use crate::desired::Binary;
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, Bytes};
use camino::Utf8Path;
use futures_util::StreamExt;
use rustix::fs::Mode;
use sha2::{Digest as _, Sha256};
use std::io::{Read, Write};
use tokio::sync::mpsc;

/// Pieces that may wait between the network and the decompressor.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 256 << 10;

/// Told how many compressed bytes have been taken in.
pub(super) type Counter = Box<dyn Fn(u64) + Send + Sync>;

/// Unpacks a compressed binary to `place`, which has its name only once
/// compressed and unpacked bytes both proved right.
pub(super) fn unpack(
    compressed: impl Read,
    binary: &Binary,
    place: &Utf8Path,
    counter: Counter,
) -> Result<()> {
    let directory = place
        .parent()
        .ok_or_else(|| anyhow!("unpacking: {place} has no directory"))?;
    atomic::make_parents(directory)?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".")
        .suffix(".part")
        .tempfile_in(directory)
        .with_context(|| format!("making a file in {directory}"))?;
    let mut source = Hashing::new(compressed, binary.blob_size, counter);
    let unpacked = {
        let mut decoder =
            zstd::stream::read::Decoder::new(&mut source).context("starting to unpack")?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = decoder.read(&mut piece).context("unpacking")?;
            if length == 0 {
                break;
            }
            size += length as u64;
            if size > binary.size {
                bail!(
                    "unpacking: it is larger than the {} bytes expected",
                    binary.size
                );
            }
            hasher.update(&piece[..length]);
            temporary.write_all(&piece[..length]).context("writing")?;
        }
        Digest::from_bytes(hasher.finalize().into())
    };
    // The decompressor may stop short of the last bytes.
    std::io::copy(&mut source, &mut std::io::sink()).context("reading")?;
    let compressed = source.digest();
    if compressed != binary.blob {
        bail!("its digest is {compressed}, not {}", binary.blob);
    }
    if unpacked != binary.digest {
        bail!("its unpacked digest is {unpacked}, not {}", binary.digest);
    }
    let owner = Ownership::own(BINARY_MODE);
    rustix::fs::fchmod(temporary.as_file(), Mode::from_raw_mode(owner.mode))
        .context("making it executable")?;
    temporary.as_file().sync_all().context("syncing")?;
    temporary
        .persist(place.as_std_path())
        .with_context(|| format!("naming {place}"))?;
    atomic::sync_directories([directory])
}

/// Streams a blob from a registry into [`unpack`].
pub(super) async fn fetch(
    request: reqwest::RequestBuilder,
    binary: &Binary,
    place: &Utf8Path,
    counter: Counter,
) -> Result<()> {
    let response = request
        .send()
        .await
        .map_err(|error| anyhow!("{}", http::reason(&error)))?;
    if !response.status().is_success() {
        bail!("status {}", response.status().as_u16());
    }
    let (sender, receiver) = mpsc::channel(PIECES);
    let work = {
        let (binary, place) = (binary.clone(), place.to_owned());
        let reader = ChannelReader::new(receiver);
        tokio::task::spawn_blocking(move || unpack(reader, &binary, &place, counter))
    };
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| std::io::Error::other(http::reason(&error)));
        let is_last = piece.is_err();
        // A reader that has gone has an error of its own to tell.
        if sender.send(piece).await.is_err() || is_last {
            break;
        }
    }
    drop(sender);
    work.await.context("unpacking")?
}

/// A reader that hashes and counts what goes through it.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    taken: u64,
    limit: u64,
    counter: Counter,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R, limit: u64, counter: Counter) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            taken: 0,
            limit,
            counter,
        }
    }

    fn digest(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.taken += length as u64;
        if self.taken > self.limit {
            let message = format!("it is larger than the {} bytes expected", self.limit);
            return Err(std::io::Error::other(message));
        }
        self.hasher.update(&buffer[..length]);
        (self.counter)(self.taken);
        Ok(length)
    }
}

/// Reads, in a thread that may block, what an asynchronous task sends.
struct ChannelReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    piece: Bytes,
}

impl ChannelReader {
    fn new(receiver: mpsc::Receiver<std::io::Result<Bytes>>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(text: &[u8]) -> (Binary, Vec<u8>) {
        let blob = zstd::encode_all(text, 3).unwrap();
        let binary = Binary {
            digest: Digest::of(text),
            size: text.len() as u64,
            blob: Digest::of(&blob),
            blob_size: blob.len() as u64,
            repository: "cofferdam/file/x".to_owned(),
            version: "1".to_owned(),
        };
        (binary, blob)
    }

    #[test]
    fn only_the_right_bytes_get_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let top = Utf8Path::from_path(directory.path()).unwrap();
        let (right, blob) = binary(b"the real one");
        let place = top.join("store").join(right.digest.hex());
        let try_unpack =
            |binary: &Binary, blob: &[u8]| unpack(blob, binary, &place, Box::new(|_| {}));
        let mut flipped = blob.clone();
        flipped[blob.len() / 2] ^= 1;
        let mut appended = blob.clone();
        appended.push(0);
        let (_, other) = binary(b"another one!");
        for bad in [
            &flipped[..],
            &blob[..blob.len() - 1],
            &appended,
            &other,
            &[],
        ] {
            assert!(try_unpack(&right, bad).is_err());
        }
        let bomb = Binary {
            size: 3,
            ..right.clone()
        };
        assert!(try_unpack(&bomb, &blob).is_err());
        assert!(!place.exists());
        let left = fs_err::read_dir(top.join("store")).unwrap().count();
        assert_eq!(left, 0);
        try_unpack(&right, &blob).unwrap();
        assert_eq!(fs_err::read(&place).unwrap(), b"the real one");
    }
}
