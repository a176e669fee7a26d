//! One SSH connection to one host, on which commands run side by side.

use super::Timeouts;
use super::error::{Error, Peer};
use super::handler::ClientHandler;
use super::link::{Link, Transferred};
use super::process::{Exit, Process, Shared, lost};
use super::pump;
use super::transcript::Transcript;
use bytes::Bytes;
use russh::client::{Handle, Msg};
use russh::{Channel, Disconnect};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// Upper bound of what [`Session::output`] takes into memory. Whoever expects
/// more reads the stream of [`Session::exec`].
const OUTPUT_LIMIT: usize = 64 * 1024 * 1024;

/// How long [`Session::close`] waits for the server before it just hangs up.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for the reason when the library says only that the session
/// is gone. It is there within a few instructions.
const REASON_LIMIT: Duration = Duration::from_secs(1);

/// Pause before a refused channel is asked for again. sshd frees a session a
/// moment after its process has ended.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A live, authenticated connection.
pub struct Session {
    handle: Arc<Handle<ClientHandler>>,
    link: Arc<Link>,
    peer: Arc<Peer>,
    timeouts: Timeouts,
    /// Counts the processes that have not ended, see [`Session::open`].
    running: Arc<()>,
}

/// All that a finished command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// The newest 256 KiB of standard error.
    pub stderr: Vec<u8>,
}

impl Session {
    pub(super) fn new(
        handle: Handle<ClientHandler>,
        link: Arc<Link>,
        peer: Arc<Peer>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            handle: Arc::new(handle),
            link,
            peer,
            timeouts,
            running: Arc::new(()),
        }
    }

    /// Host and address, for messages.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Starts a command, which the host's shell parses: quote words with
    /// [`super::sh_quote`]. Any number may run at once; if the server allows
    /// fewer (sshd's `MaxSessions` is 10 by default), this waits for one of
    /// ours to end, up to `Timeouts::start`.
    pub async fn exec(&self, command: &str) -> Result<Process, Error> {
        let refused = |problem: &str| Error::Refused {
            peer: self.peer.clone(),
            command: command.to_owned(),
            problem: problem.to_owned(),
        };
        let limit = self.timeouts.start;
        let deadline = Instant::now() + limit;
        let channel = self.open(deadline).await?.map_err(|p| refused(&p))?;
        if channel.exec(true, command).await.is_err() {
            return Err(self.lost_now().await);
        }
        let shared = Arc::new(Shared {
            peer: self.peer.clone(),
            command: command.to_owned(),
            link: self.link.clone(),
            stderr: Transcript::default(),
            ended: watch::Sender::new(None),
            stdout_complete: AtomicBool::new(false),
        });
        let (mut process, accepted) = pump::start(channel, shared);
        self.count(&process);
        match tokio::time::timeout_at(deadline, accepted).await {
            Ok(Ok(true)) => Ok(process),
            Ok(Ok(false)) => Err(refused("the server refused to run it")),
            // The channel ended before an answer.
            Ok(Err(_)) => match process.exit.wait().await {
                Err(error @ Error::Lost { .. }) => Err(error),
                _ => Err(refused("the server closed the channel")),
            },
            Err(_) => Err(refused(&format!(
                "the server gave no answer within {} s",
                limit.as_secs_f32()
            ))),
        }
    }

    /// Runs a command to its end: writes `stdin`, collects the output. A
    /// status other than 0 is no error here, see [`Output::checked`] and
    /// [`Session::run`].
    pub async fn output(
        &self,
        command: &str,
        stdin: Bytes,
        limit: Duration,
    ) -> Result<Output, Error> {
        let mut started: Option<Arc<Shared>> = None;
        let work = async {
            let process = self.exec(command).await?;
            started = Some(process.exit.shared.clone());
            self.collect(process, stdin).await
        };
        match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                peer: self.peer.clone(),
                command: command.to_owned(),
                limit,
                stderr: started.map_or_else(Vec::new, |shared| shared.stderr.last_lines()),
            }),
        }
    }

    /// Like [`Session::output`], but anything other than status 0 is an error
    /// with the last lines of standard error. Returns standard output.
    pub async fn run(
        &self,
        command: &str,
        stdin: Bytes,
        limit: Duration,
    ) -> Result<Vec<u8>, Error> {
        let output = self.output(command, stdin, limit).await?;
        output.checked(&self.peer, command)
    }

    /// What has crossed the wire so far, both ways.
    pub fn transferred(&self) -> Transferred {
        self.link.transferred()
    }

    /// For how long nothing has come from the host. Keepalives bound it.
    pub fn silent_for(&self) -> Duration {
        self.link.silent_for()
    }

    /// Waits until the connection is gone and says why; for callers that wait
    /// for something else at the same time.
    pub async fn lost(&self) -> Error {
        self.link.ended().await;
        lost(&self.peer, &self.link)
    }

    /// Says goodbye and hangs up. Processes that still run lose their streams.
    pub async fn close(self) {
        let goodbye = async {
            let sent = self
                .handle
                .disconnect(Disconnect::ByApplication, "done", "en");
            if sent.await.is_ok() {
                self.link.ended().await;
            }
        };
        timeout(CLOSE_LIMIT, goodbye).await.ok();
        self.link.abort("it was closed here");
    }

    /// The reason for an end that the library has just reported.
    async fn lost_now(&self) -> Error {
        timeout(REASON_LIMIT, self.link.ended()).await.ok();
        lost(&self.peer, &self.link)
    }

    async fn collect(&self, process: Process, stdin: Bytes) -> Result<Output, Error> {
        let Process {
            stdin: mut input,
            stdout: mut output,
            stderr,
            mut exit,
        } = process;
        let write = async move {
            // A process need not read all its input (`head`); how it ended tells
            // whether something went wrong.
            input.write_bytes(stdin).await.ok();
            input.finish();
        };
        let read = async {
            let mut stdout = Vec::new();
            while let Ok(Some(chunk)) = output.next_chunk().await {
                if stdout.len() + chunk.len() > OUTPUT_LIMIT {
                    return None;
                }
                stdout.extend_from_slice(&chunk);
            }
            Some(stdout)
        };
        let (_, stdout) = tokio::join!(write, read);
        let Some(stdout) = stdout else {
            return Err(Error::OutputTooLarge {
                peer: self.peer.clone(),
                command: exit.shared.command.clone(),
                limit: OUTPUT_LIMIT,
            });
        };
        let exit = exit.wait().await?;
        Ok(Output {
            exit,
            stdout,
            stderr: stderr.kept(),
        })
    }

    /// Opens a channel. The inner error says why the server refuses it.
    async fn open(&self, deadline: Instant) -> Result<Result<Channel<Msg>, String>, Error> {
        loop {
            let (sender, receiver) = oneshot::channel();
            let handle = self.handle.clone();
            // In a task of its own: were we dropped in the middle, the channel
            // would stay open on the server for good.
            tokio::spawn(async move {
                let opened = handle.channel_open_session().await;
                if let Err(Ok(channel)) = sender.send(opened) {
                    channel.close().await.ok();
                }
            });
            let refusal = match tokio::time::timeout_at(deadline, receiver).await {
                Err(_) => return Ok(Err("the server did not open a channel in time".to_owned())),
                Ok(Ok(Ok(channel))) => return Ok(Ok(channel)),
                Ok(Ok(Err(russh::Error::ChannelOpenFailure(refusal)))) => format!("{refusal:?}"),
                Ok(Ok(Err(_)) | Err(_)) => return Err(self.lost_now().await),
            };
            let running = Arc::strong_count(&self.running) - 1;
            if running == 0 || Instant::now() + RETRY_PAUSE >= deadline {
                return Ok(Err(format!(
                    "the server refused another channel ({refusal}) while {running} of ours were open"
                )));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn count(&self, process: &Process) {
        let token = self.running.clone();
        let mut ended = process.exit.ended.clone();
        tokio::spawn(async move {
            // An error means that the process's tasks are gone, thus its end.
            ended.wait_for(Option::is_some).await.ok();
            drop(token);
        });
    }
}

impl Output {
    /// Standard output if the status is 0, an error that names host, command,
    /// exit and the last lines of standard error if not.
    pub fn checked(self, peer: &Arc<Peer>, command: &str) -> Result<Vec<u8>, Error> {
        if self.exit.is_success() {
            return Ok(self.stdout);
        }
        let transcript = Transcript::default();
        transcript.append(&self.stderr);
        Err(Error::Failed {
            peer: peer.clone(),
            command: command.to_owned(),
            exit: self.exit,
            stderr: transcript.last_lines(),
        })
    }
}
