//! The agent's end of the stream: reads frames from standard input, has the
//! worker do them, and writes what comes of it to standard output.

use super::channel::{
    BodyReceiver, BodyRefused, BodySender, NoticeSender, body_channel, notice_channel,
};
use super::host_lock::{self, HostLock, LockError};
use super::root::Root;
use super::silence::Heard;
use super::worker::Worker;
use crate::digest::Digest;
use crate::host::frame::{Frame, FrameCodec, Hello, MAGIC, PROTOCOL_VERSION};
use crate::host::{Failure, Notice, Request, Response, RunInHand};
use crate::plan::Action;
use anyhow::{Context, Result};
use fs_err as fs;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

/// Without a byte from the jump host for this long, it is taken for dead. It
/// sends a heartbeat every five seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// A task that is stopped ends where it waits next; what it has on a thread of its
/// own may go on for a while.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);
/// How long an action in hand may take after the jump host is gone: more than
/// what one action stops may take, as their units say.
pub(crate) const FINISH_LIMIT: Duration = Duration::from_secs(400);
/// Frames that may wait for standard output.
const QUEUE: usize = 64;

/// Serves one stream to its end, then lets an action in hand finish.
///
/// # Errors
/// When the stream is garbled or the host's state directory can't be used.
pub async fn serve(
    worker: Worker,
    hello: Hello,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<()> {
    let first = format!("\n{MAGIC}{}\n", serde_json::to_string(&hello)?);
    output
        .write_all(first.as_bytes())
        .await
        .context("writing the first line")?;
    output.flush().await.context("writing the first line")?;
    let (answers, queue) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write_frames(output, queue));
    let mut session = Session {
        worker: Arc::new(worker),
        answers,
        bodies: HashMap::new(),
        lock: Arc::default(),
        running: HashMap::new(),
        finishing: JoinSet::new(),
        disposable: JoinSet::new(),
    };
    let input = Heard::new(input, SILENCE_LIMIT);
    let result = session.read(FramedRead::new(input, FrameCodec)).await;
    session.finish().await;
    drop(session);
    // The writer ends with the last answer; nobody may be there to read it.
    let _ = timeout(Duration::from_secs(1), writer).await;
    result
}

/// What this very binary says of itself.
///
/// # Errors
/// When it can't read itself.
pub fn hello(root: &Root) -> Result<Hello> {
    let own = fs::read("/proc/self/exe").context("reading this program")?;
    Ok(Hello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        digest: Digest::of(own),
        run: host_lock::run_in_hand(root),
    })
}

struct Session {
    worker: Arc<Worker>,
    answers: mpsc::Sender<Frame>,
    bodies: HashMap<u64, BodySender>,
    lock: Arc<Mutex<Option<HostLock>>>,
    /// Those that may be stopped, by id.
    running: HashMap<u64, Running>,
    /// Requests that are brought to their end when the jump host goes.
    finishing: JoinSet<()>,
    /// Requests that just stop then.
    disposable: JoinSet<()>,
}

impl Session {
    async fn read<R>(&mut self, mut frames: FramedRead<R, FrameCodec>) -> Result<()>
    where
        R: AsyncRead + Unpin,
    {
        loop {
            // Nobody is there any more: the end of the stream, or silence.
            let frame = match frames.next().await {
                None => return Ok(()),
                Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                Some(frame) => frame.context("reading a frame")?,
            };
            match frame {
                Frame::Request { id, request } => self.start(id, *request),
                // No body is waited for here: heartbeats and other requests
                // come on the same stream. One that nobody reads any more is
                // thrown away.
                Frame::Body { id, bytes } => {
                    match self.bodies.get(&id).map(|body| body.send(bytes)) {
                        Some(Err(BodyRefused::Unwanted)) => drop(self.bodies.remove(&id)),
                        Some(Err(error)) => return Err(error).context("reading a frame"),
                        Some(Ok(())) | None => {}
                    }
                }
                Frame::BodyEnd { id } => {
                    if let Some(body) = self.bodies.remove(&id) {
                        // Whoever doesn't read it doesn't miss its end.
                        let _ = body.finish();
                    }
                }
                Frame::BodyAbort { id } => drop(self.bodies.remove(&id)),
                Frame::Cancel { id } => self.cancel(id).await,
                Frame::Heartbeat
                | Frame::Notice { .. }
                | Frame::BodyTaken { .. }
                | Frame::Response { .. } => {}
            }
            while self.finishing.try_join_next().is_some() {}
            while self.disposable.try_join_next().is_some() {}
            self.running
                .retain(|_, running| !running.task.is_finished());
        }
    }

    /// Stops a request that nobody waits for, unless it is brought to its end
    /// anyway. It has ended when this returns, so that what comes next finds
    /// nobody at work.
    async fn cancel(&mut self, id: u64) {
        self.bodies.remove(&id);
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        // One whose body was cut off ends by itself, and leaves nothing half done.
        let by_itself = timeout(CANCEL_LIMIT, running.ended.cancelled());
        if !running.has_body || by_itself.await.is_err() {
            running.task.abort();
            let _ = timeout(CANCEL_LIMIT, running.ended.cancelled()).await;
        }
    }

    fn start(&mut self, id: u64, request: Request) {
        let has_body = has_body(&request);
        let body = if has_body {
            let (sender, receiver) = body_channel();
            self.bodies.insert(id, sender);
            receiver.telling(self.answers.clone(), id)
        } else {
            BodyReceiver::empty()
        };
        let finishing = is_brought_to_its_end(&request);
        let task = handle(Handling {
            worker: self.worker.clone(),
            answers: self.answers.clone(),
            lock: self.lock.clone(),
            id,
            request,
            body,
        });
        if finishing {
            self.finishing.spawn(task);
            return;
        }
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        let task = self.disposable.spawn(async move {
            let _ends = ends;
            task.await;
        });
        let running = Running {
            task,
            has_body,
            ended,
        };
        self.running.insert(id, running);
    }

    /// Cuts off bodies, stops what may be stopped, waits for the rest.
    async fn finish(&mut self) {
        self.bodies.clear();
        self.disposable.shutdown().await;
        let all = async { while self.finishing.join_next().await.is_some() {} };
        let _ = timeout(FINISH_LIMIT, all).await;
    }
}

/// A request that may be stopped.
struct Running {
    task: AbortHandle,
    has_body: bool,
    /// Cancelled once nothing of it is left.
    ended: CancellationToken,
}

struct Handling {
    worker: Arc<Worker>,
    answers: mpsc::Sender<Frame>,
    lock: Arc<Mutex<Option<HostLock>>>,
    id: u64,
    request: Request,
    body: BodyReceiver,
}

async fn handle(handling: Handling) {
    let Handling {
        worker,
        answers,
        lock,
        id,
        request,
        body,
    } = handling;
    let (notices, mut told) = notice_channel();
    let forward = async {
        while let Some(notice) = told.recv().await {
            if answers.send(Frame::Notice { id, notice }).await.is_err() {
                break;
            }
        }
    };
    let work = async {
        match request {
            Request::Acquire { by, limit_seconds } => {
                let limit = Duration::from_secs(limit_seconds.into());
                acquire(worker.root(), &lock, Asked { by, limit }, notices).await
            }
            request => worker.handle(request, body, notices).await,
        }
    };
    let (result, ()) = tokio::join!(work, forward);
    let _ = answers
        .send(Frame::Response {
            id,
            result: Box::new(result),
        })
        .await;
}

/// Takes the host's lock for as long as the agent lives.
async fn acquire(
    root: &Root,
    held: &Mutex<Option<HostLock>>,
    asked: Asked,
    notices: NoticeSender,
) -> Result<Response, Failure> {
    let mut held = held.lock().await;
    if held.is_some() {
        return Ok(Response::Done);
    }
    let waiting = |run: &RunInHand| {
        let reason = format!("{run} still has this host in hand");
        notices.send_lossy(Notice::Waiting { reason });
    };
    let taken = host_lock::take(root, &asked.by, asked.limit, waiting).await;
    *held = Some(taken.map_err(|error| Failure {
        message: error.to_string(),
        lines: Vec::new(),
        hint:
            matches!(error, LockError::Held(_)).then(|| {
                "wait for it to end, or end it, then run the same command again".to_owned()
            }),
    })?);
    Ok(Response::Done)
}

/// Who asks for the lock, and for how long.
struct Asked {
    by: String,
    limit: Duration,
}

fn has_body(request: &Request) -> bool {
    match request {
        Request::PutBlob { .. } => true,
        Request::Run(run) => run.input,
        _ => false,
    }
}

/// Whether a request is finished after the jump host went away: what stops,
/// swaps or starts something, but not waits and transfers, which the next run
/// does again.
fn is_brought_to_its_end(request: &Request) -> bool {
    match request {
        Request::Apply(apply) => !matches!(
            apply.action,
            Action::Wait { .. }
                | Action::Drain { .. }
                | Action::SnapshotEtcd { .. }
                | Action::PrepareEtcdData { .. }
                | Action::AddEtcdLearner { .. }
                | Action::PromoteEtcdLearner { .. }
                | Action::CopyArtifacts { .. }
                | Action::InstallBinaries { .. }
                | Action::FetchBinaries { .. }
                | Action::PullImages { .. }
        ),
        Request::Suspend { .. } | Request::Resume { .. } | Request::MoveEtcdLeader { .. } => true,
        _ => false,
    }
}

async fn write_frames(
    mut output: impl AsyncWrite + Send + Unpin,
    mut queue: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = queue.recv().await {
        let Ok((header, payload)) = frame.encode() else {
            continue;
        };
        let written = async {
            output.write_all(&header).await?;
            output.write_all(&payload).await?;
            output.flush().await
        };
        if written.await.is_err() {
            // The reader is gone. Keep emptying the queue, so that an action
            // in hand isn't held up by answers that nobody reads.
            while queue.recv().await.is_some() {}
            return;
        }
    }
}
