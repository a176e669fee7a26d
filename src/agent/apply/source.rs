//! Bytes on their way from one registry to another, proven as they pass.

use super::registries::QUIET_LIMIT;
use crate::agent::channel::NoticeSender;
use crate::agent::http;
use crate::agent::seed::Content;
use crate::digest::Digest;
use crate::host::Notice;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::time::timeout;

/// Progress is told in steps of this size.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How much of all blobs has come.
pub(super) struct Counted {
    notices: NoticeSender,
    done: AtomicU64,
    total: u64,
}

impl Counted {
    /// `total` in bytes.
    pub(super) fn new(notices: NoticeSender, total: u64) -> Self {
        Self {
            notices,
            done: AtomicU64::new(0),
            total,
        }
    }

    fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let done = before + bytes;
        if before / PROGRESS_BYTES == done / PROGRESS_BYTES && done < self.total {
            return;
        }
        self.notices.send_lossy(Notice::Progress {
            item: "blobs".to_owned(),
            // What had to be fetched again came more than once.
            done: done.min(self.total),
            total: self.total,
        });
    }
}

/// The body of a registry's answer.
pub(super) struct Source {
    pieces: BoxStream<'static, Result<Bytes, String>>,
    hasher: Sha256,
    taken: u64,
    digest: Digest,
    size: u64,
    counted: Option<Arc<Counted>>,
    broken: Arc<OnceLock<String>>,
}

impl Source {
    pub(super) fn new(
        response: reqwest::Response,
        digest: Digest,
        size: u64,
        counted: Option<Arc<Counted>>,
    ) -> Self {
        let pieces = response.bytes_stream();
        let pieces = pieces.map(|piece| piece.map_err(|error| http::reason(&error)));
        Self::of(pieces.boxed(), digest, size, counted)
    }

    fn of(
        pieces: BoxStream<'static, Result<Bytes, String>>,
        digest: Digest,
        size: u64,
        counted: Option<Arc<Counted>>,
    ) -> Self {
        Self {
            pieces,
            hasher: Sha256::new(),
            taken: 0,
            digest,
            size,
            counted,
            broken: Arc::default(),
        }
    }

    /// Where it will stand why the other side is to blame, if it is.
    pub(super) fn broken(&self) -> Arc<OnceLock<String>> {
        self.broken.clone()
    }

    /// The bytes, which end in an error unless they are what the digest says.
    pub(super) fn content(self) -> Content {
        let pieces = stream::try_unfold(self, |mut source| async move {
            match source.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, source))),
                Err(reason) => {
                    let error = std::io::Error::other(reason.clone());
                    // The first reason is the one.
                    let _ = source.broken.set(reason);
                    Err(error)
                }
            }
        });
        pieces.boxed()
    }

    /// The last piece is given only once all of them are proven: who was told
    /// the size does not ask again.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.taken == self.size && self.size > 0 {
            return Ok(None);
        }
        let piece = match timeout(QUIET_LIMIT, self.pieces.next()).await {
            Err(_) => return Err(format!("silent for {} s", QUIET_LIMIT.as_secs())),
            Ok(piece) => piece.transpose()?,
        };
        if let Some(piece) = &piece {
            self.taken += piece.len() as u64;
            self.hasher.update(piece);
            if let Some(counted) = &self.counted {
                counted.add(piece.len() as u64);
            }
        }
        let is_last = piece.is_none() || self.taken >= self.size;
        if is_last && self.taken != self.size {
            return Err(format!("{} of {} bytes came", self.taken, self.size));
        }
        if is_last {
            let found = Digest::from_bytes(self.hasher.clone().finalize().into());
            if found != self.digest {
                return Err(format!("its digest is {found}, not {}", self.digest));
            }
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use futures_util::TryStreamExt as _;

    async fn take(pieces: &[Result<&'static str, &str>], wanted: &str) -> Result<Vec<u8>, String> {
        let pieces: Vec<Result<Bytes, String>> = pieces
            .iter()
            .map(|piece| piece.map(Bytes::from).map_err(str::to_owned))
            .collect();
        let (notices, mut heard) = notice_channel();
        let size = wanted.len() as u64;
        let source = Source::of(
            stream::iter(pieces).boxed(),
            Digest::of(wanted),
            size,
            Some(Arc::new(Counted::new(notices, size))),
        );
        let broken = source.broken();
        let taken: Result<Vec<Bytes>, _> = source.content().try_collect().await;
        let taken = taken.map(|pieces| pieces.concat());
        match broken.get() {
            Some(reason) => {
                assert_eq!(taken.unwrap_err().to_string(), *reason);
                Err(reason.clone())
            }
            None => {
                if size > 0 {
                    let told = heard.recv().await.unwrap();
                    assert!(matches!(told, Notice::Progress { done, .. } if done == size));
                }
                Ok(taken.unwrap())
            }
        }
    }

    #[tokio::test]
    async fn only_what_the_digest_says_comes_to_its_end() {
        assert_eq!(take(&[Ok("ab"), Ok("c")], "abc").await.unwrap(), b"abc");
        assert_eq!(take(&[], "").await.unwrap(), b"");
        for (pieces, expected) in [
            (&[Ok("ab"), Ok("x")][..], "its digest is"),
            (&[Ok("ab")], "2 of 3 bytes came"),
            (&[Ok("ab"), Ok("cd")], "4 of 3 bytes came"),
            (&[Ok("ab"), Err("reset")], "reset"),
            (&[], "0 of 3 bytes came"),
        ] {
            let reason = take(pieces, "abc").await.unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_the_other_sides_fault() {
        let pieces = stream::pending::<Result<Bytes, String>>().boxed();
        let source = Source::of(pieces, Digest::of("abc"), 3, None);
        let broken = source.broken();
        assert!(source.content().next().await.unwrap().is_err());
        assert_eq!(broken.get().unwrap(), "silent for 20 s");
    }
}
