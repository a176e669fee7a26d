//! A command that runs on a host, as byte streams and an exit.

use super::error::{Error, Peer};
use super::link::Link;
use super::transcript::Transcript;
use bytes::{Buf as _, Bytes};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{DropGuard, PollSender};

/// Bytes given to `AsyncWrite` are copied once, in pieces of at most this size.
/// Eight SSH packets are enough to keep the pipe full.
const WRITE_CHUNK: usize = 256 * 1024;

/// A command that runs on a host. Take it apart to use the streams in several
/// tasks; the channel is closed when `exit` is dropped.
///
/// One rule comes with the protocol: standard output must be read as long as
/// the process lives (or be dropped, then it is thrown away). All processes of
/// a session share one TCP connection, so output that nobody takes holds up
/// the others once its buffer is full. Standard error never holds up anything.
pub struct Process {
    /// Standard input. Dropping it is the end of file for the process.
    pub stdin: ProcessInput,
    /// Standard output.
    pub stdout: ProcessOutput,
    /// Standard error, as far as it is kept (the newest 256 KiB).
    pub stderr: ProcessErrors,
    /// Waits for the process's end.
    pub exit: ProcessExit,
}

impl Process {
    /// Ends standard input, throws away standard output that is left, and
    /// waits for the end.
    pub async fn wait(self) -> Result<Exit, Error> {
        let Self {
            stdin,
            stdout,
            mut exit,
            ..
        } = self;
        drop(stdin);
        drop(stdout);
        exit.wait().await
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(u32),
    /// By a signal.
    Signal {
        /// Without `SIG`, such as `KILL`.
        name: String,
        /// Whether it left a core dump.
        core_dumped: bool,
        /// What the server adds, often nothing.
        message: String,
    },
}

impl Exit {
    /// Whether it is status 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "exit status {status}"),
            Self::Signal {
                name,
                core_dumped,
                message,
            } => {
                write!(formatter, "killed by SIG{name}")?;
                if *core_dumped {
                    formatter.write_str(", core dumped")?;
                }
                if !message.is_empty() {
                    write!(formatter, " ({message})")?;
                }
                Ok(())
            }
        }
    }
}

/// How a process's channel ended, as the pump saw it.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// Properly, with an exit.
    Exit(Exit),
    /// Closed by the server without an exit.
    Closed,
    /// The connection is gone.
    Lost,
    /// We dropped it.
    Released,
}

/// What the parts of one process and its tasks share.
pub(super) struct Shared {
    pub(super) peer: Arc<Peer>,
    pub(super) command: String,
    pub(super) link: Arc<Link>,
    pub(super) stderr: Transcript,
    pub(super) ended: watch::Sender<Option<Ended>>,
    /// The server has said that all of standard output was sent.
    pub(super) stdout_complete: AtomicBool,
}

impl Shared {
    /// The error for a connection that is gone.
    pub(super) fn lost(&self) -> Error {
        lost(&self.peer, &self.link)
    }

    fn outcome(&self, ended: Ended) -> Result<Exit, Error> {
        match ended {
            Ended::Exit(exit) => Ok(exit),
            Ended::Lost => Err(self.lost()),
            Ended::Closed | Ended::Released => Err(Error::NoExitStatus {
                peer: self.peer.clone(),
                command: self.command.clone(),
                stderr: self.stderr.last_lines(),
            }),
        }
    }

    /// Why standard input is closed.
    fn broken_pipe(&self) -> io::Error {
        let reason = match self.ended.borrow().clone() {
            Some(Ended::Lost) => return io::Error::new(io::ErrorKind::BrokenPipe, self.lost()),
            Some(Ended::Exit(exit)) => format!("it has ended: {exit}"),
            _ => "it has ended".to_owned(),
        };
        let command = super::error::shorten(&self.command);
        io::Error::new(
            io::ErrorKind::BrokenPipe,
            format!("writing to `{command}` on {}: {reason}", self.peer),
        )
    }
}

pub(super) fn lost(peer: &Arc<Peer>, link: &Link) -> Error {
    Error::Lost {
        peer: peer.clone(),
        reason: link
            .failure()
            .unwrap_or_else(|| "it ended without a reason".to_owned()),
        silent_for: link.silent_for(),
    }
}

/// Standard input of a process. Waits while the process takes nothing.
pub struct ProcessInput {
    pub(super) chunks: PollSender<Bytes>,
    pub(super) shared: Arc<Shared>,
}

impl ProcessInput {
    /// Writes bytes without copying them. Returns when they are queued.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let ready = std::future::poll_fn(|context| self.chunks.poll_reserve(context)).await;
        ready
            .and_then(|()| self.chunks.send_item(bytes))
            .map_err(|_| self.shared.broken_pipe())
    }

    /// Ends standard input: the process sees end of file after what was written.
    pub fn finish(self) {}
}

impl AsyncWrite for ProcessInput {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let count = data.len().min(WRITE_CHUNK);
        let result = ready!(this.chunks.poll_reserve(context)).and_then(|()| {
            this.chunks
                .send_item(Bytes::copy_from_slice(&data[..count]))
        });
        Poll::Ready(match result {
            Ok(()) => Ok(count),
            Err(_) => Err(this.shared.broken_pipe()),
        })
    }

    /// Nothing is held back, so there is nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().chunks.close();
        Poll::Ready(Ok(()))
    }
}

/// Standard output of a process. Ends with an error, not with an end of file,
/// when the connection is lost in the middle.
pub struct ProcessOutput {
    pub(super) chunks: mpsc::Receiver<Bytes>,
    pub(super) current: Bytes,
    pub(super) shared: Arc<Shared>,
}

impl ProcessOutput {
    /// The next bytes as they came, without copying them. `None` at the end.
    pub async fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.current.has_remaining() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        match self.chunks.recv().await {
            Some(chunk) => Ok(Some(chunk)),
            None => self.end().map(|()| None),
        }
    }

    fn end(&self) -> io::Result<()> {
        if self.shared.stdout_complete.load(Ordering::Acquire) {
            return Ok(());
        }
        match *self.shared.ended.borrow() {
            Some(Ended::Lost) => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                self.shared.lost(),
            )),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for ProcessOutput {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.current.has_remaining() {
            match ready!(this.chunks.poll_recv(context)) {
                Some(chunk) => this.current = chunk,
                None => return Poll::Ready(this.end()),
            }
        }
        let count = this.current.len().min(buffer.remaining());
        buffer.put_slice(&this.current.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// Standard error of a process. A reader that falls behind by more than what
/// is kept misses the oldest bytes.
pub struct ProcessErrors {
    pub(super) position: u64,
    pub(super) shared: Arc<Shared>,
}

impl ProcessErrors {
    /// All that is kept.
    pub fn kept(&self) -> Vec<u8> {
        self.shared.stderr.bytes()
    }

    /// The last 20 lines.
    pub fn last_lines(&self) -> Vec<String> {
        self.shared.stderr.last_lines()
    }
}

impl AsyncRead for ProcessErrors {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(
            this.shared
                .stderr
                .poll_read(context, &mut this.position, buffer)
        );
        Poll::Ready(Ok(()))
    }
}

/// The end of a process. Dropping it closes the channel: the process gets end
/// of file, and a broken pipe where it writes.
pub struct ProcessExit {
    pub(super) ended: watch::Receiver<Option<Ended>>,
    pub(super) shared: Arc<Shared>,
    /// Tells the pump to close the channel.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) release: DropGuard,
}

impl ProcessExit {
    /// Waits until the process has ended and all its output has come. May be
    /// canceled and called again. It has no limit of its own, as a process may
    /// live as long as it likes; a dead connection ends it with an error.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        let ended = match self.ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ended::Lost),
            Err(_) => Ended::Lost,
        };
        self.shared.outcome(ended)
    }

    /// The last 20 lines of standard error.
    pub fn last_stderr_lines(&self) -> Vec<String> {
        self.shared.stderr.last_lines()
    }
}
