//! The TCP connection under an SSH session: counts bytes, knows since when
//! nothing came, notices a peer that takes nothing, and never lets a write
//! that waits stop the reading.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// What is read ahead while a write waits. A peer may have one window (2 MiB)
/// in flight for each channel, and a session has a few dozen of them at most.
const READ_AHEAD_LIMIT: usize = 128 * 1024 * 1024;

/// One read of the read-ahead.
const READ_AHEAD_CHUNK: usize = 64 * 1024;

/// Bytes that crossed the wire, SSH's own overhead included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// From here to the host.
    pub sent: u64,
    /// From the host to here.
    pub received: u64,
}

/// What the session and its stream share.
pub(super) struct Link {
    opened: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    /// Milliseconds from `opened` to the newest byte.
    newest_received: AtomicU64,
    failure: Mutex<Option<String>>,
    /// Cancelled by us: the stream fails at once, and the session with it.
    abort: CancellationToken,
    /// Cancelled when the session has ended, and `failure` says why.
    ended: CancellationToken,
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            newest_received: AtomicU64::new(0),
            failure: Mutex::new(None),
            abort: CancellationToken::new(),
            ended: CancellationToken::new(),
        })
    }

    pub(super) fn transferred(&self) -> Transferred {
        Transferred {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// For how long nothing has come.
    pub(super) fn silent_for(&self) -> Duration {
        let newest = Duration::from_millis(self.newest_received.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(newest)
    }

    /// Why the connection ended. The first reason given is the one that counts.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock_failure().clone()
    }

    /// Keeps the reason if there is none yet.
    pub(super) fn fail(&self, reason: impl Into<String>) {
        self.lock_failure().get_or_insert_with(|| reason.into());
    }

    /// Cuts the connection.
    pub(super) fn abort(&self, reason: impl Into<String>) {
        self.fail(reason);
        self.abort.cancel();
    }

    /// Cuts the connection when it is dropped, unless it is disarmed.
    pub(super) fn cut_on_drop(&self) -> DropGuard {
        self.abort.clone().drop_guard()
    }

    /// Called when the session has ended for whatever reason.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until the session has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    fn lock_failure(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_received(&self, count: usize) {
        self.received.fetch_add(count as u64, Ordering::Relaxed);
        let age = self.opened.elapsed().as_millis() as u64;
        self.newest_received.store(age, Ordering::Relaxed);
    }
}

/// The stream that the SSH library reads and writes.
///
/// The library neither reads nor sends keepalives while one of its writes
/// waits. So a write that waits reads ahead here, lest two busy sides wait for
/// each other for ever, and fails when nothing moves in either direction for
/// `stall_limit`.
pub(super) struct LinkStream {
    socket: TcpStream,
    link: Arc<Link>,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    stall_limit: Duration,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    read_ahead: VecDeque<Vec<u8>>,
    /// Where reading ahead puts its bytes first; empty until it is needed.
    scratch: Vec<u8>,
    /// How much of the first chunk of `read_ahead` is used up.
    used: usize,
    read_ahead_bytes: usize,
    /// End or error met while reading ahead; delivered after `read_ahead`.
    read_end: Option<io::Result<()>>,
}

impl LinkStream {
    pub(super) fn new(socket: TcpStream, link: Arc<Link>, stall_limit: Duration) -> Self {
        let aborted = Box::pin(link.abort.clone().cancelled_owned());
        Self {
            socket,
            link,
            aborted,
            stall_limit,
            stall: None,
            read_ahead: VecDeque::new(),
            scratch: Vec::new(),
            used: 0,
            read_ahead_bytes: 0,
            read_end: None,
        }
    }

    fn poll_aborted(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        let aborted = self.aborted.as_mut().poll(context).is_ready();
        aborted.then(|| io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"))
    }

    /// Reads into memory until the socket has nothing more. Says whether
    /// anything came.
    fn read_ahead(&mut self, context: &mut Context<'_>) -> bool {
        let mut any = false;
        self.scratch.resize(READ_AHEAD_CHUNK, 0);
        while self.read_end.is_none() && self.read_ahead_bytes < READ_AHEAD_LIMIT {
            let mut buffer = ReadBuf::new(&mut self.scratch);
            match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => self.read_end = Some(Err(error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.read_end = Some(Ok(())),
                Poll::Ready(Ok(())) => {
                    let chunk = buffer.filled().to_vec();
                    self.link.count_received(chunk.len());
                    self.read_ahead_bytes += chunk.len();
                    self.read_ahead.push_back(chunk);
                    any = true;
                }
            }
        }
        any
    }

    fn take_read_ahead(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some(chunk) = self.read_ahead.front() else {
            return false;
        };
        let rest = &chunk[self.used..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.used += count;
        self.read_ahead_bytes -= count;
        if self.used == chunk.len() {
            self.read_ahead.pop_front();
            self.used = 0;
        }
        true
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.poll_aborted(context) {
            return Poll::Ready(Err(error));
        }
        if this.take_read_ahead(buffer) {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = this.read_end.take() {
            return Poll::Ready(end);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        this.link.count_received(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(error) = this.poll_aborted(context) {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(result) = Pin::new(&mut this.socket).poll_write(context, data) {
            this.stall = None;
            if let Ok(count) = result {
                this.link.sent.fetch_add(count as u64, Ordering::Relaxed);
            }
            return Poll::Ready(result);
        }
        if this.read_ahead(context) {
            this.stall = None;
        }
        let limit = this.stall_limit;
        let stall = this
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stall.as_mut().poll(context));
        let reason = format!(
            "it took no byte for {} s, and nothing came either",
            limit.as_secs_f32()
        );
        this.link.fail(reason.clone());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    /// An error here says only that the connection is gone already. It is left
    /// out, since the library would report it in place of the real reason.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket)
            .poll_shutdown(context)
            .map(|_| Ok(()))
    }
}

impl Drop for LinkStream {
    /// The library drops the stream when its session is over, on every path.
    fn drop(&mut self) {
        self.link.end();
    }
}
